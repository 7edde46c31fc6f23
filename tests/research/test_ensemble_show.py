"""The table of experiments on ensembles, from results written here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leaml.config.reading import parse
from research.ensemble import show
from research.ensemble.domain import Case, Domain

SHARES = {"leaml": 9, "finetune_labels": 6, "zero_shot": 2, "full_labels": 10}


@pytest.fixture
def given() -> Domain:
    source = {"format": "easy_vqa"}
    row = {"question": "what?", "answer": "red", "question_type": "color", "options": None}
    labeled = [row | {"image_id": str(i)} for i in range(6)]
    asked = [row | {"image_id": str(i), "question_type": ("color", "shape")[i % 2]} for i in range(10)]
    priors = {"blind_prior": [i < 1 for i in range(10)]}
    cases = [Case(f"1 % {d}", 0.01, d, [0, 1, 2], [3], priors) for d in range(2)] + [Case("2 % 0", 0.02, 0, [0, 1], [], priors)]
    config = parse({"data": {"labeled": source, "evaluation": source}})
    names = [str(i) for i in range(10)]
    return Domain(config, names, np.zeros((10, 3, 2, 2), np.uint8), labeled, asked, names, {c.name: c for c in cases})


def result(case: str, name: str, right: int) -> dict:
    pairs = {"accepted": 7, "known": 1.0, "right": 0.5, "rejected_right": None, "by_type": {"color": 0.5}, "counts": {}}
    own = pairs if name.startswith("leaml") else {}
    bits = "1" * right + "0" * (10 - right)
    return {"name": name, "case": case, "correct": bits, "pairs": own, "generator": 0.25 if own else None, "development": 0.5}


@pytest.fixture
def found(tmp_path: Path) -> Path:
    results = [result(f"1 % {d}", name, right) for d in range(2) for name, right in SHARES.items()]
    results += [result("1 % 0", "leaml_hardness", 4), result("2 % 0", "leaml", 8), result("2 % 0", "zero_shot", 2)]
    results.append(result("2 % 0", "late", 0) | {"correct": ""})
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"results": results}))
    return file


def test_draws_share_rows_and_the_first_have_all(given: Domain, found: Path) -> None:
    both, first, larger = show.budgets(given, show.read(found))
    assert (len(both), len(first), len(larger)) == (2, 1, 1)
    assert set(both[0]["rows"]) == {"blind_prior", *SHARES}
    assert set(first[0]["rows"]) == {"blind_prior", *SHARES, "leaml_hardness"}
    assert set(larger[0]["rows"]) == {"blind_prior", "leaml", "zero_shot"}
    assert both[0]["rows"]["leaml"]["accuracy"] == 0.9
    assert both[0]["rows"]["leaml"]["by_type"] == {"color": 1.0, "shape": 0.8}
    assert (both[0]["labels"], both[0]["dataset"]) == (4, "easy_vqa")
    assert first[0]["pairs"]["leaml_hardness"]["right"] == 0.5


def test_the_whole_is_printed_and_written(
    given: Domain, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given.save(tmp_path / "domain.npz")
    arguments = ["show", str(tmp_path / "domain.npz"), str(found), "--json", str(tmp_path / "report.json")]
    monkeypatch.setattr("sys.argv", [*arguments, "--curve", str(tmp_path / "curve.svg")])
    show.main()
    printed = capsys.readouterr().out
    assert "easy_vqa, 4 labeled images, 2 draws" in printed
    assert "gap closed: 0.75 0.75" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["budgets"][0]["methods"]["leaml"]["draws"] == [0.9, 0.9]
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_a_choice_is_a_line_of_means(found: Path) -> None:
    lines = show.choices(show.read(found)).splitlines()
    assert "| leaml | 0.250 | 0.500 | 0.500 | 7 | 0.867 |" in lines
    assert "| zero_shot |  | 0.500 |  |  | 0.200 |" in lines
