"""`leaml tune`: Ray Tune searches over configuration keys, judged by accuracy on the labels held out for validation.

A trial is the method (warm-up to finetune) on the training part of the labels, in the run folder of the search, so trials share
every step whose settings are the same: captions, warm-up, and scores, of which any ratio takes its neurons. The generator is
judged on its way through distillation, where ASHA stops trials that are behind, and the adapted model at the end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from leaml.config import Config, RangeConfig
from leaml.config.engine import SPEED_ONLY
from leaml.errors import ConfigError, StepError
from leaml.io import files, s3
from leaml.run import search
from leaml.run.records import read_done
from leaml.run.search import Point, SearchResult, Trial
from leaml.training.examples import write_examples
from pipelines.adapt import check
from pipelines.estimates import workers
from pipelines.ingest import draw_labels, ingest, labels_key, refuse_nothing_to_generate
from pipelines.lengths import refuse_long_rows
from pipelines.method import StopHereError, method
from pipelines.progress import say, warn
from pipelines.run import Run, Step
from pipelines.runtime import start_ray
from pipelines.sources import Labels, Sources
from pipelines.steps import METHOD, ONCE, had_by, judged_sections, judged_step, why_not
from pipelines.summaries import ValidationRecord, validations_of
from pipelines.train import TrialValidation, validation_interval
from pipelines.tune_callbacks import LISTED, SEED, TrialReport, clean_up, forward_validations, report_of, show_progress
from pipelines.warmup import answer_examples

if TYPE_CHECKING:
    from ray.tune import Callback, Result, TuneConfig
    from ray.tune.search.sample import Domain

    Space = dict[str, Domain | dict[str, object]]


UNADDRESSED: dict[str, Any] = {
    **dict.fromkeys(("name", "storage", "resources"), True),
    "engine": SPEED_ONLY,
    "caption": {"engine": SPEED_ONLY},
}
"""What of a configuration changes no trial."""


@dataclass(frozen=True)
class TrialSettings:
    """What every trial needs, as plain data."""

    config: Config
    validation: str


def tune(config: Config, verbose: bool = False) -> SearchResult:
    """Search, then write `tune/best.yaml`, `trials.md`, `trials.json` and `plot.svg` into the run. Raises ConfigError."""
    search.check_space(config)
    _check_judge(config)
    _check_loggers(config)
    check(config)
    with Run(config) as run:
        sources = ingest(run, verbose)
        labels = draw_labels(run, sources)
        if not labels.validation.num_rows:
            msg = (
                "a search needs labels held out for validation, and none are; set data.budget.validation_fraction above 0, "
                "of 2 labeled images or more"
            )
            raise ConfigError(msg)
        refuse_nothing_to_generate(config, sources, labels)
        refuse_long_rows(run, sources, labels)
        settings = config.model_dump(mode="json", exclude=UNADDRESSED)
        step = run.step("tune", settings, [*sources.training, labels_key(labels)])
        run.execute(step, lambda: _search(run, step, sources, labels, verbose))
        found = _read(step)
        for name in ("best.yaml", "trials.md", "trials.json", "plot.svg"):
            files.write_bytes(files.join(run.folder, "tune", name), files.read_bytes(step.path(name)))
        run.finish()
    print(search.table(found))
    for warning in found.warnings():
        warn(warning)
    say(f"best: {search.key_of(found.best or {})}; leaml adapt {files.join(run.folder, 'tune', 'best.yaml')}")
    return found


def _shared(config: Config) -> Config:
    """The configuration as trials have it: `tune.concurrent` of them share the machines, none trains baselines, and the storage
    does not depend on where a trial's process works."""
    changes = {"concurrent_runs": config.tune.concurrent, "parallel_baselines": False}
    storage = files.absolute(config.storage)
    return config.model_copy(update={"storage": storage, "resources": config.resources.model_copy(update=changes)})


def _check_judge(config: Config) -> None:
    """Raise ConfigError where generators are to be judged, and none is trained, or a key of the space does not change them."""
    if config.tune.judge != "generator":
        return
    if why := why_not(judged_step(), config):
        msg = f"tune.judge is generator, but {why}, so no generator is judged; set tune.judge to adapted"
        raise ConfigError(msg)
    seen = judged_sections()
    if unseen := sorted(key for key in config.tune.space if key.split(".")[0] not in seen):
        msg = f"the generator does not depend on {', '.join(unseen)}, but on {', '.join(seen)}; set tune.judge to adapted"
        raise ConfigError(msg)


def _check_loggers(config: Config) -> None:
    if "mlflow" in config.tune.loggers and importlib.util.find_spec("mlflow") is None:
        msg = "tune.loggers has mlflow, which is not installed; pip install mlflow, or choose among json, csv, tensorboard"
        raise ConfigError(msg)


def _search(run: Run, step: Step, sources: Sources, labels: Labels, verbose: bool) -> dict[str, object]:
    """What all trials share, the trials, then the finalists with further seeds; writes the step's files."""
    config = run.config
    start_ray(_shared(config).resources, verbose)
    questions = Labels(labels.validation, labels.validation.slice(0, 0), "")
    validation = write_examples(step.path("validation.arrow"), answer_examples(questions))
    settings = TrialSettings(_shared(config), validation)
    began = time.time()
    if until := search.last_shared_step(config, had_by(config), ONCE):
        judge = TrialValidation(validation, config.tune.validations)
        with contextlib.suppress(StopHereError):
            method(run.variant(settings.config), sources, _training_part(labels), until=until, judge=judge)
    found = SearchResult(_tuned(settings, step, "search", _space(config)), labels.validation.num_rows, judge=config.tune.judge)
    if not found.ranked:
        reasons = sorted({t.error for t in found.trials if t.error})
        msg = f"no trial of {len(found.trials)} finished: {'; '.join(reasons) or 'all were stopped'}"
        raise StepError(msg)
    finalists = [t.point for t in found.ranked[: config.tune.finalists]]
    first = 1 if config.tune.judge == "adapted" else 0  # else no finalist was adapted yet
    more = [point | {SEED: seed} for point in finalists for seed in range(first, config.tune.seeds)]
    if more:
        found.trials += _tuned(settings, step, "finalists", more)
    found.settle(config.tune.finalists)
    record = {"questions": found.questions, "finalists": found.finalists, "judge": found.judge}
    record["trials"] = [asdict(t) for t in found.trials]
    record["warnings"] = found.warnings()
    record["importances"] = search.importances(found, config.tune.space)
    assert found.best is not None
    files.write_bytes(step.path("trials.json"), json.dumps(record, indent=1).encode())
    files.write_bytes(step.path("trials.md"), search.page(found).encode())
    files.write_bytes(step.path("plot.svg"), search.plot(found, config.tune.space))
    files.write_bytes(step.path("best.yaml"), search.best_yaml(config, found.best, found.warnings()).encode())
    counts = {"trials": len(found.trials), "failed": sum(bool(t.error) for t in found.trials)}
    counts["stopped"] = sum(not t.finished and not t.error for t in found.trials)
    return counts | {"best": found.best, "seconds": round(time.time() - began, 1)}


def _read(step: Step) -> SearchResult:
    record = json.loads(files.read_bytes(step.path("trials.json")))
    return SearchResult([Trial(**t) for t in record["trials"]], record["questions"], record["finalists"], record["judge"])


# --- one trial, in a process of its own ----------------------------------------------------------------------------------


def run_trial(values: Point, settings: TrialSettings) -> None:
    """Body of a Ray Tune trial: the method at a point, reporting the generator's accuracy and at last the adapted model's.

    Where generators are judged, only finalists (points of a list) go that far.
    """
    from ray import tune as ray_tune

    whole = LISTED in values or settings.config.tune.judge == "adapted"
    point, seed = _point_of(values)
    config = search.at(settings.config, point, seed)
    run = Run(config, noted=False)
    sources = ingest(run)
    labels = _training_part(draw_labels(run, sources))
    start_ray(config.resources)
    times = settings.config.tune.validations
    judged = judged_step()
    every = validation_interval(getattr(config, judged.section).steps, times)
    judge = TrialValidation(settings.validation, times, (forward_validations(every),))
    if judged.when(config):
        with contextlib.suppress(StopHereError):
            method(run, sources, labels, until=judged.name, judge=judge)
        for validation in _validations_of_reused(run, judged.name):
            ray_tune.report(dict(report_of(validation, every)))
    if not whole:
        return
    adapted = method(run, sources, labels, judge=judge)
    accuracy, hours = validations_of(run.summary(adapted))[-1]["accuracy"], _hours(run)
    objective = accuracy - settings.config.tune.hour_price * hours
    last: TrialReport = {
        "accuracy": accuracy,
        "objective": objective,
        "progress": times + 1,
        "hours": hours,
        "end": True,
    }
    ray_tune.report(dict(last))


def _point_of(values: Mapping[str, Any]) -> tuple[Point, int]:
    """The point and the seed in a trial's Ray Tune configuration."""
    point = dict(values.get(LISTED, values))
    return point, point.pop(SEED, 0)


def _training_part(labels: Labels) -> Labels:
    """The labels without those held out, which judge."""
    return Labels(labels.train, labels.validation.slice(0, 0), f"{labels.key}/train")


def _validations_of_reused(run: Run, name: str) -> list[ValidationRecord]:
    """What a step, of the last round, found that another trial had finished before, so that its events are reported too."""
    last = [record for record in run.steps() if record.name == name][-1]
    if last.state != "reused":
        return []
    return validations_of(read_done(files.join(run.folder, last.folder)).summary)


def _hours(run: Run) -> float:
    """Hours of engines and training workers in the steps that depend on the point, reused ones included."""
    tree = run.config.model_dump(mode="json")
    paid = {spec.name: workers(spec.name, tree)[0] for spec in METHOD if spec.tuned}
    return sum(step.seconds * paid[step.name] for step in run.steps() if step.name in paid and step.seconds) / 3600


# --- Ray Tune ------------------------------------------------------------------------------------------------------------


def _space(config: Config) -> Space:
    """Ray Tune's search space."""
    from ray import tune as ray_tune

    def domain(values: RangeConfig) -> Domain | dict[str, object]:
        if values.choices is not None:
            return {**ray_tune.grid_search(values.choices)} if config.tune.search == "grid" else ray_tune.choice(values.choices)
        low, high = values.low or 0.0, values.high or 0.0
        if values.integer:
            return (ray_tune.lograndint if values.log else ray_tune.randint)(round(low), round(high) + 1)
        return (ray_tune.loguniform if values.log else ray_tune.uniform)(low, high)

    return {key: domain(values) for key, values in config.tune.space.items()}


def _tuned(settings: TrialSettings, step: Step, name: str, space: Space | list[Point]) -> list[Trial]:
    """Run the trials of a space, or of a list of points, or go on with them where a killed process stopped."""
    from ray import tune as ray_tune

    folder = step.path("ray", name)
    remote = files.is_remote(folder)
    path = files.absolute(folder).removeprefix("s3://")
    filesystem = s3.filesystem() if remote else None
    trainable = ray_tune.with_resources(ray_tune.with_parameters(run_trial, settings=settings), {"CPU": 0.1})
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # else an interrupted search is taken for a finished one
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # else relative paths of data and models lead elsewhere
    total = len(space) if isinstance(space, list) else _count(settings.config)
    # a process that was killed early leaves the tuner without the state of its trials
    begun = files.exists(folder) and any("/experiment_state-" in f for f in files.listing(folder, recursive=False))
    if not begun:
        files.delete_tree(folder)
    if begun and ray_tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        tuner = ray_tune.Tuner.restore(path, trainable, restart_errored=True, storage_filesystem=filesystem)
    else:
        tuner = ray_tune.Tuner(
            trainable,
            param_space={LISTED: ray_tune.grid_search(space)} if isinstance(space, list) else space,
            tune_config=_strategy(settings.config, space, step.path("study")),
            run_config=ray_tune.RunConfig(
                name=name,
                storage_path=path.rpartition("/")[0],
                storage_filesystem=filesystem,
                callbacks=[*_loggers(settings.config, step), show_progress(name, total), clean_up()],
                verbose=0,
            ),
        )
    results = tuner.fit()
    if (ended := results.num_terminated + results.num_errors) < total:
        msg = f"the search was interrupted after {ended} of {total} trials; run the same command again to go on"
        raise StepError(msg)
    return [_trial(results[number], settings.config.tune.validations) for number in range(len(results))]


def _count(config: Config) -> int:
    """Number of trials."""
    if config.tune.search != "grid":
        return config.tune.trials
    count = 1
    for values in config.tune.space.values():
        count *= len(values.choices or [])
    return count


def _strategy(config: Config, space: Space | list[Point], study: str) -> TuneConfig:
    """How Ray Tune proposes and stops trials; what Optuna learns is kept in the folder `study`."""
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    given = config.tune
    if isinstance(space, list):
        return ray_tune.TuneConfig(metric="objective", mode="max", max_concurrent_trials=given.concurrent)
    scheduler = None
    if given.stop_early:
        scheduler = ASHAScheduler(
            time_attr="progress",
            max_t=given.validations + 2,
            grace_period=min(given.grace, given.validations),
            reduction_factor=given.reduction,
        )
    start = search.base_point(config)
    if given.search == "optuna":
        import optuna

        from pipelines.proposals import PruningSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # of a trial that was restored
        ends = given.validations if given.judge == "generator" else None
        return ray_tune.TuneConfig(
            metric="objective",
            mode="max",
            max_concurrent_trials=given.concurrent,
            search_alg=PruningSearch(study, start, given.seed, ends),
            scheduler=scheduler,
            num_samples=given.trials,
        )
    proposer = BasicVariantGenerator(
        points_to_evaluate=[start] if start and given.search == "random" else None,
        max_concurrent=given.concurrent,
        random_state=given.seed,
    )
    count = 1 if given.search == "grid" else given.trials
    return ray_tune.TuneConfig(metric="objective", mode="max", search_alg=proposer, scheduler=scheduler, num_samples=count)


def _loggers(config: Config, step: Step) -> list[Callback]:
    from ray.tune import logger

    kinds = {"json": logger.JsonLoggerCallback, "csv": logger.CSVLoggerCallback, "tensorboard": logger.TBXLoggerCallback}
    made: list[Callback] = [kinds[kind]() for kind in config.tune.loggers if kind in kinds]
    if "mlflow" in config.tune.loggers:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        made.append(MLflowLoggerCallback(experiment_name=f"{config.name} {step.hash}"))
    return made


def _trial(result: Result, validations: int) -> Trial:
    """A trial as Ray Tune recorded it."""
    (point, seed), metrics = _point_of(result.config or {}), result.metrics or {}
    error = str(result.error).strip().splitlines()[-1] if result.error else ""
    finished = bool(metrics.get("end")) and not error
    accuracy, objective = metrics.get("accuracy", 0.0), metrics.get("objective", 0.0)
    distilled = metrics.get("progress", 0) >= validations
    return Trial(point, seed, accuracy, objective, metrics.get("hours", 0.0), finished, error, distilled)
