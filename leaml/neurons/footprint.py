"""What a pass that scores neurons takes of memory, told from the model's configuration, as leaml/training/footprint.py does.

Nothing is trained: weights stay in their type, and nothing is computed again. What is kept is the input of every Linear that is
scored, which is that of a training, and beside it what one Linear's norms take (leaml/neurons/gradients.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from leaml import score_methods
from leaml._compat import nonzero_of_meta
from leaml.config import ScoreConfig
from leaml.neurons import scores
from leaml.neurons.gradients import CHUNK, by_gram
from leaml.training.anatomy import Anatomy, Way
from leaml.training.footprint import Extent, Footprint, activations, logits
from leaml.vlm.load import part_of


def footprint(made: Anatomy, one: Extent, score: ScoreConfig, parts: set[str], dtype: str, device: str = "cpu") -> Footprint:
    """What a pass takes.

    Args:
        made: The model.
        one: All examples of the pass.
        score: How neurons are scored.
        parts: Those with modules that are scored; see `scored_parts`.
        dtype: Of the weights, in which everything is computed.
        device: "cpu" or "cuda".
    """
    size = getattr(torch, dtype).itemsize
    way = Way("lora", parts, size, size, made.eager and device == "cpu")
    tokens = {"vision": one.patches, "connector": one.tokens, "language": one.tokens}
    sizes = [(side, tokens[part] // one.examples) for part in parts for side in made.linears.get(part, ())]
    norms = max((_norms(score.method, *side, length, one.examples) for side, length in sizes), default=0)
    sums = 8 * sum(out for (out, _), _ in sizes)  # float64
    return Footprint(size * made.parameters + sums, 0, 0, activations(made, one, way) + norms, logits(made, one, size), 0)


def _norms(method: str, out: int, width: int, tokens: int, examples: int) -> int:
    """Bytes of what `gradients` makes of one Linear: its input and gradient in float32, a chunk of an intermediate result."""
    each = tokens * (tokens + out) if by_gram(score_methods.method(method), tokens, out, width) else out * width
    return 4 * (min(examples * each, max(CHUNK, each)) + min(examples, max(1, CHUNK // each)) * tokens * (out + width))


def scored_parts(model: nn.Module, modules: str) -> set[str]:
    """The parts of a model with modules whose name fully matches an expression."""
    return {str(part_of(name)) for name in scores.selectable(scores.all_linears(model), modules)}


def goes_together(model: Any, modules: str, pair: Mapping[str, torch.Tensor]) -> bool | None:
    """Whether examples are scored together, which is so where no module mixes them; see `scores.vlm_batches`.

    Args:
        model: Without weights; what its vision tower is given is told by sending it two images.
        modules: Expression for the names of what is scored.
        pair: Of two examples, as a collator makes them.

    Returns:
        None where that cannot be told.
    """
    linears = scores.selectable(scores.all_linears(model), modules)
    before = {name: module for name, module in linears.items() if part_of(name) != "language"}
    if before and not scores.have_own_image(pair, 2):
        return False
    seen = _inputs(model, before, pair) if before else {}
    if any(len(shape) != 3 or shape[0] != 2 for shape in seen.values()):
        return False
    return True if seen.keys() == before.keys() else None


class _Whole(TorchFunctionMode):
    """Images without padding: whether masks that have no values hold everywhere is asked, and they do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))


def _inputs(model: Any, linears: Mapping[str, nn.Linear], pair: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Shapes of what modules see when a model without weights makes features of images, as far as it comes."""
    found: dict[str, torch.Size] = {}

    def note(name: str, _: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found[name] = given[0].shape

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in linears.items()]
    # sizes of images and grids of patches keep their values, by which models cut and join
    images = {k: v.to("meta") if k.startswith("pixel") else v for k, v in pair.items() if k.startswith(("pixel", "image"))}
    failures = (NotImplementedError, RuntimeError, TypeError, ValueError)  # what depends on the values of other tensors
    with contextlib.suppress(*failures), nonzero_of_meta(), _Whole(), torch.no_grad():
        model.get_image_features(**images)
    for hook in hooks:
        hook.remove()
    return found
