"""Every score of neurons, declared once; configuration, scoring and the PEFT configuration take them from here.

A neuron is an output row of a Linear; D is the gradient of one example's QA loss with respect to its weight matrix W. The
gradient is taken per example before a square or an absolute value, so that examples cannot cancel each other; a score is the
mean over examples.

Packages of others add scores by the entry point group `leaml.score_methods` (docs/how-to/score-method.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from leaml.errors import ConfigError
from leaml.plugins import Plugins

if TYPE_CHECKING:
    from torch import Generator, Tensor

PLUGINS = Plugins("leaml.score_methods", "score method")
Of = Literal["gradients", "weights", "chance"]


@dataclass(frozen=True)
class ScoreMethod:
    """A score; a higher one is chosen first.

    Attributes:
        name: In the configuration.
        meaning: A formula, in a few words.
        of: What `rows` is given. gradients: D (examples, rows, inputs) and W (rows, inputs), for (examples, rows). weights:
            W, for (rows,). chance: the number of neurons and a generator, for (neurons,).
        rows: Scores of rows. Of a neuron that is several rows and columns they are added up.
        squares: Whether `rows` is the sum of D^2, which Gram matrices give without D (leaml.neurons.gradients).
        sign: -1: the lowest are chosen first.
    """

    name: str
    meaning: str
    of: Of
    rows: Callable[..., Tensor]
    squares: bool = False
    sign: float = 1.0


def _squared(d: Tensor, w: Tensor) -> Tensor:
    return d.norm(dim=-1).square()


def _absolute(d: Tensor, w: Tensor) -> Tensor:
    return d.norm(1, dim=-1)


def _gradient_weight(d: Tensor, w: Tensor) -> Tensor:
    return (d * w).norm(1, dim=-1)


def _magnitude(w: Tensor) -> Tensor:
    return w.abs().sum(-1)


def _random(count: int, generator: Generator) -> Tensor:
    import torch

    return torch.rand(count, generator=generator)


BUILTIN = (
    # empirical Fisher per row, as FISH (NeurIPS 2021) and GRFT (arXiv 2507.00016)
    ScoreMethod("squared", "sum g^2", "gradients", _squared, squares=True),
    # sensitivity, as GPS (CVPR 2024), but per example
    ScoreMethod("absolute", "sum |g|", "gradients", _absolute),
    # the first-order Taylor score of pruning
    ScoreMethod("gradient_weight", "sum |g w|", "gradients", _gradient_weight),
    # controls
    ScoreMethod("random", "by chance", "chance", _random),
    ScoreMethod("magnitude", "sum |w|", "weights", _magnitude),
    ScoreMethod("lowest", "least sum g^2", "gradients", _squared, squares=True, sign=-1.0),
)
NAMES = (*(method.name for method in BUILTIN), *PLUGINS.names)
"""What `score.method` may be."""
MEANINGS = "; ".join(f"{method.name}: {method.meaning}" for method in BUILTIN)


@cache
def method(name: str) -> ScoreMethod:
    """The score of this name. Raises ConfigError: there is none, or an installed package has one that cannot be used."""
    for each in BUILTIN:
        if each.name == name:
            return each
    if name not in NAMES:
        msg = f"score.method: unknown method {name!r}; use one of {', '.join(NAMES)}"
        raise ConfigError(msg)
    found: Any = PLUGINS.load(name)
    if not isinstance(found, ScoreMethod):
        raise PLUGINS.unusable(name, f"is no leaml.score_methods.ScoreMethod, but {found!r}")
    if found.name != name:
        raise PLUGINS.unusable(name, f"calls itself {found.name!r}; give the entry point the name of the method")
    return found


def names_of(*kinds: Of) -> tuple[str, ...]:
    """Names of LEAML's own scores of these kinds."""
    return tuple(each.name for each in BUILTIN if each.of in kinds)
