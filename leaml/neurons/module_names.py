"""What the dotted name of a module says: the part of the model that it belongs to, its layer and its kind."""

from __future__ import annotations

from dataclasses import dataclass

from leaml.vlm.load import layer_index, part_of


@dataclass(frozen=True)
class ModuleName:
    """Part of the model, number of the layer (-1: in none), and the module's own name."""

    part: str
    layer: int
    kind: str


def parse_module_name(name: str) -> ModuleName:
    """What the dotted name of a module or feed-forward block says."""
    *parents, leaf = name.split(".")
    kind = f"{parents[-1]}.{leaf}" if leaf.isdigit() and parents else leaf
    return ModuleName(part_of(name) or "other", layer_index(name), kind)
