"""Tries the commands of README and docs that are not `leaml`: as much of each as starts nothing and reaches nobody."""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import pytest
from doc_pages import ROOT, Command

from cluster import manifests
from leaml import __version__

KUBECTL = Path(sys.executable).parent / "kubectl"
KEYS_OF_KUBERAY = {"auth_token"}
"""What the operator reads of the secret that `authOptions.secretName` names; no manifest says it."""


class ParsedError(BaseException):
    """The arguments of a program were taken."""


def without_comment(text: str) -> str:
    """A line without what stands behind it."""
    return re.split(r"\s{2,}#|\s+#\s", text)[0].strip()


def words_of(text: str) -> list[str]:
    """The arguments of a command; `[a.b=value ...]` and `...` are left out, the extras of `.[cpu]` are not."""
    return [word for word in shlex.split(re.sub(r"(?<![.\w])\[[^]]*\]", " ", without_comment(text))) if word != "..."]


def done(*command: str, **environment: str) -> str:
    """Standard output of a process that ends well."""
    made = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )
    assert made.returncode == 0, f"{shlex.join(command)}: {made.stderr}"
    return made.stdout


def check_files(words: list[str]) -> None:
    """Files of this repository that a command names exist."""
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"runs"}
    missing = [word for word in words if word.partition("/")[0] in folders and "/" in word and not (ROOT / word).exists()]
    assert not missing, f"{missing[0]} is not in the repository"


def try_make(words: list[str], _: pytest.MonkeyPatch) -> None:
    """`make -n`: the target exists, and what it would run is there."""
    shown = done("make", "-n", *words)
    check_files([word for line in shown.splitlines() for word in line.split()])


def try_pip(words: list[str], _: pytest.MonkeyPatch) -> None:
    """What is installed is a name or a package of this repository, with extras that it has; tools/setup.sh names the index."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("command", choices=["install"])
    parser.add_argument("what", nargs="+")
    parser.add_argument("--extra-index-url")
    parser.add_argument("--torch-backend", choices=["cpu"])
    parser.add_argument("-c", "--constraint")
    given = parser.parse_args(words)
    check_files([given.constraint] if given.constraint else [])
    for what in given.what:
        folder, _, extra = what.removesuffix("]").partition("[")
        if folder != "." and "/" not in folder:
            continue
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert not extra or extra in project["optional-dependencies"], what
    if given.extra_index_url:
        assert f"readonly {given.extra_index_url.removeprefix('$')}=" in (ROOT / "tools" / "setup.sh").read_text()


def try_uv(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`uv pip` takes what pip takes."""
    assert words[0] == "pip", words
    try_pip(words[1:], monkeypatch)


def try_pre_commit(words: list[str], _: pytest.MonkeyPatch) -> None:
    """There is something to install."""
    assert words == ["install"] and (ROOT / ".pre-commit-config.yaml").is_file()


def try_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m MODULE ARGUMENTS`, or a file: the program's own parser takes the arguments, and nothing is run."""
    is_file = words[0].endswith(".py")
    assert is_file or words[0] == "-m", f"python {words[0]} is not tried"
    check_files(words if is_file else words[2:])
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
        parse(parser, args, namespace)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", words if is_file else words[1:])
        with pytest.raises(ParsedError):
            runpy.run_path(str(ROOT / words[0]))["main"]() if is_file else importlib.import_module(words[1]).main()


def _capture(name: str) -> list[argparse.ArgumentParser]:
    """The parser of a module that is a program, and those of its commands."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        found.append(parser)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", keep)
        with contextlib.suppress(ParsedError):
            importlib.import_module(name).main()
    commands = (a for parser in found for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return found + [parser for action in commands for parser in action.choices.values()]


@functools.cache
def benchmark_parsers() -> list[argparse.ArgumentParser]:
    """The parsers of every program in benchmarks/, research/ and examples/."""
    there = (file for folder in ("benchmarks", "research", "examples") for file in sorted((ROOT / folder).rglob("*.py")))
    texts = {file: file.read_text() for file in there}
    files = [file for file, text in texts.items() if "ArgumentParser(" in text and "\ndef main(" in text]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [parser for name in names for parser in _capture(name)]


def takes(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    """Whether a program has these options, with these values where it chooses among some."""
    action: argparse.Action | None = None
    for word in words:
        if word.startswith("--"):
            action = parser._option_string_actions.get(word)
            if action is None:
                return False
        elif action is not None and action.choices is not None and word not in action.choices:
            return False
    return True


def try_bash(words: list[str], _: pytest.MonkeyPatch) -> None:
    """The script exists, is one, and has no use for more arguments than are given."""
    check_files(words)
    done("bash", "-n", words[0])
    used = set(re.findall(r"\$\{?(\d)", (ROOT / words[0]).read_text()))
    assert {str(number) for number in range(1, len(words))} <= used, f"{words[0]} takes {sorted(used)}"


def value_of(text: str) -> str:
    """What the variable of an `export` holds afterwards, by a shell with this environment's python."""
    name = text.partition("=")[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return done("bash", "-c", f'export {text}; printf %s "${name}"', PATH=path)


def try_docker(words: list[str], _: pytest.MonkeyPatch) -> None:
    """The file exists, the context is the repository, and the tag is the one that the manifests run."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("context", choices=["."])
    parser.add_argument("-f", required=True)
    parser.add_argument("-t", required=True)
    given = parser.parse_args(words)
    assert (ROOT / given.f).is_file(), given.f
    name, _, build = given.t.rpartition("-")
    assert name.startswith(f"leaml:{__version__}-ray") and given.f.endswith(build), given.t
    overlay = {"cpu": "cpu-dev", "gpu": "gpu"}[build]
    assert given.t in json.dumps(manifests.render(overlay)), f"overlay {overlay} runs another image than {given.t}"


def try_kubectl(words: list[str], _: pytest.MonkeyPatch) -> None:
    """What is created is made by `--dry-run=client`, what is applied is rendered and selected; names are in the manifests."""
    verb = next(word for word in words if word not in ("-n", "leaml"))
    if verb == "create":
        _try_create(words)
    elif verb == "apply":
        _try_apply(words)
    elif len(words) == words.index(verb) + 1 or words[-1] in ("pod", "..."):
        done(str(KUBECTL), verb, "--help")
    else:
        kind, _, name = words[words.index(verb) + 1].partition("/")
        kinds = {"svc": "Service", "raycluster": "RayCluster"}
        name = name or words[words.index(verb) + 2]
        made = [m for m in manifests.render("gpu") if m["kind"] in ("RayCluster", "Service")]
        # the operator makes a head's Service of a RayCluster
        clusters = {m["metadata"]["name"] for m in made if m["kind"] == "RayCluster"}
        known = {m["metadata"]["name"] for m in made if m["kind"] == kinds[kind]}
        known |= {f"{cluster}-head-svc" for cluster in clusters} if kind == "svc" else set()
        assert name in known, f"no {kind} {name}: {sorted(known)}"


def _try_create(words: list[str]) -> None:
    made = json.loads(done(str(KUBECTL), *_with_files(words), "--dry-run=client", "-o", "json"))
    name = made["metadata"]["name"]
    everything = manifests.render("gpu")
    if made["kind"] == "Namespace":
        assert {m["metadata"].get("namespace", name) for m in everything} <= {name, "monitoring", "kuberay-operator"}
        return
    assert made["metadata"]["namespace"] == "leaml"
    assert all(base64.b64decode(value) for value in made["data"].values())
    text = json.dumps(everything)
    assert f'"{name}"' in text, f"no manifest reads the secret {name}"
    if f'"secretRef": {{"name": "{name}"' in text:  # all of it is environment, that of S3's clients
        assert set(made["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        return
    known = KEYS_OF_KUBERAY if f'"secretName": "{name}"' in text and "token" in name else set()
    unread = [key for key in made["data"] if key not in known and not re.search(rf"/{re.escape(key)}\b", text)]
    assert not unread, f"no manifest reads {unread} of {name}"


def _with_files(words: list[str]) -> list[str]:
    """`--from-file=keys=my-keys.txt` with a file that is there, a command in a value as its result."""
    made = [re.sub(r"(--from-file=\w+=)\S+", rf"\g<1>{ROOT / 'README.md'}", word) for word in words]
    return [re.sub(r"\$\(.*\)", "0" * 64, word) for word in made]


def _try_apply(words: list[str]) -> None:
    folder = words[words.index("-k") + 1]
    assert (ROOT / folder / "kustomization.yaml").exists(), folder
    if words[-1] == "-l":
        return  # the rest stands elsewhere on the page
    match = re.fullmatch(r"(\S+) in \((.*)\)", words[words.index("-l") + 1])
    assert match, words
    wanted = set(re.split(r",\s*", match[2]))
    labels = [m["metadata"].get("labels", {}).get(match[1]) for m in manifests.render(Path(folder).name)]
    assert wanted <= set(labels), f"no manifest has {match[1]} of {wanted - set(labels)}"


def try_ray(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Ray's own parser takes it."""
    from ray.scripts.scripts import cli

    _parse_click(cli, words)


def try_serve(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Ray Serve's own parser takes it."""
    from ray.serve.scripts import cli

    _parse_click(cli, words)


def _parse_click(group: Any, words: list[str]) -> None:
    check_files(words)
    top = group.make_context("ray", list(words), resilient_parsing=True)
    top.resilient_parsing = False
    name, command, arguments = group.resolve_command(top, words)
    if len(words) == 1:
        return  # only named
    # `-p 8265` alone says how, and another line names the cluster
    alone = not any((ROOT / word).exists() for word in arguments)
    command.make_context(name, arguments, parent=top, resilient_parsing=alone)


def try_sbatch(words: list[str], _: pytest.MonkeyPatch) -> None:
    """The script exists, its options are among those of its own header, and it takes what stands behind it."""
    check_files(words)
    script = next(word for word in words if not word.startswith("-"))
    text = (ROOT / script).read_text()
    for option in (word for word in words if word.startswith("-")):
        assert re.fullmatch(r"--(nodes|gpus-per-node)=\d+", option), f"{option} is not tried"
    assert len(words) == words.index(script) + 1 or '"$@"' in text or "$1" in text


TRIES = {
    "make": (try_make, "integration/test_adapt.py::test_metrics_and_report"),
    "pip": (try_pip, "test_wheel.py::test_its_commands_run_in_an_empty_folder"),
    "uv": (try_uv, ""),
    "pre-commit": (try_pre_commit, ""),
    "python": (try_python, "benchmarks/test_training_benchmark.py::test_a_small_run_reports_time_memory_and_what_was_left_out"),
    "bash": (try_bash, "integration/test_serving.py::test_the_clients_of_the_examples_are_answered"),
    "docker": (try_docker, "cluster/test_docker.py::test_dockerfiles_are_linted"),
    "kubectl": (try_kubectl, "cluster/test_manifests.py::test_rendered_overlays_are_valid"),
    "ray": (try_ray, "cluster/test_ray_up.py::test_ray_takes_it"),
    "serve": (try_serve, "integration/test_serve_deploy.py::test_the_shipped_configuration_is_deployed_and_shut_down"),
    "sbatch": (try_sbatch, "cluster/test_slurm.py::test_a_job_starts_all_nodes_and_leaves_nothing"),
}
"""How a program's commands are tried, and the test that runs them further."""


def attempt(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a command, or each of several joined by `&&`."""
    for part in f"{command.program} {without_comment(command.text)}".split(" && "):
        program, _, text = part.partition(" ")
        if program == "export":
            assert value_of(text)
        else:
            TRIES[program][0](words_of(text), monkeypatch)
