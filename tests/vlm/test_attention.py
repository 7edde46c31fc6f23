"""Attention kernels: which are tried for a model, and what happens where it has not got one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leaml.config import ModelConfig
from leaml.vlm import attention, load

FLASH = {"": "sdpa", "text_config": "sdpa", "vision_config": "flash_attention_2"}


@pytest.mark.parametrize(
    ("vision", "device", "expected"),
    [
        ({"image_size": 64, "patch_size": 8}, "cpu", ["eager"]),
        ({"image_size": 64, "patch_size": 8}, "cuda", ["sdpa", "eager"]),
        ({"image_size": 512, "patch_size": 16}, "cpu", ["sdpa", "eager"]),  # 1,024 patches, as SmolVLM has them
        ({"patch_size": 14}, "cpu", ["sdpa", "eager"]),  # as large as the image is, as in Qwen-VL
    ],
)
def test_attention_keeps_no_weights_of_many_patches(vision: dict[str, int], device: str, expected: list[str]) -> None:
    config: Any = SimpleNamespace(model_type="idefics3", vision_config=SimpleNamespace(**vision))
    assert attention.kernels(device, config) == expected


@pytest.mark.parametrize(("model_type", "expected"), [("qwen2_5_vl", [FLASH, "sdpa", "eager"]), ("gemma3", ["sdpa", "eager"])])
def test_windows_are_attended_at_once_where_flash_attn_is(
    monkeypatch: pytest.MonkeyPatch, model_type: str, expected: list[Any]
) -> None:
    config: Any = SimpleNamespace(model_type=model_type)
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.kernels("cuda", config) == ["sdpa", "eager"]
    monkeypatch.setattr(attention, "find_spec", lambda name: name == "flash_attn")
    assert attention.kernels("cuda:0", config) == expected
    assert attention.kernels("cpu", config) == ["sdpa", "eager"]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the model's processor needs torchvision")
def test_a_kernel_that_does_not_load_is_followed_by_the_next(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn is said to be there, and is not."""
    monkeypatch.setattr(attention, "find_spec", lambda name: True)
    found = load.load(ModelConfig(name=str(shared_folder / "zoo" / "qwen2_5_vl")), runs_on="cuda")
    assert found.model.config.vision_config._attn_implementation == "sdpa"


def test_weights_of_a_type_that_flash_attn_does_not_take_are_not_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: name == "flash_attn")
    config: Any = SimpleNamespace(model_type="qwen2_5_vl")
    assert attention.kernels("cuda", config, "float32") == ["sdpa", "eager"]
    assert attention.kernels("cuda", config, "bfloat16")[0] == FLASH
