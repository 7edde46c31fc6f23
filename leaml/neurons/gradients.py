"""Norms of every example's own weight gradient, from one forward and one backward pass over a batch of examples.

The loss of a batch is the sum of its examples' losses. With x_bt the input of a Linear and g_bt the loss gradient at its output
(example b, token t), the gradient of example b alone with respect to the weight W (out, in) is

    D_b = sum_t g_bt x_bt^T

and its row norms follow without D_b, by the Gram matrix of the inputs (as in per-example clipping, arXiv 1510.01799 and
2205.10683, there for whole matrices):

    |row r of D_b|^2    = g_br^T (X_b X_b^T) g_br       g_br, x_bj: the T values of output r or input j over the tokens
    |column j of D_b|^2 = x_bj^T (G_b G_b^T) x_bj

The Gram matrix costs T^2 (in + out) multiplications an example, D_b itself T in out: each module takes the cheaper way. The
quadratic form loses twice the digits that the sum over tokens cancels; it is computed in float32 (float64 in float64 models)
and clamped at 0. Sums of absolute values have no such form: D_b is made, for as many examples at a time as fit in `CHUNK`,
and freed.

The weights need no gradient: what is kept for the backward pass is the input of each module, as in any training. A module
that is called several times (or shares its weight with another) has its x and g joined over the calls first, since the norm of
a sum is not the sum of norms. A weight that is used without its module being called (nn.MultiheadAttention's out_proj) gets 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from leaml import score_methods
from leaml.errors import StepError
from leaml.score_methods import ScoreMethod

CHUNK = 2**24
"""Most numbers of an intermediate result (64 MiB in float32)."""


@dataclass(frozen=True)
class ExampleBatch:
    """Examples that go through the model together.

    Attributes:
        size: Number of examples.
        losses: Runs the model and returns (size,) losses, each a function of one example alone.
        separate: Whether dimension 0 of the input of the module with this name and input shape counts the examples, in order.
            Not asked when there is a single example, to which everything belongs.
    """

    size: int
    losses: Callable[[], torch.Tensor]
    separate: Callable[[str, torch.Size], bool] = lambda name, shape: True


class MixedExamplesError(Exception):
    """A module sees the tokens or images of a batch in a form that does not tell the examples apart."""


def gradient_sums(
    linears: dict[str, nn.Linear], batch: ExampleBatch, method: str = "squared", columns: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Sum over the examples of a batch of the norm of each row of their weight gradients D_b.

    Args:
        linears: Modules to score, by name. Their `.grad` and `requires_grad` stay as they are.
        batch: The examples.
        method: Name of a score of gradients (leaml.score_methods): "squared" (sum D^2), "absolute" (sum |D|) ...
        columns: Names of modules of which columns are scored instead of rows.

    Returns:
        Name -> float64 (out,), or (in,) for `columns`, on the module's device; zeros for modules the losses do not depend on.

    Raises:
        MixedExamplesError: the examples of this batch cannot be told apart; try them one at a time.
        StepError: a loss is not finite.
    """
    taps = _Taps(linears, batch, score_methods.method(method), columns)
    hooks = [m.register_forward_hook(partial(taps.forward, name), with_kwargs=True) for name, m in linears.items()]
    try:
        losses = batch.losses()
    finally:
        for hook in hooks:
            hook.remove()
    bad = (~torch.isfinite(losses.detach())).nonzero().flatten().tolist()
    if bad:
        msg = f"the loss of example {bad[0]} of {batch.size} is {losses[bad[0]].item()}"
        raise StepError(msg)
    if losses.requires_grad:
        torch.autograd.grad(losses.sum(), [taps.anchor], allow_unused=True)
    return taps.finish()


class _Tap(torch.autograd.Function):
    """Identity on a module's output that, in the backward pass, hands the module's input and output gradient to `record`.

    `anchor` requires a gradient, so the output does too even if everything below is frozen, and nothing further down is
    backpropagated. The input is saved as autograd saves it: freed on the way back, and checked for changes in place.
    """

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, x: torch.Tensor, anchor: torch.Tensor, record: Callable[..., None]
    ) -> torch.Tensor:
        ctx.record = record
        ctx.save_for_backward(x)
        ctx.mark_dirty(output)  # the same tensor, not a view of it: models may go on to change the output in place
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.record(x, gradients[0])
        return gradients[0], None, None, None


class _Taps:
    """Collects input and output gradient of every call of the modules and turns them into norms as soon as all are there."""

    def __init__(
        self, linears: dict[str, nn.Linear], batch: ExampleBatch, method: ScoreMethod, columns: Collection[str]
    ) -> None:
        self.linears, self.batch, self.method, self.columns = linears, batch, method, columns
        self.anchor = torch.zeros((), requires_grad=True)
        first: dict[int, str] = {}
        self.owner = {name: first.setdefault(id(module.weight), name) for name, module in linears.items()}
        self.calls = dict.fromkeys(linears, 0)
        self.pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in linears}
        self.sums: dict[str, torch.Tensor] = {}

    def forward(
        self,
        name: str,
        module: nn.Module,
        args: tuple[torch.Tensor, ...],
        kwargs: dict[str, torch.Tensor],
        output: torch.Tensor,
    ) -> torch.Tensor | None:
        """Forward hook: taps one call of a module."""
        if not torch.is_grad_enabled():
            return None
        x = (args[0] if args else kwargs["input"]).detach()
        if self.batch.size > 1 and not (x.dim() > 1 and len(x) == self.batch.size and self.batch.separate(name, x.shape)):
            msg = f"module {name!r} sees a batch of {self.batch.size} examples as {tuple(x.shape)}"
            raise MixedExamplesError(msg)
        self.calls[self.owner[name]] += 1
        tapped: torch.Tensor = _Tap.apply(output, x, self.anchor, partial(self.record, self.owner[name]))  # type: ignore[no-untyped-call]
        return tapped

    def record(self, name: str, x: torch.Tensor, g: torch.Tensor) -> None:
        """Backward: keeps x (size, T, in) and g (size, T, out) of one call; with the last call the norms are computed."""
        self.pairs[name].append((x.reshape(self.batch.size, -1, x.shape[-1]), g.reshape(self.batch.size, -1, g.shape[-1])))
        if len(self.pairs[name]) == self.calls[name]:
            self._reduce(name)

    def finish(self) -> dict[str, torch.Tensor]:
        """The sums of all modules, also of those with calls that the losses do not depend on."""
        for name, pairs in self.pairs.items():
            if pairs:
                self._reduce(name)
        return {name: self.sums.get(self.owner[name], self._zeros(name)) for name in self.linears}

    def _zeros(self, name: str) -> torch.Tensor:
        module = self.linears[name]
        width = module.in_features if name in self.columns else module.out_features
        return torch.zeros(width, dtype=torch.float64, device=module.weight.device)

    def _reduce(self, name: str) -> None:
        x, g = (torch.cat(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*self.pairs[name], strict=True))
        self.pairs[name] = []
        weight = self.linears[name].weight.detach()
        kept, contracted, weight = (x, g, weight.T) if name in self.columns else (g, x, weight)
        self.sums[name] = _norms(self.method, kept, contracted, weight).double().sum(0)


def by_gram(method: ScoreMethod, tokens: int, rows: int, inputs: int) -> bool:
    """Whether norms of a module are made by Gram matrices of so many tokens, without the gradients themselves."""
    return method.squares and tokens * (rows + inputs) < rows * inputs


def _norms(method: ScoreMethod, a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(B, m) norms of the rows of D_b = sum_t a_bt b_bt^T for a (B, T, m), b (B, T, n) and weight (m, n)."""
    size, tokens, m = a.shape
    n = b.shape[-1]
    gram = by_gram(method, tokens, m, n)
    at_once = max(1, CHUNK // (tokens * (tokens + m) if gram and tokens else m * n))
    exact = torch.promote_types(a.dtype, torch.float32)
    norms = []
    for start in range(0, size, at_once):
        some_a, some_b = (part[start : start + at_once].to(exact) for part in (a, b))
        if gram:
            weighed = (some_b @ some_b.mT) @ some_a
            norms.append(weighed.mul_(some_a).sum(1).clamp_min_(0))
            continue
        gradient = some_a.mT @ some_b
        norms.append(method.rows(gradient, weight.to(exact)))
    return torch.cat(norms)


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """Sum of a float64 vector over all workers of torch.distributed, the same bits on every worker and in every run.

    Gathered, then added in the order of the ranks: the order in which an all-reduce adds is the backend's choice (NCCL picks
    ring or tree by size and topology) and may change from run to run. Without a process group `values` is returned.
    """
    if not torch.distributed.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
