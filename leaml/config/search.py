"""The search section: which keys get a range, how points are proposed and compared."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from leaml.config.base import Section


class RangeConfig(Section):
    """What one key may be: a list of choices, or numbers from `low` to `high`."""

    choices: list[object] | None = Field(None, description="Values to choose among.")
    low: float | None = Field(None, description="Least value.")
    high: float | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Draw the logarithm evenly.")
    integer: bool = Field(False, description="Whole numbers only.")

    @model_validator(mode="after")
    def _is_one_kind(self) -> RangeConfig:
        ends = [end for end in (self.low, self.high) if end is not None]
        if (bool(self.choices), len(ends)) not in ((True, 0), (False, 2)):
            msg = "give either choices or both low and high"
            raise ValueError(msg)
        if ends and not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
            msg = f"low {self.low} must be less than high {self.high}"
            raise ValueError(msg)
        if self.log and not (ends and ends[0] > 0):
            msg = f"log needs low above 0, not {self.low}"
            raise ValueError(msg)
        return self


class TuneConfig(Section):
    """`leaml tune`: search over any keys of this configuration."""

    space: dict[str, RangeConfig] = Field(
        default_factory=dict, description="Key -> range, for example {select.ratio: {choices: [0.1, 0.3, 1.0]}}."
    )
    search: Literal["optuna", "random", "grid"] = Field(
        "optuna", description="How points are proposed: TPE by Optuna, at random, or every combination of choices."
    )
    trials: int = Field(8, gt=0, description="Points tried; grid: all of them, whatever this says.")
    judge: Literal["adapted", "generator"] = Field(
        "adapted",
        description="Whose answers a trial is judged by: the adapted model's, or the generator's after distillation, with only "
        "finalists adapted; for keys of the steps up to distill.",
    )
    stop_early: bool = Field(True, description="Stop trials that are behind others at a validation (ASHA).")
    grace: int = Field(
        2, gt=0, description="Validation at which ASHA first stops trials; curves of different points cross early."
    )
    reduction: int = Field(2, ge=2, le=4, description="ASHA lets one of this many trials go on at each rung.")
    validations: int = Field(8, gt=0, description="Validations during each distillation, where trials may be stopped.")
    finalists: int = Field(2, ge=0, description="Best points that are tried again with other seeds; 0: none.")
    seeds: int = Field(3, gt=0, description="Seeds of a finalist, the first included; their median counts.")
    hour_price: float = Field(0.0, ge=0, description="Accuracy charged for an hour of an engine or training worker.")
    concurrent: int = Field(1, gt=0, description="Trials at a time; each needs the resources of a run.")
    loggers: tuple[Literal["json", "csv", "tensorboard", "mlflow"], ...] = Field(
        ("json", "csv"), description="Ray Tune's loggers; mlflow must be installed for the last."
    )
    seed: int = Field(0, ge=0, description="Seed of the proposals.")

    @model_validator(mode="after")
    def _grid_has_choices(self) -> TuneConfig:
        if self.search == "grid" and (open_keys := [k for k, r in self.space.items() if r.choices is None]):
            msg = f"search grid needs choices for every key, not low and high as for {', '.join(open_keys)}"
            raise ValueError(msg)
        return self
