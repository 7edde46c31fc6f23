"""LEAML: label-efficient adaptation of vision-language models (method after arXiv 2510.03232).

    import leaml

    config = leaml.load_config("mine.yaml", ["select.ratio=0.1"])
    metrics = leaml.adapt(config)                   # the whole run; finished steps are reused
    run = leaml.load_run(config.run_folder)         # the adapted model, its evaluation and calibration
    pairs = leaml.read_pairs(config.run_folder)     # every pseudo pair with its verdict
    leaml.predict(config.run_folder, "images", "questions.csv", "answers.csv")

Names are imported at their first use, so `import leaml` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_WHERE = {
    "Config": "leaml.config",
    "load_config": "pipelines.recipes:load",
    "adapt": "pipelines.adapt",
    "predict": "pipelines.predict",
    "evaluate": "leaml.evaluation.results",
    "load_run": "leaml.run.model_source:find",
    "read_pairs": "leaml.run.pairs",
    "NeuronConfig": "leaml.neurons.peft",
    "score_neurons": "leaml.neurons.peft.choose",
    "select_neurons": "leaml.neurons.selection:select",
    "Row": "leaml.rows",
}
"""Public name -> module, with the name there where that is another one."""
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        msg = f"module 'leaml' has no attribute {name!r}; it has {', '.join(sorted(_WHERE))}"
        raise AttributeError(msg)
    module, _, other = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), other or name)


def __dir__() -> list[str]:
    return sorted(__all__)
