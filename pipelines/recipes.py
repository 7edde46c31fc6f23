"""Configurations by name: `demo` is the shipped pipelines/configs/demo.yaml. All commands and `leaml.load_config` read here."""

from __future__ import annotations

import difflib
from pathlib import Path

from leaml import config
from leaml.config import Config
from leaml.errors import ConfigError

FOLDER = Path(__file__).parent / "configs"


def shipped() -> dict[str, Path]:
    """The files that come with the package, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}


def load(given: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, or a shipped one by its name, apply `a.b=value` overrides and validate. Raises ConfigError.

    Relative paths in a file are relative to its folder, those of a shipped one and those in overrides to the current folder.
    What comes through a pipe has no folder: its paths stay as they are.
    """
    file = find(given)
    return config.load(file, overrides, None if file == Path(given) else Path.cwd())


def find(given: str | Path) -> Path:
    """The file that is meant: the one at that path, else the shipped one of that name. Raises ConfigError for an unknown name.

    Only what has no folder and no suffix is taken for a name, so a mistyped path stays one.
    """
    path, known = Path(given), shipped()
    if len(path.parts) != 1 or path.suffix or (path.exists() and not path.is_dir()):
        return path
    if path.name in known:
        return known[path.name]
    near = difflib.get_close_matches(path.name.lower(), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(known)
    msg = f"{str(given)!r} is no file and no shipped configuration; {hint}give the path of a YAML file or one of {names}"
    raise ConfigError(msg)
