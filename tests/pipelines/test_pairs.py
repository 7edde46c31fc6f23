"""Filters of the whole set rewrite the published files: rejected pairs stay, training never sees them, twice is as once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leaml import tables
from leaml.config import FilterConfig
from pipelines.generate import read_accepted
from pipelines.pairs import filter_set
from pipelines.run import Step

CONFIG = FilterConfig(max_per_question=100)


def pair(answer: str, accepted: bool = True) -> dict[str, Any]:
    reason = "" if accepted else "few votes"
    return {"question": "Is it red?", "answer": answer, "mean_logprob": -0.5, "accepted": accepted, "reason": reason}


def publish(folder: Path, parts: int = 5, images: int = 100) -> list[dict[str, Any]]:
    rows = [
        {"image_id": f"{p}-{n}", "caption": None, "pairs": [pair("yes"), pair("no", accepted=False)]}
        for p in range(parts)
        for n in range(images)
    ]
    for p in range(parts):
        part = rows[p * images : (p + 1) * images]
        tables.write(f"{folder}/rows/unit-{p}.parquet", tables.table(part, tables.PSEUDO_QA))
    return rows


def stored(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("rows/*")) for row in tables.read(str(file), tables.PSEUDO_QA).to_pylist()]


def test_thinned_pairs_stay_in_the_table_and_out_of_training(tmp_path: Path) -> None:
    before = publish(tmp_path)
    changes = filter_set("generate", str(tmp_path), CONFIG, seed=0)
    after = stored(tmp_path)
    assert [r["image_id"] for r in after] == [r["image_id"] for r in before]
    reasons = [[p["reason"] for p in r["pairs"]] for r in after]
    assert {second for _, second in reasons} == {"few votes"}
    dropped = sum(first == "question too common" for first, _ in reasons)
    assert changes == {"rejected: question too common": dropped, "accepted": -dropped}
    assert 500 - dropped == pytest.approx(100, rel=0.3)
    trained = read_accepted(Step("generate", "generate", "0", str(tmp_path)))
    assert len(trained) == 500 - dropped
    assert {i for i, _, _ in trained} == {r["image_id"] for r, (first, _) in zip(after, reasons, strict=True) if not first}


def test_a_second_pass_after_a_kill_comes_to_the_same(tmp_path: Path) -> None:
    publish(tmp_path)
    changes = filter_set("generate", str(tmp_path), CONFIG, seed=0)
    done = stored(tmp_path)
    publish(tmp_path / "other")
    half = tmp_path / "other" / "rows"
    for number in (0, 1):  # as if killed after two files
        (half / f"unit-{number}.parquet").write_bytes((tmp_path / "rows" / f"unit-{number}.parquet").read_bytes())
    assert filter_set("generate", str(tmp_path / "other"), CONFIG, seed=0) == changes
    assert stored(tmp_path / "other") == done


def test_without_filters_of_the_set_no_file_is_touched(tmp_path: Path) -> None:
    publish(tmp_path)
    times = [f.stat().st_mtime_ns for f in sorted(tmp_path.glob("rows/*"))]
    assert filter_set("generate", str(tmp_path), FilterConfig(), seed=0) == {}
    assert [f.stat().st_mtime_ns for f in sorted(tmp_path.glob("rows/*"))] == times
