"""What is found out about a model before anything is paid for: its files, its processor, what trains it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import hub_of
from safetensors.torch import load_file, save_file

from leaml.config import ModelConfig, resolve_model
from leaml.errors import ModelError
from leaml.io import files
from leaml.vlm import hub, load

OWN_CODE = """
from transformers import Idefics3Config, Idefics3ForConditionalGeneration


class OwnConfig(Idefics3Config):
    model_type = "own_code"


class OwnModel(Idefics3ForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model, to spoil."""
    return Path(shutil.copytree(resolve_model("leaml-tiny"), tmp_path / "model"))


def refusal(name: object, trained: bool = True, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load.check(ModelConfig(name=str(name), **options), trained=trained)
    return str(caught.value)


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def split(folder: Path) -> dict[str, str]:
    """The weights in two files and an index, whose map is returned."""
    weights = load_file(folder / "model.safetensors")
    placed = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(sorted(weights))}
    for shard in set(placed.values()):
        save_file({n: w for n, w in weights.items() if placed[n] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return placed


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def test_weights_that_are_missing_or_cut_off_are_named(model: Path) -> None:
    load.check(ModelConfig(name=str(model)), trained=True)
    placed = split(model)
    load.check(ModelConfig(name=str(model)), trained=True)
    first, second = sorted(set(placed.values()))

    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed | {"model.extra.weight": first}}))
    assert f"{first} of the model {str(model)!r} lacks 'model.extra.weight'" in refusal(model)
    index.write_text('{"weight_map": 3}')
    assert "model.safetensors.index.json of the model" in refusal(model)
    index.write_text(json.dumps({"weight_map": placed}))

    cut(model / second)
    assert f"{second} of the model" in refusal(model)
    assert "is no whole safetensors file: it has" in refusal(model, trained=False)
    (model / second).unlink()
    assert f"lacks 1 of 2 files of weights, {second} first; copy the checkpoint again" in refusal(model)
    index.unlink()
    (model / first).unlink()
    assert "there are no weights of the model" in refusal(model, trained=False)


def test_a_file_that_is_a_pointer_or_an_error_page_is_refused(model: Path) -> None:
    for content in (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        b"",
        b"\x10" + bytes(7) + b"[" * 16,
    ):
        (model / "model.safetensors").write_bytes(content)
        assert "is no whole safetensors file" in refusal(model)


def test_other_weights_than_safetensors_are_for_teachers_alone(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    load.check(ModelConfig(name=str(model)))
    assert "(it has pytorch_model.bin): only safetensors weights are loaded" in refusal(model)


def test_on_s3_the_header_is_read_and_no_weights(bucket: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = split(model)
    files.upload_tree(str(model), f"{bucket}/whole")
    cut(model / max(placed.values()))
    files.upload_tree(str(model), f"{bucket}/cut")
    read: list[str] = []
    real = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda uri: (read.append(uri), real(uri))[1])

    load.check(ModelConfig(name=f"{bucket}/whole"), trained=True)
    assert f"{max(placed.values())} of the model '{bucket}/cut' is no whole safetensors file" in refusal(f"{bucket}/cut")
    assert any(uri.endswith("tokenizer.json") for uri in read)
    assert not [uri for uri in read if uri.endswith(".safetensors")]


def test_a_processor_or_template_that_cannot_be_used_is_found_out(model: Path) -> None:
    template = model / "chat_template.jinja"
    text = template.read_text()
    template.write_text("{{ raise_exception('no') }}")
    assert "the chat template of Idefics3Processor fails on one image and one text part: no" in refusal(model, trained=False)
    template.write_text(text)
    (model / "tokenizer.json").write_text("{")
    assert "cannot load the processor of the model" in refusal(model, trained=False)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes, 4 bits"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
    ],
)
def test_quantised_weights_are_not_trained_but_may_teach(
    model: Path, settings: dict[str, dict[str, object]], method: str
) -> None:
    text = json.loads((model / "config.json").read_text())["text_config"]
    change(model, **{key: text | value if key == "text_config" else value for key, value in settings.items()})
    message = refusal(model)
    assert f"are quantised ({method}), and such weights are not trained" in message
    assert "perhaps" not in message
    load.check(ModelConfig(name=str(model)))


@pytest.mark.parametrize(
    "ending",
    ["-AWQ", "-GPTQ-Int4", "-FP8", "-FP8-dynamic", "-bnb-4bit", "-unsloth-bnb-4bit", "-quantized.w4a16", "-AWQ-4bit", "-int8"],
)
def test_the_checkpoint_that_a_quantised_one_was_made_from_is_guessed(tmp_path: Path, ending: str) -> None:
    plain = f"{tmp_path}/Qwen2.5-VL-7B-Instruct"
    shutil.copytree(resolve_model("leaml-tiny"), plain + ending)
    change(Path(plain + ending), quantization_config={"quant_method": "x"})
    assert f"perhaps {plain!r}. A quantised model can be a teacher" in refusal(plain + ending)


def own_code(folder: Path, **auto_map: str) -> None:
    """The model becomes one whose code comes with it."""
    (folder / "own.py").write_text(OWN_CODE)
    change(folder, model_type="own_code", architectures=["OwnModel"], auto_map={"AutoConfig": "own.OwnConfig"} | auto_map)


def test_code_of_a_model_runs_when_trusted_and_registered_for_images_and_text(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    own_code(model, AutoModelForImageTextToText="own.OwnModel")
    assert "set trust_remote_code to true" in refusal(model)
    config = ModelConfig(name=str(model), trust_remote_code=True)
    load.check(config, trained=True)
    loaded = load.load(config)
    assert type(loaded.model).__name__ == "OwnModel"
    load.save(loaded.model, loaded.processor, tmp_path / "saved")
    again = load.load(config.model_copy(update={"name": str(tmp_path / "saved")}))
    assert type(again.model).__name__ == "OwnModel"


def test_code_that_load_cannot_use_is_refused_before_anything_runs(model: Path) -> None:
    own_code(model, AutoModel="own.OwnModel", AutoModelForCausalLM="own.OwnModel")
    for trusted in (False, True):
        message = refusal(model, trust_remote_code=trusted)
        assert "is code of its own (AutoConfig, AutoModel, AutoModelForCausalLM)" in message
        assert "architectures native to transformers are trained" in message
        with pytest.raises(ModelError, match="architectures native to transformers"):
            load.load(ModelConfig(name=str(model), trust_remote_code=trusted))


def test_a_native_model_needs_no_code_of_its_own(model: Path) -> None:
    change(model, auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    load.check(ModelConfig(name=str(model)), trained=True)
    assert "is native to transformers" in refusal(model, trust_remote_code=True)


def endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}")


def test_of_a_hub_s_model_small_files_are_fetched_and_then_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    placed = split(model)
    asked: list[str] = []
    hub.tensors.cache_clear()
    config = ModelConfig(name="owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_of(model, asked) as address:
        endpoint(monkeypatch, address)
        load.check(config, trained=True)
        assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= set(asked)
        assert not [name for name in asked if name.endswith(".safetensors")]
        headers = [f"{shard} in part" for shard in set(placed.values())]
        assert sorted(name for name in asked if "safetensors in part" in name) == sorted(headers)
        first = len(asked)
        load.check(config, trained=True)
        assert len(asked) == first
        (model / min(placed.values())).unlink()
        assert f"lacks 1 of 2 files of weights, {min(placed.values())} first" in refusal("owner/name")
    endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refusal("owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal("owner/name")
    assert "there are no weights of the model 'owner/name'; the hub is not asked because HF_HUB_OFFLINE is set" in message


def test_what_the_cache_has_is_loaded_without_asking_the_hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks for files that a model does not have, again and again where the hub is out of reach."""
    from huggingface_hub import constants

    config, asked = ModelConfig(name="owner/name"), list[str]()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_of(model, asked) as address:
        endpoint(monkeypatch, address)
        load.load(config)
        assert "model.safetensors" in asked
    endpoint(monkeypatch, "http://127.0.0.1:9")
    began = time.monotonic()
    assert load.load(config).name == "owner/name"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("how", ["float8", "int8", "modelopt"])
def test_weights_that_are_quantised_without_a_word_in_the_configuration_are_found(model: Path, how: str) -> None:
    """They would be loaded without their scales."""
    import torch

    if how == "modelopt":
        (model / "hf_quant_config.json").write_text("{}")
        said = "it has a hf_quant_config.json"
    else:
        weights = load_file(model / "model.safetensors")
        name = next(name for name in sorted(weights) if name.endswith("up_proj.weight"))
        kind = {"float8": torch.float8_e4m3fn, "int8": torch.int8}[how]
        weights |= {name: weights[name].clamp(-1, 1).to(kind), f"{name}_scale": torch.ones(1)}
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        said = f"{name} is stored as {'F8_E4M3' if how == 'float8' else 'I8'}"
    assert f"are quantised ({said}), and such weights are not trained" in refusal(model)
    load.check(ModelConfig(name=str(model)))  # to be served, or to teach


def test_weights_on_a_hub_that_do_not_fit_are_found_from_their_headers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.tensors.cache_clear()
    rewrite(model, lambda tensors: tensors.pop(NORM))
    asked: list[str] = []
    with hub_of(model, asked) as address:
        endpoint(monkeypatch, address)
        assert f"1 tensor is missing ({NORM})" in refusal("owner/name")
        assert "model.safetensors in part" in asked and "model.safetensors" not in asked
        hub.tensors.cache_clear()
        (model / "model.safetensors").write_bytes(b"<html>" * 20)
        assert "model.safetensors of the model 'owner/name' is no safetensors file" in refusal("owner/name")
    hub.tensors.cache_clear()


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


NORM = "model.text_model.norm.weight"
ZOO = ["gemma3", "glm4v", "internvl", "llava15", "llava_next", "llava_onevision", "paligemma", "pixtral", "qwen2_5_vl"]
ZOO += ["qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm1", "smolvlm2"]


def test_tensors_that_are_missing_or_of_another_shape_are_named(model: Path) -> None:
    width = json.loads((model / "config.json").read_text())["text_config"]["hidden_size"]
    rewrite(model, lambda tensors: tensors.pop(NORM))
    assert f"1 tensor is missing ({NORM})" in refusal(model)
    load.check(ModelConfig(name=str(model)))  # vLLM has a loader of its own

    rewrite(model, lambda tensors: tensors.update({NORM: torch.ones(width + 1)}))
    assert f"1 tensor is of another shape ({NORM} is ({width + 1},), should be ({width},))" in refusal(model)

    rewrite(model, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.0.self_attn" in name])
    assert "tensors are missing" in refusal(model) and ", ...) and 1 tensor is of another shape" in refusal(model)


def test_files_of_another_size_of_the_model_are_refused(model: Path) -> None:
    raw = json.loads((model / "config.json").read_text())
    text = raw["text_config"]
    change(model, text_config=text | {"num_hidden_layers": text["num_hidden_layers"] + 1})
    assert "missing" in refusal(model)


@pytest.mark.parametrize("name", ZOO)
def test_names_that_transformers_changes_when_it_loads_are_known(
    shared_folder: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shared_folder / "zoo" / name, tmp_path / name))
    load.check(ModelConfig(name=str(folder)), trained=True)
    tensors = load_file(folder / "model.safetensors")
    lost = next(tensor for tensor in tensors if "layers.0." in tensor and tensor.endswith("norm.weight"))
    rewrite(folder, lambda tensors: tensors.pop(lost))
    assert "1 tensor is missing" in refusal(folder)
    rewrite(folder, lambda tensors: tensors.update({lost: torch.ones(3)}))
    assert "1 tensor is of another shape" in refusal(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err
