"""Columns, alone and beside rows of the same modules: equal to projected dense training; saved, merged, exported."""

import copy
import json
from pathlib import Path

import pytest
import torch
from nets import SELECTED, TOKENS, adapted, data, llama, llama_blocks, masks, net, randomise, saved_bytes, train, trainable
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from leaml.errors import ModelError
from leaml.neurons import scores, selection
from leaml.neurons.peft import NeuronConfig, NeuronLinear, export_lora, product
from leaml.neurons.units import feed_forwards

COLUMNS = {"layers.0": [0, 5], "layers.1": [2, 3, 7], "head": [1]}
KINDS = {"columns": ({}, COLUMNS), "both": (SELECTED, COLUMNS), "mixed": ({"head": [2]}, {"layers.1": [0, 5]})}
"""Columns alone, rows and columns crossing on every module, rows of some modules and columns of others."""

kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def model_of(kind: str, dtype: torch.dtype = torch.float64, random: bool = False) -> PeftModel:
    rows, columns = KINDS[kind]
    model = adapted(net(dtype), rows, columns=columns)
    if random:
        randomise(model)
    return model


def layers(model: nn.Module) -> dict[str, NeuronLinear]:
    found = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, NeuronLinear)}
    assert found
    return found


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return model(data(0, next(model.parameters()).dtype)[0])


# --- training ------------------------------------------------------------------------------------------------------------


@kinds
def test_equals_dense_training_with_projected_gradients(kind: str) -> None:
    dense, start = net(), net()
    expected, _ = train(dense, list(dense.parameters()), masks=masks(dense, *KINDS[kind]))
    model = model_of(kind)
    losses, _ = train(model, trainable(model))
    assert losses == pytest.approx(expected, rel=1e-10)
    merged = model.merge_and_unload()
    for name, value in dense.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), value, rtol=1e-9, atol=1e-10, msg=name)
    for module, columns in KINDS[kind][1].items():
        moved = merged.get_submodule(module).weight - start.get_submodule(module).weight
        assert moved[:, columns].abs().amax(0).min() > 0


@pytest.mark.parametrize("with_rows", [False, True])
def test_all_columns_equal_full_fine_tuning_of_the_weights(with_rows: bool) -> None:
    dense = net()
    for name, parameter in dense.named_parameters():
        parameter.requires_grad_("norm" not in name and (with_rows or not name.endswith("bias")))
    expected, _ = train(dense, trainable(dense))
    rows = {name: range(m.out_features) for name, m in dense.named_modules() if isinstance(m, nn.Linear)}
    columns = {name: range(m.in_features) for name, m in dense.named_modules() if isinstance(m, nn.Linear)}
    model = adapted(net(), rows if with_rows else {}, columns=columns)
    losses, _ = train(model, trainable(model))
    assert losses == pytest.approx(expected, rel=1e-10)
    merged = model.merge_and_unload()
    for name, value in dense.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), value, rtol=1e-9, atol=1e-10, msg=name)


@kinds
@dtypes
def test_unselected_entries_stay_bit_identical(kind: str, dtype: torch.dtype) -> None:
    before = copy.deepcopy(net(dtype).state_dict())
    model = model_of(kind, dtype)
    train(model, trainable(model), decay=0.1)
    assert all(torch.equal(m.base_layer.weight, before[f"{name}.weight"]) for name, m in layers(model).items())
    free = masks(net(), *KINDS[kind])
    for name, value in model.merge_and_unload().state_dict().items():
        selected = free[name].bool()
        assert torch.equal(value[~selected], before[name][~selected]), name
        assert not selected.any() or not torch.equal(value[selected], before[name][selected]), name


def test_entry_in_both_is_trained_as_its_rows() -> None:
    model = model_of("both")
    train(model, trainable(model), decay=0.1)
    for name, found in layers(model).items():
        column_delta = found.neuron_column_delta["default"]
        rows = torch.zeros(len(column_delta), dtype=torch.bool)
        rows[SELECTED[name]] = True
        assert not column_delta[rows].any()
        assert column_delta[~rows].any(1).all()
        assert found.neuron_delta["default"][:, COLUMNS[name]].abs().min() > 0


def test_gradients_and_optimizer_state_are_rows_and_columns_alone() -> None:
    model = model_of("columns")
    size = 2 * 8 + 3 * 8 + 1 * 4
    assert sum(p.numel() for p in trainable(model)) == size
    _, optimizer = train(model, trainable(model))
    assert sum(v.numel() for s in optimizer.state.values() for v in s.values() if v.dim()) == 2 * size
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.grad is not None} == {"neuron_column_delta"}


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 1, 2, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_finite_differences(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    weight, columns = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 3, 4])
    b = torch.randn(5, dtype=torch.float64) if bias else None
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, (5, 3))]
    before = weight.clone()

    def given(x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        return product.NeuronProduct.apply(product.with_deltas, None, x, weight, b, None, None, None, columns, delta)

    assert torch.autograd.gradcheck(given, inputs)
    assert torch.equal(weight, before)


def test_gradients_beside_rows_are_those_of_the_dense_weight() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    rows, columns = torch.tensor([1, 4]), torch.tensor([0, 3, 4])
    x, delta, entries, column_delta = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((7, 6), (2, 6), (2,), (5, 3))
    )
    y = product.NeuronProduct.apply(product.with_deltas, None, x, weight, bias, rows, delta, entries, columns, column_delta)
    dense = weight.index_add(0, rows, delta.detach()).index_add(1, columns, column_delta.detach()).requires_grad_()
    dense_bias = bias.index_add(0, rows, entries.detach()).requires_grad_()
    other = x.detach().requires_grad_()
    expected = nn.functional.linear(other, dense, dense_bias)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(delta.grad, dense.grad[rows], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(entries.grad, dense_bias.grad[rows], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(column_delta.grad, dense.grad[:, columns].index_fill(0, rows, 0), rtol=1e-10, atol=1e-12)


def test_columns_alone_keep_only_what_they_read() -> None:
    x = torch.randn(32, 16)
    model = adapted(nn.Sequential(nn.Linear(16, 8)), {}, columns={"0": [1, 2, 9]})
    assert saved_bytes(model, x) == 32 * 3 * 4
    assert saved_bytes(adapted(nn.Sequential(nn.Linear(16, 8)), {"0": [1]}, columns={"0": [1, 2, 9]}), x) == x.nbytes
    model.set_requires_grad("default", False)
    assert saved_bytes(model, x) == 0


def test_base_is_put_back_when_the_product_fails() -> None:
    model = model_of("both", random=True)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in trainable(model)]


@kinds
def test_autocast_equals_dense_autocast(kind: str) -> None:
    model = model_of(kind, torch.float32, random=True)
    dense = copy.deepcopy(model).merge_and_unload().requires_grad_(True)
    inputs, _ = data(0, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model(inputs), dense(inputs)
    assert torch.equal(found, expected)
    found.float().square().sum().backward()
    expected.float().square().sum().backward()
    for name, columns in KINDS[kind][1].items():
        gradient = model.base_model.model.get_submodule(name).neuron_column_delta["default"].grad
        free = [r for r in range(len(gradient)) if r not in KINDS[kind][0].get(name, ())]
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(
            gradient[free], dense.get_submodule(name).weight.grad[free][:, columns], rtol=0.02, atol=0.02
        )


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    base = llama().double().train()
    model = adapted(base, **llama_blocks(base))
    randomise(model, 0.05)
    expected = gradients(model, model(input_ids=TOKENS, labels=TOKENS).loss)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for a, b in zip(gradients(model, model(input_ids=TOKENS, labels=TOKENS).loss), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@kinds
def test_compiles_into_one_graph(kind: str) -> None:
    model = model_of(kind, random=True)
    before = copy.deepcopy(model.state_dict())
    inputs, _ = data(0)
    expected = gradients(model, model(inputs).square().sum())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for a, b in zip(gradients(model, compiled(inputs).square().sum()), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- saving, merging, exporting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_adapter_gives_the_same_logits(tmp_path: Path, dtype: torch.dtype, low_memory: bool) -> None:
    model = adapted(base := llama().to(dtype), **llama_blocks(base))
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama().to(dtype), tmp_path, low_cpu_mem_usage=low_memory)
    with torch.no_grad():
        expected = model(TOKENS).logits
        assert torch.equal(loaded(TOKENS).logits, expected)
        assert not torch.equal(llama().to(dtype)(TOKENS).logits, expected)
    assert trainable(loaded) == []


def test_saved_adapter_holds_rows_and_columns_and_nothing_of_the_base(tmp_path: Path) -> None:
    model_of("mixed").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.removeprefix("base_model.model."): tuple(t.shape) for name, t in weights.items()} == {
        "head.neuron_delta": (1, 8),
        "head.neuron_bias": (1,),
        "layers.1.neuron_column_delta": (8, 2),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["rows"], config["columns"]) == ({"head": "2"}, {"layers.1": "0,5"})


@kinds
@dtypes
def test_merged_equals_unmerged_and_unmerging_gives_every_bit_back(kind: str, dtype: torch.dtype) -> None:
    model, base = model_of(kind, dtype, random=True), net(dtype).state_dict()
    expected = outputs(model)
    assert not torch.equal(expected, outputs(net(dtype)))
    for safe in (False, True):
        model.merge_adapter(safe_merge=safe)
        assert torch.equal(outputs(model), expected)
        model.unmerge_adapter()
        for name, found in layers(model).items():
            assert torch.equal(found.base_layer.weight, base[f"{name}.weight"])
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(net(dtype)))
    merged = model.merge_and_unload()
    assert torch.equal(outputs(merged), expected)
    assert list(merged.state_dict()) == list(base)


def test_merge_that_is_not_finite_changes_nothing() -> None:
    model = model_of("both", random=True)
    with torch.no_grad():
        model.base_model.model.head.neuron_column_delta["default"][0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        model.base_model.model.head.merge(safe_merge=True)
    assert torch.equal(model.base_model.model.head.base_layer.weight, net().head.weight)


def test_adapter_of_rows_and_adapter_of_columns_add_up_and_both_learn() -> None:
    model = adapted(net(), {"layers.0": [1, 4], "head": [2]})
    model.add_adapter("other", NeuronConfig(columns=COLUMNS))
    model.add_adapter("third", NeuronConfig(rows={"layers.1": [3]}, columns={"layers.0": [4, 5]}))
    names = ["default", "other", "third"]
    for name in names:
        randomise(model, adapter=name)
    model.base_model.set_adapter(names)
    expected = net()
    with torch.no_grad():
        for name, found in layers(model).items():
            weight = expected.get_submodule(name).weight
            for adapter in names:
                for dim, indices, delta in found._single(adapter).of_weight():
                    weight.index_add_(dim, indices, delta)
            for adapter, delta in found.neuron_bias.items():
                expected.get_submodule(name).bias[found.neuron_rows[adapter]] += delta
    torch.testing.assert_close(outputs(model), outputs(expected), rtol=1e-12, atol=1e-12)
    model(data(0)[0]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "neuron_" in n)
    model.merge_adapter(names)
    torch.testing.assert_close(outputs(model), outputs(expected), rtol=1e-12, atol=1e-12)
    model.unmerge_adapter()
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)
    model.delete_adapter("other")
    model.set_adapter("default")
    alone = adapted(net(), {"layers.0": [1, 4], "head": [2]})
    randomise(alone)
    assert torch.equal(outputs(model), outputs(alone))


@pytest.mark.parametrize("case", ["blocks", "crossing"])
def test_same_logits_through_plain_lora(tmp_path: Path, case: str) -> None:
    base = llama(attention_bias=False).double()
    chosen = llama_blocks(base)
    if case == "crossing":
        chosen["columns"] = {name: [0, 7, 31] for name in chosen["rows"]}
    model = adapted(base, **chosen)
    randomise(model)
    config = export_lora(model, tmp_path)
    assert config.r == (8 if case == "crossing" else 5)
    loaded = PeftModel.from_pretrained(llama(attention_bias=False).double(), tmp_path, autocast_adapter_dtype=False)
    with torch.no_grad():
        expected = model(TOKENS).logits
        torch.testing.assert_close(loaded(TOKENS).logits, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(loaded.merge_and_unload()(TOKENS).logits, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.merge_and_unload()(TOKENS).logits, expected, rtol=1e-10, atol=1e-12)


def test_columns_export_as_one_hot_rows_of_a(tmp_path: Path) -> None:
    model = model_of("mixed", random=True)
    export_lora(model, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.layers.1.lora_{x}.weight"] for x in "AB")
    assert a.nonzero().tolist() == [[0, 0], [1, 5]]
    assert a.sum() == 2
    assert torch.equal(b, model.base_model.model.layers[1].neuron_column_delta["default"])


# --- where columns come from, and which are refused ----------------------------------------------------------------------


def test_column_that_the_module_does_not_have_is_refused_before_anything_changes() -> None:
    model = net()
    with pytest.raises(ModelError, match=r"'layers\.0' cannot be trained: it has 6 columns and no column 6; the columns were"):
        adapted(model, SELECTED, columns={"layers.0": [2, 6]})
    assert all(type(m) is not NeuronLinear for m in model.modules())
    with pytest.raises(ModelError, match="no module 'body'"):
        adapted(model, SELECTED, columns={"body": [2]})


class Captioner(nn.Module):
    """A model with a part that the selection knows as its language model, and a feed-forward block in it."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model = nn.ModuleDict(
            {"gate_proj": nn.Linear(4, 10), "up_proj": nn.Linear(4, 10), "down_proj": nn.Linear(10, 4)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = self.text_model.values()
        return down(nn.functional.silu(gate(x)) * up(x))


def test_rows_and_columns_from_the_folder_of_a_score_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Captioner()
    linears = scores.all_linears(model)
    blocks = feed_forwards(linears)
    found = {name: torch.arange(10.0) for name in blocks}
    chosen = selection.select(found, 0.3, "module", False)
    selection.save(chosen, found, tmp_path, selection.model_hash(linears), {}, blocks)
    adapter = adapted(model, str(tmp_path))
    config = adapter.peft_config["default"]
    assert config.rows == {"text_model.gate_proj": "7-9", "text_model.up_proj": "7-9"}
    assert config.columns == {"text_model.down_proj": "7-9"}
    before = copy.deepcopy(adapter.unload().state_dict())
    adapter = adapted(model, str(tmp_path))
    randomise(adapter)
    for name, value in adapter.merge_and_unload().state_dict().items():
        moved = value != before[name]
        neurons = moved if moved.dim() == 1 else moved.all(0 if "down" in name else 1)
        assert neurons.nonzero().flatten().tolist() == ([] if name.endswith("down_proj.bias") else [7, 8, 9]), name
