"""What is written of a model: tensors as its checkpoint has them, and a generation config whatever it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, GenerationConfig

from leaml.config import ModelConfig
from leaml.errors import ModelError
from leaml.vlm import checkpoint, load, saving

if TYPE_CHECKING:
    from tests.vlm.conftest import Made


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    made: Made = tiny("idefics3")
    load.save(made.model, made.processor, tmp_path / "source")
    return tmp_path / "source"


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}


def opened(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),  # with do_sample it would answer by chance
        ({"top_k": 7, "repetition_penalty": 1.05}, {"top_k": 7, "repetition_penalty": 1.05}),
        ({"temperature": 0.0, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        ({"length_penalty": 2.0}, {"length_penalty": 2.0}),
        ({"temperature": 0.7, "do_sample": True}, {"temperature": 0.7, "do_sample": True}),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_generation_config_that_transformers_refuses_is_written(
    tiny: Any, tmp_path: Path, values: dict[str, Any], written: dict[str, Any], dtype: torch.dtype | None
) -> None:
    made: Made = tiny("idefics3")
    own = made.model.generation_config
    given = made.model.generation_config = GenerationConfig(eos_token_id=[3, 4], **values)
    try:
        load.save(made.model, made.processor, tmp_path, dtype)
        assert made.model.generation_config is given
        assert given.do_sample is (True if "do_sample" in values else None)
    finally:
        made.model.generation_config = own
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert {"eos_token_id": [3, 4]} | written == {k: v for k, v in found.items() if v is not None and k in {*KEYS, *written}}
    assert load.load(ModelConfig(name=str(tmp_path))).model.generation_config.eos_token_id == [3, 4]


KEYS = {"eos_token_id", "do_sample", "temperature", "top_p", "top_k", "length_penalty"}


def test_experts_are_saved_as_the_checkpoint_has_them(shared_folder: Path, tmp_path: Path) -> None:
    """Qwen3-VL-MoE's are transposed when they are loaded; vLLM transposes what it reads of them, once."""
    source = shared_folder / "zoo" / "qwen3_vl_moe"
    model = opened(source)
    model.save_pretrained(tmp_path / "transformers")
    assert shapes(tmp_path / "transformers") != shapes(source)  # otherwise transformers does it, and this module need not

    saving.remember(model, "qwen3_vl_moe", checkpoint.shapes(ModelConfig(), str(source)))
    with torch.no_grad():
        experts = model.model.language_model.layers[0].mlp.experts.gate_up_proj
        experts += 1
    for dtype in (None, torch.bfloat16):
        saving.save_weights(model, tmp_path / str(dtype), dtype)
        assert shapes(tmp_path / str(dtype)) == shapes(source)
    again = opened(tmp_path / "None")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    stored = [load_file(f / "model.safetensors")[name].float() for f in (source, tmp_path / "None")]
    assert torch.equal(stored[0] + 1, stored[1])


def test_every_architecture_is_saved_under_its_names(shared_folder: Path, tmp_path: Path) -> None:
    sources = [f for f in sorted((shared_folder / "zoo").iterdir()) if (f / "model.safetensors").is_file()]
    assert len(sources) >= 10
    for source in sources:
        model = opened(source)
        saving.remember(model, source.name, checkpoint.shapes(ModelConfig(), str(source)))
        saving.save_weights(model, tmp_path / source.name, None)
        assert shapes(tmp_path / source.name) == shapes(source), source.name


def test_vllm_is_told_of_biases_that_transformers_always_has(shared_folder: Path, tmp_path: Path) -> None:
    """It left them out, and the trained model's replies were others there (0.04 nats a token)."""
    source = shared_folder / "zoo" / "glm4v"
    assert "attention_bias" not in json.loads((source / "config.json").read_text())["text_config"]
    vlm = load.load(ModelConfig(name=str(source)))
    for dtype in (None, torch.bfloat16):
        load.save(vlm.model, vlm.processor, tmp_path / str(dtype), dtype)
        config = json.loads((tmp_path / str(dtype) / "config.json").read_text())
        assert config["text_config"]["attention_bias"] is True
        assert "attention_bias" not in config


def test_a_tensor_of_another_shape_is_refused_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    vlm = load.load(ModelConfig(name=str(folder)))
    vlm.model.resize_token_embeddings(vlm.model.config.text_config.vocab_size + 8, mean_resizing=False)
    rows, width = shapes(folder)["model.text_model.embed_tokens.weight"]
    wanted = rf"model\.text_model\.embed_tokens\.weight as \[{rows + 8}, {width}\], in the checkpoint \[{rows}, {width}\]"
    with pytest.raises(ModelError, match=wanted):
        load.save(vlm.model, vlm.processor, tmp_path / "saved")
    assert not list(tmp_path.glob("saved/*.safetensors"))


def test_a_weight_that_the_checkpoint_lacks_is_refused_before_it_is_trained(folder: Path) -> None:
    """transformers fills it with random numbers, and says so in a warning."""
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("mlp.up_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 tensors of the model .* are not in its checkpoint, {name} first"):
        load.load(ModelConfig(name=str(folder)))


def test_a_model_that_was_not_loaded_is_saved_as_it_is(tiny: Any, tmp_path: Path) -> None:
    made: Made = tiny("llava")
    assert isinstance(made.model, nn.Module)
    saving.save_weights(made.model, tmp_path, None)
    assert shapes(tmp_path)
