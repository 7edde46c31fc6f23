"""A Linear of which chosen rows and columns are trained, at the cost of the Linear itself plus their gradient.

    W' = W;  W'[rows] += delta;  W'[:, columns] += column_delta;  y = x W'^T + b'

The deltas are added to the base weight itself for the length of one matrix product, in forward and again in backward, and what
was there is put back bit for bit after it. So the product is one dense GEMM of the base's size (a second one for the deltas
alone would cost their share of it twice, in forward and in the input's gradient), nothing but the deltas is kept, the base is
the base whenever anyone looks, and what is trained is exactly what a merge gives.

An entry in a trained row and in a trained column is trained once, as the row's: its place in `column_delta` gets no gradient
and stays 0. Otherwise it would take two steps of the optimizer at once, and not be what dense training of these entries gives.

The price: the base weight must be writable memory that no other thread uses at the same time, and for a few tokens at a time,
as in generation, the copying takes longer than the product: merge first. A training whose step is many products holds the
deltas in the base from its first to its last (`NeuronLinear.hold`), at the price of a copy of what they replace.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from leaml import _compat
from leaml.errors import ModelError


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


def _summed(base: Tensor, dim: int, indices: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """`(before, after)` of the chosen part of `base`, in its type; the sum is taken in the more precise type of the two."""
    before = base.index_select(dim, indices)
    return before, (before + delta).to(base.dtype)


Replaced = list[tuple[int, Tensor, Tensor]]
"""(dimension, indices, what was there before), in the order in which it was replaced."""


def _put_in(base: Tensor, deltas: Deltas, replaced: Replaced) -> None:
    """Add the deltas to `base` in place, and what was there to `replaced`."""
    for dim, indices, delta in deltas.of_weight():
        before, after = _summed(base, dim, indices, delta)
        replaced.append((dim, indices, before))
        base.index_copy_(dim, indices, after)


def _put_back(base: Tensor, replaced: Replaced) -> None:
    for dim, indices, before in reversed(replaced):
        base.index_copy_(dim, indices, before)


def with_deltas(weight: Tensor, deltas: Deltas, product: Callable[[Tensor], Tensor]) -> Tensor:
    """`product(W')`, where W' is `weight` (out, in) with the deltas added."""
    base = weight.data  # has a version counter of its own: graphs that saved the weight find it as it was
    if torch.compiler.is_compiling():  # a graph would copy the whole weight out and back
        for dim, indices, delta in deltas.of_weight():
            base = base.index_copy(dim, indices, _summed(base, dim, indices, delta)[1])
        return product(base)
    replaced: Replaced = []
    try:
        _put_in(base, deltas, replaced)
        return product(base)
    finally:
        _put_back(base, replaced)


WithDeltas = Callable[[Tensor, Deltas, Callable[[Tensor], Tensor]], Tensor]


def _pointers(deltas: Deltas) -> list[int]:
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
        summed: WithDeltas,
        saved: Tensor | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parts: Tensor | None,
    ) -> Tensor:
        deltas = Deltas(*parts)
        if bias is not None and deltas.bias is not None and deltas.rows is not None:
            bias = bias.index_copy(0, deltas.rows, _summed(bias, 0, deltas.rows, deltas.bias)[1])
        ctx.saved = None if saved is None else saved.grad_fn
        if ctx.saved is None:
            _save(ctx, ctx.needs_input_grad[5:], x, weight, deltas)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if deltas.bias is None else deltas.bias.dtype
        ctx.summed = summed
        return summed(weight, deltas, lambda w: linear(x, w, bias))

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
            dx = ctx.summed(weight, deltas, lambda w: g @ w.to(g.dtype)).to(ctx.x_dtype)
        return None, None, dx, None, None, None, d_delta, d_bias, None, d_columns


class NeuronLinear(nn.Module, BaseTunerLayer):
    """An `nn.Linear` with neuron adapters. Hooks on the Linear itself are not called; put them on this module.

    Of every adapter it holds, where the adapter has them, the sorted rows (k,) with `neuron_delta` (k, in) and, where bias
    entries are trained, `neuron_bias` (k,), and the sorted columns (c,) with `neuron_column_delta` (out, c). Active adapters
    add up.
    """

    adapter_layer_names = ("neuron_delta", "neuron_bias", "neuron_column_delta")
    other_param_names = ("neuron_rows", "neuron_columns")

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.neuron_delta, self.neuron_bias, self.neuron_column_delta = (nn.ParameterDict() for _ in range(3))
        self.neuron_rows, self.neuron_columns = _compat.buffer_dict(), _compat.buffer_dict()
        self.merged_adapters = []
        self._before: dict[str, list[Tensor]] = {}
        """What merged adapters replaced, in the order of `_changes`, so that unmerging gives every bit back."""
        self._held: Replaced = []
        """What deltas have replaced in the base while they are held there."""
        self._holds: list[int] = []
        """Where the values of these deltas are."""

    def add(self, adapter: str, rows: Tensor, columns: Tensor, train_bias: bool, inference_mode: bool) -> None:
        """Give the layer an adapter whose deltas are zero, in the base's type and on its device.

        Args:
            adapter: Its name.
            rows: Sorted indices below `out_features`; may be empty.
            columns: Sorted indices below `in_features`; may be empty.
            train_bias: Train the rows' bias entries too.
            inference_mode: Leave it frozen.
        """
        weight, bias = self.base_layer.weight, self.base_layer.bias
        if len(rows):
            self.neuron_rows[adapter] = rows.to(weight.device)
            self.neuron_delta[adapter] = nn.Parameter(weight.new_zeros(len(rows), self.in_features))
            if train_bias and bias is not None:
                self.neuron_bias[adapter] = nn.Parameter(bias.new_zeros(len(rows)))
        if len(columns):
            self.neuron_columns[adapter] = columns.to(weight.device)
            self.neuron_column_delta[adapter] = nn.Parameter(weight.new_zeros(self.out_features, len(columns)))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def indices(self, adapter: str) -> dict[str, Tensor]:
        """The "rows" and "columns" of an adapter, those that it has."""
        found = {"rows": self.neuron_rows, "columns": self.neuron_columns}
        return {kind: indices[adapter] for kind, indices in found.items() if adapter in indices}

    def parameter_dicts(self) -> list[nn.ParameterDict]:
        """Everything that adapters train, by kind, each by adapter."""
        return [getattr(self, name) for name in self.adapter_layer_names]

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT calls this after loading; its own would round float32 deltas to the type of a half-precision base."""
        device = device or self.base_layer.weight.device
        for indices in (self.neuron_rows, self.neuron_columns):
            if adapter_name in indices:
                indices[adapter_name] = indices[adapter_name].to(device)
        for parameters in self.parameter_dicts():
            if adapter_name in parameters:
                parameters[adapter_name].data = parameters[adapter_name].data.to(device)

    @torch.no_grad()
    def hold(self) -> None:
        """Put the deltas into the base until `release`, as a step of accumulated gradients does before its first pass.

        Until then their values must stay, and products find them there instead of putting them in and out, forward, backward
        and when activations are computed again. A copy of the rows and columns of the base is kept meanwhile. A base that is
        merged, sharded, used without adapters or with several stays as it is.
        """
        self.release()
        active = self._active()
        if self.merged or self.disable_adapters or len(active) != 1 or isinstance(self.base_layer.weight, DTensor):
            return
        deltas = self._single(active[0])
        self._holds = _pointers(deltas)
        _put_in(self.base_layer.weight.data, deltas, self._held)

    def release(self) -> None:
        """Give the base back every bit that `hold` has replaced."""
        _put_back(self.base_layer.weight.data, self._held)
        self._held, self._holds = [], []

    def with_deltas(self, weight: Tensor, deltas: Deltas, product: Callable[[Tensor], Tensor]) -> Tensor:
        """`product(W')`, where W' is `weight` (out, in), the base's, with the deltas added, or held already."""
        if self._held and self._holds == _pointers(deltas):
            return product(weight.data)
        self.release()  # others are held, such as those of an adapter that was active before
        return with_deltas(weight, deltas, product)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = self._active()
        if self.disable_adapters or self.merged or not active:
            self.release()
            return self.base_layer(x, *args, **kwargs)
        deltas = self._single(active[0]) if len(active) == 1 else self._sum(active)
        weight, bias = self.base_layer.weight, self.base_layer.bias
        saved = None if torch.compiler.is_compiling() else Saved.apply(x, weight, *deltas)
        return NeuronProduct.apply(self.with_deltas, saved, x, weight, bias, *deltas)

    def _active(self) -> list[str]:
        return [name for name in self.active_adapters if self.indices(name)]

    def _single(self, adapter: str) -> Deltas:
        indices = self.indices(adapter)
        delta, bias, column_delta = (parameters.get(adapter) for parameters in self.parameter_dicts())
        return Deltas(indices.get("rows"), delta, bias, indices.get("columns"), column_delta)

    def _sum(self, adapters: list[str]) -> Deltas:
        """Several adapters as one over the union of their rows and of their columns."""
        parts = [self._single(name) for name in adapters]
        rows, columns = _union([p.rows for p in parts]), _union([p.columns for p in parts])
        return Deltas(
            rows,
            _added(rows, [(p.rows, p.delta) for p in parts], 0),
            _added(rows, [(p.rows, p.bias) for p in parts], 0),
            columns,
            _added(columns, [(p.columns, p.column_delta) for p in parts], 1),
        )

    def _changes(self, adapter: str) -> list[tuple[Tensor, int, Tensor, Tensor]]:
        """What merging an adapter changes, in order: (tensor of the base, dimension, indices, delta)."""
        deltas = self._single(adapter)
        found = [(self.base_layer.weight.data, *change) for change in deltas.of_weight()]
        if deltas.rows is not None and deltas.bias is not None:
            found.append((self.base_layer.bias.data, 0, deltas.rows, deltas.bias))
        return found

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the deltas of the active (or given) adapters to the base until `unmerge`.

        Raises:
            ModelError: the base is sharded, or with `safe_merge` a merged weight is not finite.
        """
        if isinstance(self.base_layer.weight, DTensor):
            msg = "a sharded base cannot be merged; save the adapter, then load and merge it in one process"
            raise ModelError(msg)
        self.release()
        for name in check_adapters_to_merge(self, adapter_names):
            if not self.indices(name):
                continue
            changes = self._changes(name)
            afters = [_summed(*change)[1] for change in changes] if safe_merge else []
            if not all(torch.isfinite(after).all() for after in afters):
                msg = f"adapter {name!r} has weights that are not finite, so it was not merged; look at its training"
                raise ModelError(msg)
            self._before[name] = []
            for base, dim, indices, delta in changes:
                before, after = _summed(base, dim, indices, delta)
                base.index_copy_(dim, indices, after)
                self._before[name].append(before)
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo all merges, the last first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            changes = zip(self._changes(name), self._before.pop(name), strict=True)
            for (base, dim, indices, _), before in reversed(list(changes)):
                base.index_copy_(dim, indices, before.to(base))  # the model may have moved since

    def extra_repr(self) -> str:
        counts = [{name: len(i) for name, i in indices.items()} for indices in (self.neuron_rows, self.neuron_columns)]
        return "rows={}, columns={}".format(*counts)


def _union(indices: list[Tensor | None]) -> Tensor | None:
    """All indices once, sorted."""
    given = [i for i in indices if i is not None]
    return torch.unique(torch.cat(given)) if given else None


def _added(union: Tensor | None, parts: list[tuple[Tensor | None, Tensor | None]], dim: int) -> Tensor | None:
    """Deltas of some indices each, along `dim`, as one delta of all indices in `union`; None if none has any."""
    given = [(indices, delta) for indices, delta in parts if indices is not None and delta is not None]
    if union is None or not given:
        return None
    first = given[0][1]
    total = first.new_zeros([len(union) if d == dim else size for d, size in enumerate(first.shape)])
    for indices, delta in given:
        total = total.index_add(dim, torch.searchsorted(union, indices), delta.to(total.dtype))
    return total
