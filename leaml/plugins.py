"""What other packages add to LEAML by Python entry points, one group for each kind of thing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from leaml.errors import ConfigError


@dataclass(frozen=True)
class Plugins:
    """The entry points of a group.

    Attributes:
        group: Its name in `pyproject.toml`.
        what: What each of them is, in a word.
    """

    group: str
    what: str

    @property
    def names(self) -> list[str]:
        """Those of all installed packages; nothing is imported."""
        return [entry.name for entry in entry_points(group=self.group)]

    def load(self, name: str) -> object | None:
        """What an entry point names, imported; None: no installed package has it. Raises ConfigError where it is not there."""
        for entry in entry_points(group=self.group, name=name):
            try:
                found: object = entry.load()
            except (ImportError, AttributeError) as error:
                raise self.unusable(name, f"cannot be imported: {error}") from error
            return found
        return None

    def function(self, name: str) -> Callable[..., Any] | None:
        """As `load`, of a kind whose entry points name functions. Raises ConfigError for anything else."""
        found = self.load(name)
        if found is None or callable(found):
            return found
        raise self.unusable(name, f"is no function, but {found!r}")

    def unusable(self, name: str, why: str) -> ConfigError:
        """The error for one that cannot be used, with its package."""
        (entry,) = [*entry_points(group=self.group, name=name)][:1]
        package = f" of {entry.dist.name}" if entry.dist is not None else ""
        return ConfigError(f"the {self.what} {name!r}{package} ({entry.value}) {why}")


def function_of(where: str) -> Any:
    """The function that `module:function` names, imported."""
    module, _, function = where.partition(":")
    return getattr(importlib.import_module(module), function)
