"""Gathers what a run has made into the report page and prints the table."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

from rich.table import Table

from leaml.config import Config
from leaml.data import store, tables
from leaml.data.ingest import quarantine_file
from leaml.data.label_counts import LabelCounts
from leaml.data.step_rows import StepRows
from leaml.data.tables import LabeledRow
from leaml.evaluation.metrics import Calibration, Metrics
from leaml.evaluation.templates import templates
from leaml.io import files
from leaml.neurons.module_names import parse_module_name
from leaml.report.content import ReportData, Sample, WrongAnswer
from leaml.report.formats import made_for
from leaml.report.page import write_report
from leaml.report.verdict import row_notes
from leaml.run.records import LEAML, QUARANTINED, REJECTED, StepRecord, by_reason
from leaml.text import scoring
from leaml.vlm import architecture, checkpoint
from pipelines.caption import captions_of
from pipelines.evaluate import evaluation_rows, read_predictions
from pipelines.progress import console, say, warn
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.steps import of_kind
from pipelines.summaries import TRAINING, IngestSummary, TrainingSummary
from pipelines.table_rows import PredictionRow

SAMPLES = 12
"""Images of the pseudo pairs that the page shows."""
WRONG = 12
"""Wrong answers that it shows."""


def write(run: Run, sources: Sources, labels: Labels, adapted: Step, metrics: Metrics) -> str:
    """Write report/index.html of a finished run and print the accuracy table.

    Args:
        run: Whose steps are shown.
        sources: Their images are shown beside pairs and wrong answers.
        labels: Their images and rows are counted on the page.
        adapted: The step that holds the adapted model.
        metrics: Content of metrics.json.

    Returns:
        Path of the page.
    """
    selected, captions = _latest(run, "select"), _latest(run, "caption")
    filtered = _latest(run, "filter")

    html = write_report(
        ReportData(
            run=run.config.name,
            dataset=metrics["dataset"],
            labels=labels.images,
            metrics=metrics,
            samples=_samples(run, sources, filtered, captions),
            wrong=_wrong_answers(run, sources, metrics),
            sources=_sources(run, labels),
            selection=_selection(selected) if selected else [],
            losses=_losses(run),
            steps=run.steps(),
            filters=_filter_counts(run, filtered) if filtered else {},
            quarantine=_quarantine(run),
            facts=_facts(run, adapted),
            calibration=read_calibration(run.folder),
        )
    )

    uri = files.join(run.folder, "report", "index.html")
    files.write_bytes(uri, html if isinstance(html, bytes) else html.encode())
    print_table(metrics)
    if found := read_calibration(run.folder):
        after = "" if found["ece"] is None else f"{100 * found['ece']:.1f} points, "
        say(f"confidence: calibration error {after}{100 * found['ece_uncalibrated']:.1f} before calibration")
    say(f"metrics: {files.join(run.folder, 'evaluation', 'metrics.json')}")
    say(f"report: {uri}")
    return uri


def read_calibration(run_folder: str) -> Calibration:
    """Content of the run's evaluation/calibration.json; empty when there is none."""
    file = files.join(run_folder, "evaluation", "calibration.json")
    found: Calibration = json.loads(files.read_bytes(file)) if files.exists(file) else {}
    return found


def print_table(metrics: Metrics) -> None:
    """The accuracy table and the comparison, on the console."""
    kinds = sorted({kind for row in metrics["rows"].values() for kind in row["by_type"]})
    table = Table(title=f"{metrics['dataset']}: accuracy with {metrics['labels']} labeled images")
    for column in ("row", "accuracy", "95 % interval", "n", *kinds):
        table.add_column(column, justify="left" if column == "row" else "right")

    for name, row in sorted(metrics["rows"].items(), key=lambda item: item[1]["accuracy"]):
        low, high = row["ci95"]
        cells = [f"{row['by_type'][k]:.3f}" if k in row["by_type"] else "" for k in kinds]
        table.add_row(name, f"{row['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", str(row["n"]), *cells)

    console.print(table)
    for note in row_notes(metrics["rows"]):
        console.print(note, style="dim")

    comparison = metrics.get("comparison")
    for warning in metrics.get("warnings") or []:
        warn(warning)
    if comparison:
        low, high = comparison["ci95"]
        console.print(
            f"leaml - {comparison['best_baseline']} (best baseline on labels): {100 * comparison['difference']:+.1f} points, "
            f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, paired permutation test p = {comparison['p_value']:.4f}"
        )


def _latest(run: Run, name: str, row: str = LEAML) -> Step | None:
    """The step of this name, of the main variant or of another row, among the steps of this run."""
    for record in run.steps():
        if record.is_last(name, row):
            return _step(run, record)
    return None


def _step(run: Run, record: StepRecord) -> Step:
    folder = files.join(run.folder, record.folder)
    return Step(record.name, record.variant, record.folder.rsplit("-", 1)[-1], folder, record.round, record.inputs)


def _samples(run: Run, sources: Sources, filtered: Step | None, captions: Step | None) -> list[Sample]:
    if filtered is None:
        return []
    rows = StepRows(filtered.folder).columns(None, first=SAMPLES).to_pylist()
    wanted = {r["image_id"] for r in rows}
    by_id = captions_of(captions, wanted) if captions else {}
    data = store.read_images(ref for folder in sources.image_folders for ref in store.index(folder).only(wanted))
    return [Sample(data[row["image_id"]], by_id.get(row["image_id"]), row["caption"], row["pairs"]) for row in rows]


def _wrong_answers(run: Run, sources: Sources, metrics: Metrics) -> list[WrongAnswer]:
    """Questions that the adapted model got wrong with most confidence, one of every kind in turn."""
    answered = _latest(run, "evaluate")
    if answered is None:
        return []
    best = _latest(run, "evaluate", (metrics.get("comparison") or {}).get("best_baseline", ""))  # a prior has no step
    others = _by_question(best) if best else {}

    asked = {_key(row): scoring.ask(row) for row in evaluation_rows(run, sources)}
    wrong = [row for row in read_predictions(answered).to_pylist() if not row["correct"]]
    wrong.sort(key=lambda row: (-(row["logprob"] if row["logprob"] is not None else -math.inf), *_key(row)))
    template_of = templates(row["question"] for row in wrong)
    kinds: dict[str, list[PredictionRow]] = {}

    for row in wrong:
        kinds.setdefault(row["question_type"] or template_of[row["question"]], []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds))))
    chosen = list(itertools.islice((row for row in turns if row is not None), WRONG))
    wanted = {row["image_id"] for row in chosen}
    data = store.read_images(store.index(sources.evaluation.path("images")).only(wanted))

    found = []
    for row in chosen:
        other = others.get(_key(row))
        baseline = (other["prediction"], other["correct"]) if other else None
        text = asked.get(_key(row), row["question"])
        kind = row["question_type"] or ""
        found.append(WrongAnswer(data[row["image_id"]], text, row["answer"], row["prediction"], kind, baseline))
    return found


def _by_question(answered: Step) -> dict[tuple[str, str, str], PredictionRow]:
    return {_key(row): row for row in read_predictions(answered).to_pylist()}


def _key(row: LabeledRow | PredictionRow) -> tuple[str, str, str]:
    return row["image_id"], row["question"], row["answer"]


def _sources(run: Run, labels: Labels) -> dict[str, dict[str, object]]:
    """What the ingest of each source counted, and what of the labels is used."""
    found: dict[str, dict[str, object]] = {}
    for record in run.steps():
        if record.name == "ingest" and record.finished:
            found[record.variant] = run.summary(_step(run, record))
    rows = {"train": labels.train.num_rows, "validation": labels.validation.num_rows}
    return found | {"labels used": {"images": labels.images, "rows": sum(rows.values()), "of these": rows}}


def _selection(scored: Step) -> list[dict[str, str | int]]:
    modules = json.loads(files.read_bytes(scored.path("selection.json")))["modules"]
    rows = []
    for name, count in modules.items():
        linear = parse_module_name(name)
        if "rows" in count:  # those with columns are chosen with their block's rows
            rows.append({"module": f"{linear.part} {linear.kind}", "layer": max(0, linear.layer), "name": name, **count})
    return rows


def _losses(run: Run) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in run.steps():
        folder = files.join(run.folder, record.folder)
        if record.name in of_kind("train") and files.exists(files.join(folder, TRAINING)):
            row = made_for(record.variant, record.round)
            curves[f"{record.name}: {row}" if row else record.name] = TrainingSummary.read(folder).losses
    return curves


def _filter_counts(run: Run, filtered: Step) -> dict[str, int]:
    summary = run.summary(filtered)
    found = {"accepted": summary.get("accepted", 0), **by_reason(summary, REJECTED)}
    return {reason: count for reason, count in found.items() if isinstance(count, int)}


def _quarantine(run: Run) -> dict[str, int]:
    """Images that each step has not used, by reason: an ingest lists them, the others have counted them."""
    reasons: Counter[str] = Counter()
    for record in run.steps():
        step = _step(run, record)
        if record.name == "ingest":
            file = quarantine_file(step.path("images"), step.path("labeled.parquet"))
            reasons.update(tables.read(file, tables.QUARANTINE)["reason"].to_pylist() if files.exists(file) else [])
        elif run.done(step):
            reasons.update(by_reason(run.summary(step), QUARANTINED))
    return dict(reasons)


def _facts(run: Run, adapted: Step) -> dict[str, str]:
    config = run.config
    training = TrainingSummary.of(run.summary(adapted))
    return _label_facts(run) | {
        "model": config.model.name,
        "teacher": config.caption.url or config.caption.teacher.name,
        "neurons": f"{config.score.method}, top {100 * config.select.ratio:g} % per {config.select.scope}",
        "pseudo pairs trained on": "" if training.pseudo_pairs is None else str(training.pseudo_pairs),
        "adapted model": adapted.path("model"),
        "learning rate of the fine-tuning": f"{training.lr:g}",
        **model_facts(config),
    }


def model_facts(config: Config) -> dict[str, str]:
    """What is particular to the model: what a run has warned of."""
    found, share = {}, checkpoint.experts_share(config.model)
    if share:
        found["experts"] = f"{share:.0%} of the weights; neurons, scores and LoRA leave them as they are"
    if not config.resources.engine_gpus and architecture.attends_both_ways(config.model):
        found["attention over the prompt"] = "both ways in training, causal in the engines, which ran on CPUs"
    return found


def _label_facts(run: Run) -> dict[str, str]:
    """What became of the label rows of each source that was ingested with counts."""
    found = {}
    for record in run.steps():
        if record.name == "ingest" and record.variant != "unlabeled":
            summary = run.summary(_step(run, record))
            counts = IngestSummary.of(summary).labels if "labels" in summary else LabelCounts()
            if counts.rows:
                lost = [f"{number} {reason}" for kind in (counts.refused, counts.warnings) for reason, number in kind.items()]
                text = f"{counts.rows} in, {counts.used} used" + "".join(f"; {part}" for part in lost)
                found[f"label rows, {record.variant}"] = text
    return found
