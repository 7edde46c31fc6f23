"""Step 4, select: the share of the warmed-up generator's neurons that distillation may move, by their scores."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from leaml.data import files
from leaml.records import LEAML
from pipelines.run import Run, Step


def select(run: Run, scored: Step, variant: str = LEAML, round_number: int = 0) -> Step:
    """Select neurons; another ratio takes other neurons of the same scores."""
    from leaml.neurons import selection

    config = run.config.select
    step = run.step("select", config.model_dump(), [scored], variant=variant, round_number=round_number)

    def work() -> dict[str, Any]:
        found, owner, facts, blocks = selection.read_scores(scored.folder)
        chosen = selection.select(found, config.ratio, config.scope, config.normalise)
        with tempfile.TemporaryDirectory() as folder:
            selection.save(chosen, found, Path(folder), owner, {"select": config.model_dump(), **facts}, blocks)
            files.upload_tree(folder, step.folder)
        modules = json.loads(files.read_bytes(step.path("selection.json")))["modules"].values()
        trained_rows = [m for m in modules if "rows" in m]
        return {"rows": sum(m["rows"] for m in trained_rows), "selected": sum(m["selected"] for m in trained_rows)}

    return run.execute(step, work)
