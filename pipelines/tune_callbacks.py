"""What trials of a search report, and the callbacks of Ray Train and Ray Tune that carry, show and clean up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pipelines.progress import say
from pipelines.summaries import ValidationRecord
from pipelines.train import PLACED, VALIDATED

if TYPE_CHECKING:
    from ray.train import Checkpoint, UserCallback
    from ray.tune import Callback
    from ray.tune.experiment import Trial

    from pipelines._compat import TrainRunContext

SEED, LISTED = "trial_seed", "listed"
"""In a trial's Ray Tune configuration: the seed beside the point's keys, and all of these where the trials are a list."""


class TrialReport(TypedDict):
    """What Ray Tune is told of a model of a trial.

    Attributes:
        accuracy: On the labels held out for validation.
        objective: Accuracy less the price of `hours`.
        progress: Validations so far, the same in every trial; the adapted model comes after all of the generator.
        hours: Of engines and training workers; 0 for a generator.
        end: Whether it is the adapted model.
        placement_group: That the training of a generator has, in hex; empty where none runs.
    """

    accuracy: float
    objective: float
    progress: int
    hours: float
    end: bool
    placement_group: NotRequired[str]


def report_of(validation: ValidationRecord, every: int, group: str = "") -> TrialReport:
    """The report of one validation during distillation.

    Args:
        validation: What was found, and at which step.
        every: Steps between two validations.
        group: Placement group of the training, in hex; "" where none runs.
    """
    return {
        "accuracy": validation["accuracy"],
        "objective": validation["accuracy"],
        "progress": round(validation["step"] / every),
        "hours": 0.0,
        "end": False,
        "placement_group": group,
    }


def forward_validations(every: int) -> UserCallback:
    """A Ray Train callback that hands validations on to Ray Tune, and nothing else (checkpoints stay with the step)."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class Forward(TuneReportCallback):
        def after_report(
            self, run_context: TrainRunContext, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
        ) -> None:
            if VALIDATED in metrics[0]:
                report = report_of(metrics[0][VALIDATED], every, metrics[0].get(PLACED, ""))
                super().after_report(run_context, [dict(report)], None)

    return Forward()


def show_progress(name: str, total: int) -> Callback:
    """A Ray Tune callback that tells of every validation and of every trial's end, with the time left."""
    from ray.tune import Callback

    class Progress(Callback):
        def __init__(self) -> None:
            self.began, self.ended = time.time(), 0

        def on_trial_result(
            self, iteration: int, trials: list[Trial], trial: Trial, result: Mapping[str, object], **info: object
        ) -> None:
            what = "adapted model" if result["end"] else f"generator at {result['progress']}"
            point = _shown(trial.config.get(LISTED, trial.config))
            say(f"tune {name}: {trial.trial_id} {point}: {what}, validation {result['accuracy']:.3f}")

        def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
            self._end(trial, trials, "ended")

        def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
            self._end(trial, trials, "failed")

        def _end(self, trial: Trial, trials: list[Trial], how: str) -> None:
            self.ended += 1
            rest = total - len({t.trial_id for t in trials if t.is_finished()} | {trial.trial_id})
            left = (time.time() - self.began) / self.ended * rest
            say(f"tune {name}: {trial.trial_id} {how}; {total - rest} of {total} trials, about {left:.0f} s left")

    return Progress()


def clean_up() -> Callback:
    """A Ray Tune callback that removes the placement group of a training whose trial was stopped.

    Ray Train leaves that to a cleaner that asks the dashboard, which a local Ray does not have; later trials would wait for the
    CPUs until the end. One that is removed already stays so.
    """
    from ray import PlacementGroupID
    from ray.tune import Callback
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    class Cleaner(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
            if group := (trial.last_result or {}).get(PLACED):
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))

    return Cleaner()


def _shown(values: Mapping[str, object]) -> str:
    return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
