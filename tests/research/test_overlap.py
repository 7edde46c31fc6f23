"""What two selections share, against sets counted by hand and against chance by simulation; the tables and the picture."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from saved_selections import saved, write_two

from leaml.errors import DataError
from leaml.neurons import selection
from research import overlap
from research.overlap import Overlap

Q0, Q1, FC = "model.text_model.layers.0.self_attn.q_proj", "model.text_model.layers.1.self_attn.q_proj", "model.connector.proj"
SIZES = {Q0: 10, Q1: 10, FC: 4}


FIRST = saved({Q0: [0, 1, 2, 3], Q1: [5]}, SIZES, "first")
SECOND = saved({Q0: [2, 3, 4], FC: [0, 1]}, SIZES, "second")


def test_overlap_is_counted_by_module_layer_and_kind() -> None:
    found = overlap.compare(FIRST, SECOND)
    assert found == {Q0: Overlap(10, 4, 3, 2, 1.2), Q1: Overlap(10, 1, 0, 0, 0.0), FC: Overlap(4, 0, 2, 0, 0.0)}
    everything = overlap.total(found.values())
    assert everything == Overlap(24, 5, 5, 2, 1.2)
    assert everything.jaccard == 2 / 8
    assert everything.jaccard_by_chance == 1.2 / 8.8
    assert (everything.shared, everything.shared_by_chance) == (2 / 5, 1.2 / 5)
    assert overlap.by_layer(found) == {"language 0": found[Q0], "language 1": found[Q1], "connector": found[FC]}
    assert overlap.by_kind(found) == {"language q_proj": Overlap(20, 5, 3, 2, 1.2), "connector proj": found[FC]}
    assert math.isnan(found[FC].shared)
    assert math.isnan(Overlap(4, 0, 0, 0, 0.0).jaccard)


def test_a_selection_shares_everything_with_itself() -> None:
    everything = overlap.total(overlap.compare(FIRST, FIRST).values())
    assert (everything.jaccard, everything.shared) == (1.0, 1.0)


def test_chance_is_what_random_selections_give() -> None:
    scores = [{Q0: torch.rand(400), Q1: torch.rand(400)} for _ in range(60)]
    sizes = {Q0: 400, Q1: 400}
    chosen = [selection.select(s, 0.3, "global", False) for s in scores]
    selections = [saved({n: r.tolist() for n, r in c.items()}, sizes) for c in chosen]
    pairs = [overlap.total(overlap.compare(a, b).values()) for a, b in zip(selections[::2], selections[1::2], strict=True)]
    mean = sum(p.both for p in pairs) / len(pairs)
    assert mean == pytest.approx(800 * 0.09, rel=0.08)  # about 4 standard errors
    assert sum(p.chance for p in pairs) / len(pairs) == pytest.approx(72, rel=0.02)
    assert sum(p.jaccard for p in pairs) / len(pairs) == pytest.approx(pairs[0].jaccard_by_chance, rel=0.08)


def test_selections_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match=f"{Q0} has 10 rows in first and 12 in second"):
        overlap.compare(FIRST, saved({}, {Q0: 12}, "second"))
    with pytest.raises(DataError, match="no Linear module in common"):
        overlap.compare(FIRST, saved({}, {"elsewhere": 3}))


def test_modules_of_one_selection_only_are_left_out() -> None:
    assert overlap.compare(FIRST, saved({Q0: [0]}, {Q0: 10, "elsewhere": 3})).keys() == {Q0}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Select steps of a two-layer model: rows, and feed-forward neurons."""
    return write_two(tmp_path)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """`python -m research.overlap` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["overlap", *map(str, words)])
    overlap.main()


def test_command_prints_tables_and_draws(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overlap, "console", Console(width=200, file=sys.stdout))
    command(monkeypatch, *folders, "--plot", tmp_path / "both.svg")
    printed = capsys.readouterr().out
    a, b = (selection.read(f) for f in folders)
    everything = overlap.total(overlap.compare(a, b).values())
    numbers = [str(n) for n in (everything.rows, everything.a, everything.b, everything.both)]
    lines = [line.replace("│", " ").split() for line in printed.splitlines()]
    ratios = (everything.jaccard, everything.jaccard_by_chance, everything.shared, everything.shared_by_chance)
    assert ["all", *numbers, *(f"{r:.3f}" for r in ratios)] in lines
    assert sum(line[:2] in (["language", "0"], ["language", "1"]) for line in lines) == 2
    assert sum(line[:2] == ["language", "gate_proj"] for line in lines) == 1
    assert "2 modules were scored for one of them only" in printed  # down_proj, chosen by row and by column
    picture = (tmp_path / "both.svg").read_text()
    assert f"share of A in B: {everything.shared:.1%} of all" in picture
    assert f"expected by chance: {everything.shared_by_chance:.1%} of all" in picture
    assert "gate_proj" in picture


def test_picture_without_anything_selected_and_with_many_layers() -> None:
    names = {f"model.text_model.layers.{n}.self_attn.q_proj": 4 for n in range(40)}
    nothing = saved({}, names)
    svg = overlap.picture(overlap.compare(nothing, nothing), "svg").decode()
    assert "share of A in B: A is empty" in svg
    assert ">39<" in svg
    assert svg.count(">1<") == 0  # not every layer has room for its number


def test_other_picture_formats_are_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*out\.gif.*\.svg or \.png"):
        command(monkeypatch, "nowhere", "nowhere", "--plot", tmp_path / "out.gif")


def test_a_folder_without_a_selection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"error: {re.escape(str(tmp_path))} holds no selection \(selection\.json\)"):
        command(monkeypatch, tmp_path, tmp_path)
