"""What a neuron adapter is: which rows of which modules, with or without their bias entries, in which type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from peft.config import PeftConfig
from peft.utils import PeftType
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from leaml.errors import ConfigError

PEFT_TYPE = "NEURON"
_DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass
class NeuronConfig(PeftConfig):
    """Configuration of a `NeuronModel`. Save, load and pass it to `peft.get_peft_model` as any other PEFT configuration.

    Args:
        rows: Module name (as in `model.named_modules()`) -> indices of its trained rows, as a sequence, a tensor or the text
            they are stored as, "0,4-7" for 0, 4, 5, 6, 7: a few bytes a row, where the rows themselves take kilobytes. Or the
            folder of a score step (local or s3://), refused if it was made for another model. Modules without rows are
            dropped; no rows at all is a valid adapter that changes nothing.
        train_bias: Train the bias entries of the rows too, where a module has a bias.
        delta_dtype: Type of the trained parameters, "float32", "bfloat16", "float16" or "float64". None: the type of the
            base's weight, or float32 for half-precision bases (PEFT's `autocast_adapter_dtype`).
        modules_to_save: Further modules to train and save whole, by the last part of their name.

    Raises:
        ConfigError: indices that are negative, repeated or not integers; unknown `delta_dtype`.
    """

    rows: Any = field(default=None, metadata={"help": "Module name -> trained rows, or the folder of a score step."})
    train_bias: bool = field(default=True, metadata={"help": "Train the bias entries of the rows too."})
    delta_dtype: str | None = field(default=None, metadata={"help": "Type of the trained parameters; None: automatic."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train and save whole."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(PEFT_TYPE)
        if self.delta_dtype not in (None, *_DTYPES):
            msg = f"delta_dtype {self.delta_dtype!r} is not one of {_DTYPES}; leave it out for the automatic choice"
            raise ConfigError(msg)
        if isinstance(self.rows, Mapping):
            texts = {str(name): format_rows(rows, str(name)) for name, rows in self.rows.items()}
            self.rows = {name: text for name, text in texts.items() if text}
        elif not isinstance(self.rows, str | None):
            msg = f"rows must be a dict of module name -> row indices or the folder of a score step, not {self.rows!r}"
            raise ConfigError(msg)

    @property
    def target_modules(self) -> str | None:
        """PEFT asks every configuration for it; the modules are the keys of `rows`. The value for none allows none."""
        return None if self.rows else DUMMY_TARGET_MODULES

    def indices(self, module: str) -> torch.Tensor:
        """The sorted int64 row indices of a module of `rows`."""
        return torch.tensor(parse_rows(self.rows[module], module), dtype=torch.int64)

    def resolve(self, model: nn.Module) -> None:
        """Replace a selection folder by its rows, once the model is known.

        Raises:
            ConfigError: no rows given.
            DataError: no selection in the folder.
            ModelError: the selection was made for another model.
        """
        if self.rows is None:
            msg = "NeuronConfig needs rows: a dict of module name -> row indices, or the folder of a score step"
            raise ConfigError(msg)
        if isinstance(self.rows, str):
            from leaml.neurons import scores, selection

            found = selection.load(self.rows, scores.all_linears(model))
            self.rows = {name: format_rows(rows, name) for name, rows in found.items()}


def format_rows(rows: Iterable[int] | torch.Tensor | str, module: str) -> str:
    """Row indices in any order as sorted text, "0,4-7". Raises ConfigError naming `module`."""
    if isinstance(rows, str):
        return format_rows(parse_rows(rows, module), module)
    found = rows.tolist() if isinstance(rows, torch.Tensor) else list(rows)
    if wrong := [r for r in found if not isinstance(r, int) or isinstance(r, bool) or r < 0]:
        msg = f"rows of {module!r}: {wrong[:3]} are no row indices; give integers from 0"
        raise ConfigError(msg)
    ordered = sorted(found)
    if twice := [a for a, b in pairwise(ordered) if a == b]:
        msg = f"rows of {module!r}: {twice[:3]} are given more than once; give every row once"
        raise ConfigError(msg)
    starts = [r for n, r in enumerate(ordered) if n == 0 or ordered[n - 1] != r - 1]
    ends = [r for n, r in enumerate(ordered) if n + 1 == len(ordered) or ordered[n + 1] != r + 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def parse_rows(text: str, module: str) -> list[int]:
    """The indices that "0,4-7" stands for. Raises ConfigError naming `module`."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            msg = f"rows of {module!r}: {part!r} is neither an index nor a range such as 4-7"
            raise ConfigError(msg)
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found
