"""The progress line: rate and ETA count what this run did, not what an earlier one left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines import progress


def test_rate_and_eta_of_a_resumed_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    with progress.Bar("distill", 800, "steps") as bar:
        now[0] += 40  # start-up
        bar.begin(200)
        bar.update(200, "loss 0.700")
        now[0] += 20
        bar.update(260, "loss 0.500")
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("distill: 200/800 loss 0.700")  # no rate is known yet
    assert second.endswith("distill: 260/800 3.0 steps/s loss 0.500 ETA 180 s")


def test_nothing_is_shown_before_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    with progress.Bar("caption", 100, "images") as bar:
        now[0] += progress.LINE_EVERY - 1
        bar.update(50)
        assert capsys.readouterr().out == ""
        now[0] += 1
        bar.update(60)
    assert "caption: 60/100 4.0 images/s  ETA 10 s" in capsys.readouterr().out


def test_a_source_of_unknown_length_has_a_rate_and_no_eta(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    with progress.Bar("ingest labeled", 0, "images") as bar:
        now[0] += progress.LINE_EVERY
        bar.update(60)
    assert capsys.readouterr().out.strip().endswith("ingest labeled: 60 4.0 images/s")


def test_two_bars_share_one_display_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    with progress.Bar("distill", 10, "steps") as first:
        first.update(3)
        with progress.Bar("finetune_labels", 20, "steps") as second:
            second.update(7)
            assert first.live is second.live is not None
            assert [(t.description, t.completed) for t in first.live.tasks] == [("distill", 3), ("finetune_labels", 7)]
        assert [t.description for t in first.live.tasks] == ["distill"]
        assert first.live.live.is_started
    assert not first.live.live.is_started
    with progress.Bar("evaluate", 5, "images") as third:
        assert third.live is not first.live
