"""The second half of step 5: filters of the whole set of pairs, applied to the published files in place.

Both passes read one file at a time. A file is replaced atomically, and pairs that this filter rejected before are counted as
it saw them, so a run that is killed here and started again comes to the same result.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from leaml import tables
from leaml.config import FilterConfig
from leaml.data import files
from leaml.pairset import REASONS, PairSet
from pipelines.progress import Bar


def filter_set(label: str, folder: str, config: FilterConfig, seed: int) -> Counter[str]:
    """Thin the accepted pairs in `folder`/rows; returns what to add to the step's counts (nothing when no filter is on)."""
    pairs = PairSet(config, seed)
    changes: Counter[str] = Counter()
    if not pairs.active:
        return changes
    parts = files.listing(f"{folder}/rows")
    with Bar(f"{label}, whole set", 2 * len(parts), "files") as bar:
        for number, file in enumerate(parts):
            count(pairs, tables.read(file, tables.PSEUDO_QA).to_pylist())
            bar.update(number + 1)
        for number, file in enumerate(parts):
            rows = tables.read(file, tables.PSEUDO_QA).to_pylist()
            changes.update(thin(pairs, rows))
            tables.write(file, tables.table(rows, tables.PSEUDO_QA))
            bar.update(len(parts) + number + 1)
    return changes


def count(pairs: PairSet, rows: list[dict[str, Any]]) -> None:
    """The first pass over some rows."""
    for _, pair in _candidates(rows):
        pairs.count(pair["question"], pair["answer"])


def thin(pairs: PairSet, rows: list[dict[str, Any]]) -> Counter[str]:
    """The second pass: decides in place; returns what to add to the step's counts."""
    changes = Counter[str]()
    for image_id, pair in _candidates(rows):
        reason = pairs.reason(image_id, pair["question"], pair["answer"])
        pair |= {"accepted": not reason, "reason": reason}
        if reason:
            changes[f"rejected: {reason}"] += 1
            changes["accepted"] -= 1
    return changes


def _candidates(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Pairs that the filters of their own image accept."""
    return [(r["image_id"], p) for r in rows for p in r["pairs"] if p["accepted"] or p["reason"] in REASONS]
