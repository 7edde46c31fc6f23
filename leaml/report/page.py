"""The report of a run: one HTML page that needs nothing else, for people who were not there.

The page loads nothing from outside (its content security policy forbids it) and holds no script. Every value from the run is
escaped. Equal data give an equal page, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaml.evaluation.comparisons import SIGNIFICANT, smallest_difference
from leaml.report import plots as report_plots
from leaml.report import sections as report_sections
from leaml.report.content import ReportData
from leaml.report.style import CSS, count, escape, p_value, percent, points, table
from leaml.rows import TITLES, names_of

WRONG = 12
"""Wrong answers that are shown."""
_TEXT_METRICS = {
    "bleu": "BLEU: how many of the words and sequences of up to four words of the answers are in the references, over all "
    "questions together",
    "rouge1": "ROUGE-1, ROUGE-2, ROUGE-L: words, pairs of words (in references that have one) and the longest common sequence, "
    "F1, mean over the questions",
    "meteor": "METEOR: words and their stems, with a discount for their order; a right answer of one word has 0.5",
}


def write_report(data: ReportData) -> str:
    """The page as text; write it as UTF-8 to `report/index.html`."""
    sections = [
        ("accuracy", "Accuracy", _accuracy(data.metrics)),
        ("wrong", "Wrong answers", report_sections.wrong_answers(data.wrong, bool(data.metrics))),
        ("confidence", "Confidence", report_sections.confidence(data.calibration)),
        ("data", "Data", report_sections.sources(data.sources)),
        ("samples", "Samples", report_sections.samples(data.samples) or '<p class="note">No samples were kept.</p>'),
        ("filters", "Pseudo pairs", report_sections.filters(data.filters)),
        ("neurons", "Selected neurons", report_sections.neurons(data.selection)),
        ("training", "Training", report_sections.training(data.losses)),
        ("steps", "Steps", report_sections.steps(data.steps)),
        ("quarantine", "Quarantine", report_sections.quarantine(data.quarantine)),
        ("facts", "Facts", report_sections.facts(data.facts)),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections)
    noun = "labeled image" if data.labels == 1 else "labeled images"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(data.run)} – LEAML report</title><style>{CSS}</style></head><body>\n"
        f'<header><p class="eyebrow">LEAML report</p><h1>{escape(data.run)}</h1>'
        f'<p class="lede"><b>{escape(data.dataset)}</b> with <b>{count(data.labels)}</b> {noun}</p>'
        f"<nav>{links}</nav></header>\n"
        f"<main>{verdict(data.metrics)}{body}</main>\n"
        "<footer>Intervals: 95 %, cluster bootstrap over images. Tests: paired permutation over images, two-sided.</footer>"
        "</body></html>\n"
    )


def verdict(metrics: Mapping[str, Any]) -> str:
    """The comparison with the best baseline in figures and in a sentence that also says when the method does not help."""
    comparison, rows = metrics.get("comparison"), metrics.get("rows") or {}
    if not comparison:
        state = "The rows below were not compared." if rows else "This run has not been evaluated yet."
        return f'<section class="verdict none"><p class="headline">No comparison</p><p>{state}</p></section>'
    ours, best = comparison.get("ours", "leaml"), comparison["best_baseline"]
    mine, theirs = escape(TITLES.get(ours, ours)), escape(TITLES.get(best, best))
    difference, p, (low, high) = comparison["difference"], comparison["p_value"], comparison["ci95"]
    tone, headline, meaning = _judge(difference, p, mine, theirs)
    figures = "".join(
        f"<div><b>{percent(rows[row]['accuracy'])}</b><span>{title}</span></div>"
        for row, title in ((ours, mine), (best, f"{theirs}, the best baseline"))
        if row in rows
    )
    figures += f'<div><b class="tone">{points(difference)}</b><span>points difference</span></div>'
    sentence = (
        f"{mine} is {_more(difference)} the best baseline, {theirs} (95 % interval of the difference {points(low)} to "
        f"{points(high)} points, {p_value(p)}). {meaning}{_blind_warning(rows, ours)}"
        f"{_beside(metrics.get('warnings') or [])}"
    )
    return (
        f'<section class="verdict {tone}"><div class="figures">{figures}</div>'
        f'<p><span class="headline">{headline}</span> {sentence}</p></section>'
    )


def _beside(warnings: list[str]) -> str:
    if not warnings:
        return ""
    number = "1 point" if len(warnings) == 1 else f"{len(warnings)} points"
    return f' <a href="#accuracy">What limits this comparison</a>: {number} beside the table.'


def _judge(difference: float, p: float, mine: str, theirs: str) -> tuple[str, str, str]:
    """`(tone, headline, meaning)` of a difference."""
    if p >= SIGNIFICANT:
        meaning = f"The difference is not statistically significant at {percent(SIGNIFICANT, 0)}: chance alone can explain it."
        return "flat", f"This run does not show that {mine} helps.", meaning
    meaning = f"The difference is statistically significant at {percent(SIGNIFICANT, 0)}."
    if difference > 0:
        return "better", f"{mine} helps.", meaning
    return "worse", f"{mine} does not help; it does harm.", f"{meaning} Use {theirs} instead."


def _more(difference: float) -> str:
    size = f"{abs(100 * difference):.1f}"
    return (
        "as accurate as" if size == "0.0" else f"{size} percentage points {'more' if difference > 0 else 'less'} accurate than"
    )


def _blind_warning(rows: Mapping[str, Any], ours: str) -> str:
    if ours not in rows:
        return ""
    mine = rows[ours]["accuracy"]
    for prior in ("blind_prior", "letter_prior"):
        if prior in rows and mine <= rows[prior]["accuracy"]:
            return f" It is no better than answering without looking at the image ({percent(rows[prior]['accuracy'])})."
    if "source_prior" in rows and mine <= rows["source_prior"]["accuracy"]:
        known = percent(rows["source_prior"]["accuracy"])
        return f" Whoever knows the source of an image and never looks at it does no worse ({known})."
    return ""


def prior_notes(rows: Mapping[str, Any]) -> list[str]:
    """What the priors among the rows are and how far they go, one sentence each."""
    notes = {
        "blind_prior": "Blind prior: the most common labeled answer to each question, without the image",
        "letter_prior": "Letter prior: the most common labeled letter of each question, without the image or the options' text",
        "source_prior": "Prior by source: the most common labeled answer per question and source of the image; no baseline, "
        "since no model is told the source",
    }
    return [f"{text}: {percent(rows[name]['accuracy'])}." for name, text in notes.items() if name in rows]


def _accuracy(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("rows") or {}
    if not found:
        return '<p class="note">Not evaluated yet.</p>'
    rows = {name: found[name] for name in (*TITLES, *found) if name in found}
    ours = (metrics.get("comparison") or {}).get("ours", "leaml")
    lines = []
    for name, row in rows.items():
        low, high = (f"{100 * end:.1f}" for end in row["ci95"])
        lines.append(
            f'<tr{" class=ours" if name == ours else ""}><td>{escape(TITLES.get(name, name))}</td><td class="n">'
            f'{percent(row["accuracy"])}</td><td class="n">{low} – {high}</td><td class="n">{count(row["n"])}</td></tr>'
        )
    return "".join(
        (
            report_plots.accuracy_bars(rows, TITLES, ours),
            _warnings(metrics.get("warnings") or []),
            table(["", "accuracy", "95 % interval", "questions"], lines),
            "".join(f'<p class="note">{escape(line)}</p>' for line in prior_notes(rows)),
            _against(metrics.get("comparison")),
            _breakdown(rows, ours),
            _text(metrics.get("text_metrics")),
        )
    )


def _warnings(sentences: list[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="warnings"><h3>What limits this comparison</h3><ul>{items}</ul></div>'


def _breakdown(rows: Mapping[str, Any], ours: str) -> str:
    """Table of the accuracy per question type, or where the rows have none per question template."""
    what = "type" if any(row["by_type"] for row in rows.values()) else "template"
    shares = {name: row.get(f"by_{what}") or {} for name, row in rows.items()}
    kinds = sorted({kind for found in shares.values() for kind in found})
    if not kinds:
        return ""
    lines = []
    for kind in kinds:
        asked = max((row.get(f"n_by_{what}") or {}).get(kind, 0) for row in rows.values())
        rivals = {name: found[kind] for name, found in shares.items() if kind in found and name not in names_of("reference")}
        best = max(rivals.values(), default=0.0)
        other = max((share for name, share in rivals.items() if name != ours), default=best)
        shows = smallest_difference(asked, rivals.get(ours, best), other)
        cells = "".join(_type_cell(found.get(kind), best) for found in shares.values())
        lines.append(
            f'<tr><td class="wrap">{escape(kind)}</td><td class="n">{count(asked) if asked else "–"}</td>'
            f'<td class="n">{f"{100 * shows:.1f}" if shows <= 1 else "none"}</td>{cells}</tr>'
        )
    aside = " and the prior by source" if "source_prior" in rows else ""
    note = (
        f"Accuracy in percent; the best of each {what} is bold (the ceiling{aside} aside). “Shows” is the smallest difference, "
        "in points, that so many questions can show between two rows."
    )
    head = [f"question {what}", "questions", "shows", *(escape(TITLES.get(name, name)) for name in rows)]
    return f'<h3>By question {what}</h3>{table(head, lines, classes="broken")}<p class="note">{note}</p>'


def _type_cell(value: float | None, best: float) -> str:
    if value is None:
        return '<td class="n">–</td>'
    shown = f"{100 * value:.1f}"
    return f'<td class="n">{f"<b>{shown}</b>" if value == best else shown}</td>'


def _against(comparison: Mapping[str, Any] | None) -> str:
    """Table of the differences to every baseline."""
    baselines = (comparison or {}).get("baselines") or {}
    if not baselines:
        return ""
    lines = [
        f'<tr><td>{escape(TITLES.get(name, name))}</td><td class="n">{points(row["difference"])}</td><td class="n">'
        f'{points(row["ci95"][0])} to {points(row["ci95"][1])}</td><td class="n">{p_value(row["p_value"])[4:]}</td>'
        f'<td class="n">{p_value(row["p_holm"])[4:]}</td></tr>'
        for name, row in baselines.items()
    ]
    head = ["baseline", "difference, points", "95 % interval", "p", "p, Holm"]
    return f"<h3>Against every baseline</h3>{table(head, lines)}"


def _text(metrics: Mapping[str, Mapping[str, float]] | None) -> str:
    """Table of BLEU, ROUGE and METEOR per row."""
    if not metrics:
        return ""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    lines = [
        f"<tr><td>{escape(TITLES.get(row, row))}</td>"
        + "".join(f'<td class="n">{found[name]:.3f}</td>' if name in found else '<td class="n">–</td>' for name in names)
        + "</tr>"
        for row, found in metrics.items()
    ]
    if not names:
        return ""
    notes = ". ".join(text for name, text in _TEXT_METRICS.items() if name in names)
    note = f"The metrics of the MEDVQA-GI challenges, from 0 to 1, to be read beside the accuracy (exact match). {notes}."
    return f'<h3>Text metrics</h3>{table(["", *map(escape, names)], lines)}<p class="note">{escape(note)}</p>'
