"""A Linear of which chosen rows are trained, at the cost of the Linear itself plus those rows' gradient.

    W' = W;  W'[rows] += delta;  y = x W'^T + b'

The deltas are added to the rows of the base weight itself for the length of one matrix product, in forward and again in
backward, and the rows are put back bit for bit after it. So the product is one dense GEMM of the base's size (a second one for
the deltas alone would cost their share of it twice, in forward and in the input's gradient), nothing but the deltas is kept,
the base is the base whenever anyone looks, and what is trained is exactly what a merge gives.

The price: the base weight must be writable memory that no other thread uses at the same time, and for a few tokens at a time,
as in generation, the copying costs more than it saves: merge first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from leaml.errors import ModelError


def _summed(base: Tensor, rows: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """`(before, after)` of the chosen rows of `base`, in its type; the sum is taken in the more precise type of the two."""
    before = base.index_select(0, rows)
    return before, (before + delta).to(base.dtype)


def _with_rows(weight: Tensor, rows: Tensor, delta: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """`product(W')`, where W' is `weight` (out, in) with `delta` (k, in) added to its `rows` (k,)."""
    base = weight.data  # has a version counter of its own: graphs that saved the weight find it as it was
    before, after = _summed(base, rows, delta)
    if torch.compiler.is_compiling():  # a graph would copy the whole weight out and back
        return product(base.index_copy(0, rows, after))
    base.index_copy_(0, rows, after)
    try:
        return product(base)
    finally:
        base.index_copy_(0, rows, before)


class RowLinear(torch.autograd.Function):
    """x (..., in), delta (k, in), delta_bias (k,) or None, weight (out, in), bias (out,) or None, rows (k,) -> (..., out).

    Differentiable once, in x, delta and delta_bias. Saves x for the gradient of delta only, and in the type it came in, so
    that Linears of one input share it under autocast too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, delta_bias: Tensor | None, weight: Tensor, bias: Tensor | None, rows: Tensor
    ) -> Tensor:
        if bias is not None and delta_bias is not None:
            bias = bias.index_copy(0, rows, _summed(bias, rows, delta_bias)[1])
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, delta, weight, rows)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if delta_bias is None else delta_bias.dtype
        return _with_rows(weight, rows, delta, lambda w: linear(x, w, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, weight, rows = ctx.saved_tensors
        for_x, for_delta, for_bias = ctx.needs_input_grad[:3]
        dx = d_delta = d_bias = None
        if for_delta or for_bias:
            chosen = g.reshape(-1, g.shape[-1]).index_select(1, rows)  # (tokens, k)
            if for_delta:
                d_delta = (chosen.t() @ x.reshape(-1, x.shape[-1]).to(g.dtype)).to(delta.dtype)
            if for_bias:
                d_bias = chosen.sum(0, dtype=ctx.bias_dtype)
        if for_x:
            dx = _with_rows(weight, rows, delta, lambda w: g @ w.to(g.dtype)).to(ctx.x_dtype)
        return dx, d_delta, d_bias, None, None, None


class NeuronLinear(nn.Module, BaseTunerLayer):
    """An `nn.Linear` with neuron adapters. Hooks on the Linear itself are not called; put them on this module.

    Of every adapter it holds the sorted rows (k,), `neuron_delta` (k, in) and, where bias entries are trained, `neuron_bias`
    (k,). Active adapters add up.
    """

    adapter_layer_names = ("neuron_delta", "neuron_bias")
    other_param_names = ("neuron_rows",)

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.neuron_delta, self.neuron_bias = nn.ParameterDict(), nn.ParameterDict()
        self.neuron_rows = BufferDict()
        self.merged_adapters = []
        self._before: dict[str, tuple[Tensor, Tensor | None]] = {}
        """Rows and bias entries that merged adapters replaced, so that unmerging gives every bit back."""

    def add(self, adapter: str, rows: Tensor, train_bias: bool, inference_mode: bool) -> None:
        """Give the layer an adapter whose deltas are zero, in the base's type and on its device; `rows` must fit."""
        weight, bias = self.base_layer.weight, self.base_layer.bias
        self.neuron_rows[adapter] = rows.to(weight.device)
        self.neuron_delta[adapter] = nn.Parameter(weight.new_zeros(len(rows), self.in_features))
        if train_bias and bias is not None:
            self.neuron_bias[adapter] = nn.Parameter(bias.new_zeros(len(rows)))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT calls this after loading; its own would round float32 deltas to the type of a half-precision base."""
        device = device or self.base_layer.weight.device
        self.neuron_rows[adapter_name] = self.neuron_rows[adapter_name].to(device)
        for parameters in (self.neuron_delta, self.neuron_bias):
            if adapter_name in parameters:
                parameters[adapter_name].data = parameters[adapter_name].data.to(device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.neuron_delta]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        rows, delta, delta_bias = self._single(active[0]) if len(active) == 1 else self._sum(active)
        return RowLinear.apply(x, delta, delta_bias, self.base_layer.weight, self.base_layer.bias, rows)

    def _single(self, adapter: str) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.neuron_rows[adapter], self.neuron_delta[adapter], self.neuron_bias.get(adapter)

    def _sum(self, adapters: list[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Several adapters as one over the union of their rows."""
        rows = torch.unique(torch.cat([self.neuron_rows[name] for name in adapters]))
        first = self.neuron_delta[adapters[0]]
        delta, delta_bias = first.new_zeros(len(rows), self.in_features), first.new_zeros(len(rows))
        for name in adapters:
            places = torch.searchsorted(rows, self.neuron_rows[name])
            delta = delta.index_add(0, places, self.neuron_delta[name].to(delta.dtype))
            if name in self.neuron_bias:
                delta_bias = delta_bias.index_add(0, places, self.neuron_bias[name].to(delta.dtype))
        return rows, delta, delta_bias if any(name in self.neuron_bias for name in adapters) else None

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the deltas of the active (or given) adapters to the base's rows until `unmerge`.

        Raises:
            ModelError: the base is sharded, or with `safe_merge` a merged weight is not finite.
        """
        weight, bias = self.base_layer.weight, self.base_layer.bias
        if isinstance(weight, DTensor):
            msg = "a sharded base cannot be merged; save the adapter, then load and merge it in one process"
            raise ModelError(msg)
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.neuron_delta:
                continue
            rows, delta, delta_bias = self._single(name)
            before, after = _summed(weight.data, rows, delta)
            bias_before, bias_after = _summed(bias.data, rows, delta_bias) if delta_bias is not None else (None, None)
            if safe_merge and not all(torch.isfinite(t).all() for t in (after, bias_after) if t is not None):
                msg = f"adapter {name!r} has weights that are not finite, so it was not merged; look at its training"
                raise ModelError(msg)
            self._before[name] = before, bias_before
            weight.data.index_copy_(0, rows, after)
            if bias_after is not None:
                bias.data.index_copy_(0, rows, bias_after)
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo all merges, the last first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            for base, before in zip((self.base_layer.weight, self.base_layer.bias), self._before.pop(name), strict=True):
                if before is not None:  # the model may have moved since
                    base.data.index_copy_(0, self.neuron_rows[name], before.to(base))

    def extra_repr(self) -> str:
        return "rows=" + repr({name: len(rows) for name, rows in self.neuron_rows.items()})
