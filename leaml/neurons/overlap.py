"""How much two selections have in common: between domains, scores, seeds; beside what chance alone would give.

Chance is two independent random selections with as many rows in each module as the two have: of n rows with a and b selected,
a b / n are expected in both (the mean of a hypergeometric distribution). Expected Jaccard indices are ratios of expectations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from leaml.errors import DataError
from leaml.neurons.selection import Saved
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


@dataclass(frozen=True)
class Overlap:
    """Rows of one or several modules: how many there are, are in A, in B, in both, and are expected in both by chance."""

    rows: int
    a: int
    b: int
    both: int
    chance: float

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|; NaN when both are empty."""
        return _ratio(self.both, self.a + self.b - self.both)

    @property
    def jaccard_by_chance(self) -> float:
        """Expected `jaccard`."""
        return _ratio(self.chance, self.a + self.b - self.chance)

    @property
    def shared(self) -> float:
        """Share of A's rows that are in B; NaN when A is empty."""
        return _ratio(self.both, self.a)

    @property
    def shared_by_chance(self) -> float:
        """Expected `shared`."""
        return _ratio(self.chance, self.a)


def compare(a: Saved, b: Saved) -> dict[str, Overlap]:
    """Overlap of the rows of every Linear that both selections were made over, in A's order; columns are left out.

    The models may differ (that is what domains and seeds are compared for), their architecture may not.

    Raises:
        DataError: a module has another number of rows in B, or no module is in both.
    """
    found: dict[str, Overlap] = {}
    for name, count in a.modules.items():
        other = b.modules.get(name, {})
        if "rows" not in count or "rows" not in other:
            continue
        rows = count["rows"]
        if rows != other["rows"]:
            msg = f"{name} has {rows} rows in {a.folder} and {other['rows']} in {b.folder}; compare models of one architecture"
            raise DataError(msg)
        marked = torch.zeros(2, rows, dtype=torch.bool)
        for row, saved in zip(marked, (a, b), strict=True):
            row[saved.rows.get(name, torch.empty(0, dtype=torch.int64))] = True
        (n, m), both = marked.sum(1).tolist(), int(marked.all(0).sum())
        found[name] = Overlap(rows, n, m, both, n * m / rows)
    if not found:
        msg = f"{a.folder} and {b.folder} have no Linear module in common; compare models of one architecture"
        raise DataError(msg)
    return found


def total(parts: Iterable[Overlap]) -> Overlap:
    """Overlap of several modules together."""
    parts = list(parts)
    rows, a, b, both = (sum(getattr(p, name) for p in parts) for name in ("rows", "a", "b", "both"))
    return Overlap(rows, a, b, both, math.fsum(p.chance for p in parts))


def by_layer(modules: dict[str, Overlap]) -> dict[str, Overlap]:
    """Overlaps added up by part and layer, for example "language 3"; by part alone for modules outside the layers."""
    places = {name: place_of(name) for name in modules}
    return _grouped(modules, {n: p.part if p.layer < 0 else f"{p.part} {p.layer}" for n, p in places.items()})


def by_kind(modules: dict[str, Overlap]) -> dict[str, Overlap]:
    """Overlaps added up by part and kind of module, for example "language q_proj"."""
    places = {name: place_of(name) for name in modules}
    return _grouped(modules, {n: f"{p.part} {p.kind}" for n, p in places.items()})


def _grouped(modules: dict[str, Overlap], keys: dict[str, str]) -> dict[str, Overlap]:
    return {key: total(m for n, m in modules.items() if keys[n] == key) for key in dict.fromkeys(keys.values())}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
