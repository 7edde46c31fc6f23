"""Model folders as steps hand them on."""

from __future__ import annotations

from leaml.config import ModelConfig, ResourcesConfig, resolve_model
from leaml.engine import EngineSpec
from pipelines.run import Step


def trained(step: Step, base: ModelConfig) -> ModelConfig:
    """The model a training step has written, in the base's weight type."""
    return ModelConfig(name=step.path("model"), dtype=base.dtype, trust_remote_code=base.trust_remote_code)


def engine_spec(model: ModelConfig, resources: ResourcesConfig, url: str | None = None) -> EngineSpec:
    """How to serve a model in this plan."""
    return EngineSpec(
        model=model.name if url else resolve_model(model.name),
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        url=url,
        gpus=resources.engine_gpus,
        cpus=resources.engine_cpus,
    )
