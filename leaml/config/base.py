"""Base of all sections of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.types import JsonValue

PATH: dict[str, JsonValue] = {"holds": "path"}
"""`json_schema_extra` of a field that holds a path, see `paths`."""
NAME: dict[str, JsonValue] = {"holds": "path or name"}


class Section(BaseModel):
    """Unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
