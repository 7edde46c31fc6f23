"""Pictures of selections of neurons: layers across, modules down, one band per part of the model.

Files, unlike the report's plots, which are part of its page. The same selection gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from leaml.errors import InputError
from leaml.neurons.module_names import ModuleName, parse_module_name
from leaml.neurons.scores import Scores
from leaml.neurons.selection import Saved

FORMATS = (".svg", ".png")
_STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "svg.hashsalt": "leaml",
    "svg.fonttype": "none",
}
_WRITTEN = 14
"""Most layers whose cells and tick labels all have room for a number."""

Values = Mapping[str, float]
"""Module or block name -> value of its cell."""


def check_format(file: str) -> str:
    """The format of a picture file by its name. Raises InputError, so that it is known before anything expensive."""
    for suffix in FORMATS:
        if file.lower().endswith(suffix):
            return suffix[1:]
    msg = f"cannot draw to {file!r}: the name must end in {' or '.join(FORMATS)}"
    raise InputError(msg)


def selection_picture(saved: Saved, scores: Scores, file_format: str) -> bytes:
    """Two maps: the share of each module's neurons that was selected, and its mean score relative to the mean of all.

    Args:
        saved: The selection.
        scores: Scores of all neurons, as saved beside it.
        file_format: "svg" or "png".
    """
    shares = {n: c["selected"] / (c.get("rows") or c["columns"]) for n, c in saved.modules.items()}
    mean = float(np.mean(np.concatenate([s.double().abs().numpy() for s in scores.values()]))) or 1.0
    levels = {n: float(s.double().abs().mean()) / mean for n, s in scores.items()}
    method, scope = saved.facts.get("score", {}).get("method"), saved.facts.get("select", {}).get("scope")
    top = max([*shares.values(), 1e-9])
    positive = [v for v in levels.values() if v > 0] or [1.0]
    lowest, highest = min(positive), max(*positive, 1.001 * min(positive))
    return picture(
        [
            (f"selected share ({method}, scope {scope})", shares, Normalize(0, top), "{:.0%}"),
            ("mean score / mean of all", levels, LogNorm(lowest, highest), "{:.2g}"),
        ],
        file_format,
    )


def picture(maps: list[tuple[str, Values, Normalize, str]], file_format: str) -> bytes:
    """Draw maps of (title, values, colour scale, number format) side by side, a band of each per part of the model."""
    bands: list[tuple[str, list[dict[ModuleName, float]]]] = []
    means = [_means(values) for _, values, _, _ in maps]
    for part in dict.fromkeys(module.part for cells in means for module in cells):
        bands.append((part, [{p: v for p, v in cells.items() if p.part == part} for cells in means]))
    heights = [max(len({p.kind for p in cells}) for cells in columns) + 1.5 for _, columns in bands]
    layers = max(len({p.layer for p in cells}) for _, columns in bands for cells in columns)
    with mpl.rc_context(_STYLE):
        size = (len(maps) * (1.8 + min(0.42 * layers, 9)), 0.26 * sum(heights) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(bands), len(maps), squeeze=False, height_ratios=heights)
        for axes_row, (part, columns) in zip(grid, bands, strict=True):
            for axes, cells, (_, _, scale, number) in zip(axes_row, columns, maps, strict=True):
                _heat_map(axes, part, cells, scale, number)
        for axes, (title, _, _, _) in zip(grid[0], maps, strict=True):
            axes.set_title(f"{title}\n{axes.get_title(loc='left')}")
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else {"Software": None}
        figure.savefig(buffer, format=file_format, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _means(values: Values) -> dict[ModuleName, float]:
    """Mean value of the modules of each name (experts of a layer share one); NaNs count only where there is nothing else."""
    by_name: dict[ModuleName, list[float]] = {}
    for name, value in values.items():
        by_name.setdefault(parse_module_name(name), []).append(value)
    return {name: float(np.nanmean(some)) if not np.isnan(some).all() else math.nan for name, some in by_name.items()}


def _heat_map(axes: Axes, part: str, cells: dict[ModuleName, float], scale: Normalize, number: str) -> None:
    kinds, layers = list(dict.fromkeys(p.kind for p in cells)), sorted({p.layer for p in cells})
    values = np.full((len(kinds), len(layers)), math.nan)
    for module, value in cells.items():
        values[kinds.index(module.kind), layers.index(module.layer)] = value
    axes.imshow(values, cmap="Blues", norm=scale, aspect="auto", interpolation="nearest")
    axes.set_title(part)
    axes.set_yticks(range(len(kinds)), kinds)
    every = math.ceil(len(layers) / _WRITTEN)
    axes.set_xticks(range(0, len(layers), every), ["" if n < 0 else str(n) for n in layers[::every]])
    for (row, column), value in np.ndenumerate(values):
        if every == 1 and not math.isnan(value):
            colour = "white" if float(scale(value)) > 0.6 else "black"
            axes.text(column, row, number.format(value), ha="center", va="center", color=colour, size=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
