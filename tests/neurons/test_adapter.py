"""The row adapter against dense training with projected gradients, in float64."""

import copy

import pytest
import torch
from torch import nn

from leaml.neurons import adapter
from leaml.neurons.selection import Selection

STEPS = 12


class Net(nn.Module):
    """A small network with and without biases, a nested module and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8, bias=False)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.nn.functional.silu(layer(x))
        return self.head(self.norm(x))


SELECTED: Selection = {"layers.0": torch.tensor([1, 4, 7]), "layers.1": torch.tensor([0, 5]), "head": torch.tensor([2])}
EVERYTHING: Selection = {name: torch.arange(8) for name in ("layers.0", "layers.1")} | {"head": torch.arange(4)}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(5, 3, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 4, (15,), generator=generator)


def train(
    net: nn.Module, parameters: list[nn.Parameter], decay: float = 0.0, mask: dict[str, torch.Tensor] | None = None
) -> None:
    """AdamW with clipping; `mask` zeroes gradients by parameter name before clipping."""
    optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=decay)
    for step in range(STEPS):
        inputs, targets = data(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs).flatten(0, 1), targets).backward()
        for name, parameter in net.named_parameters() if mask is not None else ():
            parameter.grad *= mask[name]
        nn.utils.clip_grad_norm_(parameters, 0.3)
        optimizer.step()


def masks(net: Net, selection: Selection) -> dict[str, torch.Tensor]:
    """1 where an entry of a parameter is a selected row's, 0 elsewhere."""
    found = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for name, rows in selection.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in found:
                found[f"{name}.{kind}"][rows] = 1
    return found


def test_equals_dense_training_with_gradients_projected_to_the_rows(net: Net) -> None:
    dense, start = copy.deepcopy(net), copy.deepcopy(net)
    train(dense, list(dense.parameters()), mask=masks(dense, SELECTED))
    train(net, adapter.attach(net, SELECTED))
    adapter.merge(net)
    for (name, expected), (_, found) in zip(dense.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=name)
    for module, rows in SELECTED.items():
        moved = net.get_submodule(module).weight - start.get_submodule(module).weight
        assert moved[rows].abs().min(1).values.min() > 0


def test_all_rows_equal_full_fine_tuning_of_those_modules(net: Net) -> None:
    dense = copy.deepcopy(net)
    dense.norm.requires_grad_(False)
    train(dense, [p for p in dense.parameters() if p.requires_grad])
    train(net, adapter.attach(net, EVERYTHING))
    adapter.merge(net)
    for (name, expected), (_, found) in zip(dense.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=name)


def test_no_rows_train_nothing(net: Net) -> None:
    before = copy.deepcopy(net.state_dict())
    assert adapter.attach(net, {}) == []
    assert not any(p.requires_grad for p in net.parameters())
    adapter.merge(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unselected_entries_stay_bit_identical(net: Net, dtype: torch.dtype) -> None:
    before = copy.deepcopy(net).to(dtype).state_dict()
    net = net.to(dtype)
    optimizer = torch.optim.AdamW(adapter.attach(net, SELECTED), lr=0.02, weight_decay=0.1)
    for step in range(STEPS):
        inputs, targets = data(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs.to(dtype)).flatten(0, 1), targets).backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.3)
        optimizer.step()
    adapter.merge(net)
    free = masks(Net(), SELECTED)
    for name, value in net.state_dict().items():
        selected = free[name].bool()
        assert torch.equal(value[~selected], before[name][~selected]), name
        assert not selected.any() or not torch.equal(value[selected], before[name][selected]), name


def test_trainable_entries_and_optimizer_state_are_the_rows_alone(net: Net) -> None:
    parameters = adapter.attach(net, SELECTED)
    assert sum(p.numel() for p in parameters) == 3 * 6 + 3 + 2 * 8 + 1 * 8 + 1
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in parameters}
    train(net, parameters)
    assert all(p.grad is None for n, p in net.named_parameters() if "delta" not in n)


def test_merged_and_unmerged_logits_agree(net: Net) -> None:
    plain = copy.deepcopy(net)
    inputs, _ = data(99)
    parameters = adapter.attach(net, SELECTED)
    torch.testing.assert_close(net(inputs), plain(inputs), rtol=0, atol=0)  # a fresh adapter changes nothing
    train(net, parameters)
    unmerged = net(inputs)
    assert (unmerged - plain(inputs)).abs().max() > 1e-3
    adapter.merge(net)
    torch.testing.assert_close(net(inputs), unmerged, rtol=1e-12, atol=1e-12)
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]
    assert list(net.state_dict()) == list(plain.state_dict())


def test_bias_rows_are_trained_with_their_weights_and_no_others(net: Net) -> None:
    before = net.head.bias.detach().clone()
    wrapped_without_bias = adapter.attach(copy.deepcopy(net), {"layers.1": torch.tensor([3])})
    assert len(wrapped_without_bias) == 1
    train(net, adapter.attach(net, {"head": torch.tensor([0, 2])}))
    adapter.merge(net)
    moved = (net.head.bias - before).abs() > 0
    assert moved.tolist() == [True, False, True, False]
