"""The label budget: exact, by whole images, deterministic."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest

from leaml.config import LabelBudget
from leaml.data import tables
from leaml.data.budget import Draw, draw
from leaml.errors import DataError


def labeled(images: int = 50, seed: int | None = None) -> pa.Table:
    """Image n has 1 to 5 rows."""
    rows: list[dict[str, object]] = [
        {"image_id": f"{n:032x}", "question": f"q{k}", "answer": f"a{n}", "options": ["x", "y"] if k else None}
        for n in range(images)
        for k in range(n % 5 + 1)
    ]
    if seed is not None:
        random.Random(seed).shuffle(rows)
    return tables.table(rows, tables.LABELED)


def budget(**fields: Any) -> LabelBudget:
    return LabelBudget(**fields)


def sides(found: Draw) -> tuple[set[str], set[str]]:
    return set(found.train["image_id"].to_pylist()), set(found.validation["image_id"].to_pylist())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": 10},
        {"fraction": 0.3},
        {"count": 37, "of": "rows"},
        {"fraction": 0.01, "of": "rows"},
        {"count": 10, "validation_fraction": 0.0},
        {"count": 1},
        {"count": 149, "of": "rows", "validation_fraction": 0.9},
    ],
)
def test_draw_does_not_depend_on_row_order_and_splits_no_image(fields: dict[str, Any]) -> None:
    one, two = (draw(labeled(seed=s), budget(**fields)) for s in (1, 2))
    assert one.train.equals(two.train)
    assert one.validation.equals(two.validation)
    train, validation = sides(one)
    assert not train & validation
    assert train | validation == one.image_ids
    assert train
    assert one.train.schema == one.validation.schema == tables.LABELED


def test_everything_without_a_budget() -> None:
    found = draw(labeled(), budget())
    assert found.train.num_rows + found.validation.num_rows == labeled().num_rows
    assert len(sides(found)[1]) == 10


def test_budget_of_images() -> None:
    found = draw(labeled(), budget(count=20, validation_fraction=0.25))
    assert [len(s) for s in sides(found)] == [15, 5]
    rows = found.train.num_rows + found.validation.num_rows
    assert rows == sum(int(image, 16) % 5 + 1 for image in found.image_ids)  # all rows of each
    assert len(draw(labeled(), budget(fraction=0.1)).image_ids) == 5
    assert len(draw(labeled(), budget(fraction=1e-6)).image_ids) == 1


@pytest.mark.parametrize("count", range(1, 151, 7))
def test_budget_of_rows_is_exact_and_trims_one_image_only(count: int) -> None:
    found = draw(labeled(), budget(count=count, of="rows"))
    both = pa.concat_tables([found.train, found.validation])
    assert both.num_rows == count
    used = both["image_id"].to_pylist()
    trimmed = [image for image in found.image_ids if used.count(image) != int(image, 16) % 5 + 1]
    assert len(trimmed) <= 1


def test_seed_changes_the_draw_and_larger_budgets_contain_smaller_ones() -> None:
    small, large, other = (draw(labeled(), budget(**b)) for b in ({"count": 9}, {"count": 30}, {"count": 9, "seed": 1}))
    assert small.image_ids < large.image_ids
    assert small.image_ids != other.image_ids


def test_no_validation_when_none_is_asked_for_or_possible() -> None:
    assert draw(labeled(), budget(validation_fraction=0.0)).validation.num_rows == 0
    assert draw(labeled(), budget(count=1)).validation.num_rows == 0
    assert [len(s) for s in sides(draw(labeled(), budget(count=2, validation_fraction=0.01)))] == [1, 1]


def test_too_large_a_budget_names_the_numbers() -> None:
    with pytest.raises(DataError, match=r"count is 51 images, but the labeled source has 50"):
        draw(labeled(), budget(count=51))
    with pytest.raises(DataError, match=r"count is 151 rows, but the labeled source has 150"):
        draw(labeled(), budget(count=151, of="rows"))
    with pytest.raises(DataError, match="no labeled images"):
        draw(labeled(0), budget())
