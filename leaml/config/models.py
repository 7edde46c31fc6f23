"""Which model: a name, and how its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from leaml.config.base import NAME, Section

BUILTIN = {"leaml-tiny", "leaml-tiny-teacher"}
"""Model names that resolve to the models shipped with the package."""
MODEL = "Shipped name, hub id, local folder or s3:// folder."


class ModelConfig(Section):
    """A Hugging Face image-text-to-text model."""

    name: str = Field("leaml-tiny", description=MODEL, json_schema_extra=NAME)
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch); pin a commit for real runs.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weight type for training and serving.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model; off unless you trust its author.")


def resolve_model(name: str) -> str:
    """Local folder of a shipped model, or the name itself (hub id, folder, s3:// path)."""
    if name in BUILTIN:
        return str(Path(__file__).parents[1] / "tiny" / "models" / name)
    if "://" not in name and Path(name).is_dir():
        return str(Path(name).resolve())  # workers have another working directory
    return name
