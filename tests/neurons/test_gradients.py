"""Norms of per-example gradients from one pass over a batch, against autograd on every example alone, in float64."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from leaml.errors import StepError
from leaml.neurons.gradients import ExampleBatch, MixedExamplesError, gradient_sums, sum_over_workers

TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "squared": lambda g, w: g.square(),
    "absolute": lambda g, w: g.abs(),
    "gradient_weight": lambda g, w: (g * w).abs(),
}
LENGTHS = (9, 4, 1, 7)


def naive(
    linears: dict[str, nn.Linear], losses: Sequence[Callable[[], torch.Tensor]], method: str, columns: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """One example at a time, with dense weight gradients."""
    weights = {n: m.weight for n, m in linears.items()}
    required = {n: w.requires_grad for n, w in weights.items()}
    found = {n: torch.zeros(w.shape[1 if n in columns else 0], dtype=torch.float64) for n, w in weights.items()}
    for w in weights.values():
        w.requires_grad_(True)
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                found[name] += TERMS[method](gradient, weight.detach()).sum(0 if name in columns else 1)
    for name, w in weights.items():
        w.requires_grad_(required[name])
    return found


class Causal(nn.Module):
    """A decoder in small: tokens see the mean of those before them, `shared` is called twice, `unused` never, `frozen_below`
    has nothing under it that needs a gradient."""

    def __init__(self, inner: int = 7) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.below = nn.Linear(6, inner)
        self.shared = nn.Linear(inner, inner, bias=False)
        self.head = nn.Linear(inner, 11)
        self.unused = nn.Linear(3, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.below(self.embed(ids))
        x = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        x = torch.relu_(self.shared(torch.tanh(self.shared(x))))  # in place on a tapped output
        return self.head(x)


def padded(lengths: Sequence[int] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (-100 on padding and on the first tokens) of unequally long examples."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (len(lengths), max(lengths)), generator=generator)
    labels = torch.randint(0, 11, ids.shape, generator=generator)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
        labels[row, : length // 2] = -100
    return ids, labels


def token_losses(net: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = nn.functional.cross_entropy(net(ids).transpose(1, 2), labels, reduction="none")
    return losses.sum(1) / (labels != -100).sum(1)


def linears_of(net: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear)}


def build(kind: type[nn.Module] = Causal, *arguments: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments).double().requires_grad_(False)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("columns", [(), ("shared", "head")])
@pytest.mark.parametrize("method", list(TERMS))
@pytest.mark.parametrize("inner", [7, 90])  # 9 tokens: the gradient itself is cheaper with 7 inputs, the Gram matrix with 90
def test_a_batch_of_unequal_lengths_equals_every_example_alone(inner: int, method: str, columns: tuple[str, ...]) -> None:
    net, (ids, labels) = build(Causal, inner), padded()
    alone = [lambda i=i, n=n: token_losses(net, ids[i : i + 1, :n], labels[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS)]
    expected = naive(linears_of(net), alone, method, columns)
    found = gradient_sums(linears_of(net), ExampleBatch(4, lambda: token_losses(net, ids, labels)), method, columns)
    assert_equal(found, expected)
    assert found["unused"].tolist() == [0.0, 0.0]
    assert all(found[n].min() >= 0 and found[n].max() > 0 for n in ("below", "shared", "head"))


def test_calls_of_one_module_are_summed_before_squaring() -> None:
    """Two calls with opposite gradients: nothing is left, where squares of each would add up."""
    layer = nn.Linear(4, 3).double()
    x = torch.randn(2, 5, 4).double()
    found = gradient_sums({"layer": layer}, ExampleBatch(2, lambda: (layer(x).sin() - layer(x.clone()).sin()).sum((1, 2))))
    assert found["layer"].abs().max() < 1e-20


def test_two_modules_with_one_weight_have_the_gradient_of_the_weight() -> None:
    first, second = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, bias=False).double()
    second.weight = first.weight
    x = torch.randn(3, 5, 4).double()

    def losses(part: torch.Tensor) -> torch.Tensor:
        return second(torch.tanh(first(part))).square().mean((1, 2))

    expected = naive({"first": first}, [lambda i=i: losses(x[i : i + 1])[0] for i in range(3)], "squared")["first"]
    found = gradient_sums({"first": first, "second": second}, ExampleBatch(3, lambda: losses(x)))
    assert_equal(found, {"first": expected, "second": expected})


def test_a_call_that_the_loss_does_not_depend_on_leaves_the_others() -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(2, 5, 4).double()

    def losses() -> torch.Tensor:
        layer(x)
        return layer(x).square().sum((1, 2))

    once = gradient_sums({"layer": layer}, ExampleBatch(2, lambda: layer(x).square().sum((1, 2))))
    assert_equal(gradient_sums({"layer": layer}, ExampleBatch(2, losses)), once)


class Flat(nn.Module):
    """Tokens of all examples in one dimension, as in Qwen's vision tower: (batch * tokens, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x.reshape(-1, 4))).view(len(x), -1)


@pytest.mark.parametrize("method", list(TERMS))
def test_flattened_tokens_are_refused_in_a_batch_and_exact_alone(method: str) -> None:
    net, x = build(Flat), torch.randn(3, 5, 4).double()
    with pytest.raises(MixedExamplesError, match=r"'layer' sees a batch of 3 examples as \(15, 4\)"):
        gradient_sums(linears_of(net), ExampleBatch(3, lambda: net(x).sum(1)), method)
    losses = [lambda i=i: net(x[i : i + 1]).sum() for i in range(3)]
    parts = [
        gradient_sums(linears_of(net), ExampleBatch(1, lambda loss=loss: loss()[None]), method)["layer"] for loss in losses
    ]
    assert_equal({"layer": sum(parts)}, naive(linears_of(net), losses, method))
    assert not net.layer._forward_hooks


def test_calls_without_gradients_are_not_looked_at() -> None:
    """A frozen part of the model, run without gradients, may treat the batch as it likes."""
    net, x = build(Flat), torch.randn(3, 5, 4).double()

    def losses() -> torch.Tensor:
        with torch.no_grad():
            shift = net(x)
        return net.layer(x + shift.view(3, 5, 3)[..., :1]).square().sum((1, 2))

    assert gradient_sums(linears_of(net), ExampleBatch(3, losses))["layer"].min() > 0


def test_a_caller_that_knows_the_batch_can_refuse_a_shape() -> None:
    net, x = build(Flat), torch.randn(5, 1, 4).double()  # as many rows as examples, by chance as far as the shape tells
    refused = ExampleBatch(5, lambda: net(x).sum(1), lambda name, shape: not (name == "layer" and shape == (5, 4)))
    with pytest.raises(MixedExamplesError):
        gradient_sums(linears_of(net), refused)


def test_single_vectors_as_input() -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(4).double()
    found = gradient_sums({"layer": layer}, ExampleBatch(1, lambda: layer(input=x).sin().sum()[None]))
    assert_equal(found, naive({"layer": layer}, [lambda: layer(x).sin().sum()], "squared"))


class _Products(TorchDispatchMode):
    """Shapes of the results of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            self.made.add(tuple(out.shape))
        return out


def products(net: nn.Module, batch: ExampleBatch, method: str) -> set[tuple[int, ...]]:
    with _Products() as mode:
        gradient_sums(linears_of(net), batch, method)
    return mode.made


def test_squared_norms_come_without_any_weight_gradient() -> None:
    """`shared` (90, 90) sees 4 examples of 9 tokens: Gram matrices (4, 9, 9) instead of gradients, frozen weights or not."""
    net, (ids, labels) = build(Causal, 90), padded()
    batch = ExampleBatch(4, lambda: token_losses(net, ids, labels))
    for trainable in (False, True):
        net.requires_grad_(trainable)
        made = products(net, batch, "squared")
        assert (4, 9, 9) in made
        assert not [s for s in made if s[-2:] == (90, 90)]
        assert all(p.grad is None and p.requires_grad == trainable for p in net.parameters())
    assert (4, 90, 90) in products(net, batch, "absolute")


def test_chunks_of_examples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (ids, labels) = build(), padded()
    batch = ExampleBatch(4, lambda: token_losses(net, ids, labels))
    whole = {m: gradient_sums(linears_of(net), batch, m) for m in TERMS}
    monkeypatch.setattr("leaml.neurons.gradients.CHUNK", 1)
    for method, expected in whole.items():
        assert_equal(gradient_sums(linears_of(net), batch, method), expected)
        made = products(net, batch, method)
        assert (1, 7, 7) in made  # one example's gradient at a time
        assert (4, 7, 7) not in made


def test_nothing_is_backpropagated_below_the_lowest_module() -> None:
    net, (ids, labels) = build(), padded()
    net.embed.weight.requires_grad_(True)
    reached: list[str] = []
    net.embed.register_full_backward_hook(lambda *_: reached.append("embed"))
    gradient_sums({"head": net.head}, ExampleBatch(4, lambda: token_losses(net, ids, labels)))
    assert reached == []
    assert net.embed.weight.grad is None


def test_half_precision_is_reduced_in_float32() -> None:
    """Gradients whose squares fall below float16's range."""
    layer = nn.Linear(64, 64, bias=False).half()
    x = torch.full((2, 3, 64), 1e-3, dtype=torch.float16)
    found = gradient_sums({"layer": layer}, ExampleBatch(2, lambda: layer(x).float().sum((1, 2)) * 1e-3))
    assert found["layer"].min() > 0
    torch.testing.assert_close(found["layer"], torch.full((64,), 2 * 64 * (3e-6) ** 2).double(), rtol=1e-2, atol=0)


def test_loss_that_is_not_finite_names_its_example() -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(3, 5, 4).double()
    x[1, 2, 3] = float("nan")
    with pytest.raises(StepError, match="the loss of example 1 of 3 is nan"):
        gradient_sums({"layer": layer}, ExampleBatch(3, lambda: layer(x).sum((1, 2))))
    assert not layer._forward_hooks


def test_input_changed_in_place_is_an_error_not_a_wrong_score() -> None:
    layer = nn.Linear(4, 4, bias=False).double().requires_grad_(False)
    x = torch.randn(2, 5, 4).double()

    def losses() -> torch.Tensor:
        inner = x.clone()
        y = layer(inner)
        inner += 1
        return (y + inner).sum((1, 2))

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient_sums({"layer": layer}, ExampleBatch(2, losses))


def _worker(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(sum_over_workers(torch.load(f"{folder}/part{rank}.pt")), f"{folder}/sum{rank}.pt")
    torch.distributed.destroy_process_group()


def test_workers_add_up_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    """Float64 numbers whose sum depends on the order: every worker has the bits of that very order."""
    parts = [torch.tensor([1e16, 1.0, 0.1]).double(), torch.tensor([1.0, 1e16, 0.2]), torch.tensor([-1e16, -1e16, 0.3])]
    for rank, part in enumerate(parts):
        torch.save(part.double(), tmp_path / f"part{rank}.pt")
    torch.multiprocessing.spawn(_worker, (3, str(tmp_path)), nprocs=3)
    ordered = (parts[0].double() + parts[1].double()) + parts[2].double()
    other = parts[0].double() + (parts[1].double() + parts[2].double())
    assert not torch.equal(ordered, other)
    for rank in range(3):
        assert torch.equal(torch.load(tmp_path / f"sum{rank}.pt"), ordered)
    assert torch.equal(sum_over_workers(parts[0]), parts[0])  # without a process group
