"""Steps that earlier commands on a run have finished, and which of them belong to the run as it is configured now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from leaml.errors import DataError
from leaml.io import files
from leaml.run.records import DONE, LEAML, STATUS, StepRecord, read_run

UNADDRESSED = ("name", "storage", "resources", "tune")
"""Sections of the configuration that are in no step's address."""


def whole(tree: Mapping[str, object]) -> str:
    """`digest` of everything that a step may depend on."""
    return digest(tree, StepRecord("evaluate", LEAML))


def digest(tree: Mapping[str, object], step: StepRecord) -> str:
    """Identity of the part of a configuration that a step may depend on; what lies beside the storage may move with it."""
    left_out = (*UNADDRESSED, "evaluate") if _of_method(step) else UNADDRESSED
    text = json.dumps({key: value for key, value in tree.items() if key not in left_out}, sort_keys=True)
    storage = str(tree.get("storage") or "")
    if storage and not files.is_remote(storage):
        beside = json.dumps(f"{Path(files.absolute(storage)).parent}/")[1:-1]
        text = text.replace(f'"{beside}', '"')
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _of_method(step: StepRecord) -> bool:
    """Whether a step is of the method itself, which the section `evaluate`, with baselines and controls, does not change."""
    return step.name != "evaluate" and (step.name == "ingest" or step.variant in ("", LEAML))


def read(run: str) -> tuple[list[StepRecord], str]:
    """Finished steps of earlier commands, the latest first, and the `whole` of the run; none where it is damaged."""
    if not files.exists(files.join(run, STATUS)):
        return [], ""
    try:
        record = read_run(run)
    except DataError:
        return [], ""
    listed = (*record.steps, *record.others)
    return [step for step in listed if step.finished and files.exists(files.join(run, step.folder, DONE))], record.whole


def split(
    earlier: list[StepRecord], now: list[StepRecord], tree: Mapping[str, object]
) -> tuple[list[StepRecord], list[StepRecord]]:
    """Of earlier steps those that still belong to the run, and the others.

    A step does not belong to it any more when its label stands for another folder now, nor does
    what was made from such a step.

    Args:
        earlier: Finished steps of earlier commands, the latest first.
        now: Steps that this command has touched; they are in neither result.
        tree: The configuration of now, as plain data.
    """
    touched = {step.folder for step in now}
    folder_of = {step.label: step.folder for step in now}
    rest = [step for step in earlier if step.folder not in touched]
    fitting = [step for step in rest if step.config == digest(tree, step)]
    for step in fitting:
        folder_of.setdefault(step.label, step.folder)
    gone = {step.folder for step in rest if folder_of.get(step.label, step.folder) != step.folder}
    while more := {step.folder for step in rest if step.folder not in gone and gone.intersection(step.inputs)}:
        gone |= more
    kept = [step for step in fitting if step.folder not in gone]
    stays = {step.folder for step in kept}
    return kept, [step for step in rest if step.folder not in stays]
