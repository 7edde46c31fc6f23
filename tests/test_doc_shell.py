"""The commands of README and docs that are not `leaml` or `curl`, and options that are named alone: each is tried as far as it
starts nothing."""

from __future__ import annotations

import argparse
import re

import doc_leaml
import doc_shell
import pytest
from doc_pages import PAGES, Command, Found, commands, spans

OTHERS = [command for command in commands() if command.program not in ("leaml", "curl")]
OPTIONS = [span for page in PAGES for span in spans(page) if re.match(r"--[a-z]", span.text)]


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_every_other_command_is_tried(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    doc_shell.attempt(command, monkeypatch)


@pytest.mark.parametrize("span", OPTIONS, ids=str)
def test_options_that_are_named_alone_exist(span: Found) -> None:
    words = span.text.split()
    assert words[0] in doc_leaml.options() or any(doc_shell.takes(p, words) for p in doc_shell.benchmark_parsers())


@pytest.mark.parametrize(
    ("program", "text", "error", "said"),
    [
        ("make", "dmeo", AssertionError, "No rule to make target 'dmeo'"),
        ("pip", 'install ".[cpuu]"', AssertionError, "cpuu"),
        ("uv", 'pip install ".[cpu]" --torch-backend cpuu', argparse.ArgumentError, "cpuu"),
        ("python", "-m benchmarks.generation --parts scalling", SystemExit, "2"),
        ("python", "-m benchmarks.generatoin", ImportError, "generatoin"),
        ("python", "-m research.curves docs/result.svg", AssertionError, "docs/result.svg is not in the repository"),
        ("bash", "research/ensemble/bundel.sh x", AssertionError, "bundel.sh is not in the repository"),
        ("docker", "build -f cluster/docker/Dockerfile.cpu -t leaml:0.0.9-cpu .", AssertionError, "leaml:0.0.9-cpu"),
        (
            "kubectl",
            "-n leaml create secret generic tokens --from-literal=auth_token=x",
            AssertionError,
            "reads the secret tokens",
        ),
        ("kubectl", "-n leaml create secret generic leaml-ray-token --from-literal=t=x", AssertionError, r"reads \['t'\]"),
        (
            "kubectl",
            "apply -k cluster/kuberay/overlays/gpu -l 'app.kubernetes.io/component in (adopt)'",
            AssertionError,
            "adopt",
        ),
        ("kubectl", "delete raycluster leaml-2", AssertionError, "no raycluster leaml-2"),
        ("ray", "upp cluster/ray-up/aws.yaml", Exception, "No such command 'upp'"),
        ("ray", "up cluster/ray-up/aws.yaml --yess", Exception, "No such option"),
        ("sbatch", "cluster/slurm/leml.sbatch CONFIG", AssertionError, "leml.sbatch is not in the repository"),
    ],
)
def test_a_wrong_other_command_is_noticed(
    program: str, text: str, error: type[BaseException], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=said):
        doc_shell.attempt(Command(Found("new.md", 1, text), program, text), monkeypatch)
