"""Step 4, select: the share of the warmed-up generator's neurons that distillation may move, by their scores."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from leaml.io import files
from pipelines.context import Context
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
