"""`leaml plan`: what grows with the images grows, the rest stays, and the arithmetic is shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leaml.config import Config, load, parse
from leaml.errors import InputError
from pipelines import cli, plan, sizing
from pipelines.amounts import Work
from pipelines.ingest import draw_labels, ingest
from pipelines.run import Run
from pipelines.sizing import Prices, Size, requests, sizes

SOURCES = [("labeled", "train", 12), ("evaluation", "test", 5)]
RECIPE = Path(cli.__file__).parent / "configs" / "kvasir_vqa.yaml"


def recipe(folder: Path, *overrides: str) -> Config:
    return load(RECIPE, [f"storage={folder}", *overrides])


def test_ten_times_the_frames_are_ten_times_the_work_of_engines_and_no_more_training(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    few, many = sizes(found, [10**5, 10**6])
    assert few.fixed == many.fixed
    assert few.fixed_hours == many.fixed_hours
    assert few.scaling and many.scaling and many.scaling / few.scaling == pytest.approx(10, rel=0.05)
    assert many.gpu_hours() == many.scaling + (many.fixed or 0)
    units = 10**6 // found.resources.images_per_unit
    steps = sizing.PUTS * 2 + sizing.FILTER_PUTS  # captions and pairs
    assert many.puts == pytest.approx(steps * units, rel=0.05)
    assert many.gets > 10**6  # each image is read in
    assert not list(tmp_path.iterdir())


def test_nodes_are_those_that_keep_the_deadline() -> None:
    one = Size(1000, scaling=700.0, fixed=50.0, fixed_hours=4.0, puts=2_000_000, gets=10_000_000, how=())
    prices = Prices(gpu_hour=2.0, puts=0.005, gets=0.0004, node_gpus=8, deadline=24.0)
    assert one.nodes(prices) == 5  # 700 / 20 h = 35 GPUs
    assert one.money(prices) == pytest.approx(750 * 2 + 10 + 4)
    assert one.nodes(Prices(deadline=4.0)) is None
    assert Size(1000, None, 1.0, 1.0, 0, 0, ()).money(prices) is None


def test_requests_of_steps(tmp_path: Path) -> None:
    tree = recipe(tmp_path, "resources.images_per_unit=100").model_dump(mode="json")
    assert requests("caption", tree, Work(1000)) == (30, 50 + 2 * sizing.INDEX_GETS)
    assert requests("generate", tree, Work(1000)) == (30, 50 + 2 * sizing.INDEX_GETS)
    assert requests("filter", tree, Work(1000)) == (20, 60)
    assert requests("distill", tree, Work()) == (0, 2 * tree["distill"]["steps"] * tree["distill"]["batch_size"])
    assert requests("score", tree, Work()) == (0, 0)


def test_the_table_says_where_its_numbers_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
    sizing.show(recipe(tmp_path), [10**5, 10**7], Prices(deadline=0.5))
    text = stream.getvalue()
    assert "10,000,000" in text and "not in time" in text
    assert "caption: 10,000,100 images / " in text and "arithmetic for 10,000,000 frames" in text
    assert "assumed: 312 TFLOP/s" in text


def test_without_gpus_no_nodes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = {name: {"format": "easy_vqa", "split": split, "limit": limit} for name, split, limit in SOURCES}
    found = parse({"name": "small", "storage": str(tmp_path), "data": data})
    stream = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
    sizing.show(found, [1000], Prices())
    text = stream.getvalue()
    assert [line.split()[1:4] for line in text.splitlines() if line.startswith("  1,000 ")] == [["none", "none", "none"]]
    assert "no step asks for a GPU" in text
    assert "warning: " in text and " of 5 images cannot show a difference" in text


def test_numbers_that_are_known_are_said_and_the_others_called_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(config: Config) -> str:
        stream = io.StringIO()
        monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
        sizing.show(config, [1000], Prices())
        return next(line for line in stream.getvalue().splitlines() if line.startswith("labels: "))

    data: Any = {name: {"format": "easy_vqa", "split": split, "limit": limit} for name, split, limit in SOURCES}
    found = parse({"name": "small", "storage": str(tmp_path), "data": data | {"budget": {"count": 4}}})
    for _ in range(2):  # before and after they are ingested
        line = said(found)
        assert " of 4 images; " in line and " about 5 images" in line
        assert "assumed" not in line
        with Run(found) as run:
            ingest(run)
    assert line == f"labels: {len(draw_labels(run, ingest(run)).rows())} rows of 4 images; " + line.partition("; ")[2]
    assert "300 rows (assumed, only ingest can tell)" in said(recipe(tmp_path))


def test_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 frames cannot be planned; give a number above 0"):
        sizes(recipe(tmp_path), [10, 0])
