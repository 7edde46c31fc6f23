"""`leaml serve` at the command line: what it says without a model, and which port it takes for 0. No server is started."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leaml.errors import InputError
from pipelines import cli
from serve import launch


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of the servers that were to be started."""
    found: list[Any] = []
    monkeypatch.setattr(launch, "serve_until_stopped", lambda settings, *_: found.append(settings))
    return found


def refused(*arguments: str) -> str:
    made = CliRunner().invoke(cli.app, ["serve", *arguments])
    assert isinstance(made.exception, InputError)
    return str(made.exception)


def test_without_a_model_the_command_says_what_to_give(tmp_path: Path, started: list[Any]) -> None:
    (tmp_path / "s.yaml").write_text("limits: {n: 1}")
    for arguments in ([], ["--port", "0"], ["--settings", str(tmp_path / "s.yaml")]):
        said = refused(*arguments)
        assert said.startswith(
            "no model is given; name a run folder, model folder, shipped name or hub id, such as `leaml serve"
        )
    assert "and 'limits.n=1' is a setting, which goes behind it" in refused("limits.n=1")
    (tmp_path / "s.yaml").write_text("model: leaml-tiny")
    assert CliRunner().invoke(cli.app, ["serve", "--settings", str(tmp_path / "s.yaml")]).exit_code == 0
    assert [settings.model for settings in started] == ["leaml-tiny"]


def test_port_0_is_any_free_one_and_the_server_is_told_which(started: list[Any]) -> None:
    assert CliRunner().invoke(cli.app, ["serve", "leaml-tiny", "--port", "0"]).exit_code == 0
    (settings,) = started
    assert settings.http.port > 1023
    socket.create_server((settings.http.host, settings.http.port)).close()
    assert "--port 0 takes any port that is free here" in refused("leaml-tiny", "--port", "0", "--address", "10.0.0.1:6379")
