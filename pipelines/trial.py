"""What `leaml adapt --dry-run` refuses: all that `leaml adapt` refuses before an engine starts, found by the same functions.

Sources are ingested into a temporary folder, at most the first `FIRST` images of each and without their bytes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from leaml import __version__
from leaml.config import Config, SourceConfig
from leaml.data import captions
from leaml.data.count import names
from leaml.errors import DataError, ModelError
from leaml.io import files
from leaml.run.records import DoneRecord, quarantine_text
from pipelines.adapt import check
from pipelines.amounts import Amounts
from pipelines.caption import captioned, captioned_key, refuse_unusable_url
from pipelines.contamination import screen_near_duplicates
from pipelines.given import Given
from pipelines.image_tokens import largest_size
from pipelines.ingest import draw_labels, ingest, refuse_nothing_to_generate, role_of
from pipelines.lengths import refuse_long_rows
from pipelines.rehearsal import measure
from pipelines.run import Run, Step
from pipelines.runtime import check_resources, own_nodes
from pipelines.sources import Labels, Sources
from pipelines.summaries import IngestSummary
from pipelines.training_memory import refuse_large

FIRST = 5_000
"""Images of a source that are looked at: a minute for photographs on two cores."""


class TrialRun(Run):
    """A run in a temporary folder, which says nothing and keeps no status; what the run itself has finished is used."""

    first = FIRST

    def __init__(self, config: Config, folder: str) -> None:
        super().__init__(config, noted=False)
        self._kept, self.folder = self.folder, folder

    def _located(self, made: Step, inputs: list[Step]) -> Step:
        """The run's step where that is finished, else the same in the temporary folder."""
        kept = replace(made, folder=files.join(self._kept, made.name_of_folder))
        return kept if self.done(kept) else made

    def lasts(self, step: Step) -> bool:
        """Only what the run itself has finished."""
        return not step.folder.startswith(f"{self.folder}/")

    def execute(self, step: Step, work: Callable[[], Mapping[str, object]]) -> Step:
        """Do the step, unless it is finished."""
        if not self.done(step):
            DoneRecord(step.name, step.variant, step.round, step.inputs, 0.0, 1, __version__, dict(work())).write(step.folder)
        return step


@dataclass(frozen=True)
class Tried:
    """What was found out: how much there is of everything, and notes for the user."""

    amounts: Amounts
    notes: list[str]


def refuse(config: Config) -> Tried:
    """Raise what `leaml adapt` would.

    Raises:
        InputError: The configuration, the storage, a source, a label, an image, a caption or a model cannot be used.
    """
    check(config)
    with tempfile.TemporaryDirectory(prefix="leaml-trial-") as folder:
        trial = TrialRun(config, folder)
        sources = screen_near_duplicates(trial, ingest(trial), mapped=map)

        parts = [role_of(step) for step in (*sources.training, sources.evaluation) if "first" in trial.summary(step)]
        notes = [note for role in parts for note in _of_a_part(trial, sources, role)]
        labels = Labels.none() if "labeled" in parts else draw_labels(trial, sources)
        if not parts:
            refuse_nothing_to_generate(config, sources, labels)

        # of a part of the evaluation nobody knows which questions a limit of them leaves
        refuse_long_rows(trial, sources, labels, "evaluation" not in parts or config.data.evaluation_questions is None)
        refuse_large(config, largest_size(trial, sources.training))

        given = None
        if config.caption.file and not config.distill.skip:
            given, note = _given(config, sources, labels, bool(parts))
            notes.append(note)

        try:
            doubt = refuse_unusable_url(trial, sources, labels)
        except ModelError as error:
            if not parts:
                raise
            doubt = f"{error}; adapt refuses it unless the captions are finished"  # which only all images tell
        notes += [f"warning: {doubt}"] if doubt else []

        key = None if parts or config.distill.skip else captioned_key(config, sources, labels)
        return Tried(replace(measure(trial, sources, labels), given=given, captioned=key), notes)


def _of_a_part(trial: TrialRun, sources: Sources, role: str) -> list[str]:
    """What the beginning of a large source shows.

    Raises:
        DataError: So much of it cannot be used that the source is over its limit whatever the rest is.
    """
    step = next(s for s in (*sources.training, sources.evaluation) if role_of(s) == role)
    summary, limit = trial.summary(step), trial.config.data.max_quarantined
    source: SourceConfig = getattr(trial.config.data, role)
    where = source.path or source.format
    notes = [f"of the {role} source the first {FIRST:,} images were looked at; ingest looks at the others"]

    looked = IngestSummary.of(summary)
    labels = looked.labels
    found = [(looked.quarantined, looked.seen, "images", quarantine_text(summary))]
    if role != "unlabeled":
        found.append((*labels.faulty(), "label rows", "; ".join(labels.lines()[1:])))
        if not looked.rows:
            notes.append(f"warning: of {where} no image that was looked at has a question that can be used; adapt needs some")

    for bad, seen, what, why in found:
        if bad <= limit * seen and (bad < seen or not seen):
            continue
        msg = f"{bad:,} of the first {seen:,} {what} of {where} cannot be used"
        total = names(source) if what == "images" else None
        if bad > limit * (total or math.inf if limit else 0):
            of_all = f", over the limit of {limit:.0%} of all {total:,}" if limit and total else ", and the limit is 0 %"
            msg = f"data.{role}: {msg}{of_all} (data.max_quarantined): {why}; fix the data or raise the limit"
            raise DataError(msg)

        notes.append(
            f"warning: {msg}, {bad / seen:.0%} where data.max_quarantined is {limit:.0%}: {why}; adapt refuses the source "
            "unless the others bring that down"
        )
    return notes


def _given(config: Config, sources: Sources, labels: Labels, part: bool) -> tuple[int | None, str]:
    """How many images have a caption in `caption.file`, where all were looked at, and that in words."""
    given = Given(
        captions.read(str(config.caption.file), config.caption.column),
        sources.image_folders,
        captioned(config, sources, labels),
    )
    try:
        count = given.count()
    except DataError as error:
        if not part:
            raise
        return None, f"of the images that were looked at: {error}"
    return (None if part else count), given.text()


def refuse_machine(config: Config) -> None:
    """Raise ResourceError if this machine cannot hold the plan; a cluster that is joined is not asked."""
    if config.resources.address is None:
        check_resources(config.resources, own_nodes())
