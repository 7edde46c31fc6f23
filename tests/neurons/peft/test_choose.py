"""Adapters whose neurons are chosen by a share: at random, by magnitude, or by gradients on data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import leaml
from leaml.errors import ConfigError
from leaml.neurons import scores, selection
from leaml.neurons.gradients import ExampleBatch
from leaml.neurons.peft import NeuronConfig
from leaml.neurons.peft.choose import score_neurons
from leaml.training.objectives import reply_logits

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def batch(seed: int, size: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 40, (size, 7), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def rows_of(adapted: Any) -> dict[str, list[int]]:
    config = adapted.peft_config["default"]
    return {name: config.indices(name).tolist() for name in config.modules}


@pytest.mark.parametrize(
    ("wanted", "modules"),
    [
        (["up_proj"], {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}),
        (r".*\.0\.mlp\.(up|gate)_proj", {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate_proj"}),
    ],
)
def test_a_share_of_the_modules_that_peft_would_mean_is_trained(
    model: LlamaForCausalLM, wanted: Any, modules: set[str]
) -> None:
    adapted = get_peft_model(model, NeuronConfig(target_modules=wanted, ratio=0.25, selection="random", seed=3))
    assert {name: len(rows) for name, rows in rows_of(adapted).items()} == dict.fromkeys(modules, 8)
    trained = [p.shape[0] for p in adapted.parameters() if p.requires_grad]
    assert sum(trained) == 8 * len(modules)


def test_all_linears_but_the_head_by_default_and_by_magnitude_the_largest(model: LlamaForCausalLM) -> None:
    weights = {n: m.weight.detach().abs().sum(1) for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for wanted in (None, "all-linear"):
        adapted = get_peft_model(model, NeuronConfig(target_modules=wanted, ratio=0.5, selection="magnitude"))
        found = rows_of(adapted)
        assert found.keys() == weights.keys() - {"lm_head"}
        for name, rows in found.items():
            assert rows == sorted(weights[name].topk(len(weights[name]) // 2).indices.tolist())
        model = adapted.unload()


def test_what_was_chosen_is_saved_and_the_same_seed_chooses_the_same(model: LlamaForCausalLM, tmp_path: Path) -> None:
    config = {"ratio": 0.1, "selection": "random", "seed": 5}
    adapted = get_peft_model(model, NeuronConfig(**config))
    first = rows_of(adapted)
    adapted.save_pretrained(tmp_path)
    base = adapted.unload()
    assert rows_of(PeftModel.from_pretrained(base, tmp_path)) == first
    fresh = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert rows_of(get_peft_model(fresh, NeuronConfig(**config))) == first
    other = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert rows_of(get_peft_model(other, NeuronConfig(**config | {"seed": 6}))) != first


def test_neurons_scored_on_batches_are_those_of_the_examples_one_by_one(model: LlamaForCausalLM) -> None:
    model.train()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    batches = [batch(1), batch(2, size=2)]
    found = leaml.score_neurons(model, batches, ratio=0.2, target_modules=["up_proj"], train_bias=False)
    assert model.training and model.lm_head.weight.requires_grad and not model.model.embed_tokens.weight.requires_grad
    assert isinstance(found, NeuronConfig) and found.train_bias is False

    linears = {n: m for n, m in model.named_modules() if n.endswith("up_proj")}
    examples = [{k: v[i : i + 1] for k, v in each.items()} for each in batches for i in range(len(each["labels"]))]

    def collate(part: Any) -> ExampleBatch:
        (one,) = part
        inputs = {k: v for k, v in one.items() if k != "labels"}
        return ExampleBatch(1, lambda: reply_logits(model, inputs, one["labels"]).mean_by_row(1))

    model.eval()
    expected = selection.select(scores.score(linears, "squared", scores.Data(examples, collate, 1)), 0.2, "module", False)
    assert {n: found.indices(n).tolist() for n in found.modules} == {n: rows.tolist() for n, rows in expected.items()}
    adapted = get_peft_model(model, found)
    adapted(**batch(3)).loss.backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection": "gradient"}, "ratio is None"),
        ({"selection": "best", "ratio": 0.1}, "'best' is not one of"),
        ({"selection": "random"}, "ratio is None"),
        ({"selection": "random", "ratio": 1.5}, "ratio is 1.5"),
    ],
)
def test_selections_that_cannot_be_made_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NeuronConfig(**settings)


def test_a_configuration_that_selects_by_gradients_is_given_its_rows_by_data(model: LlamaForCausalLM) -> None:
    config = NeuronConfig(selection="gradient", ratio=0.2, target_modules=["up_proj"], train_bias=False)
    with pytest.raises(ConfigError, match=r"leaml.score_neurons\(model, batches, config\) before get_peft_model"):
        get_peft_model(model, config)
    found = leaml.score_neurons(model, [batch(1)], config)
    by_name = leaml.score_neurons(model, [batch(1)], ratio=0.2, target_modules=["up_proj"])
    assert found.rows == by_name.rows and found.train_bias is False and config.rows is None
    assert rows_of(get_peft_model(model, found)).keys() == {n for n, _ in model.named_modules() if n.endswith("up_proj")}
    with pytest.raises(ConfigError, match="has its rows already"):
        leaml.score_neurons(model, [batch(1)], found)


def test_modules_that_the_model_does_not_have_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ConfigError, match=r"target_modules \['up'\] means none of the model's 14 Linear modules"):
        get_peft_model(model, NeuronConfig(target_modules=["up"], ratio=0.1, selection="random"))
    with pytest.raises(ConfigError, match="needs labeled examples"):
        score_neurons(model, [])


@pytest.mark.parametrize("targets", [None, "all-linear", ["q_proj", "down_proj"], r".*\.layers\.0\..*"])
def test_a_second_adapter_selects_what_it_would_select_alone(model: LlamaForCausalLM, targets: Any) -> None:
    settings = {"selection": "magnitude", "ratio": 0.2, "target_modules": targets}
    alone = get_peft_model(copy.deepcopy(model), NeuronConfig(**settings)).peft_config["default"].rows
    both = get_peft_model(model, NeuronConfig(selection="random", ratio=0.5))
    both.add_adapter("other", NeuronConfig(**settings))
    assert both.peft_config["other"].rows == alone != {}
    both.set_adapter("other")
    trained = {name for name, parameter in both.named_parameters() if parameter.requires_grad}
    assert trained and all(".other" in name for name in trained)
