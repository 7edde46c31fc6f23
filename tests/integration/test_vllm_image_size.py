"""The prompt that vLLM makes of an image is the one of training, whatever size images are shown in.

vLLM's own processor of the model is asked, with the arguments that our engine gives vLLM; no weights are loaded for that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaml.config import EngineConfig, ModelConfig, ResourcesConfig
from leaml.engine.arguments import known_options
from leaml.engine.interface import Longest
from leaml.engine.spec import EngineSpec
from leaml.vlm import load
from leaml.vlm.collate import IGNORED, Collator, Turn
from pipelines.models import engine_spec

SIZES = [(1280, 1024), (300, 900), (64, 48)]
REQUEST = "what is it?"


class Recorded:
    """Stands for vLLM's engine: its arguments."""

    def __init__(self, **options: Any) -> None:
        self.options = options


def _told(spec: EngineSpec) -> tuple[dict[str, Any], int, set[str]]:
    """What vLLM is told, tokens of its longest prompt about a large image, and the names of all that it can be told."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    from leaml.engine.vllm_engine import VllmEngine
    from leaml.vlm.collate import prompt

    vllm.LLM = Recorded
    engine = VllmEngine(spec)
    options = engine._driver.llm.options
    processor = MULTIMODAL_REGISTRY.create_processor(EngineArgs(**options).create_model_config())
    longest = 0
    for size in ((4000, 4000), (3000, 200)):
        items = processor.info.parse_mm_data({"image": [engine._shrink(Image.new("RGB", size))]})
        ids = processor(prompt(engine.processor, "word " * 50), mm_items=items)["prompt_token_ids"]
        longest = max(longest, len(ids))
    return options, longest, {each.name for each in fields(EngineArgs)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("folder", ["qwen2_5_vl", "smolvlm1"])
def test_a_long_context_is_as_long_as_the_requests_of_a_step_need(
    shared_folder: Path, tmp_path: Path, vllm_process: ProcessPoolExecutor, folder: str
) -> None:
    shutil.copytree(shared_folder / "zoo" / folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (config.get("text_config") or config)["max_position_embeddings"] = 128_000
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    model, longest = ModelConfig(name=str(tmp_path / "model")), Longest(text=5 * 50, reply=100)

    spec = engine_spec(model, ResourcesConfig(), longest=longest)
    told, tokens, known = vllm_process.submit(_told, spec).result(timeout=280)
    assert tokens + 100 <= told["max_model_len"] < tokens + 600
    assert told["limit_mm_per_prompt"] == {"image": 1, "video": 0}
    assert known == known_options()

    given = replace(spec, engine=EngineConfig(max_model_len=5000))
    assert vllm_process.submit(_told, given).result(timeout=280)[0]["max_model_len"] == 5000
    whole = replace(spec, longest=None)
    assert "max_model_len" not in vllm_process.submit(_told, whole).result(timeout=280)[0]


def _asked(spec: EngineSpec) -> list[list[int]]:
    """Ids of vLLM's prompts about an image of each size."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    from leaml.engine.vllm_engine import VllmEngine
    from leaml.vlm.collate import prompt

    vllm.LLM = Recorded
    engine = VllmEngine(spec)
    config = EngineArgs(**engine._driver.llm.options).create_model_config()
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    text, found = prompt(engine.processor, REQUEST), []
    for size in SIZES:
        items = processor.info.parse_mm_data({"image": [engine._shrink(Image.new("RGB", size))]})
        found.append(list(processor(text, mm_items=items)["prompt_token_ids"]))
    return found


@pytest.fixture(scope="module")
def vllm_process() -> Iterator[ProcessPoolExecutor]:
    """A process in which vLLM is imported once."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("smolvlm1", {}),
        ("smolvlm1", {"max_image_pixels": 20_000}),
        ("smolvlm1", {"image_tiles": False}),
        ("llava_next", {"max_image_pixels": 9_000}),
        ("llava_next", {"image_tiles": False}),
        ("llava_onevision", {"max_image_pixels": 9_000}),
        ("qwen2_vl", {"max_image_pixels": 9_000}),
        ("qwen3_vl", {"max_image_pixels": 9_000}),
        ("glm4v", {"max_image_pixels": 9_000}),
        ("internvl", {"max_image_pixels": 9_000}),
        ("internvl", {"image_tiles": False}),
    ],
)
def test_vllm_is_asked_what_was_trained(
    shared_folder: Path, tmp_path: Path, vllm_process: ProcessPoolExecutor, folder: str, wanted: dict[str, Any]
) -> None:
    model = ModelConfig(name=str(shared_folder / "zoo" / folder), **wanted)
    vlm = load.load(model)
    expected = []
    for size in SIZES:
        batch = Collator(vlm.processor)([Turn(Image.new("RGB", size), REQUEST, "a cat")])
        expected.append(batch["input_ids"][batch["labels"] == IGNORED].tolist())
    spec = engine_spec(model, ResourcesConfig())
    assert vllm_process.submit(_asked, spec).result(timeout=280) == expected

    load.save(vlm.model, vlm.processor, tmp_path)
    saved = replace(spec, model=str(tmp_path), max_image_pixels=None, image_tiles=True)
    assert vllm_process.submit(_asked, saved).result(timeout=280) == expected
