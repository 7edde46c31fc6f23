"""Paths in a configuration: which keys hold them, and from where relative ones count.

In a file they are relative to the file's folder, on the command line to the current folder. `s3://`, absolute paths, shipped
models and hub ids stay as they are. A field that holds a path says so: `Field(..., json_schema_extra=PATH)` or `=NAME`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic.fields import FieldInfo

from leaml import addresses
from leaml.config.base import PATH, Section, Tree
from leaml.config.keys import section_of
from leaml.config.models import BUILTIN
from leaml.config.sections import Config

HUB = "huggingface"
"""The reader whose path may be a hub id."""
Change = Callable[[str, bool], str]
"""What a path becomes; the second argument says that it may be a name (of a model or hub data set) instead."""


def absolute_from(base: Path) -> Change:
    """Makes relative paths absolute. A name is taken for a path if it begins like one, or is there."""

    def change(value: str, may_be_name: bool) -> str:
        if addresses.scheme(value) or addresses.lacks_slash(value) or not value:  # files says what is wrong with the latter
            return value
        path = os.path.normpath(base / Path(value).expanduser())
        plainly = value.startswith(("/", "./", "../", "~")) or value in (".", "..")
        if may_be_name and not plainly and (value in BUILTIN or not Path(path).exists()):
            return value
        return path + "/" * value.endswith("/")

    return change


def relative_to(base: Path) -> Change:
    """Makes absolute paths inside of `base` relative to it."""

    def change(value: str, _: bool) -> str:
        inside = Path(value).is_absolute() and Path(value).is_relative_to(base)
        return str(Path(value).relative_to(base)) if inside else value

    return change


def with_paths(tree: Tree, change: Change, section: type[Section] = Config, only: Sequence[str] = ()) -> Tree:
    """A copy of a plain tree in which paths are changed, what is no tree is left to validation.

    Args:
        tree: The tree, or the part of it that is `section`.
        change: What each becomes.
        section: The section that the tree is to be.
        only: Names on the way to the one key that is changed, with all below it; none: all keys.
    """
    found = dict(tree)
    for key, value in tree.items():
        field = section.model_fields.get(str(key))
        if field is None or (only and key != only[0]):
            continue
        nested = section_of(field.annotation)
        if key == "space" and isinstance(value, dict):
            found[key] = {name: _choices(name, entry, change) for name, entry in value.items()}
        elif nested is not None:
            found[key] = _inside(value, change, nested, only[1:])
        elif isinstance(value, str) and (extra := field.json_schema_extra):
            found[key] = change(value, extra != PATH or (key == "path" and tree.get("format") == HUB))
    return found


def _inside(part: object, change: Change, section: type[Section], only: Sequence[str]) -> object:
    """A section, or a list of them, with its paths changed; anything else as it is."""
    if isinstance(part, list):
        return [_inside(item, change, section, only) for item in part]
    return with_paths(part, change, section, only) if isinstance(part, dict) else part


def _choices(key: str, entry: object, change: Change) -> object:
    """The entry of a search space; its choices are paths where the key holds one."""
    field = _field(key)
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("choices"), list)
        or field is None
        or not field.json_schema_extra
    ):
        return entry
    return entry | {"choices": [change(c, True) if isinstance(c, str) else c for c in entry["choices"]]}


def _field(key: str) -> FieldInfo | None:
    section: type[Section] | None = Config
    field = None
    for name in key.split("."):
        field = section.model_fields.get(name) if section else None
        section = section_of(field.annotation) if field else None
    return field
