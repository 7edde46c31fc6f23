"""The typed configuration tree: one section per step, named like the step.

Read from YAML with `load`, overridden with `a.b=value`, explained with `explain`. Unknown keys, wrong types and impossible
values are `ConfigError`s that name the key, the value and the fix.
"""

from leaml.config.caption import CaptionConfig, ClientConfig
from leaml.config.models import BUILTIN, ModelConfig, resolve_model
from leaml.config.reading import explain, load, parse, resources_with
from leaml.config.search import RangeConfig, TuneConfig
from leaml.config.sections import (
    BaselineConfig,
    Config,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    FilterConfig,
    FinetuneConfig,
    GenerateConfig,
    LabelBudget,
    ResourcesConfig,
    ScoreConfig,
    SourceConfig,
    TrainConfig,
    WarmupConfig,
)

__all__ = [
    "BUILTIN",
    "BaselineConfig",
    "CaptionConfig",
    "ClientConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "FilterConfig",
    "FinetuneConfig",
    "GenerateConfig",
    "LabelBudget",
    "ModelConfig",
    "RangeConfig",
    "ResourcesConfig",
    "ScoreConfig",
    "SourceConfig",
    "TrainConfig",
    "TuneConfig",
    "WarmupConfig",
    "explain",
    "load",
    "parse",
    "resolve_model",
    "resources_with",
]
