"""Scores against a naive computation: one example at a time, one weight at a time, in float64; workers; controls."""

import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from leaml.config import ModelConfig
from leaml.errors import ConfigError, StepError
from leaml.neurons import scores
from leaml.neurons.gradients import ExampleBatch
from leaml.neurons.scores import Data, Scores
from leaml.neurons.units import feed_forwards
from leaml.vlm import load

Example = tuple[torch.Tensor, int, float]
"""Tokens (T, 5), class, and the sign of the loss."""


class Toy(nn.Module):
    """Two layers, a gated feed-forward block, and a layer that the loss never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(5, 4), nn.Linear(4, 3, bias=False), nn.Linear(4, 2)
        self.mlp = nn.ModuleDict(
            {"gate_proj": nn.Linear(4, 6), "up_proj": nn.Linear(4, 6), "down_proj": nn.Linear(6, 4, bias=False)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = x + self.mlp["down_proj"](torch.nn.functional.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x))
        return self.second(x).mean(1)


@pytest.fixture
def net() -> Toy:
    torch.manual_seed(0)
    return Toy().double().requires_grad_(False)


@pytest.fixture
def examples() -> list[Example]:
    """Seven examples of 3 tokens; the eighth is the first one with its gradient turned round, so that their sum is zero."""
    torch.manual_seed(1)
    rows = [(torch.randn(3, 5).double(), n % 3, 1.0) for n in range(7)]
    return [*rows, (rows[0][0], rows[0][1], -1.0)]


def data_of(net: Toy, examples: Sequence[Example], batch_size: int = 3) -> Data:
    def collate(part: Sequence[Example]) -> ExampleBatch:
        x, target = torch.stack([e[0] for e in part]), torch.tensor([e[1] for e in part])
        sign = torch.tensor([e[2] for e in part], dtype=torch.float64)
        return ExampleBatch(len(part), lambda: sign * nn.functional.cross_entropy(net(x), target, reduction="none"))

    return Data(examples, collate, batch_size)


def linears(net: Toy) -> dict[str, nn.Linear]:
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear)}


def naive(net: Toy, examples: Sequence[Example], term: Callable[[float, float], float], columns: str = "") -> Scores:
    """Mean over examples of the sum over a row's (a column's) weights of `term(gradient, weight)`, by scalar loops."""
    totals = {n: [0.0] * (m.in_features if n == columns else m.out_features) for n, m in linears(net).items()}
    data = data_of(net, examples)
    net.requires_grad_(True)
    for example in examples:
        net.zero_grad()
        data.collate([example]).losses()[0].backward()
        for name, module in linears(net).items():
            if module.weight.grad is None:
                continue
            for row, (gradients, weights) in enumerate(zip(module.weight.grad.tolist(), module.weight.tolist(), strict=True)):
                for column, (g, w) in enumerate(zip(gradients, weights, strict=True)):
                    totals[name][column if name == columns else row] += term(g, w) / len(examples)
    net.zero_grad()
    net.requires_grad_(False)
    return {name: torch.tensor(values).double() for name, values in totals.items()}


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
    net: Toy, examples: list[Example], method: str, term: Callable[[float, float], float]
) -> None:
    rows = scores.score(linears(net), method, data_of(net, examples))
    for name, values in naive(net, examples, term).items():
        assert rows[name].dtype == torch.float32
        torch.testing.assert_close(rows[name].double(), values, rtol=1e-5, atol=1e-12)
    assert rows["first"].abs().min() > 0
    neurons = scores.score(linears(net), method, data_of(net, examples), feed_forwards(linears(net)))
    parts = naive(net, examples, term, "mlp.down_proj")
    expected = parts["mlp.gate_proj"] + parts["mlp.up_proj"] + parts["mlp.down_proj"]
    torch.testing.assert_close(neurons["mlp"].double(), expected, rtol=1e-5, atol=1e-12)
    assert neurons.keys() == {"first", "second", "unused", "mlp"}
    assert torch.equal(neurons["first"], rows["first"])


def test_examples_with_opposite_gradients_do_not_cancel(net: Toy, examples: list[Example]) -> None:
    one = scores.score(linears(net), "squared", data_of(net, examples[:1]))
    both = scores.score(linears(net), "squared", data_of(net, [examples[0], examples[-1]]))
    assert one["first"].min() > 0
    for name in one:
        torch.testing.assert_close(both[name], one[name])


def test_batches_change_nothing_but_the_rounding(net: Toy, examples: list[Example]) -> None:
    one = scores.score(linears(net), "squared", data_of(net, examples, 1))
    for size in (2, 3, 8, 100):
        for name, value in scores.score(linears(net), "squared", data_of(net, examples, size)).items():
            torch.testing.assert_close(value, one[name])


def test_frozen_weights_are_scored_and_left_as_they_are(net: Toy, examples: list[Example]) -> None:
    before = {n: p.clone() for n, p in net.named_parameters()}
    assert scores.score(linears(net), "squared", data_of(net, examples))["first"].sum() > 0
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())


def over_workers(net: Toy, examples: list[Example], world: int, method: str = "squared") -> Scores:
    """What `world` workers compute together: every world-th example each, the sums added up in the order of the ranks."""
    parts: list[torch.Tensor] = []

    def add_up(sums: torch.Tensor) -> torch.Tensor:
        parts.append(sums)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    for rank in range(world - 1):
        scores.score(linears(net), method, data_of(net, examples[rank::world]), add_up=add_up)
    return scores.score(linears(net), method, data_of(net, examples[world - 1 :: world]), add_up=add_up)


@pytest.mark.parametrize("method", ["squared", "absolute", "lowest"])
def test_any_number_of_workers_gives_the_same_scores(net: Toy, examples: list[Example], method: str) -> None:
    """Also 12 workers for 8 examples: those without any add zeros."""
    whole = scores.score(linears(net), method, data_of(net, examples))
    for world in (1, 2, 4, 12):
        found, again = (over_workers(net, examples, world, method) for _ in range(2))
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value)
            assert torch.equal(found[name], again[name])


def test_magnitude_is_the_sum_of_absolute_weights_without_data(net: Toy) -> None:
    found = scores.score(linears(net), "magnitude")
    expected = [sum(abs(w) for w in row) for row in net.first.weight.tolist()]
    torch.testing.assert_close(found["first"].double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    block = scores.score(linears(net), "magnitude", blocks=feed_forwards(linears(net)))["mlp"].double()
    gate, up, down = (net.mlp[n].weight.abs() for n in ("gate_proj", "up_proj", "down_proj"))
    torch.testing.assert_close(block, gate.sum(1) + up.sum(1) + down.sum(0), rtol=1e-6, atol=0)


def test_random_depends_on_the_seed_alone(net: Toy) -> None:
    one, again, other = (scores.score(linears(net), "random", seed=s) for s in (3, 3, 4))
    assert {n: len(v) for n, v in one.items()} == {n: m.out_features for n, m in linears(net).items()}
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["first"], other["first"])
    assert len(set(torch.cat(list(one.values())).tolist())) == 25


def test_random_draws_a_block_like_a_row() -> None:
    """One number per neuron: the sum of its three members' would put blocks before rows in a global selection."""
    wide = {f"mlp.{n}": nn.Linear(2, 3000) for n in ("gate_proj", "up_proj")} | {"mlp.down_proj": nn.Linear(3000, 2)}
    found = scores.score(wide, "random", blocks=feed_forwards(wide))
    assert found.keys() == {"mlp"}
    assert len(found["mlp"]) == 3000
    assert 0.45 < found["mlp"].mean() < 0.55


def test_what_cannot_be_scored_is_refused(net: Toy, examples: list[Example]) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'best'.*squared"):
        scores.score(linears(net), "best", data_of(net, examples))
    for none in (None, data_of(net, [])):
        with pytest.raises(ConfigError, match="'squared' needs labeled examples, got none"):
            scores.score(linears(net), "squared", none)


def test_loss_that_is_not_finite_names_its_example(net: Toy, examples: list[Example]) -> None:
    examples[4] = (torch.full((3, 5), float("nan")).double(), 0, 1.0)
    with pytest.raises(StepError, match=r"example 1 of 3 is nan \(examples 3 to 5\)"):
        scores.score(linears(net), "squared", data_of(net, examples))


def test_gradient_that_is_not_finite_names_its_module(net: Toy, examples: list[Example]) -> None:
    examples[4] = (*examples[4][:2], 1e200)  # the loss is finite, the square of its gradient is not
    with pytest.raises(StepError, match=r"not finite in \S+, so no neuron can be scored"):
        scores.score(linears(net), "squared", data_of(net, examples))


def test_mixed_examples_are_scored_one_by_one_from_then_on(
    net: Toy, examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    """The second batch cannot be told apart: the scores are those of any batches, and there is one warning."""
    plain, sizes = data_of(net, examples), []

    def collate(part: Sequence[Example]) -> ExampleBatch:
        sizes.append(len(part))
        batch = plain.collate(part)
        return ExampleBatch(batch.size, batch.losses, lambda name, shape: len(sizes) == 1)

    with caplog.at_level(logging.WARNING):
        found = scores.score(linears(net), "squared", Data(examples, collate, 3))
    assert sizes == [3, 3, 1, 1, 1, 1, 1]
    for name, value in scores.score(linears(net), "squared", plain).items():
        torch.testing.assert_close(found[name], value)
    (message,) = [r.message for r in caplog.records]
    assert "module 'first' sees a batch of 3 examples as (3, 3, 5)" in message


def test_modules_are_chosen_by_full_match(net: Toy) -> None:
    assert set(scores.selectable(linears(net), "first|second")) == {"first", "second"}
    with pytest.raises(ConfigError, match=r"'fir' matches none of the model's 6 Linear modules \(for example 'first'\)"):
        scores.selectable(linears(net), "fir")


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        (r".*", {"vision", "connector", "language"}),
        (r"(.*\.)?(text_model|language_model)\..*", {"language"}),
        (r"(?!(.*\.)?(vision_model|vision_tower|visual)\.).*", {"connector", "language"}),
    ],
)
def test_the_patterns_that_the_configuration_explains(pattern: str, parts: set[str]) -> None:
    """For the shipped model; parts by `leaml config --explain`."""
    from leaml import config

    explained = next(text for key, _, text in config.explain() if key == "score.modules")
    assert pattern == ".*" or pattern in explained
    model = load.load(ModelConfig()).model
    assert {load.part_of(n) for n in scores.selectable(scores.all_linears(model), pattern)} == parts
