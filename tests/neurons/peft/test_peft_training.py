"""Training with neuron adapters against dense training with projected gradients; what it leaves alone; what it keeps."""

import copy

import nets
import pytest
import torch
from nets import (
    EVERYTHING,
    SELECTED,
    TOKENS,
    adapted,
    data,
    gradients,
    llama,
    llama_rows,
    masks,
    net,
    randomise,
    train,
    trainable,
)
from torch import nn

from leaml.neurons.peft import layer, product


def assert_same_weights(found: nn.Module, expected: nn.Module, rtol: float = 1e-9) -> None:
    for (name, a), (other, b) in zip(found.named_parameters(), expected.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-10, msg=name)


def test_equals_dense_training_with_gradients_projected_to_the_rows() -> None:
    dense, start = net(), net()
    expected, _ = train(dense, list(dense.parameters()), masks=masks(dense, SELECTED))
    model = adapted(net())
    losses, _ = train(model, trainable(model))
    assert losses == pytest.approx(expected, rel=1e-10)
    merged = model.merge_and_unload()
    assert_same_weights(merged, dense)
    for module, rows in SELECTED.items():
        moved = merged.get_submodule(module).weight - start.get_submodule(module).weight
        assert moved[rows].abs().min(1).values.min() > 0


def test_all_rows_equal_full_fine_tuning_of_those_modules() -> None:
    dense = net()
    dense.norm.requires_grad_(False)
    expected, _ = train(dense, trainable(dense))
    model = adapted(net(), EVERYTHING)
    losses, _ = train(model, trainable(model))
    assert losses == pytest.approx(expected, rel=1e-10)
    assert_same_weights(model.merge_and_unload(), dense)


def test_no_rows_train_nothing() -> None:
    model, base = adapted(net(), {"head": []}), net()
    inputs, _ = data(0)
    assert trainable(model) == []
    assert torch.equal(model(inputs), base(inputs))
    merged = model.merge_and_unload()
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in merged.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unselected_entries_stay_bit_identical(dtype: torch.dtype) -> None:
    before = copy.deepcopy(net(dtype).state_dict())
    model = adapted(net(dtype))
    assert {p.dtype for p in trainable(model)} == {torch.float32 if dtype == torch.bfloat16 else dtype}
    train(model, trainable(model), decay=0.1)
    free = masks(nets.Net(), SELECTED)
    for name, value in model.merge_and_unload().state_dict().items():
        selected = free[name].bool()
        assert torch.equal(value[~selected], before[name][~selected]), name
        assert not selected.any() or not torch.equal(value[selected], before[name][selected]), name


def test_gradients_and_optimizer_state_are_the_rows_alone() -> None:
    model = adapted(net())
    sizes = 3 * 6 + 3 + 2 * 8 + 1 * 8 + 1
    assert sum(p.numel() for p in trainable(model)) == sizes
    _, optimizer = train(model, trainable(model))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, _ in model.named_parameters() if "neuron_" in n
    }
    assert sum(v.numel() for s in optimizer.state.values() for v in s.values() if v.dim()) == 2 * sizes


def test_bias_entries_follow_their_rows_or_stay() -> None:
    before = net().head.bias
    for train_bias, expected in ((True, [True, False, True, False]), (False, [False] * 4)):
        model = adapted(net(), {"head": [0, 2]}, train_bias=train_bias)
        train(model, trainable(model))
        assert ((model.merge_and_unload().head.bias - before).abs() > 0).tolist() == expected


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 1, 2, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_finite_differences(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 3])
    b, delta_bias = (torch.randn(n, dtype=torch.float64) if bias else None for n in (5, 2))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, (2, 6))]
    extra = [delta_bias.requires_grad_()] if bias else [None]
    before = weight.clone()

    def given(x: torch.Tensor, delta: torch.Tensor, entries: torch.Tensor | None) -> torch.Tensor:
        return product.NeuronProduct.apply(product.with_deltas, None, x, weight, b, rows, delta, entries, None, None)

    assert torch.autograd.gradcheck(given, (*inputs, *extra))
    assert torch.equal(weight, before)


def test_second_derivative_is_refused() -> None:
    model = adapted(net())
    (gradient,) = torch.autograd.grad(model(data(0)[0]).sum(), trainable(model)[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- what is saved and computed ------------------------------------------------------------------------------------------


class Siblings(nn.Module):
    """Three Linears on one input, as the projections of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x) + self.k(x) + self.v(x)


@pytest.mark.parametrize("autocast", [False, True])
def test_input_is_saved_once_for_all_modules_that_share_it(autocast: bool) -> None:
    x = torch.randn(32, 16)
    model = adapted(Siblings(), {"q": [1], "k": [0, 5], "v": [7]})
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert nets.saved_bytes(model, x) == x.nbytes


def test_frozen_adapter_saves_no_activation() -> None:
    model = adapted(Siblings(), {"q": [1], "k": [0, 5], "v": [7]})
    model.set_requires_grad("default", False)
    assert nets.saved_bytes(model, torch.randn(32, 16)) == 0
    assert nets.saved_bytes(model, torch.randn(32, 16, requires_grad=True)) == 0  # the input's gradient needs weights only


def test_nothing_is_computed_below_the_lowest_trained_module(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    real = product.with_deltas
    monkeypatch.setattr(layer, "with_deltas", lambda w, *rest: calls.append(w.shape) or real(w, *rest))
    model = adapted(net(), {"layers.1": [0, 5], "head": [2]})
    below: list[bool] = []
    model.get_submodule("base_model.model.layers.0").register_forward_hook(lambda m, a, y: below.append(y.requires_grad))
    model(data(0)[0]).sum().backward()
    assert below == [False]
    assert calls == [(8, 8), (4, 8), (4, 8)]  # forward twice; backward needs the head's input gradient, not the lowest's


# --- the base between uses -----------------------------------------------------------------------------------------------


def test_base_is_the_base_while_the_adapter_trains() -> None:
    model, base = adapted(net()), net()
    train(model, trainable(model))
    for found, expected in (
        (model.base_model.model.layers[0].base_layer, base.layers[0]),
        (model.base_model.model.head.base_layer, base.head),
    ):
        assert torch.equal(found.weight, expected.weight)
        assert torch.equal(found.bias, expected.bias)


def test_base_is_put_back_when_the_product_fails() -> None:
    model = adapted(net())
    randomise(model)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)


def test_accumulated_gradients_add_up_in_any_order_of_passes() -> None:
    model = adapted(net())
    randomise(model)
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    one_by_one = gradients(model, *(model(part).square().sum() for part in inputs))  # each backward before the next forward
    losses = [model(part).square().sum() for part in inputs]  # all forwards before the first backward
    for found in (one_by_one, gradients(model, *reversed(losses))):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_reference_pass_between_forward_and_backward_changes_no_gradient() -> None:
    """As in preference training: the same model without its adapter, or with another one, gives the reference."""
    model = adapted(net())
    model.add_adapter("other", nets.NeuronConfig(rows={"layers.0": [1, 2], "layers.1": [5, 6]}))
    randomise(model)
    randomise(model, adapter="other")
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    loss = model(inputs).square().sum()
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(inputs), net()(inputs))
    model.set_adapter("other", inference_mode=True)
    model(inputs)
    model.set_adapter("default")
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, loss), expected, strict=True))


def test_update_between_forward_and_backward_is_noticed() -> None:
    model = adapted(net())
    loss = model(data(0)[0]).sum()
    randomise(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- precision and memory modes ------------------------------------------------------------------------------------------


def test_bfloat16_base_computes_what_its_merge_computes_and_trains_in_float32() -> None:
    model = adapted(net(torch.bfloat16))
    inputs, _ = data(0, torch.bfloat16)
    train(model, trainable(model))
    assert all(p.dtype == torch.float32 and p.abs().min() > 0 for p in trainable(model))
    outputs = model(inputs)
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(model.merge_and_unload()(inputs), outputs)


def test_sum_is_rounded_to_the_type_of_the_base_once() -> None:
    weight, delta = torch.ones(1, 1, dtype=torch.bfloat16), torch.tensor([[2**-8 * (1 + 2**-10)]])
    y = product.NeuronProduct.apply(
        product.with_deltas, None, torch.ones(1, 1, dtype=torch.bfloat16), weight, None, torch.tensor([0]), delta, *[None] * 3
    )
    assert y.item() == 1 + 2**-7  # a delta rounded first would be half a step, which goes down to 1


def test_autocast_equals_dense_autocast() -> None:
    model, dense = adapted(net(torch.float32)), net(torch.float32)
    randomise(model)
    randomise(copied := adapted(dense))
    dense = copied.merge_and_unload().requires_grad_(True)
    inputs, _ = data(0, torch.float32)
    found, expected = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, dense_outputs = model(found), dense(expected)
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(outputs, dense_outputs)
    outputs.float().square().sum().backward()
    dense_outputs.float().square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=0.02, atol=0.02)
    for name, rows in SELECTED.items():
        adapter = model.base_model.model.get_submodule(name)
        assert adapter.neuron_delta["default"].grad.dtype == torch.float32
        grown = dense.get_submodule(name).weight.grad[rows]
        torch.testing.assert_close(adapter.neuron_delta["default"].grad, grown, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    base = llama().double().train()
    model = adapted(base, llama_rows(base))
    randomise(model, 0.05)
    expected = gradients(model, model(input_ids=TOKENS, labels=TOKENS).loss)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = gradients(model, model(input_ids=TOKENS, labels=TOKENS).loss)
    assert any(g.abs().max() > 1e-3 for g in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_last_product_of_a_layer_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is what the next layer has kept; PyTorch's own Linears are left out in the same way."""
    base = llama().train()
    model = adapted(base, llama_rows(base))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shapes: list[torch.Size] = []
    real = product.linear
    monkeypatch.setattr(product, "linear", lambda x, w, b: (shapes.append(w.shape), real(x, w, b))[1])
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    down = base.model.layers[0].mlp.down_proj.base_layer.weight.shape
    forward = 2 * 7  # two layers of seven Linears
    assert shapes[:forward].count(down) == 2
    again = shapes[forward:]
    assert (len(again), again.count(down)) == (2 * 6, 0)


def test_compiles_into_one_graph() -> None:
    model = adapted(net())
    randomise(model)
    before = copy.deepcopy(model.state_dict())
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for a, b in zip(gradients(model, compiled(inputs).square().sum()), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
