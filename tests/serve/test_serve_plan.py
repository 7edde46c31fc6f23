"""From settings to what is deployed: where models are found, how domains are served, which limits Ray gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from ray.serve.schema import ServeDeploySchema

from leaml.config import ModelConfig, resolve_model
from leaml.errors import DataError, InputError, ModelError
from leaml.neurons.peft import NeuronConfig
from leaml.run.records import RunRecord, StepRecord
from leaml.vlm import load
from serve import adapters, deploy
from serve.settings import load_settings, merged

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"
PROJECTION = "model.text_model.layers.0.mlp.up_proj"


def save_adapter(folder: Path, config: Any) -> str:
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    model = get_peft_model(vlm.model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("adapters")
    few, many = {PROJECTION: range(12)}, {PROJECTION: range(300)}
    return {
        "lora": save_adapter(where / "lora", LoraConfig(r=4, target_modules=r".*layers\.0\.mlp\.up_proj")),
        "few": save_adapter(where / "few", NeuronConfig(rows=few, train_bias=False)),
        "many": save_adapter(where / "many", NeuronConfig(rows=many, train_bias=False)),
        "biased": save_adapter(where / "biased", NeuronConfig(rows=few, train_bias=True)),
    }


def test_adapters_are_loras_where_that_is_exact_and_fits(saved: dict[str, str]) -> None:
    ways = {name: adapters.way_of(folder, 64, True) for name, folder in saved.items()}
    assert ways == {"lora": "lora", "few": "lora", "many": "merge", "biased": "merge"}
    assert adapters.way_of(saved["many"], 512, True) == "lora"
    assert adapters.way_of(saved["lora"], 3, True) == "merge"
    assert adapters.way_of(saved["lora"], 64, False) == "merge"
    assert adapters.way_of("leaml-tiny", 64, True) == "model"


def test_neurons_are_exported_and_merged_exactly(saved: dict[str, str]) -> None:
    from safetensors.torch import load_file

    base = ModelConfig(name=resolve_model("leaml-tiny"))
    lora = adapters.lora_folder(saved["few"], base)
    assert adapters.lora_folder(saved["few"], base) == lora  # made once
    assert adapters.read_config(lora)["r"] == 12
    assert adapters.lora_folder(saved["lora"], base) == saved["lora"]
    before = load.load(base).model.state_dict()
    after = load.load(ModelConfig(name=adapters.merged_folder(saved["few"], base))).model.state_dict()
    factors = load_file(Path(lora) / "adapter_model.safetensors")
    a, b = (next(v for k, v in factors.items() if f"lora_{x}" in k) for x in "AB")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{PROJECTION}.weight"}
    assert torch.allclose(after[f"{PROJECTION}.weight"], before[f"{PROJECTION}.weight"] + b @ a)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ('{"peft_type": "LORA", "r": 4}', None),
        ('{"peft_type": "IA3"}', "adapter_model.safetensors"),
        ("not json", "adapter_model.safetensors"),
        ('{"peft_type": "LORA", "r": 4}', "adapter_model.bin"),
    ],
)
def test_adapters_that_are_refused_before_anything_is_loaded(tmp_path: Path, config: str, weights: str | None) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    if weights:
        (tmp_path / weights).write_bytes(b"x")
    with pytest.raises(DataError):
        adapters.way_of(str(tmp_path), 64, True)


def test_a_lora_that_vllm_would_take_but_does_not_fit_is_refused(saved: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = ModelConfig(name=resolve_model("leaml-tiny"))
    tensors = load_file(Path(saved["lora"]) / "adapter_model.safetensors")
    changes = {
        "narrow": {name: value[:, :7].contiguous() for name, value in tensors.items()},
        "nan": {name: value * float("nan") for name, value in tensors.items()},
        "elsewhere": {name.replace("layers.0", "layers.9"): value for name, value in tensors.items()},
        "half": {name: value for name, value in tensors.items() if "lora_A" in name},
    }
    for name, changed in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text((Path(saved["lora"]) / "adapter_config.json").read_text())
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="does not fit"):
            adapters.lora_folder(str(folder), base)
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="cannot be read"):
        adapters.lora_folder(str(tmp_path / "half"), base)


def planned(**settings: Any) -> deploy.DeploymentPlan:
    return deploy.plan(load_settings({"model": "leaml-tiny", **settings}), ["digest"])


def test_a_plan_sorts_domains_and_keeps_bad_ones_apart(saved: dict[str, str], tmp_path: Path) -> None:
    domains = [{"name": name, "source": folder} for name, folder in saved.items() if name != "biased"]
    domains += [{"name": "teacher", "source": "leaml-tiny-teacher"}, {"name": "gone", "source": str(tmp_path / "gone")}]
    plan = planned(domains=domains)
    assert [(e["id"], bool(e["reason"])) for e in plan.adapters] == [
        ("leaml-tiny:lora", False),
        ("leaml-tiny:few", False),
        ("leaml-tiny:gone", True),
    ]
    assert [(m.id, adapter) for m, _, adapter in plan.merged] == [
        ("leaml-tiny:many", saved["many"]),
        ("leaml-tiny:teacher", ""),
    ]
    assert plan.merged[0][1] == plan.base
    assert set(plan.cards) == {f"leaml-tiny{d}" for d in ("", ":lora", ":few", ":many", ":teacher")}


def test_only_what_an_engine_must_start_anew_for_replaces_replicas(saved: dict[str, str]) -> None:
    one = planned(domains=[{"name": "a", "source": saved["lora"]}])
    two = planned(domains=[{"name": "a", "source": saved["lora"]}, {"name": "b", "source": saved["few"]}])
    assert one.version == two.version
    assert one.user_config != two.user_config
    assert planned().version != one.version  # an engine with adapters is another one
    assert planned(engine={"max_adapters": 2}).version != planned().version
    assert planned(scaling={"max_replicas": 3}).version == planned().version
    assert planned(limits={"n": 1}).version != planned().version


def test_a_run_gives_its_name_and_longest_answer(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    step = run / "finetune-0123456789ab"
    (step / "model").mkdir(parents=True)
    (step / "model" / "config.json").write_text("{}")
    RunRecord("mine", "done", steps=(StepRecord("finetune", "leaml", folder=step.name),)).write(str(run))
    tree = {"name": "mine", "model": {"name": "x", "dtype": "bfloat16", "trust_remote_code": False}}
    (run / "config.yaml").write_text(yaml.safe_dump({**tree, "evaluate": {"max_tokens": 7}}))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "calibration.json").write_text(json.dumps({"temperature": 1.5}))
    plan = planned(model=str(run))
    assert (plan.main.id, plan.main.run) == ("mine", "mine/finetune-0123456789ab")
    assert (plan.main.answer_tokens, plan.main.temperature) == (7, 1.5)
    assert (plan.base.name, plan.base.dtype) == (str(step / "model"), "bfloat16")
    assert planned(model=str(run), limits={"answer_tokens": 3}).main.answer_tokens == 3
    with pytest.raises(InputError):
        planned(model=str(tmp_path / "nothing"))


def test_the_size_of_images_is_the_engines() -> None:
    found = planned(engine={"max_image_pixels": 9000, "image_tiles": False})
    assert found.base.image_settings == {"max_image_pixels": 9000, "image_tiles": False}
    assert found.version != planned().version
    assert planned().base.image_settings == {}  # a model folder says it by itself


def test_every_limit_of_ray_is_set() -> None:
    plan = planned(
        limits={"concurrency": 10, "queue": 5, "deadline_seconds": 90}, scaling={"min_replicas": 2, "max_replicas": 4}
    )
    llm_config, options = deploy._engine(plan, _Options, plan.main, plan.base, (2, 4))
    assert options["max_ongoing_requests"] == 31
    ingress = deploy._engine(plan, _Options, plan.main, plan.base, (2, 4), adapters_too=True).options
    for limit in ("max_ongoing_requests", "max_queued_requests"):  # a connection may be a slow body, or have no key
        assert ingress[limit] > plan.settings.limits.connections
    assert options["max_queued_requests"] == 5
    assert options["backpressure_config"] == {"status_code": 429, "retry_after_s": 2}
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (2, 4, 16)
    assert options["graceful_shutdown_timeout_s"] > 90
    assert options["health_check_period_s"] == 2
    engine = llm_config.engine_kwargs
    assert engine["allowed_media_domains"] == ["none.invalid"]
    assert engine["generation_config"] == "vllm"  # not the model's penalties, which the evaluation does not have either
    assert not engine["enable_log_requests"]
    assert "enable_lora" not in engine


class _Options:
    @staticmethod
    def get_deployment_options(config: Any) -> dict[str, Any]:
        return dict(config.deployment_config)


def test_the_shipped_file_is_valid_for_serve_deploy_and_for_leaml_serve() -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = schema.applications
    assert application.import_path == "serve.deploy:build"
    settings = load_settings(application.args)
    assert schema.http_options.host == "127.0.0.1"
    assert (schema.http_options.request_timeout_s or 0) > settings.limits.deadline_seconds + settings.limits.body_seconds
    assert load_settings(merged(CONFIG, {"http.port": 9000, "model": None}, ["limits.n=2"])).limits.n == 2
