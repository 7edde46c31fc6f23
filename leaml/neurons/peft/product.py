"""The product of a Linear whose weight has neuron deltas added for its length, and its gradients.

The sum is put into the base weight itself and taken out again bit for bit (`leaml.neurons.peft.layer` says why).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class Deltas(NamedTuple):
    """What an adapter trains of a Linear; None where it has no such part."""

    rows: Tensor | None
    """(k,), sorted."""
    delta: Tensor | None
    """(k, in), added to the rows."""
    bias: Tensor | None
    """(k,), added to the rows' bias entries."""
    columns: Tensor | None
    """(c,), sorted."""
    column_delta: Tensor | None
    """(out, c), added to the columns."""

    def of_weight(self) -> list[tuple[int, Tensor, Tensor]]:
        """(dimension, indices, delta) in the order in which they are added."""
        found = ((0, self.rows, self.delta), (1, self.columns, self.column_delta))
        return [(dim, indices, delta) for dim, indices, delta in found if indices is not None and delta is not None]


def summed(base: Tensor, dim: int, indices: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """`(before, after)` of the chosen part of `base`, in its type; the sum is taken in the more precise type of the two."""
    before = base.index_select(dim, indices)
    return before, (before + delta).to(base.dtype)


Replaced = list[tuple[int, Tensor, Tensor]]
"""(dimension, indices, what was there before), in the order in which it was replaced."""


def put_in(base: Tensor, deltas: Deltas, replaced: Replaced) -> None:
    """Add the deltas to `base` in place, and what was there to `replaced`."""
    for dim, indices, delta in deltas.of_weight():
        before, after = summed(base, dim, indices, delta)
        replaced.append((dim, indices, before))
        base.index_copy_(dim, indices, after)


def put_back(base: Tensor, replaced: Replaced) -> None:
    for dim, indices, before in reversed(replaced):
        base.index_copy_(dim, indices, before)


def with_deltas(weight: Tensor, deltas: Deltas, product: Callable[[Tensor], Tensor]) -> Tensor:
    """`product(W')`, where W' is `weight` (out, in) with the deltas added."""
    base = weight.data  # has a version counter of its own: graphs that saved the weight find it as it was
    if torch.compiler.is_compiling():  # a graph would copy the whole weight out and back
        for dim, indices, delta in deltas.of_weight():
            base = base.index_copy(dim, indices, summed(base, dim, indices, delta)[1])
        return product(base)
    replaced: Replaced = []
    try:
        put_in(base, deltas, replaced)
        return product(base)
    finally:
        put_back(base, replaced)


WithDeltas = Callable[[Tensor, Deltas, Callable[[Tensor], Tensor]], Tensor]


def pointers(deltas: Deltas) -> list[int]:
    """They tell deltas from others, also as autograd gives them back."""
    return [delta.data_ptr() for _, _, delta in deltas.of_weight()]


def _save(ctx: Any, needed: tuple[bool, ...], x: Tensor, weight: Tensor, deltas: Deltas) -> None:
    """Save what gradients of the deltas need and nothing else.

    That is x in the type it came in, so that Linears of one input share it under autocast too, or where columns alone are
    trained those columns of x.

    Args:
        ctx: Of the function that saves it.
        needed: Which of the five parts of `Deltas` get a gradient.
        x: Input of the product.
        weight: The base.
        deltas: All of them.
    """
    _, for_delta, _, _, for_columns = needed
    kept = x if for_delta else None
    if for_columns and not for_delta and deltas.columns is not None:
        kept = x.index_select(-1, deltas.columns)
    ctx.save_for_backward(kept, weight, *deltas._replace(bias=None))


class Saved(torch.autograd.Function):
    """x, weight, the five parts of `Deltas` -> an empty tensor, whose node has saved what `NeuronProduct` needs in backward.

    A function of Python saves when its forward is through. Where activations are computed again PyTorch stops at the last thing
    that was saved: with this before the product, the last product of a layer, which nobody needs, is not computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *parts: Tensor | None) -> Tensor:
        _save(ctx, ctx.needs_input_grad[2:], x, weight, Deltas(*parts))
        return x.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[None, ...]:
        return (None,) * 7


class NeuronProduct(torch.autograd.Function):
    """x (..., in), weight (out, in), bias (out,) or None, then the five parts of `Deltas` -> (..., out).

    Before all of them come `with_deltas`, or a layer's own, which may hold them, and what `Saved` gave; None: this saves it
    itself. Differentiable once, in x and the deltas.
    """

    @staticmethod
    def forward(
        ctx: Any,
        adding: WithDeltas,
        saved: Tensor | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parts: Tensor | None,
    ) -> Tensor:
        deltas = Deltas(*parts)
        if bias is not None and deltas.bias is not None and deltas.rows is not None:
            bias = bias.index_copy(0, deltas.rows, summed(bias, 0, deltas.rows, deltas.bias)[1])
        ctx.saved = None if saved is None else saved.grad_fn
        if ctx.saved is None:
            _save(ctx, ctx.needs_input_grad[5:], x, weight, deltas)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if deltas.bias is None else deltas.bias.dtype
        ctx.adding = adding
        return adding(weight, deltas, lambda w: linear(x, w, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parts = (ctx.saved or ctx).saved_tensors
        deltas: Any = Deltas(*parts)
        for_x, (_, for_delta, for_bias, _, for_columns) = ctx.needs_input_grad[2], ctx.needs_input_grad[5:]
        dx = d_delta = d_bias = d_columns = None

        flat = g.reshape(-1, g.shape[-1])
        inputs: Any = None if x is None else x.reshape(-1, x.shape[-1]).to(g.dtype)

        if for_delta or for_bias:
            chosen = flat.index_select(1, deltas.rows)  # (tokens, k)
            if for_delta:
                d_delta = (chosen.t() @ inputs).to(deltas.delta.dtype)
            if for_bias:
                d_bias = chosen.sum(0, dtype=ctx.bias_dtype)

        if for_columns:
            read = inputs.index_select(1, deltas.columns) if for_delta else inputs  # (tokens, c)
            d_columns = (flat.t() @ read).to(deltas.column_delta.dtype)
            if for_delta:
                d_columns.index_fill_(0, deltas.rows, 0)

        if for_x:
            dx = ctx.adding(weight, deltas, lambda w: g @ w.to(g.dtype)).to(ctx.x_dtype)
        return None, None, dx, None, None, None, d_delta, d_bias, None, d_columns
