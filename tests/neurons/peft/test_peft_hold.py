"""Deltas that are held in the base for a whole step: the same bits, and a base that is the base for whoever looks at it."""

import copy
import io
from collections.abc import Callable, Iterator

import nets
import pytest
import torch
from nets import adapted, data, gradients, net, randomise
from torch import nn

from leaml.neurons.peft import NeuronLinear
from leaml.training.prepare import held


def held_layers(model: nn.Module) -> list[NeuronLinear]:
    return [m for m in model.modules() if isinstance(m, NeuronLinear) and m._held]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_deltas_held_for_many_passes_give_the_same_bits_and_the_base_comes_back(dtype: torch.dtype) -> None:
    model = adapted(net(dtype))
    randomise(model)
    inputs = data(0)[0].to(dtype)
    expected, alone = gradients(model, *(model(part).square().sum() for part in inputs)), model(inputs)
    with held(model):
        assert len(held_layers(model)) == 3
        assert not torch.equal(model.base_model.model.layers[0].base_layer.weight, net(dtype).layers[0].weight)
        assert torch.equal(model(inputs), alone)
        found = gradients(model, *(model(part).square().sum() for part in inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net(dtype).layers[0].weight)
    assert not held_layers(model)


def test_a_held_base_is_copied_once_for_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(net())
    inputs, _ = data(0)
    copied: list[torch.Tensor] = []
    real = torch.Tensor.index_copy_
    monkeypatch.setattr(torch.Tensor, "index_copy_", lambda self, *given: (copied.append(self), real(self, *given))[1])
    with held(model):
        for part in inputs:
            model(part).sum().backward()
    assert len(copied) == 2 * 3  # in and out, of each layer


def test_a_held_base_is_released_to_whoever_wants_it_otherwise() -> None:
    model = adapted(net())
    model.add_adapter("other", nets.NeuronConfig(rows={"layers.0": [1, 2], "layers.1": [5, 6]}))
    randomise(model)
    randomise(model, adapter="other")
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    model.set_adapter("other", inference_mode=True)
    other = model(inputs)
    model.set_adapter("default")
    with held(model):
        loss = model(inputs).square().sum()
        model.set_adapter("other", inference_mode=True)
        assert torch.equal(model(inputs), other)
        model.set_adapter("default")
        assert all(torch.equal(a, b) for a, b in zip(gradients(model, loss), expected, strict=True))
    with held(model), torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(inputs), net()(inputs))
    with held(model), pytest.raises(RuntimeError, match="shapes"):
        model(torch.zeros(2, 5, dtype=torch.float64))
    with held(model):
        model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of a net without adapters, by name, whatever the adapter calls them."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value.clone()
        for name, value in model.state_dict().items()
        if "neuron" not in name
    }


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "look",
    [
        weights,
        lambda model: weights(copy.deepcopy(model)),
        lambda model: weights(pickled(model)),
        lambda model: weights(model.to(torch.float32).to(torch.float64)),
        lambda model: weights(copy.deepcopy(model.get_base_model().layers[0].get_base_layer())),
        lambda model: weights(model.unload()),
    ],
    ids=["state_dict", "deepcopy", "pickle", "to", "get_base_layer", "unload"],
)
def test_who_looks_at_a_held_base_finds_the_base(look: Callable[[nn.Module], dict[str, torch.Tensor]]) -> None:
    model = adapted(net(torch.float32))
    randomise(model)
    expected = weights(net(torch.float32))
    with held(model):
        found = look(model)
    assert found
    for name, value in found.items():
        (same,) = [w for key, w in expected.items() if key == name or key == f"layers.0.{name}"]
        assert torch.equal(value.float(), same), name


def test_weights_that_are_loaded_while_a_base_is_held_stay() -> None:
    model = adapted(net())
    randomise(model)
    other = {name: value + 1 for name, value in model.state_dict().items()}
    with held(model):
        model.load_state_dict(other)
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


@pytest.fixture
def compiler() -> Iterator[None]:
    """What others have compiled counts towards the limit of the compiler."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
def test_a_compiled_model_that_is_held_adds_its_deltas_once() -> None:
    model = adapted(net())
    randomise(model)
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    compiled = torch.compile(model, backend="eager")
    compiled(inputs)
    for _ in range(2):
        with held(model):
            loss = compiled(inputs).square().sum() * 0.5 + compiled(inputs).square().sum() * 0.5
            for a, b in zip(gradients(model, loss), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)
