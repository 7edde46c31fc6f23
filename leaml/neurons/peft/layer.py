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
from typing import Any, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from leaml import _compat
from leaml.errors import ModelError
from leaml.neurons.peft.product import (
    Deltas,
    NeuronProduct,
    Replaced,
    Saved,
    pointers,
    put_back,
    put_in,
    summed,
    with_deltas,
)


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
        self._holds = pointers(deltas)
        put_in(self.base_layer.weight.data, deltas, self._held)

    def release(self) -> None:
        """Give the base back every bit that `hold` has replaced."""
        put_back(self.base_layer.weight.data, self._held)
        self._held, self._holds = [], []

    # Whoever looks at the base, copies, moves or replaces it finds it as it is: nothing is held then.

    def get_base_layer(self) -> nn.Module:
        self.release()
        return super().get_base_layer()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.release()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.release()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.release()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> object:  # for copies and pickles
        self.release()
        return super().__getstate__()

    def with_deltas(self, weight: Tensor, deltas: Deltas, product: Callable[[Tensor], Tensor]) -> Tensor:
        """`product(W')`, where W' is `weight` (out, in), the base's, with the deltas added, or held already."""
        if self._held and self._holds == pointers(deltas):
            return product(weight.data)
        if self._held:
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
            afters = [summed(*change)[1] for change in changes] if safe_merge else []
            if not all(torch.isfinite(after).all() for after in afters):
                msg = f"adapter {name!r} has weights that are not finite, so it was not merged; look at its training"
                raise ModelError(msg)
            self._before[name] = []
            for base, dim, indices, delta in changes:
                before, after = summed(base, dim, indices, delta)
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
