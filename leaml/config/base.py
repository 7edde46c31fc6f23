"""Base of all sections of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.types import JsonValue
from pydantic_core import PydanticCustomError

from leaml.config.wanted import is_number

PATH: dict[str, JsonValue] = {"holds": "path"}
"""`json_schema_extra` of a field that holds a path, see `paths`."""
NAME: dict[str, JsonValue] = {"holds": "path or name"}
Tree = dict[str, object]
"""A configuration, or a section of it, as plain data."""


class Section(BaseModel):
    """Unknown keys are errors, values cannot change after loading; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, value: object, info: ValidationInfo) -> object:
        """pydantic would take true, and YAML's yes and on, for the number 1."""
        if isinstance(value, bool) and is_number(cls.model_fields[str(info.field_name)].annotation):
            kind = "number"
            raise PydanticCustomError(kind, "a number is needed")
        return value
