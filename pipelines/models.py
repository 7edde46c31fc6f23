"""Model folders as steps hand them on."""

from __future__ import annotations

from pathlib import Path

from leaml.config import ClientConfig, EngineConfig, ModelConfig, ResourcesConfig, resolve_model
from leaml.engine.interface import Longest
from leaml.engine.spec import EngineSpec
from leaml.io import files
from pipelines.run import Step


def trained(step: Step, base: ModelConfig) -> ModelConfig:
    """The model a training step has written, in the base's weight type; its own files have the size of images."""
    return ModelConfig(name=step.path("model"), dtype=base.dtype, trust_remote_code=base.trust_remote_code)


def model_key(model: ModelConfig) -> dict[str, object]:
    """A model as a step's setting: its configuration and, for a local folder, its own name and the fingerprints of its files.

    So a folder may move, and hub models are told apart by their revision. Keys of the size of images are there where they are
    set, so that steps of runs that know none keep their folders.
    """
    folder = Path(resolve_model(model.name))
    settings = model.model_dump(exclude={"max_image_pixels", "image_tiles"}) | model.image_settings
    if not folder.is_dir():
        return settings
    found = {f.name: files.fingerprint(str(f)) for f in sorted(folder.iterdir()) if f.suffix in _MODEL_FILES}
    return settings | {"name": folder.name, "files": found}


_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model")


def engine_spec(
    model: ModelConfig,
    resources: ResourcesConfig,
    engine: EngineConfig | None = None,
    longest: Longest | None = None,
    key: str = "engine",
    url: str | None = None,
    client: ClientConfig | None = None,
) -> EngineSpec:
    """How to serve a model, or to ask the server that does.

    Args:
        model: A folder or hub id, or the name that the server at `url` has for it.
        resources: What an engine takes.
        engine: What vLLM is told; None: the defaults.
        longest: Of the requests of the step; None: not known, and the context is as long as the model's.
        key: Where the configuration says what vLLM is told.
        url: OpenAI-compatible server; None: vLLM serves the model.
        client: How such a server is asked; None: the defaults.
    """
    return EngineSpec(
        model=model.name if url else resolve_model(model.name),
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        max_image_pixels=model.max_image_pixels,
        image_tiles=model.image_tiles,
        url=url,
        gpus=resources.engine_gpus,
        cpus=resources.engine_cpus,
        engine=engine or EngineConfig(),
        longest=longest,
        key=key,
        client=client or ClientConfig(),
        separate_process=resources.engine_gpus > 0,  # on a CPU it gains nothing and starts 16 s later
    )
