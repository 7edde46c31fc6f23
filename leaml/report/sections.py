"""The lower sections of the report: wrong answers, confidence, data, samples, filters, neurons, training, steps and so on."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from leaml.report import plots as report_plots
from leaml.report.content import Sample, WrongAnswer
from leaml.report.style import bars, count, duration, escape, percent, table
from leaml.rows import TITLES
from leaml.run.records import StepRecord

_SHOWN = 512  # longest side of a sample image on the page, in pixels
_SMALL = 128  # below this, pixels are shown as squares
_BROWSER_FORMATS = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


def confidence(calibration: dict[str, Any]) -> str:
    """How far the model's confidence can be trusted: the calibration error in a sentence, and the reliability diagram."""
    if not calibration:
        return '<p class="note">No confidences were measured.</p>'
    before, after, temperature = (calibration[key] for key in ("ece_uncalibrated", "ece", "temperature"))
    error = f"{100 * before:.1f} points before calibration"
    if after is not None:
        error = f"{100 * after:.1f} points after calibration (measured on images that it was not fitted on), {error}"
    text = (
        f"<p>Expected calibration error over {count(calibration['n'])} answers: {error}. Temperature {temperature:.2f}. In the "
        "diagram a point is a bin of answers, its area their number; on the line, confidence is accuracy.</p>"
    )
    return text + report_plots.reliability(calibration["bins"])


def samples(items: list[Sample]) -> str:
    """Sample images with the teacher's and the generator's caption and every pair with its verdict."""
    cards = []
    for item in items:
        captions = "".join(
            f"<dt>{who}</dt><dd>{escape(text) if text else '<span class=note>no caption</span>'}</dd>"
            for who, text in (("Teacher", item.teacher_caption), ("Generator", item.generator_caption))
        )
        pairs = "".join(_pair(pair) for pair in item.pairs) or '<li class="empty">no pairs</li>'
        cards.append(
            f'<article class="sample">{_image(item.image)}<div><dl>{captions}</dl><ul class="pairs">{pairs}</ul></div>'
            "</article>"
        )
    return "".join(cards)


def _pair(pair: dict[str, Any]) -> str:
    accepted = bool(pair.get("accepted"))
    meta = [] if accepted else [f'<span class="reason">{escape(pair.get("reason") or "rejected")}</span>']
    if pair.get("roundtrip") and pair["roundtrip"] != pair.get("answer"):
        meta.append(f"second reading: “{escape(pair['roundtrip'])}”")
    if pair.get("votes") is not None:
        meta.append(f"votes {percent(pair['votes'], 0)}")
    if pair.get("mean_logprob") is not None and math.isfinite(pair["mean_logprob"]):
        meta.append(f"log p {pair['mean_logprob']:.2f}".replace("-", "−"))
    mark = '<span class="mark yes" title="accepted">✓</span>' if accepted else '<span class="mark no" title="rejected">✗</span>'
    text = escape(pair.get("question") or "") + (f" <b>{escape(pair['answer'])}</b>" if pair.get("answer") else "")
    return (
        f'<li class="{"accepted" if accepted else "rejected"}">{mark}<span class="qa">{text}</span>'
        f'<span class="meta">{" · ".join(meta)}</span></li>'
    )


def _image(data: bytes) -> str:
    """An `<img>` with a data URI, scaled down where large; a grey box when the bytes are no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height, kind = image.width, image.height, image.format or ""
            if max(width, height) > _SHOWN or kind not in _BROWSER_FORMATS:
                image.thumbnail((_SHOWN, _SHOWN))
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "JPEG", quality=85)
                data, kind = buffer.getvalue(), "JPEG"
    except (OSError, ValueError, Image.DecompressionBombError):
        return '<div class="missing">image cannot be shown</div>'
    small = " class=small" if max(width, height) < _SMALL else ""
    source = f"data:image/{_BROWSER_FORMATS[kind]};base64,{base64.b64encode(data).decode()}"
    return f'<img{small} alt="sample image, {width} by {height} pixels" src="{source}">'


def wrong_answers(items: list[WrongAnswer], evaluated: bool) -> str:
    """Gallery of questions that the adapted model got wrong, each with what the best baseline said."""
    if not items:
        return '<p class="note">' + ("No wrong answer was kept." if evaluated else "Not evaluated yet.") + "</p>"
    cards = []
    for item in items:
        said = [("right", escape(item.answer)), ("LEAML", f"<b>{escape(item.prediction) or '(nothing)'}</b>")]
        if item.baseline is not None:
            text, correct = item.baseline
            said.append(("best baseline", f"{escape(text) or '(nothing)'} {'✓' if correct else '✗'}"))
        kind = f'<span class="note">{escape(item.kind)}</span>' if item.kind else ""
        answers = "".join(f"<dt>{who}</dt><dd>{text}</dd>" for who, text in said)
        cards.append(
            f'<article class="wrong">{_image(item.image)}<p>{escape(item.question)} {kind}</p><dl>{answers}</dl></article>'
        )
    text = "<p>The wrong answers that the model gave most confidence, taken from every kind of question in turn.</p>"
    return f'{text}<div class="gallery">{"".join(cards)}</div>'


def sources(counted: dict[str, dict[str, Any]]) -> str:
    """What the ingest of each source counted, one column a source; counts of reasons are indented below their sum's name."""
    flat = {source: list(_flattened(counts)) for source, counts in counted.items()}
    names = list(dict.fromkeys(path for found in flat.values() for path, _ in found))
    if not names:
        return '<p class="note">Nothing was counted.</p>'
    heads = list(dict.fromkeys(path[0] for path in names))
    names.sort(key=lambda path: (heads.index(path[0]), len(path) > 1))  # a sum stands above its parts
    lines = []
    for path in names:
        cells = []
        for found in flat.values():
            value = dict(found).get(path)
            cells.append(f'<td class="n">{"–" if value is None else count(value)}</td>')
        inside = len(path) > 1 and (path[0],) in names
        label = ": ".join(path[1:] if inside else path).replace("_", " ")
        lines.append(f'<tr><td class="wrap{" part" if inside else ""}">{escape(label)}</td>{"".join(cells)}</tr>')
    return table(["", *map(escape, counted)], lines)


def _flattened(counts: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every whole number of a summary under the names that lead to it; what is no number is left out."""
    for name, value in counts.items():
        path = (*before, str(name))
        if isinstance(value, dict):
            yield from _flattened(value, path)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield path, value


def filters(counts: dict[str, int]) -> str:
    """How many generated pairs were accepted, and how many each filter rejected."""
    total, accepted = sum(counts.values()), counts.get("accepted", 0)
    if not total:
        return '<p class="note">No pairs were generated.</p>'
    rejected = sorted(((name, n) for name, n in counts.items() if name != "accepted"), key=lambda item: (-item[1], item[0]))
    text = f"<p>Of {count(total)} generated pairs, {count(accepted)} ({percent(accepted / total)}) were accepted.</p>"
    return text + bars([("accepted", accepted), *rejected], accent="accepted")


def neurons(selection: list[dict[str, Any]]) -> str:
    """Heat map module x layer: share of the rows selected, and their number."""
    cells: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    names: dict[tuple[str, int], list[str]] = defaultdict(list)
    for entry in selection:
        key = (str(entry["module"]), int(entry["layer"]))
        cells[key][0] += int(entry["selected"])
        cells[key][1] += int(entry["rows"])
        names[key].append(str(entry["name"]))
    selected, rows = (sum(cell[part] for cell in cells.values()) for part in (0, 1))
    if not rows:
        return '<p class="note">No neurons were scored.</p>'
    layers, modules = sorted({layer for _, layer in cells}), list(dict.fromkeys(module for module, _ in cells))
    highest = max(s / r for s, r in cells.values() if r) or 1.0
    body = []
    for module in modules:
        line = "".join(_heat_cell(cells.get((module, layer)), names.get((module, layer), []), highest) for layer in layers)
        body.append(f'<tr><th class="module">{escape(module)}</th>{line}{_sum_cell(cells, module=module)}</tr>')
    head = "".join(f"<th>{layer}</th>" for layer in layers)
    foot = "".join(_sum_cell(cells, layer=layer) for layer in layers)
    return (
        f"<p>{count(selected)} of {count(rows)} neurons ({percent(selected / rows)}) could move during distillation. Columns "
        "are layers; each cell shows the share of its neurons that was selected and, below, their number. The deepest colour "
        f'is {percent(highest)}.</p><div class="scroll"><table class="heat"><thead><tr><th></th>{head}<th>all</th></tr></thead>'
        f'<tbody>{"".join(body)}<tr><th class="module">all</th>{foot}{_sum_cell(cells)}</tr></tbody></table></div>'
    )


def _heat_cell(cell: list[int] | None, names: list[str], highest: float) -> str:
    if not cell or not cell[1]:
        return '<td class="gap"></td>'
    share = cell[0] / cell[1]
    title = escape(f"{', '.join(names)}: {cell[0]} of {cell[1]} neurons")
    deep = ' class="deep"' if share > 0.6 * highest else ""
    return (
        f'<td{deep} style="--mix:{60 * share / highest:.1f}%" title="{title}">{percent(share, 0)}<small>{cell[0]}</small></td>'
    )


def _sum_cell(cells: dict[tuple[str, int], list[int]], module: str | None = None, layer: int | None = None) -> str:
    chosen = [cell for (m, n), cell in cells.items() if module in (None, m) and layer in (None, n)]
    selected, rows = sum(cell[0] for cell in chosen), sum(cell[1] for cell in chosen)
    return f'<td class="sum">{percent(selected / rows, 0) if rows else ""}<small>{count(selected)}</small></td>'


def training(losses: dict[str, list[tuple[int, float]]]) -> str:
    """Loss curves, one panel per training run."""
    plot = report_plots.loss_curves(losses)
    if not plot:
        return '<p class="note">No losses were recorded.</p>'
    return f"<p>Training loss over optimizer steps; the number in each corner is the last value.</p>{plot}"


def steps(items: Sequence[StepRecord]) -> str:
    """Every step with its state, duration and folder."""
    if not items:
        return '<p class="note">No step has run.</p>'
    total = sum(step.seconds or 0.0 for step in items)
    rows = []
    for step in items:
        seconds = step.seconds or 0.0
        tone = step.state if step.state in {"done", "failed"} else "other"
        share = 100 * seconds / total if total else 0
        rows.append(
            f"<tr><td>{escape(step.name)}</td><td>{escape(made_for(step.variant, step.round))}</td><td><span"
            f' class="state {tone}">{escape(step.state)}</span></td>'
            f'<td class="n">{duration(seconds)}</td><td class="bar"><span class="share" style="width:{share:.1f}%"></span></td>'
            f"<td><code>{escape(step.folder)}</code></td></tr>"
        )
    rows.append(
        f'<tr class="total"><td>total</td><td></td><td></td><td class="n">{duration(total)}</td><td></td><td></td></tr>'
    )
    head = "<th>step</th><th>model or source</th><th>state</th><th class=n>time</th><th></th><th>folder</th>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def made_for(variant: str, round_number: int = 0) -> str:
    """The row of the results, or the source, that a step is for, with its round; empty for a step that all rows share."""
    title = TITLES.get(variant, variant)
    return ", ".join(part for part in (title, f"round {round_number}" if round_number else "") if part)


def quarantine(counts: dict[str, int]) -> str:
    """Images that were set aside, by reason."""
    total = sum(counts.values())
    if not total:
        return "<p>No image was set aside.</p>"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [f'<tr><td class="wrap">{escape(reason)}</td><td class="n">{count(number)}</td></tr>' for reason, number in ordered]
    noun = "image was" if total == 1 else "images were"
    return f"<p>{count(total)} {noun} set aside and used nowhere.</p>" + table(["reason", "images"], rows)


def facts(items: dict[str, str]) -> str:
    """Versions, models and settings as a definition list."""
    if not items:
        return '<p class="note">None recorded.</p>'
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items.items())
    return f'<dl class="facts">{pairs}</dl>'
