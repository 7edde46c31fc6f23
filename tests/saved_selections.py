"""Selections of neurons: in memory, and as two select steps of a small model leave them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from leaml.neurons import selection
from leaml.neurons.scores import Scores
from leaml.neurons.selection import Saved
from leaml.neurons.units import feed_forwards


def saved(rows: dict[str, list[int]], sizes: dict[str, int], folder: str = "mine") -> Saved:
    """A selection of these rows by module, whose modules have so many."""
    modules = {name: {"rows": size, "selected": len(rows.get(name, ()))} for name, size in sizes.items()}
    return Saved(folder, {n: torch.tensor(r) for n, r in rows.items()}, {}, modules, {})


def write_two(folder: Path) -> tuple[str, str]:
    """The folders of select steps of a two-layer model: rows, and feed-forward neurons."""
    torch.manual_seed(0)
    linears: dict[str, nn.Linear] = {}
    for layer in (0, 1):
        prefix = f"model.text_model.layers.{layer}"
        linears[f"{prefix}.self_attn.q_proj"] = nn.Linear(4, 10)
        linears |= {f"{prefix}.mlp.{n}": nn.Linear(4, 8) for n in ("gate_proj", "up_proj")}
        linears[f"{prefix}.mlp.down_proj"] = nn.Linear(8, 4)
    rows = {n: torch.rand(m.out_features) for n, m in linears.items()}
    blocks = feed_forwards(linears)
    neurons = {n: torch.rand(10) for n in linears if "q_proj" in n} | {n: torch.rand(8) for n in blocks}
    return _write(folder / "rows", rows, 0.5, linears), _write(folder / "ffn", neurons, 0.25, linears, "ffn")


def _write(folder: Path, scores: Scores, ratio: float, linears: dict[str, nn.Linear], unit: str = "row") -> str:
    facts = {"score": {"method": "squared", "unit": unit}, "select": {"ratio": ratio, "scope": "layer"}, "examples": 8}
    blocks = feed_forwards(linears) if unit == "ffn" else {}
    chosen = selection.select(scores, ratio, "layer", False)
    selection.save(chosen, scores, folder, selection.model_hash(linears), facts, blocks)
    return str(folder)
