"""The step that docs/how-to/step.md adds is made as the page says."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import create_model

from leaml.config import Config, load
from leaml.data import tables
from pipelines.context import Context
from pipelines.ingest import draw_labels, ingest
from pipelines.run import Run
from pipelines.steps import STEPS

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "step.md").read_text()


def executed(code: str) -> dict[str, Any]:
    """The names of a block, and as `last` the value of an expression at its end."""
    space: dict[str, Any] = {"__name__": "pipelines.sizes"}
    body = ast.parse(code)
    if isinstance(last := body.body[-1], ast.Expr):
        body.body[-1] = ast.copy_location(ast.Assign([ast.Name("last", ast.Store())], last.value), last)
    exec(compile(ast.fix_missing_locations(body), "step.md", "exec", dont_inherit=True), space)
    return space


def test_the_step_of_the_page_is_made(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, section, declaration = map(executed, re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    module = ModuleType("pipelines.sizes")
    module.__dict__.update(step)
    monkeypatch.setitem(sys.modules, "pipelines.sizes", module)
    monkeypatch.setitem(STEPS, "sizes", declaration["last"])
    sizes = section["SizesConfig"]
    own: Any = create_model("OwnConfig", __base__=Config, sizes=(sizes, sizes(skip=False)))
    config = own.model_validate(load(recipe, []).model_dump())
    assert STEPS["sizes"].when(config)
    (call,) = re.findall(r"`(Context\(.*?\)\.make\(.*?\))`", PAGE)
    with Run(config) as run:
        labels = draw_labels(run, ingest(run))
        made = eval(call, {"Context": Context, "STEPS": STEPS, "run": run, "ingest": ingest, "labels": labels})
        assert run.summary(made)["images"] == 7
    assert set(tables.read(made.path("sizes.parquet")).column_names) == {"image_id", "width", "height"}
