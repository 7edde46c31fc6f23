"""Draws the labeled images that may be used: whole images, by hash, whatever the order of the rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from leaml.config import LabelBudget
from leaml.errors import DataError


@dataclass(frozen=True)
class Draw:
    """Rows to train on, rows to choose learning rates on, and the images of both; the last are not unlabeled any more."""

    train: pa.Table
    validation: pa.Table
    image_ids: frozenset[str]


def draw(labeled: pa.Table, budget: LabelBudget) -> Draw:
    """Take images in the order of their hash until the budget is met, and hold out a share of them for validation.

    A budget of rows is met exactly: of the last image only as many rows are used as are missing, and its other rows belong
    to no side. Without count or fraction everything is taken. Rows come out sorted, so equal sets give equal tables.

    Raises:
        DataError: the budget is larger than what is there, or there is nothing.
    """
    by_image: dict[str, list[int]] = {}
    for row, image in enumerate(labeled["image_id"].to_pylist()):
        by_image.setdefault(image, []).append(row)

    ordered = sorted(by_image, key=lambda image: _hash(budget.seed, image))
    available = labeled.num_rows if budget.of == "rows" else len(ordered)
    wanted = _wanted(budget, available)
    chosen: dict[str, list[int]] = {}
    left = wanted

    for image in ordered:
        if left <= 0:
            break
        rows = by_image[image]
        if budget.of == "rows":
            chosen[image] = _trimmed(labeled, rows, left, budget.seed)
            left -= len(chosen[image])
        else:
            chosen[image] = rows
            left -= 1

    # Another hash than that of the draw, so that a larger budget with the same seed moves few images to the other side
    shuffled = sorted(chosen, key=lambda image: _hash(budget.seed, image, "validation"))
    held = held_out(budget.validation_fraction, len(chosen))

    return Draw(
        train=_rows(labeled, [row for image in shuffled[held:] for row in chosen[image]]),
        validation=_rows(labeled, [row for image in shuffled[:held] for row in chosen[image]]),
        image_ids=frozenset(chosen),
    )


def _wanted(budget: LabelBudget, available: int) -> int:
    if available == 0:
        msg = "the labeled source has no labeled images; check data.labeled"
        raise DataError(msg)
    if budget.count is not None:
        if budget.count > available:
            msg = f"data.budget.count is {budget.count} {budget.of}, but the labeled source has {available}; lower it"
            raise DataError(msg)
        return budget.count
    return available if budget.fraction is None else max(1, round(budget.fraction * available))


def held_out(fraction: float, images: int) -> int:
    """Images for validation: at least one if any are asked for, and never the last one that training needs."""
    if fraction == 0 or images < 2:
        return 0
    return min(images - 1, max(1, round(fraction * images)))


def _trimmed(labeled: pa.Table, rows: list[int], size: int, seed: int) -> list[int]:
    if len(rows) <= size:
        return rows
    found = labeled.select([name for name in labeled.column_names if name != "where"]).take(rows).to_pylist()
    order = sorted(range(len(rows)), key=lambda i: _hash(seed, repr(sorted(found[i].items()))))
    return [rows[i] for i in order[:size]]


def _rows(labeled: pa.Table, rows: list[int]) -> pa.Table:
    taken = labeled.take(pa.array(rows, pa.int64()))
    keys = [name for name in ("image_id", "question", "answer", "question_type") if name in taken.column_names]
    return taken.take(pc.sort_indices(taken, [(name, "ascending") for name in keys]))


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.sha256(":".join((str(seed), *parts)).encode()).digest()
