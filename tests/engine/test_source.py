"""What an engine is told to load: of a hub's model the folder of the cache, where that has all of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import COMMIT, hub_of

from leaml.config import ModelConfig, resolve_model
from leaml.engine.spec import EngineSpec
from leaml.engine.vllm_engine import VllmEngine


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Files that a hub of the shipped model, `owner/name`, was asked for."""
    from huggingface_hub import constants

    found = list[str]()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_of(Path(resolve_model("leaml-tiny")), found) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What vLLM, which is not started, was told."""
    found: dict[str, Any] = {}
    vllm = SimpleNamespace(LLM=lambda **options: found.update(options) or SimpleNamespace(), __spec__=None)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    return found


def fetch(*names: str) -> None:
    from huggingface_hub import hf_hub_download

    for name in names:
        hf_hub_download("owner/name", name)


def every_file() -> list[str]:
    return [file.name for file in Path(resolve_model("leaml-tiny")).iterdir()]


def test_vllm_loads_a_cached_model_from_its_folder_and_no_hub_is_asked(asked: list[str], told: dict[str, Any]) -> None:
    fetch(*every_file())
    asked.clear()
    engine = VllmEngine(EngineSpec("owner/name"))
    assert Path(told["model"]).parts[-2:] == ("snapshots", COMMIT)
    assert Path(told["model"], "model.safetensors").is_file()
    assert type(engine.processor).__name__.endswith("Processor")
    assert asked == []


@pytest.mark.parametrize("lacking", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_vllm_is_told_the_name_of_a_model_whose_download_was_cut_off(
    asked: list[str], told: dict[str, Any], lacking: str
) -> None:
    fetch(*(name for name in every_file() if name != lacking))
    VllmEngine(EngineSpec("owner/name"))
    assert told["model"] == "owner/name"


def test_a_replica_serves_a_cached_model_from_its_folder_under_its_own_name(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    from serve.replica import ModelServer
    from serve.service import Model
    from serve.settings import LimitSettings

    fetch(*every_file())
    asked.clear()
    given: list[LLMConfig] = []

    async def start(_: LLMServer, llm_config: LLMConfig, **options: object) -> None:
        given.append(llm_config)
        raise InterruptedError  # the engine itself is not wanted

    monkeypatch.setattr(LLMServer, "__init__", start)
    monkeypatch.setattr("serve.replica._compat.replica_grpc_on_node_address", lambda: None)
    monkeypatch.setattr("serve.replica.observe.log_json", lambda: None)
    config = LLMConfig(model_loading_config={"model_id": "mine", "model_source": "owner/name"})
    replica: Any = object.__new__(ModelServer)
    with pytest.raises(InterruptedError):
        asyncio.run(ModelServer.__init__(replica, config, Model("mine", ""), ModelConfig(name="owner/name"), LimitSettings()))
    loading: Any = given[0].model_loading_config
    assert loading.model_id == "mine"
    assert Path(loading.model_source).parts[-2:] == ("snapshots", COMMIT)
    assert replica.local_base.name == "owner/name"
    assert asked == []
