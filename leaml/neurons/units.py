"""What counts as one neuron: a row of a Linear, or a neuron of a feed-forward block with everything that belongs to it.

A feed-forward block computes down(act(gate(x)) * up(x)), or fc2(act(fc1(x))). Its hidden neuron j is row j of gate and up (of
fc1) and column j of down (of fc2): none of them does anything without the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from leaml.errors import ConfigError

_LAYOUTS = ((("gate_proj", "up_proj"), "down_proj"), (("fc1",), "fc2"))


@dataclass(frozen=True)
class FeedForward:
    """Names of the modules whose rows, and of the one whose columns, are the hidden neurons of a feed-forward block."""

    rows: tuple[str, ...]
    columns: str


def feed_forwards(linears: dict[str, nn.Linear]) -> dict[str, FeedForward]:
    """The feed-forward blocks among `linears`, by the name of the module that holds them.

    Raises:
        ConfigError: there is none, or a block of which some modules are missing (left out by `score.modules`, or fused).
    """
    found: dict[str, FeedForward] = {}
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in linears):
        for rows, columns in _LAYOUTS:
            here = {leaf: f"{parent}.{leaf}".lstrip(".") for leaf in (*rows, columns)}
            missing = [leaf for leaf, name in here.items() if name not in linears]
            if missing and len(missing) < len(here):
                present = sorted(here.keys() - missing)
                msg = (
                    f"score.unit ffn: {parent!r} has {', '.join(present)} but not {', '.join(missing)} among the modules that "
                    "score.modules matches; match all of them or none, or use score.unit row"
                )
                raise ConfigError(msg)
            if not missing:
                found[parent] = FeedForward(tuple(here[leaf] for leaf in rows), here[columns])

    if not found:
        msg = (
            f"score.unit ffn: none of the {len(linears)} modules is a feed-forward block with gate_proj, up_proj, down_proj or "
            "fc1, fc2; use score.unit row"
        )
        raise ConfigError(msg)
    return found


def combine(scores: dict[str, torch.Tensor], blocks: dict[str, FeedForward]) -> dict[str, torch.Tensor]:
    """Scores of neurons from scores of rows and columns: a block's modules are added up under the name of the block.

    The order is the modules', a block standing where its first module stood; modules outside the blocks keep their rows.
    """
    block_of = {name: parent for parent, block in blocks.items() for name in (*block.rows, block.columns)}
    combined: dict[str, torch.Tensor] = {}
    for name, values in scores.items():
        key = block_of.get(name, name)
        combined[key] = combined[key] + values if key in combined else values
    return combined


def expand(
    neurons: dict[str, torch.Tensor], blocks: dict[str, FeedForward]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """`(rows, columns)` of the Linear modules that make up the selected neurons, each a dict module name -> indices."""
    rows: dict[str, torch.Tensor] = {}
    columns: dict[str, torch.Tensor] = {}
    for key, indices in neurons.items():
        if key in blocks:
            rows.update({name: indices.clone() for name in blocks[key].rows})  # safetensors refuses shared memory
            columns[blocks[key].columns] = indices.clone()
        else:
            rows[key] = indices
    return rows, columns
