"""Which neurons distillation may move: the top share of the scores, saved with the hash of the model they belong to."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import nn

from leaml.errors import DataError, ModelError
from leaml.io import files
from leaml.neurons.scores import Scores
from leaml.neurons.units import FeedForward, expand

Selection = dict[str, torch.Tensor]
"""Module name -> sorted int64 indices of the selected rows; modules without a selected row are absent."""

ROWS, COLUMNS, RECORD = "selection.safetensors", "columns.safetensors", "selection.json"
SCORES, SCORED = "scores.safetensors", "scores.json"


def layer_of(name: str) -> str:
    """The layer a module belongs to: its name up to and including the first number, else the name itself."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match.group(0) if match else name


def select(scores: Scores, ratio: float, scope: str, normalise: bool) -> Selection:
    """The `ratio` highest-scoring neurons of each module, of each layer or of all together; ties go to the earlier neuron.

    Args:
        scores: Scores by module or feed-forward block.
        ratio: Share of neurons to take, rounded to the nearest count; 0 selects nothing, 1 everything.
        scope: "module", "layer" or "global".
        normalise: Scale each layer's scores to mean 1 before comparing across layers ("global" only), so that the
            selection does not collapse into the few layers with the largest gradients.
    """
    groups: dict[str, list[str]] = {}
    for name in scores:
        key = {"module": name, "layer": layer_of(name), "global": ""}[scope]
        groups.setdefault(key, []).append(name)
    scaled = _scaled(scores) if scope == "global" and normalise else scores
    chosen: Selection = {}
    for names in groups.values():
        values = torch.cat([scaled[n].double() for n in names])
        keep = torch.zeros(len(values), dtype=torch.bool)
        keep[torch.argsort(values, descending=True, stable=True)[: round(ratio * len(values))]] = True
        for name, part in zip(names, keep.split([len(scores[n]) for n in names]), strict=True):
            if part.any():
                chosen[name] = part.nonzero().flatten()
    return chosen


def _scaled(scores: Scores) -> Scores:
    layers: dict[str, list[str]] = {}
    for name in scores:
        layers.setdefault(layer_of(name), []).append(name)
    result: Scores = {}
    for names in layers.values():
        mean = torch.cat([scores[n].double() for n in names]).abs().mean().clamp_min(1e-30)
        result.update({n: (scores[n].double() / mean).float() for n in names})
    return result


def model_hash(linears: dict[str, nn.Linear]) -> str:
    """Identity of the model a selection was made for: names, shapes, types and every bit of the weights of its Linears.

    All of it, since models of one run may differ in a few rows only. SHA-256 of the weights as they are stored (no float32
    copy), several at a time: about 2 GB/s per core, less than reading them from a disk took.
    """

    def digest(name: str) -> bytes:
        weight = linears[name].weight.detach().cpu().contiguous()
        head = f"{name} {tuple(weight.shape)} {weight.dtype}\n"
        content = hashlib.sha256(weight.view(torch.uint8).numpy().data).digest()
        return hashlib.sha256(head.encode() + content).digest()

    with ThreadPoolExecutor(4) as pool:  # hashlib lets go of Python's lock; 4, so that few weights leave a GPU at a time
        return hashlib.sha256(b"".join(pool.map(digest, sorted(linears)))).hexdigest()[:32]


@dataclass(frozen=True)
class Saved:
    """A selection as it was written: `rows` by module, and `modules`, what was scored, with {"rows": n, "selected": k} each.

    A module of which columns are selected (unit "ffn") has "columns" in place of "rows", and its indices in `columns`.
    """

    folder: str
    rows: Selection
    columns: Selection
    modules: dict[str, dict[str, int]]
    facts: dict[str, Any]


def save(
    neurons: Selection,
    scores: Scores,
    folder: Path,
    owner: str,
    facts: dict[str, object],
    blocks: dict[str, FeedForward] | None = None,
) -> None:
    """Write what `select` chose.

    `selection.safetensors`: rows by module; `columns.safetensors`: columns by module, if any; `scores.safetensors`: the scores
    of all neurons; `selection.json`: model hash, counts by module, `facts`.

    Args:
        neurons: Selected neurons, under the names of `scores`.
        scores: Scores of all neurons.
        folder: Local folder, made if missing.
        owner: `model_hash` of all the model's Linears.
        facts: Further entries of the JSON file.
        blocks: Feed-forward blocks among the names (unit "ffn").
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = blocks or {}
    rows, columns = expand(neurons, blocks)
    modules: dict[str, dict[str, int]] = {}
    for name, values in scores.items():
        selected = len(neurons.get(name, ()))
        block = blocks.get(name)
        modules.update({n: {"rows": len(values), "selected": selected} for n in (block.rows if block else (name,))})
        if block:
            modules[block.columns] = {"columns": len(values), "selected": selected}
    save_file({n: i.contiguous() for n, i in rows.items()}, folder / ROWS)
    if columns:
        save_file({n: i.contiguous() for n, i in columns.items()}, folder / COLUMNS)
    _save_scores(scores, folder)
    (folder / RECORD).write_text(json.dumps({"model": owner, "modules": modules, **facts}, indent=1) + "\n")


def _save_scores(scores: Scores, folder: Path) -> None:
    save_file({n: s.contiguous() for n, s in scores.items()}, folder / SCORES)


def save_scores(
    scores: Scores, folder: Path, owner: str, facts: dict[str, object], blocks: dict[str, FeedForward] | None = None
) -> None:
    """Write scores of which any share may be selected later.

    Args:
        scores: Scores of all neurons; `read_scores` keeps their order.
        folder: Local folder, made if missing.
        owner: `model_hash` of all the model's Linears.
        facts: Entries for the JSON file of a later selection.
        blocks: Feed-forward blocks among the names (unit "ffn").
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_scores(scores, folder)
    record = {
        "model": owner,
        "names": list(scores),
        "blocks": {n: asdict(b) for n, b in (blocks or {}).items()},
        "facts": facts,
    }
    (folder / SCORED).write_text(json.dumps(record) + "\n")


def read_scores(folder: str) -> tuple[Scores, str, dict[str, Any], dict[str, FeedForward]]:
    """What `save_scores` has written to `folder` (local or s3://): scores in their order, owner, facts, blocks."""
    record = json.loads(files.read_bytes(files.join(folder, SCORED)))
    scores = load_tensors(files.read_bytes(files.join(folder, SCORES)))
    blocks = {n: FeedForward(tuple(b["rows"]), b["columns"]) for n, b in record["blocks"].items()}
    return {n: scores[n] for n in record["names"]}, record["model"], record["facts"], blocks


def read(folder: str) -> Saved:
    """Read the folder of a select step (local or s3://), of whatever model. Raises DataError."""
    if not files.exists(files.join(folder, RECORD)):
        msg = f"{folder} holds no selection ({RECORD}); give the folder of a select step, such as runs/mine/select-0123456789ab"
        raise DataError(msg)
    facts = json.loads(files.read_bytes(files.join(folder, RECORD)))
    modules = facts.pop("modules")
    columns: Selection = {}
    if any("columns" in count and count["selected"] for count in modules.values()):
        columns = load_tensors(files.read_bytes(files.join(folder, COLUMNS)))
    return Saved(folder, load_tensors(files.read_bytes(files.join(folder, ROWS))), columns, modules, facts)


def load(folder: str, linears: dict[str, nn.Linear]) -> Saved:
    """A selection (local folder or s3://), refused when it belongs to another model.

    Args:
        folder: Of a select step.
        linears: All the model's Linears (scores.all_linears), as when it was scored.

    Raises:
        DataError: no selection there.
        ModelError: the selection was made for another model.
    """
    saved = read(folder)
    expected, found = saved.facts["model"], model_hash(linears)
    if expected != found:
        msg = f"the neuron selection in {folder} was made for model {expected}, not {found}; score this model again"
        raise ModelError(msg)
    return saved
