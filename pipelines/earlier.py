"""Steps that earlier commands on a run have finished, and which of them belong to the run as it is configured now."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from leaml.data import files

Entry = dict[str, Any]
"""A step in `status.json`, with `config`, the digest of the configuration that used it last, and `inputs`."""
APART = ("name", "storage", "resources", "tune")
"""Sections of the configuration that are in no step's address."""

LAST = "evaluate leaml"
"""Label of a step that only a run of all steps has."""


def whole(tree: dict[str, Any]) -> str:
    """`digest` of everything that a step may depend on."""
    return digest(tree, {"name": "evaluate", "label": LAST})


def digest(tree: dict[str, Any], entry: Entry) -> str:
    """Identity of the part of a configuration that a step may depend on; what lies beside the storage may move with it."""
    apart = (*APART, "evaluate") if _of_method(entry) else APART
    text = json.dumps({key: value for key, value in tree.items() if key not in apart}, sort_keys=True)
    storage = str(tree.get("storage") or "")
    if storage and not files.is_remote(storage):
        beside = json.dumps(f"{Path(files.absolute(storage)).parent}/")[1:-1]
        text = text.replace(f'"{beside}', '"')
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _of_method(entry: Entry) -> bool:
    """Whether a step is of the method itself, which the section `evaluate`, with baselines and controls, does not change."""
    name, label = entry["name"], entry["label"]
    return name != "evaluate" and (name == "ingest" or label in (name, f"{name} again") or "leaml" in label.split())


def read(run: str, status: str, config: str, done: str) -> tuple[list[Entry], str]:
    """Finished steps of earlier commands, the latest first, and the `whole` of the status; none where it is damaged.

    Args:
        run: The run's folder.
        status: Name of its status file.
        config: Name of its configuration, as the last command had it.
        done: Name of what a finished step has.
    """
    file = files.join(run, status)
    if not files.exists(file):
        return [], ""
    try:
        state = dict(json.loads(files.read_bytes(file)))
        tree = dict(yaml.safe_load(files.read_bytes(files.join(run, config))))
        listed = [*state["steps"], *state.get("others", [])]
        found = []
        for entry in listed:
            record = files.join(run, entry["folder"], done)
            if entry["state"] in ("done", "reused") and files.exists(record):
                inputs = list(json.loads(files.read_bytes(record))["inputs"])
                found.append({"config": digest(tree, entry)} | entry | {"inputs": inputs})
        ended = state["state"] == "done" and any(entry["label"] == LAST for entry in state["steps"])
        return found, str(state.get("whole", whole(tree) if ended else ""))
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return [], ""


def split(earlier: list[Entry], now: list[Entry], tree: dict[str, Any]) -> tuple[list[Entry], list[Entry]]:
    """Of earlier entries those that belong to the run of the configuration `tree` beside the steps `now`, and the others.

    A step does not belong to it any more when its label stands for another folder now, nor does what was made from such a step.
    """
    touched = {entry["folder"] for entry in now}
    folder_of = {entry["label"]: entry["folder"] for entry in now}
    rest = [entry for entry in earlier if entry["folder"] not in touched]
    fitting = [entry for entry in rest if entry["config"] == digest(tree, entry)]
    for entry in fitting:
        folder_of.setdefault(entry["label"], entry["folder"])
    gone = {entry["folder"] for entry in rest if folder_of.get(entry["label"], entry["folder"]) != entry["folder"]}
    while more := {e["folder"] for e in rest if e["folder"] not in gone and gone.intersection(e["inputs"])}:
        gone |= more
    kept = [entry for entry in fitting if entry["folder"] not in gone]
    stays = {entry["folder"] for entry in kept}
    return kept, [entry for entry in rest if entry["folder"] not in stays]
