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
    max_image_pixels: int | None = Field(
        None,
        gt=0,
        description="Most pixels of an image that the model is shown, tiles together; larger images are scaled down. None: "
        "what its processor keeps.",
    )
    image_tiles: bool = Field(
        True, description="Cut images into tiles where the model's processor does; false: an overview alone, far fewer tokens."
    )

    @property
    def image_settings(self) -> dict[str, object]:
        """The keys of this model that say how large images are shown to it, as far as they are set."""
        given = {"max_image_pixels": self.max_image_pixels, "image_tiles": self.image_tiles}
        return {key: value for key, value in given.items() if value != type(self).model_fields[key].default}


def resolve_model(name: str) -> str:
    """Local folder of a shipped model, or the name itself (hub id, folder, s3:// path)."""
    if name in BUILTIN:
        return str(Path(__file__).parents[1] / "tiny" / "models" / name)
    if "://" not in name and Path(name).is_dir():
        return str(Path(name).resolve())  # workers have another working directory
    return name
