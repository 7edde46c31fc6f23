"""Reading the configuration: YAML, overrides, errors that name the key, the value and the fix, and the list of all keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from leaml.config import yaml_text
from leaml.config.base import Section, Tree
from leaml.config.engine import EngineConfig
from leaml.config.keys import refusal
from leaml.config.paths import absolute_from, with_paths
from leaml.config.sections import Config, ResourcesConfig
from leaml.config.training import TrainConfig
from leaml.errors import ConfigError

LISTING = "leaml config --explain"


def load(path: str | Path, overrides: list[str] | None = None, folder: Path | None = None) -> Config:
    """Read a YAML file, apply `a.b=value` overrides and validate; paths become absolute. Raises ConfigError.

    Relative paths in the file are relative to its folder, those in overrides to the current one. What comes through a pipe has
    no folder: its paths stay as they are.

    Args:
        path: The file.
        overrides: Each `a.b=value`; the last of a key counts.
        folder: What relative paths in the file count from; None: the file's own folder.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        msg = f"cannot read the config file {str(path)!r}: {error.strerror}; give the path of a YAML file"
        raise ConfigError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"cannot read the config file {str(path)!r}: not UTF-8 ({error.reason}); save it as UTF-8"
        raise ConfigError(msg) from None

    try:
        tree = yaml_text.load(text) or {}
    except yaml_text.DuplicateYamlKeyError as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from None
    except yaml.YAMLError as error:
        msg = f"{path} is not valid YAML: {error}"
        raise ConfigError(msg) from None
    if not isinstance(tree, dict):
        msg = f"{path} must hold a mapping of sections, not {type(tree).__name__}"
        raise ConfigError(msg)

    in_folder = Path(path).is_file()
    if in_folder:
        tree = with_paths(tree, absolute_from(folder or Path(path).absolute().parent))
    for item in overrides or []:
        override(tree, item)
        if in_folder:
            tree = with_paths(tree, absolute_from(Path.cwd()), only=item.partition("=")[0].split("."))
    if in_folder:
        tree.setdefault("storage", str(Path("runs").absolute()))

    given = " ".join(overrides or [])
    return parse(tree, f"{path} with {given[:200]}" if given else str(path))


def parse(tree: Tree, origin: str = "config") -> Config:
    """Validate a plain tree; `origin` names it in errors."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(refusal(error, origin, Config, LISTING)) from None
    if config.data.budget.count is not None and config.data.budget.fraction is not None:
        msg = f"{origin}: data.budget has both count and fraction; remove one of them"
        raise ConfigError(msg)
    workers = config.resources.train_workers
    uneven = [f"{key} {size}" for key, size in _batch_sizes(config) if size % workers]
    if uneven:
        msg = f"{origin}: {', '.join(uneven)} cannot be shared by resources.train_workers {workers}; choose multiples of it"
        raise ConfigError(msg)
    return config


class Engines(Section):
    """The sections of a configuration that say what engines are."""

    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)


def engines_with(given: Mapping[str, Any], overrides: list[str] | None = None) -> Engines:
    """A run's engines with `resources.key=value` and `engine.key=value` overrides.

    Args:
        given: The run's configuration. Keys in it that are no longer known are left out: it may be of an earlier version.
        overrides: Of the two sections.

    Raises:
        ConfigError: Also for a key of another section.
    """
    known: dict[str, type[Section]] = {"resources": ResourcesConfig, "engine": EngineConfig}
    tree: Tree = {
        name: {key: value for key, value in (given.get(name) or {}).items() if key in section.model_fields}
        for name, section in known.items()
    }
    for item in overrides or []:
        override(tree, item)
    if others := set(tree) - set(known):
        msg = f"{sorted(others)[0]!r} cannot be overridden here, only resources.key=value and engine.key=value"
        raise ConfigError(msg)
    try:
        return Engines.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(refusal(error, "overrides", Config, LISTING)) from None


def _batch_sizes(section: Section, prefix: str = "") -> list[tuple[str, int]]:
    """`(key, value)` of every training section's batch_size."""
    found = [(f"{prefix}batch_size", section.batch_size)] if isinstance(section, TrainConfig) else []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found += _batch_sizes(value, f"{prefix}{name}.")
    return found


def override(tree: Tree, item: str) -> None:
    """Put one `a.b=value` (a YAML value) into a plain tree. Raises ConfigError."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        msg = f"override {item!r} is not of the form a.b=value"
        raise ConfigError(msg)

    node = tree
    *parents, leaf = key.split(".")
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            msg = f"override {item!r}: {parent!r} is a value, not a section"
            raise ConfigError(msg)
        node = child

    try:
        node[leaf] = yaml_text.load(value)
    except yaml_text.DuplicateYamlKeyError as error:
        msg = f"override {item!r}: {error}"
        raise ConfigError(msg) from None
    except yaml.YAMLError:
        msg = f"override {item!r}: {value!r} is not a YAML value; quote it"
        raise ConfigError(msg) from None
