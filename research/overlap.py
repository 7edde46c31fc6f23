"""How much two selections of neurons have in common, of other domains, scores or seeds, beside what chance alone would give.

    python -m research.overlap A B [--plot FILE]

A and B are folders of select steps, local or s3://, such as runs/mine/select-0123456789ab; FILE is an .svg or .png.
Chance is two independent random selections with as many rows in each module as the two have: of n rows with a and b selected,
a b / n are expected in both (the mean of a hypergeometric distribution). Expected Jaccard indices are ratios of expectations.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from matplotlib.colors import Normalize
from rich import box
from rich.table import Table

from leaml.errors import DataError, LeamlError
from leaml.io import files
from leaml.neurons import plots, selection
from leaml.neurons.module_names import parse_module_name
from leaml.neurons.selection import Saved
from pipelines.progress import console, say


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
    names = {name: parse_module_name(name) for name in modules}
    return _grouped(modules, {n: p.part if p.layer < 0 else f"{p.part} {p.layer}" for n, p in names.items()})


def by_kind(modules: dict[str, Overlap]) -> dict[str, Overlap]:
    """Overlaps added up by part and kind of module, for example "language q_proj"."""
    names = {name: parse_module_name(name) for name in modules}
    return _grouped(modules, {n: f"{p.part} {p.kind}" for n, p in names.items()})


def _grouped(modules: dict[str, Overlap], keys: dict[str, str]) -> dict[str, Overlap]:
    return {key: total(m for n, m in modules.items() if keys[n] == key) for key in dict.fromkeys(keys.values())}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def picture(modules: Mapping[str, Overlap], file_format: str) -> bytes:
    """Two maps on one scale: the share of A's rows that B has too, and the share expected by chance."""
    everything = total(modules.values())
    measured = {n: m.shared for n, m in modules.items()}
    chance = {n: m.shared_by_chance for n, m in modules.items()}
    shares = (everything.shared, everything.shared_by_chance)
    overall, by_chance = (f"{s:.1%} of all" if everything.a else "A is empty" for s in shares)
    return plots.picture(
        [
            (f"share of A in B: {overall}", measured, Normalize(0, 1), "{:.0%}"),
            (f"expected by chance: {by_chance}", chance, Normalize(0, 1), "{:.0%}"),
        ],
        file_format,
    )


def show(folder_a: str, folder_b: str, plot: str | None = None) -> None:
    """Print the overlap of two select steps (folders, local or s3://); draw it to `plot`, an .svg or .png file."""
    file_format = plots.check_format(plot) if plot else ""
    a, b = selection.read(folder_a), selection.read(folder_b)
    modules = compare(a, b)
    left_out = len({n for s in (a, b) for n, count in s.modules.items() if "rows" in count} - modules.keys())
    for letter, saved in (("A", a), ("B", b)):
        score, select = saved.facts.get("score", {}), saved.facts.get("select", {})
        what = f"{score.get('method')}, {100 * select.get('ratio', math.nan):g} %, scope {select.get('scope')}"
        console.print(f"{letter}: {what}, {saved.facts.get('examples')} labeled rows, {saved.folder}")
    if left_out:
        console.print(f"{left_out} modules were scored for one of them only and are left out")
    everything = {"all": total(modules.values())}
    console.print(_table([everything, by_kind(modules), by_layer(modules)]))
    console.print("Jaccard: rows in both / rows in either. chance: expected of random selections of the same size per module.")
    if plot:
        files.write_bytes(plot, picture(modules, file_format))
        say(f"picture: {plot}")


def _table(groups: list[dict[str, Overlap]]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("rows", "A", "B", "both", "Jaccard", "chance", "A in B", "chance"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups:
        for name, found in group.items():
            counts = (str(n) for n in (found.rows, found.a, found.b, found.both))
            ratios = (found.jaccard, found.jaccard_by_chance, found.shared, found.shared_by_chance)
            table.add_row(name, *counts, *("" if math.isnan(r) else f"{r:.3f}" for r in ratios))
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--plot", metavar="FILE", help="draw the overlap by layer and module to this .svg or .png file")
    given = parser.parse_args()
    try:
        show(given.a, given.b, given.plot)
    except LeamlError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
