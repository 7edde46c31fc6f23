"""Trains selected neurons only: each chosen Linear gets a compact row delta, everything else is frozen.

    y = x W^T + b;   y[..., rows] += x delta^T + delta_bias

Unselected weights are never touched, so they stay bit-identical whatever the optimizer does; gradients and optimizer state
exist for the selected rows only.
"""

from __future__ import annotations

import torch
from torch import nn

from leaml.neurons.selection import Selection


class NeuronLinear(nn.Module):
    """A frozen `nn.Linear` whose `rows` are trainable through `delta` (len(rows), in) and, with a bias, `delta_bias`."""

    rows: torch.Tensor

    def __init__(self, base: nn.Linear, rows: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("rows", rows.to(base.weight.device), persistent=False)
        self.delta = nn.Parameter(base.weight.new_zeros(len(rows), base.in_features))
        self.delta_bias = nn.Parameter(base.weight.new_zeros(len(rows))) if base.bias is not None else None

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight; some models read `module.weight.dtype`."""
        return self.base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        change = nn.functional.linear(x, self.delta, self.delta_bias)
        return y.index_add(-1, self.rows, change.to(y.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base Linear with the deltas added to its rows, in place."""
        self.base.weight[self.rows] += self.delta.to(self.base.weight.dtype)
        if self.delta_bias is not None:
            self.base.bias[self.rows] += self.delta_bias.to(self.base.bias.dtype)
        return self.base


def attach(model: nn.Module, selection: Selection) -> list[nn.Parameter]:
    """Freeze `model`, wrap the selected modules and return the trainable parameters."""
    model.requires_grad_(False)
    trainable: list[nn.Parameter] = []
    for name, rows in selection.items():
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear), name
        wrapped = NeuronLinear(base, rows)
        _replace(model, name, wrapped)
        trainable += [p for p in (wrapped.delta, wrapped.delta_bias) if p is not None]
    return trainable


def merge(model: nn.Module) -> nn.Module:
    """Fold every row delta into its Linear and unwrap it; the model has its original structure again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, NeuronLinear):
            _replace(model, name, module.merged())
    return model


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
