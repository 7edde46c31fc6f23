"""What the dotted name of a module says: the part of the model that it belongs to, its layer and its kind."""

from __future__ import annotations

from dataclasses import dataclass

from leaml.vlm.load import layer_index, part_of


@dataclass(frozen=True)
class Place:
    """Where a module is: part of the model, number of its layer (-1: in none), and its own name."""

    part: str
    layer: int
    kind: str


def place_of(name: str) -> Place:
    """The place of a module or feed-forward block by its dotted name."""
    *parents, leaf = name.split(".")
    kind = f"{parents[-1]}.{leaf}" if leaf.isdigit() and parents else leaf
    return Place(part_of(name) or "other", layer_index(name), kind)
