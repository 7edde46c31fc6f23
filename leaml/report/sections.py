"""What each section of the report shows, as plain data for the template of its name."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image

from leaml.evaluation.comparisons import smallest_difference
from leaml.evaluation.metrics import Comparison, RowMetrics
from leaml.report import plots
from leaml.report.content import ReportData, Sample
from leaml.report.verdict import row_notes
from leaml.rows import names_of, titles

_SHOWN = 512  # longest side of a sample image on the page, in pixels
_SMALL = 128  # below this, pixels are shown as squares
_BROWSER_FORMATS = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


def accuracy(data: ReportData) -> dict[str, object]:
    """The rows in their order with their plot, differences to the baselines, accuracies by type and text metrics."""
    metrics = data.metrics
    found: dict[str, RowMetrics] = metrics.get("rows") or {}
    comparison: Comparison = metrics.get("comparison") or {}
    rows = {name: found[name] for name in (*titles(), *found) if name in found}
    ours = comparison.get("ours", "leaml")
    text_metrics = metrics.get("text_metrics") or {}
    return {
        "rows": rows,
        "ours": ours,
        "plot": plots.accuracy_bars(rows, ours),
        "notes": row_notes(rows),
        "baselines": comparison.get("baselines") or {},
        "breakdown": _breakdown(rows, ours),
        "references": [name for name in rows if name in names_of("reference")],
        "text_metrics": text_metrics,
        "metric_names": list(dict.fromkeys(name for row in text_metrics.values() for name in row)),
    }


def _breakdown(rows: Mapping[str, RowMetrics], ours: str) -> dict[str, object]:
    """Accuracies per question type, or where the rows have none per question template."""
    typed = any(row["by_type"] for row in rows.values())
    shares = {name: (row["by_type"] if typed else row.get("by_template")) or {} for name, row in rows.items()}
    counts = [(row.get("n_by_type") if typed else row.get("n_by_template")) or {} for row in rows.values()]
    lines = []
    for kind in sorted({kind for found in shares.values() for kind in found}):
        asked = max(count.get(kind, 0) for count in counts)
        rivals = {name: found[kind] for name, found in shares.items() if kind in found and name not in names_of("reference")}
        best = max(rivals.values(), default=0.0)
        other = max((share for name, share in rivals.items() if name != ours), default=best)
        lines.append(
            {
                "kind": kind,
                "asked": asked,
                "shows": smallest_difference(asked, rivals.get(ours, best), other),
                "shares": [found.get(kind) for found in shares.values()],
                "best": best,
            }
        )
    return {"what": "type" if typed else "template", "lines": lines}


@dataclass(frozen=True)
class _Picture:
    """An image as the page holds it: `source` is a data URI; `width` and `height` are those of the image given, in pixels."""

    source: str
    width: int
    height: int
    small: bool


def _picture(data: bytes) -> _Picture | None:
    """An encoded image, scaled down where large; None when the bytes are no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height, kind = image.width, image.height, image.format or ""
            if max(width, height) > _SHOWN or kind not in _BROWSER_FORMATS:
                image.thumbnail((_SHOWN, _SHOWN))
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "JPEG", quality=85)
                data, kind = buffer.getvalue(), "JPEG"
    except (OSError, ValueError, Image.DecompressionBombError):
        return None

    source = f"data:image/{_BROWSER_FORMATS[kind]};base64,{base64.b64encode(data).decode()}"
    return _Picture(source, width, height, max(width, height) < _SMALL)


def wrong_answers(data: ReportData) -> dict[str, object]:
    """Questions that the adapted model got wrong, each with its picture."""
    return {"answers": [(item, _picture(item.image)) for item in data.wrong], "evaluated": bool(data.metrics)}


def confidence(data: ReportData) -> dict[str, object]:
    """How far the model's confidence can be trusted: `calibration.json` and the reliability diagram."""
    found = data.calibration
    return {"calibration": found, "plot": plots.reliability(found["bins"]) if found else ""}


def sources(data: ReportData) -> dict[str, object]:
    """What the ingest of each source counted, one column a source; counts of reasons stand below their sum as its parts."""
    flat = {source: dict(_flattened(counts)) for source, counts in data.sources.items()}
    names = list(dict.fromkeys(path for found in flat.values() for path in found))
    heads = list(dict.fromkeys(path[0] for path in names))
    names.sort(key=lambda path: (heads.index(path[0]), len(path) > 1))  # a sum stands above its parts

    lines = []
    for path in names:
        part = len(path) > 1 and (path[0],) in names
        label = ": ".join(path[1:] if part else path).replace("_", " ")
        lines.append({"label": label, "part": part, "counts": [found.get(path) for found in flat.values()]})
    return {"sources": list(flat), "lines": lines}


def _flattened(counts: Mapping[str, object], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every whole number of a summary under the names that lead to it; what is no number is left out."""
    for name, value in counts.items():
        path = (*before, str(name))
        if isinstance(value, dict):
            yield from _flattened(value, path)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield path, value


def samples(data: ReportData) -> list[tuple[Sample, _Picture | None]]:
    """Sample images with their captions and every pair."""
    return [(item, _picture(item.image)) for item in data.samples]


def filters(data: ReportData) -> dict[str, object]:
    """How many generated pairs were accepted, and how many each filter rejected."""
    accepted = data.filters.get("accepted", 0)
    rejected = {name: number for name, number in data.filters.items() if name != "accepted"}
    bars = [("accepted", accepted), *_most_first(rejected)]
    numbers = [number for _, number in bars]
    return {"accepted": accepted, "total": sum(numbers), "longest": max(numbers), "bars": bars}


def _most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass
class _Cell:
    """Neurons of one module in one layer, or the sum over a line or a column of such cells."""

    selected: int = 0
    rows: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of its rows that were selected; 0 without rows."""
        return self.selected / self.rows if self.rows else 0.0


def neurons(data: ReportData) -> dict[str, object]:
    """Heat map module x layer: the neurons selected, with the sums of every module, of every layer and of all."""
    cells: defaultdict[tuple[str | None, int | None], _Cell] = defaultdict(_Cell)  # None: over all modules, or all layers
    for entry in data.selection:
        module, layer = str(entry["module"]), int(entry["layer"])
        for key in ((module, layer), (module, None), (None, layer), (None, None)):
            cells[key].selected += int(entry["selected"])
            cells[key].rows += int(entry["rows"])
            cells[key].names.append(str(entry["name"]))

    layers = sorted({layer for _, layer in cells if layer is not None})
    modules = list(dict.fromkeys(module for module, _ in cells if module is not None))
    return {
        "lines": [(module, [cells.get((module, layer)) for layer in layers], cells[module, None]) for module in modules],
        "layers": [(layer, cells[None, layer]) for layer in layers],
        "all": cells[None, None],
        "highest": max((cell.share for key, cell in cells.items() if None not in key), default=0.0) or 1.0,
    }


def training(data: ReportData) -> dict[str, object]:
    """Loss curves, one panel per training run."""
    return {"plot": plots.loss_curves(data.losses)}


def steps(data: ReportData) -> dict[str, object]:
    """Every step with the time of all."""
    return {"steps": data.steps, "seconds": sum(step.seconds or 0.0 for step in data.steps)}


def quarantine(data: ReportData) -> list[tuple[str, int]]:
    """Images that were set aside, by reason."""
    return _most_first(data.quarantine)


def facts(data: ReportData) -> dict[str, str]:
    """Versions, models and settings."""
    return data.facts
