"""LoRA beside weights in 4 bits (QLoRA), on a CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_runs import CONFIG, get_image, questions

from leaml.config import ModelConfig, TrainConfig, parse
from leaml.config.training import LoraSettings
from leaml.errors import ConfigError
from leaml.training import parallel
from leaml.training.loop import Trainer
from leaml.training.worker import Worker
from leaml.vlm import four_bit, load
from pipelines.adapt import check

TINY = ModelConfig(name="leaml-tiny")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason='needs `pip install -e ".[qlora]"`: peft imports bitsandbytes wherever it is, which costs each process seconds',
)


def with_lora(model: Any) -> Any:
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(r=4, target_modules=sorted(load.language_linears(model))))


@needs_bitsandbytes
def test_lora_learns_beside_weights_in_four_bits_and_is_merged_into_the_whole_ones(tmp_path: Path) -> None:
    vlm = load.load(TINY, four_bits=torch.float32)
    language = load.language_linears(vlm.model)
    assert {type(linear).__name__ for linear in language.values()} == {"Linear4bit"}
    assert {type(linear).__name__ for linear in load.vision_linears(vlm.model).values()} == {"Linear"}
    whole = load.load(TINY)
    # two values a byte, and a scale for every 64 of them
    held = sum(linear.weight.numel() * linear.weight.element_size() for linear in language.values())
    assert held == sum(linear.weight.numel() for linear in load.language_linears(whole.model).values()) / 2
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}

    vlm.model = with_lora(vlm.model)
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    config = CONFIG.model_copy(update={"steps": 12, "lr": 3e-3, "activation_checkpointing": True})
    losses = Trainer(vlm, parameters, [questions(5)], config, get_image, 1, Worker()).run().losses
    assert losses[-1][1] < 0.5 * losses[0][1]

    merged = with_lora(whole.model)
    parallel.gather(vlm.model, merged)
    trained = dict(vlm.model.named_parameters())
    after = merged.merge_and_unload().state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.default.weight" not in trained:
            assert torch.equal(value, before[name]), name
            continue
        product = 2 * trained[f"{key}.lora_B.default.weight"] @ trained[f"{key}.lora_A.default.weight"]  # alpha 8, rank 4
        torch.testing.assert_close(value, before[name] + product, rtol=1e-4, atol=1e-6)
        assert product.abs().max() > 0


def test_without_bitsandbytes_it_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    easy = {"format": "easy_vqa", "limit": 2}
    data = {"labeled": {**easy, "split": "train"}, "evaluation": {**easy, "split": "test"}}
    lora = {"method": "lora", "lora": {"quantization": "nf4"}}
    given = {"storage": str(tmp_path), "data": data, "model": {"name": "leaml-tiny"}}
    with pytest.raises(ConfigError, match=r"nf4 needs bitsandbytes, .*: pip install bitsandbytes, or set it to"):
        check(parse(given | {"finetune": lora}))
    check(parse(given | {"finetune": lora | {"method": "full"}}))  # says nothing there


@needs_bitsandbytes
def test_such_weights_are_not_cut_over_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = load.load(TINY, four_bits=torch.float32)
    vlm.model = with_lora(vlm.model)
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    config = TrainConfig(method="lora", lora=LoraSettings(quantization="nf4"), batch_size=2)
    with pytest.raises(ConfigError, match=r"not cut over workers; set resources.train_sharding to false"):
        Trainer(vlm, parameters, [questions(4)], config, get_image, 1, Worker(world=2, sharding=True))
