"""The main job: all steps of the method, the baselines, the evaluation and the report, each step reused when finished."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping

import pyarrow as pa

from leaml.config import Config, LoraSettings, ModelConfig, TrainConfig
from leaml.data import captions, registry
from leaml.engine.arguments import refuse_unknown
from leaml.errors import InputError
from leaml.evaluation import calibration, comparisons, results
from leaml.evaluation.metrics import Metrics
from leaml.io import files, node_cache
from leaml.io.writable import refuse_unwritable
from leaml.rows import titles
from leaml.run.records import LEAML
from leaml.vlm import architecture, checkpoint, four_bit, load
from pipelines import training_memory
from pipelines.caption import refuse_unusable_url
from pipelines.contamination import screen_near_duplicates
from pipelines.evaluate import Examined, evaluation_rows, predict, read_predictions
from pipelines.image_tokens import largest_size
from pipelines.ingest import draw_labels, ingest, named, refuse_nothing_to_generate
from pipelines.lengths import refuse_long_rows
from pipelines.method import StopHereError, method
from pipelines.models import trained
from pipelines.progress import say, warn
from pipelines.rows import predict_without_model, row_step
from pipelines.run import PARTIAL, BackgroundTask, Run, Step
from pipelines.runtime import start_ray
from pipelines.sources import Labels, Sources
from pipelines.steps import LAST, STEPS, number_of, trained_by, why_not
from pipelines.summaries import TrainingSummary


def adapt(config: Config, until: str = LAST, verbose: bool = False) -> Metrics | None:
    """Run the method up to and including a step.

    Args:
        config: The run.
        until: Name of the last step; "evaluate" includes baselines, controls and the report.
        verbose: Show the logs of Ray and vLLM.

    Returns:
        The metrics when `until` is "evaluate", else None.
    """
    check(config, until)
    from pipelines.report import write  # imported after the check: matplotlib takes a second

    with Run(config) as run:
        sources = ingest(run, verbose)
        labels = draw_labels(run, sources)
        say(f"labels: {labels.images} images, {len(labels.rows())} questions, {labels.validation.num_rows} for validation")
        if until == "ingest":
            run.finish(PARTIAL)
            return None
        for doubt in doubts(config, *asked_of(run, sources), labels.images, labels.validation.num_rows, until):
            warn(doubt)
        makes_pairs = number_of(until) >= number_of("generate")
        if makes_pairs:
            refuse_nothing_to_generate(config, sources, labels)
        refuse_long_rows(run, sources, labels)
        training_memory.refuse_large(config, largest_size(run, sources.training), until)
        start_ray(config.resources, verbose)
        screened = screen_near_duplicates(run, sources)
        if screened != sources:
            sources, labels = screened, draw_labels(run, screened)
            if makes_pairs:
                refuse_nothing_to_generate(config, sources, labels)
        if unsure := refuse_unusable_url(run, sources, labels):
            warn(unsure)
        whole = until == LAST
        beside = (
            BackgroundTask(lambda: baselines(run, sources, labels)) if whole and config.resources.parallel_baselines else None
        )
        try:
            adapted = method(run, sources, labels, until=until)
        except StopHereError:
            run.finish(PARTIAL)
            return None
        predictions = beside.result() if beside else baselines(run, sources, labels)
        metrics = evaluate(run, sources, labels, adapted, predictions)
        write(run, sources, labels, adapted, metrics)
        run.finish()
        return metrics


def check(config: Config, until: str = LAST) -> None:
    """Everything that can be refused in seconds: sources that do not open, models that cannot be used."""
    check_steps(config)
    node_cache.use(config.resources.model_cache)
    refuse_unwritable(config.run_folder)
    if why := why_not(STEPS[until], config):
        msg = f"{why}, so this run has no {until} step; change that or run another step"
        raise InputError(msg)
    data = config.data
    for role, source in (("labeled", data.labeled), ("unlabeled", data.unlabeled), ("evaluation", data.evaluation)):
        if source is not None:
            with named(f"data.{role}"):
                next(iter(registry.read(source)))
    load.check(config.model, trained=True)
    if any(training.section.is_quantized for training in training_memory.trainings(config, until)):
        four_bit.require()
    if config.caption.file and config.learns_captions:
        with named("caption.file"):
            captions.read(config.caption.file, config.caption.column)
    if config.caption.url is None and config.caption.complete and config.learns_captions:
        load.check(config.caption.teacher)


def check_steps(config: Config) -> None:
    """What the configuration alone shows to be impossible."""
    if config.generate.caption != "none" and not config.warmup.describe_first:
        msg = (
            f"generate.caption is {config.generate.caption!r}, but warmup.describe_first is false, so the generator never "
            "learns to write a pair after a caption; set generate.caption to none or warmup.describe_first to true"
        )
        raise InputError(msg)
    if config.generate.votes == 0 and (config.filter.round_trip or config.filter.min_votes):
        msg = (
            "generate.votes is 0, so no question is answered again, and filter.round_trip and filter.min_votes have nothing to "
            "compare; set votes to 1 or more, or round_trip to false and min_votes to null"
        )
        raise InputError(msg)
    refuse_unknown(config.engine.options, "engine")
    refuse_unknown(config.caption.engine.options, "caption.engine")


def asked_of(run: Run, sources: Sources) -> tuple[int, int]:
    """Questions that the evaluation asks of those it has, and images that they are about: not all images have questions."""
    rows = evaluation_rows(run, sources)
    return len(rows), len({row["image_id"] for row in rows})


def doubts(
    config: Config,
    questions: int | None,
    images: int | None,
    labeled: int | None,
    validation: int | None,
    until: str = LAST,
) -> list[str]:
    """What is to be said of model and data before anything is paid for.

    Of the numbers None is one that is not known yet; what they show is in `comparisons.of_sizes`.

    Args:
        config: The run.
        questions: That the evaluation asks.
        images: That these are about.
        labeled: Labeled images that may be used.
        validation: Questions held out to choose learning rates by.
        until: The last step that is done; without the evaluation nothing is said of it.
    """
    sections: dict[str, TrainConfig] = {}
    if until == LAST:
        sections |= {row.title: row.section(config) for row in config.baselines if row.training}
    else:
        questions = images = None
    sections |= {spec.name: getattr(config, spec.section) for spec in trained_by(config, until)}
    rates = {title: learning_rates(section) for title, section in sections.items()}
    of_sizes = comparisons.of_sizes(questions, images, labeled if sections else None, validation, rates)
    return [*_of_attention(config), *_of_experts(config.model, sections), *_idle(config, sections), *of_sizes]


def _of_attention(config: Config) -> list[str]:
    """That an engine on a CPU does not see a prompt as the model is trained to."""
    if config.resources.engine_gpus or not architecture.attends_both_ways(config.model):
        return []
    return [
        f"The model {config.model.name!r} attends both ways over its prompt where it is trained, and vLLM on a CPU attends"
        " causally: what is generated and evaluated there is not what the model would say on a GPU (docs/benchmarks.md)."
    ]


def _idle(config: Config, trainings: Mapping[str, TrainConfig]) -> list[str]:
    """Settings that change nothing with the others."""
    unused = [title for title, section in trainings.items() if section.method != "lora" and section.lora != LoraSettings()]
    found = [f"{', '.join(unused)}: lora has settings, and method is not lora, so nothing follows from them."] if unused else []
    if config.resources.train_sharding is True and config.resources.train_workers == 1:
        found.append("resources.train_sharding is true with one training worker, which has all of the weights anyway.")
    return found


def _of_experts(model: ModelConfig, trainings: Mapping[str, TrainConfig]) -> list[str]:
    """That experts of a mixture are left out by what scores, selects and adapts Linear modules: they are no such modules."""
    partial = [f"{title} ({section.method})" for title, section in trainings.items() if section.method != "full"]
    share = checkpoint.experts_share(model) if partial else 0.0
    if not share:
        return []
    return [
        f"{share:.0%} of the weights of {model.name!r} are experts of a mixture, which neurons, scores and LoRA leave as they"
        f" are: {', '.join(partial)} train the other weights alone. method: full trains experts too."
    ]


def learning_rates(section: TrainConfig) -> int:
    """How many learning rates a training is to choose among."""
    return len(section.lr) if isinstance(section.lr, list) else 1


def baselines(run: Run, sources: Sources, labels: Labels) -> dict[str, pa.Table]:
    """Predictions of everything that needs labels at most, by row of the table: of no model, zero-shot, trained on the labels.

    Args:
        run: Makes the steps; its configuration may leave rows out.
        sources: Ingested.
        labels: What is learned; also what the priors count.
    """
    without_model = predict_without_model(run, sources, labels)
    return without_model | {name: read_predictions(step) for name, step in baseline_steps(run, sources, labels).items()}


def baseline_steps(run: Run, sources: Sources, labels: Labels) -> dict[str, Step]:
    """The evaluate steps of the baselines that are models, by row.

    All of them are trained before the first answers.

    Args:
        run: Makes the steps, or notes them (`rehearsal.Rehearsal`).
        sources: Its data.
        labels: What they are trained on.
    """
    rows = [row.name for row in run.config.baselines if not row.predict]
    return predict(run, sources, {name: row_model(run, sources, labels, name) for name in rows})


def row_model(run: Run, sources: Sources, labels: Labels, name: str) -> Examined:
    """The model of a row, which is trained first.

    Args:
        run: Its configuration is changed where the row is the method with other settings.
        sources: Its data.
        labels: The labels that may be used.
        name: Of the row.

    Returns:
        The model, and the step that made it; None where it is the base.
    """
    made = row_step(run, sources, labels, name)
    return (run.config.model if made is None else trained(made, run.config.model)), made


def evaluate(run: Run, sources: Sources, labels: Labels, adapted: Step, baseline_predictions: dict[str, pa.Table]) -> Metrics:
    """Train the controls, let them and the adapted model answer, write metrics and calibration.

    Args:
        run: metrics.json and calibration.json go to `evaluation` in its folder.
        sources: Its data; the evaluation's questions are asked.
        labels: What the controls are trained on.
        adapted: The step that holds the adapted model.
        baseline_predictions: PREDICTIONS tables of what it is compared with, by row of the table.

    Returns:
        The content of metrics.json.
    """
    from leaml.evaluation import textmetrics  # nltk brings scipy, seconds that a refused configuration should not wait for

    config = run.config
    steps = method_steps(run, sources, labels, adapted, config.resources.parallel_baselines)
    predictions = baseline_predictions | {name: read_predictions(step) for name, step in steps.items()}
    rows = {n: results.summarise(p, config.evaluate.bootstrap, config.seed) for n, p in predictions.items()}
    comparison = results.compare(rows, predictions, LEAML)
    text = {name: textmetrics.text_metrics(*_texts(table)) for name, table in predictions.items()}
    ours, *others = trainings(run, adapted)
    compared: Metrics = {"rows": rows, "comparison": comparison}
    given = (labels.validation.num_rows, config.evaluate.leave_out)
    warnings = comparisons.of_evaluation(compared, titles(), ours, others, *given)
    dataset = config.data.evaluation.path or config.data.evaluation.format
    metrics = results.metrics_json(dataset, labels.images, rows, comparison, text if any(text.values()) else None, warnings)
    metrics |= {"label_rows": len(labels.rows()), "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    table = predictions[LEAML]
    columns = [table[name].to_pylist() for name in ("image_id", "logprob", "correct")]
    made_by = {"model": adapted.name_of_folder}  # so that nobody takes them for those of a later model
    for name, content in (("calibration", calibration.calibrate(*columns) | made_by), ("metrics", metrics | made_by)):
        files.write_bytes(files.join(run.folder, "evaluation", f"{name}.json"), json.dumps(content, indent=1).encode())
    return metrics


def trainings(run: Run, adapted: Step) -> list[comparisons.Training]:
    """The last training of the adapted model, then those of the baselines."""
    folders = {record.variant: record.folder for record in run.steps() if record.name == "finetune" and not record.round}
    made: list[tuple[str, TrainConfig, str]] = [(titles()[LEAML], run.config.finetune, adapted.folder)]
    made += [
        (row.title, row.section(run.config), files.join(run.folder, folders[row.name]))
        for row in run.config.baselines
        if row.training
    ]
    found = []
    for title, config, folder in made:
        summary = TrainingSummary.read(folder)
        rates = learning_rates(config)
        sizes = (title, config.steps, config.batch_size)
        found.append(comparisons.Training(*sizes, summary.losses, summary.lr, summary.sweep, rates))
    return found


def method_steps(run: Run, sources: Sources, labels: Labels, adapted: Step, beside: bool = False) -> dict[str, Step]:
    """The evaluate steps of the adapted model and of the controls, which are trained first, by row.

    Args:
        run: Its configuration names the controls.
        sources: Its data.
        labels: What the controls are trained on.
        adapted: The step that holds the adapted model.
        beside: Make two at a time, one of them in a thread. What controls share with each other the
            method or the baselines have made before.
    """
    controls = [row.name for row in run.config.controls if not row.predict]
    names = [LEAML, *controls]
    waiting = deque([*controls, LEAML])  # there is nothing to train for the last one

    def made() -> dict[str, Step]:
        models: dict[str, Examined] = {}
        while True:
            try:
                name = waiting.popleft()
            except IndexError:
                return predict(run, sources, {name: models[name] for name in names if name in models})
            if name == LEAML:
                models[name] = trained(adapted, run.config.model), adapted
            else:
                models[name] = row_model(run, sources, labels, name)

    other = BackgroundTask(made) if beside and len(names) > 1 else None
    steps = made() | (other.result() if other else {})
    return {name: steps[name] for name in names}


def _texts(predictions: pa.Table) -> tuple[list[str], list[str]]:
    return predictions["prediction"].to_pylist(), predictions["answer"].to_pylist()
