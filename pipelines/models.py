"""Model folders as steps hand them on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from leaml.config import ModelConfig, ResourcesConfig, resolve_model
from leaml.engine import EngineSpec
from pipelines.run import Step


def trained(step: Step, base: ModelConfig) -> ModelConfig:
    """The model a training step has written, in the base's weight type."""
    return ModelConfig(name=step.path("model"), dtype=base.dtype, trust_remote_code=base.trust_remote_code)


def model_key(model: ModelConfig) -> dict[str, Any]:
    """A model as a step's setting: its configuration and, for a local folder, a fingerprint of the files in it.

    Of files over 64 MiB only the size, the first and the last MiB are read. Hub models are told apart by their revision.
    """
    folder = Path(resolve_model(model.name))
    if not folder.is_dir():
        return model.model_dump()
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.iterdir() if f.suffix in _MODEL_FILES):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_PART))
                stream.seek(-_PART, 2)
                digest.update(stream.read())
    return model.model_dump() | {"files": digest.hexdigest()}


_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model")
_WHOLE, _PART = 64 * 2**20, 2**20


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
        sequences=resources.engine_sequences,
        apart=resources.engine_gpus > 0,  # on a CPU it gains nothing and starts 16 s later
    )
