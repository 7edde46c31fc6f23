"""The report's plots: matplotlib figures as inline SVG whose colours follow the page's light or dark theme.

Figures are drawn in placeholder colours that become CSS variables. The output is deterministic: fixed hash salt, no date,
element ids prefixed with the plot's name so that several fit on one page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from leaml.evaluation.metrics import Bin, RowMetrics
from leaml.report.formats import row_title

INK, MUTED, LINE, ACCENT, BAR = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)", BAR: "var(--bar)"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


@dataclass(frozen=True)
class _Screen:
    """A width that a plot is drawn for; the page shows the one that fits, so that no text is cut or tiny."""

    inches: float
    shown: str
    suffix: str = ""


_WIDE, _NARROW = _Screen(11, "wide"), _Screen(4.4, "narrow", "-narrow")


def accuracy_bars(rows: Mapping[str, RowMetrics], ours: str) -> Markup:
    """Horizontal bars, one per row, with the 95 % interval as whisker and the accuracy in percent beside it.

    Args:
        rows: Rows of `metrics.json`, best shown where they stand.
        ours: The row drawn in the accent colour.

    Returns:
        Two `<svg>`, for wide and for narrow screens, or an empty string without rows.
    """
    if not rows:
        return Markup()
    return _accuracy_bars(rows, ours, _WIDE) + _accuracy_bars(rows, ours, _NARROW)


def _accuracy_bars(rows: Mapping[str, RowMetrics], ours: str, screen: _Screen) -> Markup:
    name_of_plot = f"accuracy{screen.suffix}"
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name_of_plot}):
        height = 0.45 + 0.36 * len(rows)
        left = 2.2 / screen.inches
        figure = Figure(figsize=(screen.inches, height))
        axes = figure.add_axes((left, 0.4 / height, 0.95 - left - 0.3 / screen.inches, 1 - 0.45 / height))

        for y, (name, row) in enumerate(rows.items()):
            value, (low, high) = 100 * row["accuracy"], (100 * end for end in row["ci95"])
            mine = name == ours
            axes.barh(y, value, height=0.62, color=ACCENT if mine else BAR, linewidth=0, zorder=2)
            axes.plot([low, high], [y, y], color=INK, linewidth=1.3, solid_capstyle="butt", zorder=3)
            for end in (low, high):
                axes.plot([end, end], [y - 0.13, y + 0.13], color=INK, linewidth=1.3, zorder=3)
            weight = "bold" if mine else "normal"
            axes.text(max(value, high) + 0.9, y, f"{value:.1f}", va="center", ha="left", fontweight=weight)

        axes.set_yticks(range(len(rows)), [_short(row_title(name)) for name in rows])
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_locator(MaxNLocator(5 if screen is _WIDE else 2))
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        _bare(axes, grid="x")

        for label, name in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if name == ours else "normal")
        return _svg(figure, name_of_plot, "Accuracy of each row with its 95 % interval", screen.shown)


def loss_curves(losses: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    """One small panel per training run: loss over optimizer steps; losses that are not finite are left out.

    Returns:
        Two `<svg>`, for wide and for narrow screens, or an empty string when there is nothing to draw.
    """
    curves = {name: [(step, loss) for step, loss in points if math.isfinite(loss)] for name, points in losses.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return Markup()
    return _loss_curves(curves, 4, _WIDE) + _loss_curves(curves, 1, _NARROW)


def _loss_curves(curves: Mapping[str, Sequence[tuple[int, float]]], columns: int, screen: _Screen) -> Markup:
    columns = min(columns, max(2, len(curves))) if screen is _WIDE else columns
    lines = math.ceil(len(curves) / columns)
    name_of_plot = f"losses{screen.suffix}"

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name_of_plot}):
        figure = Figure(figsize=(screen.inches, 2.2 * lines), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12))
        panels = figure.subplots(lines, columns, squeeze=False).ravel()

        for axes, (name, points) in zip(panels, curves.items(), strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=ACCENT, linewidth=1.5, marker="o" if len(points) == 1 else "", markersize=4)
            axes.set_title(_short(name, 34))
            axes.text(0.98, 0.93, f"{values[-1]:.3g}", transform=axes.transAxes, ha="right", va="top", color=MUTED)
            if min(values) >= 0:
                axes.set_ylim(0, 1.08 * max(values) or 1)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            _bare(axes, grid="y")
            axes.tick_params(axis="y", labelcolor=MUTED)

        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        return _svg(figure, name_of_plot, "Training loss over optimizer steps", screen.shown)


def reliability(bins: Sequence[Bin]) -> Markup:
    """Accuracy over confidence, one point a bin.

    Args:
        bins: `bins` of `calibration.json`.

    Returns:
        An `<svg>` that fits a narrow screen.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "reliability"}):
        figure = Figure(figsize=(_NARROW.inches, 3.6))
        axes = figure.add_axes((0.19, 0.15, 0.76, 0.82))
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--", zorder=1)
        total = sum(bin_["n"] for bin_ in bins)
        sizes = [max(8.0, 600 * bin_["n"] / total) for bin_ in bins]
        sure, right = [100 * bin_["confidence"] for bin_ in bins], [100 * bin_["accuracy"] for bin_ in bins]
        axes.scatter(sure, right, sizes, color=ACCENT, alpha=0.75, linewidths=0, zorder=2)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        for axis, limit in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
            limit(-4, 104)
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        _bare(axes, grid="y")
        return _svg(figure, "reliability", "Accuracy over confidence", "small")


def _bare(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Hairline grid along one axis, no frame, no tick marks."""
    axes.set_facecolor("none")
    axes.grid(axis=grid, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _short(text: str, limit: int = 30) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def _svg(figure: Figure, name: str, description: str, shown: str) -> Markup:
    """The figure as an `<svg>` of the class `shown`: it takes the width that there is, so its text must be legible there."""
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'\b(id|xlink:href|clip-path)="(#|url\(#)?', lambda match: f"{match[0]}{name}-", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.S)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    text = text.replace("<svg ", f'<svg class="plot {shown}" role="img" aria-label="{description}" ', 1)
    return Markup(text.strip())  # matplotlib has escaped its texts
