"""The LoRA export: exact through plain PEFT, what it refuses, and the entries that decide which module gets what."""

from pathlib import Path

import pytest
import torch
from nets import SELECTED, TOKENS, adapted, data, llama, llama_rows, net, randomise
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from leaml.errors import ConfigError, ModelError
from leaml.neurons.peft import NeuronConfig, export_lora


def test_same_logits_through_plain_lora(tmp_path: Path) -> None:
    model = adapted(base := llama(attention_bias=False).double(), llama_rows(base))
    randomise(model)
    export_lora(model, tmp_path)
    plain = llama(attention_bias=False).double()
    loaded = PeftModel.from_pretrained(plain, tmp_path, autocast_adapter_dtype=False)
    with torch.no_grad():
        expected, found = model(TOKENS).logits, loaded(TOKENS).logits
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert (expected - llama(attention_bias=False).double()(TOKENS).logits).abs().max() > 0.1
        torch.testing.assert_close(loaded.merge_and_unload()(TOKENS).logits, expected, rtol=1e-10, atol=1e-12)


def test_weights_are_the_rows_and_one_hot_columns(tmp_path: Path) -> None:
    model = adapted(net(), {"layers.1": [0, 5]})
    randomise(model)
    config = export_lora(model, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.layers.1.lora_{x}.weight"] for x in "AB")
    assert torch.equal(a, model.base_model.model.layers[1].neuron_delta["default"])
    assert b.nonzero().tolist() == [[0, 0], [5, 1]]
    assert b.sum() == 2
    assert (config.r, config.lora_alpha) == (2, 2)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_modules_of_different_rank_and_bias_entries(tmp_path: Path) -> None:
    model = adapted(net(), SELECTED)
    randomise(model)
    config = export_lora(model, tmp_path)
    assert config.lora_bias
    loaded = PeftModel.from_pretrained(net(), tmp_path, autocast_adapter_dtype=False)
    inputs, _ = data(0)
    torch.testing.assert_close(loaded(inputs), model(inputs), rtol=1e-10, atol=1e-12)
    assert {n: m.lora_A["default"].weight.shape[0] for n, m in loaded.named_modules() if hasattr(m, "lora_A")} == {
        "base_model.model.layers.0": 3,
        "base_model.model.layers.1": 2,
        "base_model.model.head": 1,
    }


def test_bias_entries_that_never_moved_need_no_lora_bias(tmp_path: Path) -> None:
    assert not export_lora(adapted(net(), SELECTED), tmp_path).lora_bias


class Nested(nn.Module):
    """Two modules of which one's name ends in the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.inner = nn.Linear(6, 6, bias=False), nn.ModuleDict({"head": nn.Linear(6, 6, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner["head"](self.head(x))


@pytest.mark.parametrize("rows", [{"head": [1]}, {"head": [1], "inner.head": [0, 2, 5]}, {"inner.head": [0, 2], "head": [1]}])
def test_name_that_ends_in_another_name(tmp_path: Path, rows: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    weights = Nested().double().state_dict()
    models = [Nested().double() for _ in range(2)]
    for model in models:
        model.load_state_dict(weights)
    model = adapted(models[0], rows)
    randomise(model)
    export_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(models[1], tmp_path, autocast_adapter_dtype=False)
    assert set(loaded.base_model.targeted_module_names) == set(rows)
    inputs, _ = data(0)
    torch.testing.assert_close(loaded(inputs), model(inputs), rtol=1e-10, atol=1e-12)


def test_what_no_lora_can_hold_is_refused(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Linear(4, 600))
    model = adapted(wide, {"0": range(513)})
    with pytest.raises(ModelError, match=r"trains 513 rows and columns of '0', .*over the limit of 512; merge it"):
        export_lora(model, tmp_path)
    assert export_lora(model, tmp_path, max_rank=None).r == 513
    with pytest.raises(ModelError, match="has no rows or columns"):
        export_lora(adapted(net(), {}), tmp_path)
    with pytest.raises(ModelError, match=r"whole modules \(\['norm'\]\)"):
        export_lora(adapted(net(), modules_to_save=["norm"]), tmp_path)
    with pytest.raises(ConfigError, match=r"no neuron adapter 'x'; its adapters are \['default'\]"):
        export_lora(adapted(net()), tmp_path, "x")


def test_second_adapter_is_exported_alone(tmp_path: Path) -> None:
    model = adapted(net())
    model.add_adapter("other", NeuronConfig(rows={"layers.1": [3]}))
    randomise(model)
    randomise(model, adapter="other")
    export_lora(model, tmp_path, "other")
    loaded = PeftModel.from_pretrained(net(), tmp_path, autocast_adapter_dtype=False)
    inputs, _ = data(0)
    model.set_adapter("other")
    torch.testing.assert_close(loaded(inputs), model(inputs), rtol=1e-10, atol=1e-12)
