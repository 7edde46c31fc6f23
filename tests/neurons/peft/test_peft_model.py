"""Neuron adapters as PEFT users meet them: save, load, merge, switch, disable; and what is refused, before anything changes."""

import copy
import json
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nets import SELECTED, TOKENS, Net, adapted, data, llama, llama_rows, net, randomise, trainable
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import PeftType
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations
from transformers.pytorch_utils import Conv1D

from leaml.errors import ConfigError, ModelError
from leaml.neurons.peft import NeuronConfig, NeuronLinear

OTHER = {"layers.0": [1, 2], "layers.1": [5, 6, 7]}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        output = model(TOKENS) if hasattr(model, "config") else model(data(0, next(model.parameters()).dtype)[0])
    return output if isinstance(output, torch.Tensor) else output.logits


# --- saving and loading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_adapter_gives_the_same_logits(tmp_path: Path, dtype: torch.dtype, low_memory: bool) -> None:
    model = adapted(base := llama().to(dtype), llama_rows(base))
    randomise(model)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert not torch.equal(expected, logits(llama().to(dtype)))
    loaded = PeftModel.from_pretrained(llama().to(dtype), tmp_path, low_cpu_mem_usage=low_memory)
    assert trainable(loaded) == []
    assert torch.equal(logits(loaded), expected)
    again = PeftModel.from_pretrained(llama().to(dtype), tmp_path, is_trainable=True)
    assert [p.shape for p in trainable(again)] == [p.shape for p in trainable(model)]


def test_saved_adapter_holds_rows_and_nothing_of_the_base(tmp_path: Path) -> None:
    model = adapted(net())
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {name.removeprefix("base_model.model."): tuple(t.shape) for name, t in weights.items()}
    assert shapes == {
        "layers.0.neuron_delta": (3, 6),
        "layers.0.neuron_bias": (3,),
        "layers.1.neuron_delta": (2, 8),
        "head.neuron_delta": (1, 8),
        "head.neuron_bias": (1,),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rows"] == {"layers.0": "1,4,7", "layers.1": "0,5", "head": "2"}
    assert PeftConfig.from_pretrained(tmp_path).rows == config["rows"]


def test_transformers_loads_it_without_peft_model(tmp_path: Path) -> None:
    model = adapted(base := llama(), llama_rows(base))
    randomise(model)
    model.save_pretrained(tmp_path)
    plain = llama()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("harm", ["missing", "extra", "shape"])
def test_weights_of_another_configuration_are_refused(tmp_path: Path, harm: str) -> None:
    model = adapted(net())
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    delta = weights.pop("base_model.model.layers.1.neuron_delta")
    if harm != "missing":
        weights["base_model.model.layers.1.neuron_delta"] = delta[:1] if harm == "shape" else delta
    if harm == "extra":
        weights["base_model.model.norm.neuron_delta"] = delta.clone()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not belong to its configuration.*(layers\.1|norm)\.neuron_delta"):
        PeftModel.from_pretrained(net(), tmp_path)


def test_adapter_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Linear(6, 20))
    adapted(wide, {"0": [3, 15]}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'0' cannot be trained: it has 8 rows and no row 15"):
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(6, 8)), tmp_path)
    with pytest.raises(ModelError, match="no module '0'"):
        PeftModel.from_pretrained(net(), tmp_path)


# --- merging, switching, disabling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merged_equals_unmerged_and_unmerging_gives_every_bit_back(dtype: torch.dtype) -> None:
    model, base = adapted(net(dtype)), net(dtype)
    randomise(model)
    expected = logits(model)
    for safe in (False, True):
        model.merge_adapter(safe_merge=safe)
        assert torch.equal(logits(model), expected)
        assert not torch.equal(model.base_model.model.head.base_layer.weight, base.head.weight)
        model.unmerge_adapter()
        assert torch.equal(model.base_model.model.head.base_layer.weight, base.head.weight)
        assert torch.equal(model.base_model.model.head.base_layer.bias, base.head.bias)
    merged = model.merge_and_unload()
    assert torch.equal(logits(merged), expected)
    assert [type(m) for m in merged.modules()] == [type(m) for m in base.modules()]
    assert list(merged.state_dict()) == list(base.state_dict())


def test_unload_without_merging_gives_the_base() -> None:
    model = adapted(net())
    randomise(model)
    logits(model)
    assert all(torch.equal(value, net().state_dict()[name]) for name, value in model.unload().state_dict().items())


def test_merge_that_is_not_finite_is_refused() -> None:
    model = adapted(net())
    with torch.no_grad():
        trainable(model)[0][0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)


def test_disabled_adapter_is_the_base_merged_or_not() -> None:
    model = adapted(net())
    randomise(model)
    expected = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(net()))
    assert torch.equal(logits(model), expected)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(net()))


def test_several_adapters_on_one_base() -> None:
    model = adapted(net())
    model.add_adapter("other", NeuronConfig(rows=OTHER))
    assert all(not p.requires_grad for n, p in model.named_parameters() if n.endswith(".other"))
    alone = {}
    for name, rows in (("default", SELECTED), ("other", OTHER)):
        randomise(model, adapter=name)
        single = get_peft_model(net(), NeuronConfig(rows=rows), name)
        randomise(single, adapter=name)
        alone[name] = single
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        assert torch.equal(logits(model), logits(alone[name]))
        assert all(p.requires_grad == n.endswith(f".{name}") for n, p in model.named_parameters())
    model.delete_adapter("other")
    assert torch.equal(logits(model), logits(alone["default"]))


def test_adapters_active_together_add_up_and_both_learn() -> None:
    model = adapted(net())
    model.add_adapter("other", NeuronConfig(rows=OTHER, train_bias=False))
    for name in ("default", "other"):
        randomise(model, adapter=name)
    model.base_model.set_adapter(["default", "other"])
    expected = logits(model)
    model(data(0)[0]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "neuron_" in n)
    base = net()
    with torch.no_grad():
        for name, layer in ((n, m) for n, m in model.base_model.model.named_modules() if isinstance(m, NeuronLinear)):
            for adapter in layer.neuron_delta:
                base.get_submodule(name).weight[layer.neuron_rows[adapter]] += layer.neuron_delta[adapter]
            for adapter in layer.neuron_bias:
                base.get_submodule(name).bias[layer.neuron_rows[adapter]] += layer.neuron_bias[adapter]
    torch.testing.assert_close(expected, logits(base), rtol=1e-12, atol=1e-12)
    model.merge_adapter(["default", "other"])
    torch.testing.assert_close(logits(model), expected, rtol=1e-12, atol=1e-12)
    model.unmerge_adapter()
    assert torch.equal(model.base_model.model.layers[0].base_layer.weight, net().layers[0].weight)


def test_further_modules_are_trained_and_saved_whole(tmp_path: Path) -> None:
    model = adapted(net(), modules_to_save=["norm"])
    assert {n.split(".")[-1] for n, p in model.named_parameters() if p.requires_grad and "norm" in n} == {"weight", "bias"}
    randomise(model)
    with torch.no_grad():
        model.base_model.model.norm.modules_to_save["default"].weight.add_(1)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(net(), tmp_path)), logits(model))
    assert torch.equal(logits(model.merge_and_unload()), logits(PeftModel.from_pretrained(net(), tmp_path)))


@pytest.mark.parametrize(
    ("base", "wanted", "autocast", "expected"),
    [
        (torch.bfloat16, None, True, torch.float32),
        (torch.bfloat16, None, False, torch.bfloat16),
        (torch.bfloat16, "bfloat16", True, torch.bfloat16),
        (torch.float32, "bfloat16", True, torch.bfloat16),
        (torch.float64, None, True, torch.float64),
    ],
)
def test_type_of_the_trained_parameters(
    tmp_path: Path, base: torch.dtype, wanted: str | None, autocast: bool, expected: torch.dtype
) -> None:
    config = NeuronConfig(rows=SELECTED, delta_dtype=wanted)
    model = get_peft_model(net(base), config, autocast_adapter_dtype=autocast)
    randomise(model)
    assert {p.dtype for p in trainable(model)} == {expected}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(net(base), tmp_path, autocast_adapter_dtype=autocast, is_trainable=True)
    assert {p.dtype for p in trainable(loaded)} == {expected}
    assert torch.equal(logits(loaded), logits(model))


def test_registered_in_pefts_own_enumeration() -> None:
    assert PeftType("NEURON") is PeftType["NEURON"] is PeftType.NEURON
    assert PeftType.NEURON in list(PeftType)
    assert pickle.loads(pickle.dumps(NeuronConfig(rows=SELECTED))) == NeuronConfig(rows=SELECTED)
    assert PeftType.LORA == "LORA"
    copied = copy.deepcopy(adapted(net()))
    assert torch.equal(logits(copied), logits(net()))


# --- refusals ------------------------------------------------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Packed(nn.Module):
    """As GPTQ and AWQ hold their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(1, 8, dtype=torch.int32))


def low_bit() -> nn.Linear:
    """As bitsandbytes holds its weights: a Linear with integers in it."""
    module = nn.Linear(8, 8)
    module.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    return module


class Tensorlike(nn.Parameter):
    """As torchao and bitsandbytes do: the parameter is of a class of its own."""


def own_class() -> nn.Linear:
    module = nn.Linear(8, 8)
    module.weight = Tensorlike(torch.zeros(8, 8))
    return module


def offloaded() -> nn.Linear:
    """As accelerate leaves a Linear whose weight it fetches for every call."""
    module = nn.Linear(8, 8)
    module._hf_hook = SimpleNamespace(offload=True)
    return module


def lora() -> nn.Module:
    return get_peft_model(nn.Sequential(nn.Linear(8, 8)), LoraConfig(r=1, target_modules=["0"])).base_model.model[0]


REFUSED = {
    "is a transformers.pytorch_utils.Conv1D": lambda: Conv1D(8, 8),
    r"is quantised \(test_peft_model.Packed\)": Packed,
    r"is quantised \(torch.nn.modules.linear.Linear\).*load the model without quantisation": low_bit,
    r"is quantised.*train LoRA": own_class,
    "is a test_peft_model.Doubled, not a plain nn.Linear": lambda: Doubled(8, 8),
    "is a torch.nn.modules.sparse.Embedding, not a plain": lambda: nn.Embedding(8, 8),
    "NonDynamicallyQuantizableLinear, not a plain": lambda: nn.MultiheadAttention(8, 2).out_proj,
    "is offloaded, its weight is not in memory": offloaded,
    "is parametrized": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    r"carries another PEFT adapter .*lora.*merge that one first": lora,
    "has 8 rows and no row 9": lambda: nn.Linear(8, 8),
}


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.parametrize("why", REFUSED)
def test_module_whose_rows_cannot_be_trained_is_refused_before_anything_changes(why: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), REFUSED[why]())
    with pytest.raises(ModelError, match=f"neurons of '1' cannot be trained: it .*{why}"):
        adapted(model, {"0": [1], "1": [9]})
    assert type(model[0]) is nn.Linear
    assert model[0].weight.requires_grad


def test_weight_shared_with_another_module_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own words on tied embeddings
        tied = "shares its weight with others .*embed_tokens.weight.*tie_word_embeddings=False"
        with pytest.raises(ModelError, match=tied):
            adapted(llama(tie_word_embeddings=True), {"lm_head": [3]})
        assert trainable(adapted(llama(tie_word_embeddings=False), {"lm_head": [3]}))
    shared = Net()
    shared.again = shared.head
    with pytest.raises(ModelError, match=r"shares its weight with others \(head.weight, again.weight"):
        adapted(shared)


def test_wrong_names_and_adapters_are_refused_with_the_fix() -> None:
    with pytest.raises(ModelError, match=r"no module 'base_model.model.head'; .*before get_peft_model"):
        adapted(net(), {"base_model.model.head": [0]})
    with pytest.raises(ConfigError, match="needs rows"):
        get_peft_model(net(), NeuronConfig())
    model = adapted(net())
    with pytest.raises(ModelError, match="no row 40"):
        model.add_adapter("other", NeuronConfig(rows={"head": [40]}))
    assert list(model.peft_config) == ["default"]
