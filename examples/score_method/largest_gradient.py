"""A score of neurons: the largest gradient among a row's weights, where LEAML's own add them up."""

from torch import Tensor

from leaml.score_methods import ScoreMethod


def largest(d: Tensor, w: Tensor) -> Tensor:
    """Gradients d (examples, rows, inputs), weights w (rows, inputs) -> scores (examples, rows)."""
    return d.abs().amax(-1)


largest_gradient = ScoreMethod("largest_gradient", "max |g|", "gradients", largest)
