"""Loading, checking and saving models, and naming their layers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, CLIPConfig, LlamaConfig

from leaml.config import ModelConfig
from leaml.errors import ModelError
from leaml.io import files
from leaml.vlm import architecture
from leaml.vlm import load as vlm
from leaml.vlm.collate import Collator, Turn
from research.tiny import build

if TYPE_CHECKING:
    from tests.vlm.conftest import Made


@pytest.fixture(scope="module")
def folder(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Idefics3, stored in bfloat16 as the shipped ones are."""
    made = tiny("idefics3")
    path = tmp_path_factory.mktemp("model")
    vlm.save(made.model, made.processor, path, torch.bfloat16)
    return path


def test_load_gives_the_configured_type_and_attention(folder: Path) -> None:
    loaded = vlm.load(ModelConfig(name=str(folder)))
    assert loaded.name == str(folder)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "eager"
    assert vlm.load(ModelConfig(name=str(folder)), attn_implementation="sdpa").model.config._attn_implementation == "sdpa"
    assert vlm.load(ModelConfig(name=str(folder), dtype="bfloat16")).model.dtype == torch.bfloat16


def test_attention_falls_back_to_eager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(name=str(folder))
    assert vlm.load(config, device="meta").model.config._attn_implementation == "sdpa"
    real = AutoModelForImageTextToText.from_pretrained

    def without_sdpa(*args: Any, **kwargs: Any) -> Any:
        if kwargs["attn_implementation"] == "sdpa":
            msg = "X does not support an attention implementation through torch.nn.functional.scaled_dot_product_attention yet"
            raise ValueError(msg)
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", without_sdpa)
    assert vlm.load(config, device="meta").model.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="does not support an attention implementation"):
        vlm.load(config, device="meta", attn_implementation="sdpa")


def test_save_keeps_model_and_processor(folder: Path, tiny: Any, pictures: list[Any]) -> None:
    made = tiny("idefics3")
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}  # saving in bfloat16 changed nothing here
    loaded = vlm.load(ModelConfig(name=str(folder)))
    for (name, a), (_, b) in zip(made.model.named_parameters(), loaded.model.named_parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b), name
    turn = Turn(pictures[1], "What colour?", "red")
    a, b = Collator(made.processor)([turn]), Collator(loaded.processor)([turn])
    pixels = [one.pop("pixel_values") for one in (a, b)]
    assert torch.allclose(*pixels, atol=2 / 255 / 0.5)  # Pillow's and torchvision's filters
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_saved_weights_are_safetensors_of_the_wanted_type_with_tied_ones_once(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(n).dtype for n in weights.keys()}  # noqa: SIM118
        assert not [n for n in weights.keys() if "lm_head" in n]  # noqa: SIM118
    assert kinds == {torch.bfloat16}
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "float32" not in json.dumps(config)
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_saving_keeps_the_weight_names_of_the_checkpoint(tmp_path: Path, tiny: Any, dtype: torch.dtype | None) -> None:
    """transformers 5 renames CLIP weights in memory; vLLM reads only the names that the hub's checkpoints have."""
    from safetensors.torch import load_file, save_file

    made = tiny("llava")
    vlm.save(made.model, made.processor, tmp_path / "a")
    weights = load_file(tmp_path / "a" / "model.safetensors")
    hub = {re.sub(r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.", n): w for n, w in weights.items()}
    save_file(hub, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    loaded = vlm.load(ModelConfig(name=str(tmp_path / "a")))
    vlm.save(loaded.model, loaded.processor, tmp_path / "b", dtype)
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == hub.keys()
    assert any(n.startswith("vision_tower.vision_model.") for n in hub)


def test_an_s3_folder_is_downloaded_once(folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAML_MODEL_CACHE", str(tmp_path / "cache"))
    files.upload_tree(str(folder), f"{bucket}/model")
    for _ in range(2):
        assert vlm.load(ModelConfig(name=f"{bucket}/model")).name == f"{bucket}/model"
        monkeypatch.setattr(files, "download_tree", None)


def test_check_accepts_a_vision_language_model_quickly(folder: Path) -> None:
    started = time.perf_counter()
    vlm.check(ModelConfig(name=str(folder)))
    assert time.perf_counter() - started < 2


def test_a_text_model_is_refused_before_transformers_is_imported(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path)
    code = (
        "import sys; from leaml.config import ModelConfig; from leaml.vlm import load\n"
        f"try: load.check(ModelConfig(name={str(tmp_path)!r}))\n"
        "except load.ModelError as error: print('transformers' in sys.modules, error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert shown.startswith("False ")
    assert "has no vision tower" in shown


def test_check_names_what_is_wrong(tmp_path: Path, folder: Path) -> None:
    empty, text, adapter, contrast, unknown, broken = (tmp_path / n for n in ("e", "text", "adapter", "clip", "new", "broken"))
    for path in (empty, adapter, unknown, broken):
        path.mkdir()
    LlamaConfig(hidden_size=8, num_attention_heads=2).save_pretrained(text)
    CLIPConfig().save_pretrained(contrast)
    (adapter / "adapter_config.json").write_text("{}")
    (unknown / "config.json").write_text('{"model_type": "from-the-future"}')
    (broken / "config.json").write_text("{")
    cases = {
        str(tmp_path / "missing"): r"missing' does not exist; check the path",
        str(empty): r"has no config\.json \(it holds \[\]\): give a saved model",
        str(adapter): "it is a PEFT adapter; merge it into its base model",
        str(text): r"\(llama\) has no vision tower.*give an image-text-to-text model such as",
        str(contrast): "'clip', which transformers cannot load as an image-text-to-text model",
        str(unknown): "cannot read the configuration .*new'.*from-the-future.*give a folder",
        str(broken): r"cannot read the configuration .*broken'.*give a folder with a config\.json",
    }
    for name, message in cases.items():
        with pytest.raises(ModelError, match=message):
            vlm.check(ModelConfig(name=name))


def test_check_names_a_missing_torchvision(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "find_spec", lambda _: None)
    tiny("qwen2_5_vl").model.config.save_pretrained(tmp_path / "qwen")
    with pytest.raises(ModelError, match=r"torchvision is missing; its processor needs torchvision.*leaml doctor"):
        vlm.check(ModelConfig(name=str(tmp_path / "qwen")))
    for family in ("llava", "paligemma"):
        vlm.save(tiny(family).model, tiny(family).processor, tmp_path / family)
        vlm.check(ModelConfig(name=str(tmp_path / family)))


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, folder: Path, tiny: Any) -> None:
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(tiny("idefics3").model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors weights are loaded"):
        vlm.load(ModelConfig(name=str(tmp_path)))


def test_every_linear_belongs_to_one_part(made: Made) -> None:
    parts = [f(made.model) for f in (vlm.language_linears, vlm.vision_linears, vlm.connector_linears)]
    every = {n for n, m in made.model.named_modules() if isinstance(m, nn.Linear)}
    named = [n for part in parts for n in part]
    assert len(named) == len(set(named))
    assert every - set(named) == {"lm_head"}
    assert all(parts)
    language = parts[0]
    layers = build.TEXT_LAYERS if made.family.startswith("idefics3") else 2
    assert len(language) == 7 * layers
    assert {vlm.layer_index(n) for n in language} == set(range(layers))
    assert all(dict(made.model.named_modules())[n] is m for n, m in language.items())


def test_layer_index() -> None:
    assert vlm.layer_index("model.text_model.layers.11.mlp.up_proj") == 11
    assert vlm.layer_index("model.visual.blocks.3.attn.qkv") == 3
    assert vlm.layer_index("model.connector.modality_projection.proj") == -1


def test_a_model_without_a_language_part_is_a_model_error() -> None:
    with pytest.raises(ModelError, match=r"no language model found in Sequential with the parts \['0'\]"):
        vlm.language_linears(nn.Sequential(nn.Linear(2, 2)))
