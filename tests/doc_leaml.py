"""Runs the `leaml` commands of README and docs in this process, those that start Ray up to there."""

from __future__ import annotations

import re
import shlex
from functools import cache
from itertools import islice
from typing import NoReturn

import pytest
import requests
import typer.core
import typer.main
from doc_pages import Command
from typer.testing import CliRunner

from leaml import config as tree
from leaml import doctor
from leaml.config.reading import override
from leaml.data.readers import easy_vqa
from leaml.data.records import Record
from leaml.engine import openai_check
from leaml.errors import LeamlError
from pipelines import adapt, cli, predict, trial, tune
from pipelines.steps import COMMANDS
from serve import launch
from serve import settings as serving

REFUSED = typer.BadParameter.__mro__[1]
"""What the parser raises: UsageError, which typer does not export by itself."""
PUT_IN = {
    "CONFIG": "mine.yaml",
    "RUN": "runs/mine",
    "FOLDER": "runs",
    "NAME": "frame_0001.jpg",
    "ID_OR_NAME": "frame_0001.jpg",
    "ADDRESS": "http://127.0.0.1:8265",
    "HOST:PORT": "127.0.0.1:41555",
    "name=source": "sports=adapters/sports",
    "section.key=value": "select.ratio=0.1",
    "N": "1000",
    "H": "24",
    "G": "8",
    "P": "2.5",
    "...": "",
}
"""What a reader puts in."""
STEPS = tuple(spec.name for spec in COMMANDS if spec.name != "ingest")
RAY, DONE, CLUSTER = "up to Ray", "to its end", "up to the cluster's first reply"
SOURCES = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
DOORS = "security/test_open_doors.py"
READ_SHAPES = easy_vqa.read
"""What it is before it is replaced."""

TRIED = {
    "adapt": (RAY, "integration/test_adapt.py::test_metrics_and_report"),
    **dict.fromkeys(
        STEPS, (RAY, "integration/test_adapt.py::test_an_interrupted_and_a_killed_run_resume_at_their_checkpoints")
    ),
    "tune": (RAY, "integration/test_tune.py::test_a_killed_search_goes_on_and_one_failing_trial_does_not_end_it"),
    "predict": (RAY, "integration/test_adapt.py::test_offline_batches_answer_as_the_evaluation_did"),
    "serve": (RAY, "integration/test_serving.py::test_answers_are_those_of_evaluate"),
    "serve --add": (RAY, "integration/test_serving.py::test_domains_are_added_to_a_running_server_and_bad_ones_refused"),
    "serve --remove": (
        RAY,
        "security/test_open_doors.py::test_a_domain_added_and_removed_from_another_shell_leaves_the_keys_alone",
    ),
    "adapt --submit": (CLUSTER, "pipelines/test_submit.py::test_a_run_travels_and_its_log_comes_back"),
    "adapt --dry-run": (DONE, "integration/test_adapt.py::test_a_dry_run_afterwards_finds_every_step_finished"),
    **dict.fromkeys(("ingest", "plan", "status", "inspect", "report", "config", "doctor"), (DONE, "")),
}
"""How far a command goes here, and the test that runs it to its end."""


class RayStartedError(BaseException):
    """In place of a Ray. No Exception, so that nothing takes it for a failure of its own."""


def _start_ray(*_: object) -> NoReturn:
    raise RayStartedError


@cache
def program() -> typer.core.TyperGroup:
    """The parser of the command."""
    found = typer.main.get_command(cli.app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


def options() -> set[str]:
    """Every option of every command."""
    return {option for command in program().commands.values() for each in command.params for option in each.opts}


def words_of(text: str) -> list[str]:
    """The arguments, with what a reader would put in. Raises ValueError for a word in capitals that nobody knows."""
    text = re.sub(r"\[|\]", " ", text.partition("  #")[0])
    words = [PUT_IN.get(word, word) for word in shlex.split(text)]
    unknown = [word for word in words if re.fullmatch(r"[A-Z][A-Z_:]*", word)]
    if unknown:
        msg = f"{unknown[0]}: what is to be put in? Write it into PUT_IN"
        raise ValueError(msg)
    return [word for word in words if word]


def key_of(words: list[str]) -> str:
    """The entry of `TRIED`."""
    options = (option for option in ("--add", "--remove", "--dry-run", "--submit") if option in words)
    return " ".join([words[0], *options])


def parse(text: str) -> None:
    """Parse a command and its overrides as the program does, without running it. Raises REFUSED, ConfigError, ValueError."""
    first, *rest = words_of(text)
    for name in first.split("|"):
        with typer.Context(program(), info_name="leaml") as top:
            found, command, arguments = program().resolve_command(top, [name, *rest])
            assert command is not None
            if not arguments and command.params and any(p.required for p in command.params):
                continue  # only named: "what `leaml inspect` shows"
            with command.make_context(found, arguments, parent=top) as given:
                _check_overrides(str(name), given.params)


def _check_overrides(command: str, given: dict[str, object]) -> None:
    overrides = given.get("overrides") or ()
    assert isinstance(overrides, list | tuple)
    if command == "serve":
        serving.load_settings(serving.merged(None, {"model": "runs/mine"}, list(overrides)))
        return
    values: dict[str, object] = {"data": SOURCES}
    for item in overrides:
        override(values, item)
    tree.parse(values)


def runs_of(command: Command) -> list[list[str]]:
    """The arguments with which a command is run; `caption|warmup` is several, and a name alone in running text is none."""
    try:
        words = words_of(command.text)
    except ValueError:
        return []  # parsing it fails, and says so
    if "|" in words[0]:
        return [[name, "mine.yaml"] for name in words[0].split("|")]
    in_text = command.at.text.strip() == f"leaml {command.text}" and len(words) == 1
    return [] if in_text else [words]


def stop_before_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray, no socket, no import of vLLM; eight GPUs as the recipes want; of easy-VQA the first images."""
    for module in (adapt, tune, predict, launch):
        monkeypatch.setattr(module, "start_ray", _start_ray)
    for name in ("refuse_taken_port", "refuse_unschedulable_engines"):
        monkeypatch.setattr(launch, name, lambda *_, **__: None)
    monkeypatch.setattr(launch.haproxy, "environment", lambda *_: {})
    monkeypatch.setattr(launch.socket, "create_connection", lambda *_, **__: open("/dev/null"))  # noqa: PTH123, SIM115
    monkeypatch.setattr(requests, "get", _no_cluster)
    monkeypatch.setattr(openai_check, "check", lambda *_: None)
    monkeypatch.setattr(doctor, "vllm", lambda: doctor.Check("vLLM", "ok", "not imported here"))
    monkeypatch.setattr(trial, "own_nodes", lambda: [{"CPU": 64.0, "GPU": 8.0}])
    monkeypatch.setattr(easy_vqa, "read", lambda source, keep: iter(_first_shapes(source.split)))


@cache
def _first_shapes(split: str | None) -> list[Record]:
    """The first images of easy-VQA: all of them take seconds, and test_plan.py has them."""
    return list(islice(READ_SHAPES(tree.SourceConfig(format="easy_vqa", split=split), lambda _: True), 60))


def _no_cluster(*_: object, **__: object) -> NoReturn:
    raise requests.ConnectionError


def run(words: list[str]) -> str:
    """Run a command in the current folder as far as `TRIED` says; returns what it printed, or its refusal."""
    far, _ = TRIED[key_of(words)]
    if far == RAY:
        with pytest.raises(RayStartedError):
            _invoke(words)
        return ""
    if far == CLUSTER:
        with pytest.raises(LeamlError, match="no Ray cluster answers at http") as refused:
            _invoke(words)
        return str(refused.value)
    return _invoke(words)


def _invoke(words: list[str]) -> str:
    done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0 or words[0] == "doctor", done.output
    return done.output
