"""What a neuron adapter is: which rows and columns of which modules, with or without bias entries, in which type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from peft.config import PeftConfig
from peft.utils import PeftType

from leaml import score_methods
from leaml.errors import ConfigError

PEFT_TYPE = "NEURON"
GRADIENT = "gradient"
"""As a selection: the default score of gradients."""
_DTYPES = ("float32", "float64", "bfloat16", "float16")


Indices = Iterable[int] | torch.Tensor | str
"""Of rows or columns, in any order; as text "0,4-7" for 0, 4, 5, 6, 7."""
Targets = str | Sequence[str] | None
"""As PEFT's: a regular expression that a module's whole name matches, the ends of names, or "all-linear"; None: all that LEAML
scores."""


@dataclass
class NeuronConfig(PeftConfig):
    """Configuration of a `NeuronModel`. Save, load and pass it to `peft.get_peft_model` as any other PEFT configuration.

    Args:
        rows: Module name (as in `model.named_modules()`) -> indices of its trained rows, as a sequence, a tensor or the text
            they are stored as, "0,4-7" for 0, 4, 5, 6, 7: a few bytes a row, where the rows themselves take kilobytes. Or the
            folder of a select step (local or s3://), which also gives the columns, refused if it was made for another model.
            Modules without rows are dropped; no rows at all is a valid adapter that changes nothing.
        target_modules: Without rows, the modules of which `selection` takes a share, as PEFT means it: a regular expression,
            ends of names, or "all-linear"; None: all that LEAML scores.
        ratio: Share of the rows of each of these modules, from 0 to 1.
        selection: Without rows, how they are chosen: "random", "magnitude" (the largest sum of |w|), "gradient" (the largest
            sum of squared gradients) or any other `leaml.score_methods`. By gradients they are chosen on data, before
            `get_peft_model`: `config = leaml.score_neurons(model, batches, config)`.
        seed: Of the random choice.
        columns: Module name -> indices of its trained columns (the weights of one input), given as the rows are. A module may
            have both; an entry in a trained row and a trained column is trained as the row's.
        train_bias: Train the bias entries of the rows too, where a module has a bias.
        delta_dtype: Type of the trained parameters, "float32", "bfloat16", "float16" or "float64". None: the type of the
            base's weight, or float32 for half-precision bases (PEFT's `autocast_adapter_dtype`).
        modules_to_save: Further modules to train and save whole, by the last part of their name.

    Raises:
        ConfigError: indices that are negative, repeated or not integers; columns beside a folder; unknown `delta_dtype` or
            `selection`; a selection without a ratio, or beside rows.
    """

    rows: Mapping[str, Indices] | str | None = field(
        default=None, metadata={"help": "Module name -> trained rows, or the folder of a select step."}
    )
    columns: Mapping[str, Indices] | None = field(default=None, metadata={"help": "Module name -> trained columns."})
    target_modules: Targets = field(default=None, metadata={"help": "Modules of which `selection` takes a share."})
    ratio: float | None = field(default=None, metadata={"help": "Share of the rows of each of these modules."})
    selection: str | None = field(default=None, metadata={"help": "How they are chosen: random, magnitude, gradient ..."})
    seed: int = field(default=0, metadata={"help": "Of the random choice."})
    train_bias: bool = field(default=True, metadata={"help": "Train the bias entries of the rows too."})
    delta_dtype: str | None = field(default=None, metadata={"help": "Type of the trained parameters; None: automatic."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train and save whole."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(PEFT_TYPE)
        if self.delta_dtype not in (None, *_DTYPES):
            msg = f"delta_dtype {self.delta_dtype!r} is not one of {_DTYPES}; leave it out for the automatic choice"
            raise ConfigError(msg)
        if self.selection is not None and self.rows is None:
            self._check_selection()
            return
        if isinstance(self.rows, str):
            if self.columns:
                msg = f"columns beside the folder {self.rows!r}, which brings its own; leave them out, or give rows as a dict"
                raise ConfigError(msg)
            return
        if self.rows is not None or self.columns is not None:
            texts = (as_texts(found, kind) for found, kind in ((self.rows, "rows"), (self.columns, "columns")))
            self.rows, self.columns = texts

    def _check_selection(self) -> None:
        if self.selection not in (GRADIENT, *score_methods.NAMES):
            msg = f"selection {self.selection!r} is not one of {', '.join((GRADIENT, *score_methods.NAMES))}"
            raise ConfigError(msg)
        if self.ratio is None or not 0 <= self.ratio <= 1:
            msg = f"ratio is {self.ratio!r}; selection {self.selection!r} needs a share of the rows, from 0 to 1"
            raise ConfigError(msg)

    @property
    def score_method(self) -> str:
        """Name of the score that `selection` chooses by."""
        return "squared" if self.selection == GRADIENT else str(self.selection)

    @property
    def modules(self) -> list[str]:
        """Names of the modules with rows or columns."""
        return [*dict.fromkeys((*(self.rows or ()), *(self.columns or ())))]

    def indices(self, module: str, kind: str = "rows") -> torch.Tensor:
        """The sorted int64 indices of a module's "rows" or "columns"; empty for a module without."""
        return torch.tensor(parse_indices(getattr(self, kind).get(module, ""), f"{kind} of {module!r}"), dtype=torch.int64)


def as_texts(given: object, kind: str) -> dict[str, str]:
    """Module name -> indices as text, of the modules that have any; `kind` is "rows" or "columns"."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        folder = " or the folder of a select step" if kind == "rows" else ""
        msg = f"{kind} must be a dict of module name -> {kind[:-1]} indices{folder}, not {given!r}"
        raise ConfigError(msg)
    texts = {str(name): format_indices(indices, f"{kind} of {str(name)!r}") for name, indices in given.items()}
    return {name: text for name, text in texts.items() if text}


def format_indices(indices: Indices, owner: str) -> str:
    """Indices in any order as sorted text, "0,4-7". Raises ConfigError naming `owner`, such as "rows of 'head'"."""
    if isinstance(indices, str):
        return format_indices(parse_indices(indices, owner), owner)
    found = indices.tolist() if isinstance(indices, torch.Tensor) else list(indices)
    if wrong := [i for i in found if not isinstance(i, int) or isinstance(i, bool) or i < 0]:
        msg = f"{owner}: {wrong[:3]} are no indices; give integers from 0"
        raise ConfigError(msg)
    ordered = sorted(found)
    if twice := [a for a, b in pairwise(ordered) if a == b]:
        msg = f"{owner}: {twice[:3]} are given more than once; give every index once"
        raise ConfigError(msg)
    starts = [i for n, i in enumerate(ordered) if n == 0 or ordered[n - 1] != i - 1]
    ends = [i for n, i in enumerate(ordered) if n + 1 == len(ordered) or ordered[n + 1] != i + 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def parse_indices(text: str, owner: str) -> list[int]:
    """The indices that "0,4-7" stands for. Raises ConfigError naming `owner`."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            msg = f"{owner}: {part!r} is neither an index nor a range such as 4-7"
            raise ConfigError(msg)
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found
