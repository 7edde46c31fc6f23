"""What `leaml adapt --dry-run` refuses: all that `leaml adapt` refuses before an engine starts, found by the same functions.

Sources are ingested into a temporary folder, at most the first `FIRST` images of each and without their bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

from leaml.config import Config
from leaml.data import files
from pipelines.adapt import check
from pipelines.contamination import screen_near_duplicates
from pipelines.ingest import draw_labels, ingest, role_of
from pipelines.plan import rehearse
from pipelines.run import DONE, Run, Step
from pipelines.runtime import MIN_LOGICAL_CPUS, check_resources

FIRST = 5_000
"""Images of a source that are looked at: a minute for photographs on two cores."""


class Trial(Run):
    """A run in a temporary folder, which says nothing and keeps no status."""

    first = FIRST

    def execute(self, step: Step, work: Callable[[], dict[str, Any]]) -> Step:
        """Do the step."""
        files.write_bytes(step.path(DONE), json.dumps({"summary": work()}).encode())
        return step


def refuse(config: Config) -> list[str]:
    """Raise what `leaml adapt` would; returns what could not be found out, for the user.

    Raises:
        InputError: The configuration, a source, a label, an image or a model cannot be used.
    """
    check(config)
    run, sources, _ = rehearse(config)
    if all(run.done(step) for step in (*sources.training, sources.evaluation)):
        ingest(run)  # reads nothing again, and looks at what came out
        return []
    with tempfile.TemporaryDirectory(prefix="leaml-trial-") as folder:
        trial = Trial(config.model_copy(update={"storage": folder}))
        sources = screen_near_duplicates(trial, ingest(trial), mapped=map)
        parts = [role_of(step) for step in (*sources.training, sources.evaluation) if "first" in trial.summary(step)]
        if "labeled" not in parts:
            draw_labels(trial, sources)
    return [f"of the {role} source the first {FIRST:,} images were looked at; ingest looks at the others" for role in parts]


def refuse_machine(config: Config) -> None:
    """Raise ResourceError if this machine cannot hold the plan; a cluster that is joined is not asked."""
    if config.resources.address is not None:
        return
    import torch

    cpus = float(max(MIN_LOGICAL_CPUS, os.cpu_count() or 1))
    check_resources(config.resources, [{"CPU": cpus, "GPU": float(torch.cuda.device_count())}])
