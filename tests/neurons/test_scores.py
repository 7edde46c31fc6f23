"""Scores against a naive computation: one example at a time, one row at a time, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from leaml.errors import ConfigError, StepError
from leaml.neurons import scores
from leaml.neurons.scores import Scores

Losses = list[Callable[[], torch.Tensor]]


class Toy(nn.Module):
    """Two layers, and a third that the loss never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(5, 4), nn.Linear(4, 3, bias=False), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture
def net() -> Toy:
    torch.manual_seed(0)
    return Toy().double()


@pytest.fixture
def losses(net: Toy) -> Losses:
    """Seven examples; the eighth is the first one with its gradient turned round, so that their sum is zero."""
    inputs, targets = torch.randn(7, 5).double(), torch.randint(0, 3, (7,))

    def loss(number: int, sign: float = 1.0) -> Callable[[], torch.Tensor]:
        return lambda: sign * nn.functional.cross_entropy(net(inputs[number]), targets[number])

    return [*(loss(n) for n in range(7)), loss(0, -1.0)]


def linears(net: Toy) -> dict[str, nn.Linear]:
    return {"first": net.first, "second": net.second, "unused": net.unused}


def naive(net: Toy, losses: Losses, term: Callable[[float, float], float]) -> dict[str, list[float]]:
    """Mean over examples of the sum over a row's weights of `term(gradient, weight)`, by scalar loops."""
    totals = {"first": [0.0] * 4, "second": [0.0] * 3, "unused": [0.0] * 2}
    for loss in losses:
        net.zero_grad()
        loss().backward()
        for name in ("first", "second"):
            weight = net.get_submodule(name).weight
            for row in range(weight.shape[0]):
                pairs = zip(weight.grad[row].tolist(), weight[row].tolist(), strict=True)
                totals[name][row] += sum(term(g, w) for g, w in pairs) / len(losses)
    return totals


@pytest.mark.parametrize(
    ("method", "term"),
    [
        ("squared", lambda g, w: g * g),
        ("absolute", lambda g, w: abs(g)),
        ("gradient_weight", lambda g, w: abs(g * w)),
        ("lowest", lambda g, w: -g * g),
    ],
)
def test_gradient_methods_equal_the_naive_computation(
    net: Toy, losses: Losses, method: str, term: Callable[[float, float], float]
) -> None:
    expected = naive(net, losses, term)
    found = scores.score(linears(net), method, losses)
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), torch.tensor(values).double(), rtol=1e-5, atol=1e-12)
    assert found["first"].abs().min() > 0


def test_examples_with_opposite_gradients_do_not_cancel(net: Toy, losses: Losses) -> None:
    one = scores.score(linears(net), "squared", losses[:1])
    both = scores.score(linears(net), "squared", [losses[0], losses[-1]])
    for name in one:
        torch.testing.assert_close(both[name], one[name])


def test_frozen_weights_are_scored_and_left_as_they_are(net: Toy, losses: Losses) -> None:
    net.requires_grad_(False)
    before = {n: p.clone() for n, p in net.named_parameters()}
    assert scores.score(linears(net), "squared", losses)["first"].sum() > 0
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert all(p.grad is None for p in net.parameters())


def test_parts_of_the_examples_average_to_the_whole(net: Toy, losses: Losses) -> None:
    """What several workers compute and all-reduce."""
    whole = scores.score(linears(net), "absolute", losses)
    parts = [(losses[0::3], 3), (losses[1::3], 3), (losses[2::3], 2)]
    found: Scores = {n: torch.zeros_like(v) for n, v in whole.items()}
    for part, size in parts:
        for name, value in scores.score(linears(net), "absolute", part).items():
            found[name] += value * size / 8
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value)


def test_magnitude_is_the_sum_of_absolute_weights_without_data(net: Toy) -> None:
    found = scores.score(linears(net), "magnitude")
    expected = [sum(abs(w) for w in row) for row in net.first.weight.tolist()]
    torch.testing.assert_close(found["first"].double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_random_depends_on_the_seed_alone(net: Toy) -> None:
    one, again, other = (scores.score(linears(net), "random", seed=s) for s in (3, 3, 4))
    assert [len(v) for v in one.values()] == [4, 3, 2]
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["first"], other["first"])
    assert len(set(torch.cat(list(one.values())).tolist())) == 9


def test_what_cannot_be_scored_is_refused(net: Toy, losses: Losses) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'best'.*squared"):
        scores.score(linears(net), "best", losses)
    with pytest.raises(ConfigError, match="needs labeled examples"):
        scores.score(linears(net), "squared", [])


def test_loss_that_is_not_finite_names_its_example(net: Toy, losses: Losses) -> None:
    losses[2] = lambda: net(torch.full((5,), float("nan")).double()).sum()
    with pytest.raises(StepError, match="example 2"):
        scores.score(linears(net), "squared", losses)


def test_modules_are_chosen_by_full_match(net: Toy) -> None:
    assert set(scores.selectable(linears(net), "first|second")) == {"first", "second"}
    with pytest.raises(ConfigError, match=r"'fir' matches none of the model's 3 Linear modules \(for example 'first'\)"):
        scores.selectable(linears(net), "fir")
