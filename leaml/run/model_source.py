"""Finds the model that a name stands for: a run's adapted model, a model folder, a shipped name or a hub id."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from leaml.config import EvaluateConfig, ModelConfig, resolve_model
from leaml.config.limits import MAX_PIXELS
from leaml.errors import DataError, InputError
from leaml.evaluation.metrics import Calibration, Metrics
from leaml.io import files
from leaml.run.records import CONFIG, STATUS, read_run


@dataclass(frozen=True)
class ModelSource:
    """A model that can answer.

    Attributes:
        model: What to load.
        name: The run's name, or the last part of the model's.
        run: Folder of the run; empty for a model that is of none.
        step: Folder, inside the run, of the step that made the model; empty without a run.
        config: The run's `config.yaml` as plain data; empty without a run.
        metrics: Content of `evaluation/metrics.json`; empty when this model has no evaluation.
        calibration: Content of `evaluation/calibration.json`; empty when this model has none.
    """

    model: ModelConfig
    name: str
    run: str
    step: str
    config: dict[str, Any]
    metrics: Metrics
    calibration: Calibration

    @property
    def temperature(self) -> float | None:
        """Of the calibration; None: not calibrated."""
        found = self.calibration.get("temperature")
        return None if found is None else float(found)

    @property
    def answer_tokens(self) -> int:
        """The longest answer, in tokens: the evaluation's."""
        given = (self.config.get("evaluate") or {}).get("max_tokens")
        return int(given or EvaluateConfig().max_tokens)

    @property
    def max_pixels(self) -> int:
        """Images above this many pixels are refused."""
        return int((self.config.get("data") or {}).get("max_pixels") or MAX_PIXELS)


def find(source: str, dtype: str | None = None) -> ModelSource:
    """The model that `source` names.

    Args:
        source: Run folder or model folder, local or s3://, shipped name or hub id.
        dtype: Weight type; None: the run's, float32 without a run.

    Raises:
        InputError: A run whose adapted model is not finished or that is damaged, or a folder that is neither a run nor a model.
    """
    source = source.rstrip("/")
    name = resolve_model(source)
    changes = {} if dtype is None else {"dtype": dtype}
    if files.exists(files.join(source, STATUS)) and files.exists(files.join(source, CONFIG)):
        return _of_run(source, changes)
    if files.exists(name) and not files.exists(files.join(name, "config.json")):
        msg = f"{source} is neither a run (no {STATUS}) nor a model (no config.json); give the folder of one of them"
        raise InputError(msg)
    if (
        name == source
        and not files.exists(name)
        and (files.is_remote(name) or source.startswith((".", "/")) or source.count("/") > 1)
    ):
        msg = f"{source} does not exist; give a run folder, a model folder, a shipped name or a hub id"
        raise InputError(msg)
    return ModelSource(ModelConfig.model_validate({"name": source, **changes}), source.rsplit("/", 1)[-1], "", "", {}, {}, {})


def _of_run(run: str, changes: dict[str, str]) -> ModelSource:
    config, record = _read(run, CONFIG, yaml.safe_load), read_run(run)
    adapted = record.finished("finetune")
    if adapted is None or not files.exists(files.join(run, adapted.folder, "model", "config.json")):
        msg = f"{run} has no finished adapted model (its status is {record.state!r}); run `leaml adapt` to its end first"
        raise InputError(msg)
    step = adapted.folder
    base = config.get("model") or {}
    try:
        kept = {key: base[key] for key in ("dtype", "trust_remote_code") if key in base}
        model = ModelConfig.model_validate({"name": files.join(run, step, "model"), **kept, **changes})
    except ValidationError as error:
        msg = f"{run}/{CONFIG} names a model that cannot be used: {error.errors()[0]['msg']}"
        raise InputError(msg) from None
    metrics: Metrics = _evaluation(run, "metrics", step)
    calibration: Calibration = _evaluation(run, "calibration", step)
    return ModelSource(model, str(config.get("name") or run.rsplit("/", 1)[-1]), run, step, config, metrics, calibration)


def _evaluation(run: str, name: str, step: str) -> Any:
    """A file of the run's evaluation; empty where there is none, or it is of an earlier model of the run."""
    file = files.join("evaluation", f"{name}.json")
    found = _read(run, file) if files.exists(files.join(run, file)) else {}
    return found if found.get("model", step) == step else {}


def _read(run: str, name: str, parse: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    file = files.join(run, name)
    try:
        return dict(parse(files.read_bytes(file)))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        msg = f"{file} is damaged: {error}; run `leaml adapt` on its config again"
        raise DataError(msg) from None
