"""Select: the share of the warmed-up generator's neurons that distillation may move, by their scores."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from leaml.errors import DataError
from leaml.io import files
from leaml.run.records import read_run
from pipelines.context import Context
from pipelines.progress import say
from pipelines.run import Step


def select(context: Context) -> Step:
    """Select neurons; another ratio takes other neurons of the same scores."""
    from leaml.neurons import selection

    config, scored = context.run.config.select, context.made["score"]
    step = context.step("select", config.model_dump(), [scored])

    def work() -> dict[str, int]:
        found, owner, facts, blocks = selection.read_scores(scored.folder)
        chosen = selection.select(found, config.ratio, config.scope, config.normalise)
        with tempfile.TemporaryDirectory() as folder:
            selection.save(chosen, found, Path(folder), owner, {"select": config.model_dump(), **facts}, blocks)
            files.upload_tree(folder, step.folder)
        modules = json.loads(files.read_bytes(step.path("selection.json")))["modules"].values()
        trained_rows = [m for m in modules if "rows" in m]
        return {"rows": sum(m["rows"] for m in trained_rows), "selected": sum(m["selected"] for m in trained_rows)}

    return context.run.execute(step, work)


def draw(run_folder: str, file: str) -> None:
    """Draw the selection of the run's own select step to an .svg or .png file. Raises DataError when the run has none."""
    from safetensors.torch import load as load_tensors

    from leaml.neurons import plots, selection

    if (selected := read_run(run_folder).finished("select")) is None:
        msg = f"{run_folder} has selected no neurons (distill.skip leaves that step out), so there is nothing to draw"
        raise DataError(msg)
    folder = files.join(run_folder, selected.folder)
    scores = load_tensors(files.read_bytes(files.join(folder, selection.SCORES)))
    files.write_bytes(file, plots.selection_picture(selection.read(folder), scores, plots.check_format(file)))
    say(f"picture: {file}")
