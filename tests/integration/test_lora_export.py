"""A neuron adapter exported as a LoRA and swapped into a running vLLM answers as the merged model served by vLLM does."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from leaml.config import EngineConfig, ModelConfig, ResourcesConfig
from leaml.neurons.peft import NeuronConfig, export_lora
from leaml.vlm import load
from pipelines.models import engine_spec
from research.tiny import world

ROWS = 12
QUESTIONS = ("What shape is it?", "What colour is it?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lora`, the export of an adapter on every Linear of the language model, and `merged`, the same adapter merged.

    The adapter is shaped as a selection with `unit: ffn` is: columns of the down projections, rows of all else.
    """
    where = tmp_path_factory.mktemp("adapter")
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    generator = torch.Generator().manual_seed(0)
    linears = load.language_linears(vlm.model)
    rows, columns = {}, {}
    for name, m in linears.items():
        if name.endswith(".down_proj"):
            columns[name] = torch.randperm(m.in_features, generator=generator)[:ROWS]
        else:
            rows[name] = torch.randperm(m.out_features, generator=generator)[:ROWS]
    model = get_peft_model(vlm.model, NeuronConfig(rows=rows, columns=columns))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=generator)
    assert export_lora(model, where / "lora").r == ROWS
    load.save(model.merge_and_unload(), vlm.processor, where / "merged")
    return where


def answers(model: str, lora: str | None = None) -> list[list[list[int]]]:
    """Token ids of greedy answers; with `lora` first the base's and then, from the same engine, the adapter's."""
    told = EngineConfig(options={"enable_lora": True, "max_lora_rank": 16} if lora else {})
    engine = engine_spec(ModelConfig(name=model), ResourcesConfig(), told).build()
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    from leaml.vlm.collate import prompt

    rng = random.Random(5)
    images = [world.render(world.sample_scene(rng, world.TEACHER)) for _ in range(16)]
    prompts = [
        {"prompt": prompt(engine.processor, question, ""), "multi_modal_data": {"image": image}}
        for image in images
        for question in QUESTIONS
    ]
    greedy = SamplingParams(temperature=0.0, max_tokens=8)
    llm = engine._driver.llm
    adapters = [None, LoRARequest("neurons", 1, lora)] if lora else [None]
    return [
        [list(o.outputs[0].token_ids) for o in llm.generate(prompts, greedy, use_tqdm=False, lora_request=adapter)]
        for adapter in adapters
    ]


def all_answers(folder: Path) -> list[list[list[int]]]:
    """Of the base, of the adapter swapped into it, and of the merged model."""
    return [*answers("leaml-tiny", str(folder / "lora")), *answers(str(folder / "merged"))]


@pytest.mark.timeout(500)
def test_swapped_lora_answers_as_the_merged_model(folder: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # beside other tests' imports vLLM does not start
        base, swapped, merged = pool.submit(all_answers, folder).result(timeout=400)
    assert swapped == merged
    assert swapped != base
    assert len({tuple(answer) for answer in swapped}) > 1  # not one answer to everything
