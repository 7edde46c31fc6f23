"""What a run folder says of its steps: `status.json` says it of all of them, `_DONE.json` of a finished one.

Both are written and read here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from leaml.errors import DataError
from leaml.io import files

STATUS, CONFIG, DONE = "status.json", "config.yaml", "_DONE.json"
"""Names of files: of the run's state, of its resolved configuration, and of the one that makes a step finished."""
LEAML = "leaml"
"""Variant of the steps that only the method itself has."""
FINISHED = ("done", "reused")
"""States of steps whose results can be used."""
QUARANTINED, REJECTED = "quarantined: ", "rejected: "
"""Beginnings of the names of counts by reason in a step's summary: of images, beside `quarantined`, and of pairs."""
COPIES = "copies"
"""Images of a source that are copies of others, in an ingest's summary."""

Count = TypeVar("Count")


@dataclass(frozen=True)
class StepRecord:
    """One step of a run.

    Attributes:
        name: Of the step: caption, finetune, ...
        variant: What tells it from others of this name: a row of the table, the role of a source, or nothing.
        round: Of the method's rounds, from 1; 0 for the last, or only, one.
        folder: Its folder inside the run.
        state: running, done, reused, failed or interrupted.
        seconds: Of all its attempts; None while it runs for the first time.
        config: Identity of the configuration that used it last.
        inputs: Folders, inside the run, of the steps it was made from.
        summary: What is worth a line of its summary: images quarantined, left out, or copies of others.
    """

    name: str
    variant: str = ""
    round: int = 0
    folder: str = ""
    state: str = "done"
    seconds: float | None = None
    config: str = ""
    inputs: tuple[str, ...] = ()
    summary: dict[str, object] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: "finetune random_neurons"."""
        return label_of(self.name, self.variant, self.round)

    @property
    def finished(self) -> bool:
        """Whether its results can be used."""
        return self.state in FINISHED

    def is_last(self, name: str, variant: str = LEAML) -> bool:
        """Whether it is the step of this name and variant, or of none, of the last round."""
        return self.name == name and self.variant in ("", variant) and not self.round

    def tree(self) -> dict[str, object]:
        """As plain data, with the label for readers of the file."""
        return {"label": self.label} | dataclasses.asdict(self)

    @classmethod
    def of(cls, tree: dict[str, Any]) -> StepRecord:
        """The record in plain data. Raises KeyError or TypeError for other data."""
        known = {f.name for f in dataclasses.fields(cls)}
        found = cls(**{key: value for key, value in tree.items() if key in known})
        return dataclasses.replace(found, inputs=tuple(found.inputs), folder=tree["folder"])


@dataclass(frozen=True)
class RunRecord:
    """State of a run.

    Attributes:
        run: Its name.
        state: running, partial, done, failed or interrupted.
        updated: When the file was written, in seconds since 1970.
        steps: Those of the run as it is configured now, in order.
        others: Finished ones of earlier configurations.
        whole: Identity of the configuration for which all steps were done; "" for none.
    """

    run: str
    state: str
    updated: float = 0.0
    steps: tuple[StepRecord, ...] = ()
    others: tuple[StepRecord, ...] = ()
    whole: str = ""

    def finished(self, name: str, variant: str = LEAML) -> StepRecord | None:
        """The finished step of this name and variant of the last round; None where there is none."""
        return next((step for step in self.steps if step.is_last(name, variant) and step.finished), None)

    def write(self, folder: str) -> None:
        """Replace the `status.json` of a run folder, with the time of now."""
        tree = dataclasses.asdict(self) | {"updated": time.time()}
        for key in ("steps", "others"):
            tree[key] = [step.tree() for step in getattr(self, key)]
        files.write_bytes(files.join(folder, STATUS), json.dumps(tree, indent=1).encode())


def read_run(folder: str) -> RunRecord:
    """The state of the run in a folder, local or s3://.

    Raises:
        DataError: There is no run, or its file is damaged.
    """
    file = files.join(folder, STATUS)
    if not files.exists(file):
        fix = "give storage/name of a run, the folder of runs, or a config file"
        msg = f"{folder} is not a run folder: it has no {STATUS}; {fix}"
        raise DataError(msg)
    try:
        tree = dict(json.loads(files.read_bytes(file)))
        steps, others = (tuple(map(StepRecord.of, tree.get(key, []))) for key in ("steps", "others"))
        return RunRecord(tree["run"], tree["state"], tree["updated"], steps, others, tree.get("whole", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file} is damaged ({error}); remove it: finished steps stay, and the same command writes it anew"
        raise DataError(msg) from None


@dataclass(frozen=True)
class DoneRecord:
    """A finished step: its folder's `_DONE.json`.

    Attributes:
        name: As of `StepRecord`.
        variant: As of `StepRecord`.
        round: As of `StepRecord`.
        inputs: As of `StepRecord`.
        seconds: Of all attempts.
        attempts: How often it was begun.
        code: Version of LEAML that finished it.
        summary: What it reported.
    """

    name: str
    variant: str
    round: int
    inputs: tuple[str, ...]
    seconds: float
    attempts: int
    code: str
    summary: dict[str, Any]

    def write(self, folder: str) -> None:
        """Make the step in `folder` finished; to be called when everything else of it is there."""
        files.write_bytes(files.join(folder, DONE), json.dumps(dataclasses.asdict(self), indent=1).encode())


def read_done(folder: str) -> DoneRecord:
    """The record of the finished step in a folder. Raises DataError where it is not finished, or its file is damaged."""
    file = files.join(folder, DONE)
    try:
        tree = json.loads(files.read_bytes(file))
        return DoneRecord(**tree | {"inputs": tuple(tree["inputs"])})
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{file} is damaged ({error}); remove the folder, and the same command makes the step anew"
        raise DataError(msg) from None


def label_of(name: str, variant: str, round_number: int = 0) -> str:
    """A step for people: its name, its variant and, where a run has several, its round.

    Args:
        name: caption, finetune, ...
        variant: A row of the table or the role of a source; "" where the step has none.
        round_number: From 1; 0 stands for the last, or only, round and is not shown.
    """
    return " ".join(part for part in (name, variant, f"round {round_number}" if round_number else "") if part)


def by_reason(summary: Mapping[str, Count], kind: str) -> dict[str, Count]:
    """Counts of a step's summary by reason, of the kind QUARANTINED or REJECTED."""
    return {key.removeprefix(kind): count for key, count in summary.items() if key.startswith(kind)}


def quarantine_text(summary: Mapping[str, object]) -> str:
    """How many images a step has quarantined and why, from its summary."""
    why = ", ".join(f"{n} {reason}" for reason, n in by_reason(summary, QUARANTINED).items())
    return f"{summary['quarantined']} images quarantined" + (f" ({why})" if why else "")


def copies_text(summary: Mapping[str, object]) -> str:
    """How many images of a source are copies of others under another name, from its ingest's summary."""
    return f"{summary[COPIES]} copies of other images under other names, each taken once"


def notes_of(summary: Mapping[str, object]) -> list[str]:
    """The lines that a step's summary is worth."""
    found = [quarantine_text(summary)] if summary.get("quarantined") else []
    found += [copies_text(summary)] if summary.get(COPIES) else []
    if excluded := _excluded(summary):
        counts = " and ".join(f"{count} {role}" for role, count in excluded.items() if count)
        found.append(f"{counts} images left out")
    return found


def noted(summary: Mapping[str, object]) -> dict[str, object]:
    """The part of a summary that `notes_of` needs."""
    kept = {k: v for k, v in summary.items() if k.startswith("quarantined")} if summary.get("quarantined") else {}
    kept |= {COPIES: summary[COPIES]} if summary.get(COPIES) else {}
    excluded = _excluded(summary)
    return kept | ({"excluded": excluded} if excluded else {})


def _excluded(summary: Mapping[str, object]) -> dict[str, int]:
    """How many images of each source were left out; empty where none was."""
    found = summary.get("excluded")
    return found if isinstance(found, dict) and any(found.values()) else {}
