"""What two selections of neurons have in common, as tables and as a picture; and the picture of one selection."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from safetensors.torch import load as load_tensors

from leaml.errors import DataError
from leaml.io import files
from leaml.neurons import overlap, plots, selection
from leaml.run.records import read_run
from pipelines.progress import console, say


def show(folder_a: str, folder_b: str, plot: str | None = None) -> None:
    """Print the overlap of two select steps (folders, local or s3://); draw it to `plot`, an .svg or .png file."""
    picture = plots.check_format(plot) if plot else ""
    a, b = selection.read(folder_a), selection.read(folder_b)
    modules = overlap.compare(a, b)
    left_out = len({n for s in (a, b) for n, count in s.modules.items() if "rows" in count} - modules.keys())
    for letter, saved in (("A", a), ("B", b)):
        score, select = saved.facts.get("score", {}), saved.facts.get("select", {})
        what = f"{score.get('method')}, {100 * select.get('ratio', math.nan):g} %, scope {select.get('scope')}"
        console.print(f"{letter}: {what}, {saved.facts.get('examples')} labeled rows, {saved.folder}")
    if left_out:
        console.print(f"{left_out} modules were scored for one of them only and are left out")
    everything = {"all": overlap.total(modules.values())}
    console.print(_table([everything, overlap.by_kind(modules), overlap.by_layer(modules)]))
    console.print("Jaccard: rows in both / rows in either. chance: expected of random selections of the same size per module.")
    if plot:
        _write(plot, plots.overlap_picture(modules, picture))


def draw_selection(run_folder: str, file: str) -> None:
    """Draw the selection of the run's own select step. Raises DataError when the run has none."""
    if (selected := read_run(run_folder).finished("select")) is None:
        msg = f"{run_folder} has selected no neurons (distill.skip leaves that step out), so there is nothing to draw"
        raise DataError(msg)
    folder = files.join(run_folder, selected.folder)
    scores = load_tensors(files.read_bytes(files.join(folder, "scores.safetensors")))
    _write(file, plots.selection_picture(selection.read(folder), scores, plots.check_format(file)))


def _write(file: str, picture: bytes) -> None:
    files.write_bytes(file, picture)
    say(f"picture: {file}")


def _table(groups: list[dict[str, overlap.Overlap]]) -> Table:
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
