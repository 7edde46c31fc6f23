"""Which neurons distillation may move: the top share of the scores, saved with the hash of the model they belong to."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import nn

from leaml.data import files
from leaml.errors import ModelError
from leaml.neurons.scores import Scores

Selection = dict[str, torch.Tensor]
"""Module name -> sorted int64 indices of the selected rows; modules without a selected row are absent."""


def layer_of(name: str) -> str:
    """The layer a module belongs to: its name up to and including the first number, else the name itself."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match.group(0) if match else name


def select(scores: Scores, ratio: float, scope: str, normalise: bool) -> Selection:
    """The `ratio` highest-scoring rows of each module, of each layer or of all together; ties go to the earlier row.

    Args:
        scores: Rows' scores by module.
        ratio: Share of rows to take, rounded to the nearest count; 0 selects nothing, 1 everything.
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
    """Identity of the model a selection was made for: names, shapes and weights of its Linear modules."""
    digest = hashlib.sha256()
    for name, module in sorted(linears.items()):
        digest.update(f"{name}{tuple(module.weight.shape)}".encode())
        digest.update(module.weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def save(selection: Selection, scores: Scores, folder: Path, owner: str, facts: dict[str, object]) -> None:
    """Write `selection.safetensors` (indices), `scores.safetensors` and `selection.json` (model hash, counts, `facts`)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: i.contiguous() for n, i in selection.items()}, folder / "selection.safetensors")
    save_file({n: s.contiguous() for n, s in scores.items()}, folder / "scores.safetensors")
    counts = {n: {"rows": len(s), "selected": len(selection.get(n, ()))} for n, s in scores.items()}
    (folder / "selection.json").write_text(json.dumps({"model": owner, "modules": counts, **facts}, indent=1) + "\n")


def load(folder: str, linears: dict[str, nn.Linear]) -> Selection:
    """Read a selection (local folder or s3://) and refuse it when it belongs to another model. Raises ModelError."""
    expected = json.loads(files.read_bytes(f"{folder}/selection.json"))["model"]
    found = model_hash(linears)
    if expected != found:
        msg = f"the neuron selection in {folder} was made for model {expected}, not {found}; score this model again"
        raise ModelError(msg)
    return load_tensors(files.read_bytes(f"{folder}/selection.safetensors"))
