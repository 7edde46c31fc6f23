"""The typed configuration tree: one section per step, named like the step.

Read from YAML with `load`, overridden with `a.b=value`, explained with `explain`. Unknown keys, wrong types and impossible
values are `ConfigError`s that name the key, the value and the fix.
"""

from leaml.config.caption import CaptionConfig, ClientConfig
from leaml.config.engine import EngineConfig
from leaml.config.filter import FilterConfig
from leaml.config.generate import GenerateConfig
from leaml.config.keys import explain, refusal
from leaml.config.models import BUILTIN, ModelConfig, resolve_model
from leaml.config.paths import HUB, absolute_from, relative_to, with_paths
from leaml.config.reading import engines_with, load, parse
from leaml.config.search import RangeConfig, TuneConfig
from leaml.config.sections import (
    BaselineConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LabelBudget,
    ResourcesConfig,
    ScoreConfig,
    SelectConfig,
    SourceConfig,
)
from leaml.config.training import DistillConfig, FinetuneConfig, LoraSettings, TrainConfig, WarmupConfig

__all__ = [
    "BUILTIN",
    "HUB",
    "BaselineConfig",
    "CaptionConfig",
    "ClientConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FilterConfig",
    "FinetuneConfig",
    "GenerateConfig",
    "LabelBudget",
    "LoraSettings",
    "ModelConfig",
    "RangeConfig",
    "ResourcesConfig",
    "ScoreConfig",
    "SelectConfig",
    "SourceConfig",
    "TrainConfig",
    "TuneConfig",
    "WarmupConfig",
    "absolute_from",
    "engines_with",
    "explain",
    "load",
    "parse",
    "refusal",
    "relative_to",
    "resolve_model",
    "with_paths",
]
