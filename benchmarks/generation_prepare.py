"""Part of `benchmarks.generation`: photos a second that are made ready for an engine, whose model answers at once.

All else is real: JPEG bytes from a table of images, shards on Ray Data, decoding, vLLM's own processing of prompts and images,
and published files. vLLM's core alone is replaced: it ends each request with one token.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.generation_arms import Clocked
from benchmarks.generation_scale import in_new_process
from leaml.config import ModelConfig, ResourcesConfig, resolve_model
from leaml.data import image_table, store, tables
from leaml.engine.interface import Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.engine.vllm_engine import VllmEngine
from leaml.errors import StepError
from leaml.generation import prompts
from pipelines.models import engine_spec
from pipelines.runtime import start_ray
from pipelines.shard import make_shards
from pipelines.shards import Item, run_shards
from pipelines.table_rows import OutputRow

SIZE = (1280, 1024)
SHARD = 32


@dataclass(frozen=True)
class NullSpec(EngineSpec):
    """vLLM with a core that computes nothing."""

    def build(self) -> Engine:
        engine = EngineSpec(**vars(self)).build()
        assert isinstance(engine, VllmEngine)
        llm: Any = engine._driver.llm
        llm.llm_engine.engine_core = NullCore(llm.llm_engine.engine_core)
        return engine


class NullCore:
    """In place of vLLM's client of its core."""

    def __init__(self, core: Any) -> None:
        self._core, self._ids = core, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def add_request(self, request: Any) -> None:
        self._ids.append(request.request_id)

    def get_output(self) -> Any:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

        done = [EngineCoreOutput(i, [10], finish_reason=FinishReason.STOP) for i in self._ids]
        self._ids.clear()
        return EngineCoreOutputs(outputs=done)

    def abort_requests(self, ids: list[str]) -> None:
        pass


class AnyReply:
    """One request an image; whatever is replied is its caption."""

    schema = tables.CAPTIONS

    def __call__(self, engine: Engine, items: list[Item[object]]) -> tuple[list[OutputRow], Counter[str]]:
        found = engine.generate([Request(i.image, i.image_id, prompts.CAPTION, max_tokens=1) for i in items])
        if errors := [reply.error for (reply,) in found if reply.error]:
            raise StepError(errors[0])
        return [{"image_id": item.image_id, "caption": "none"} for item in items], Counter()


def make_photos(folder: str, count: int) -> None:
    """`count` JPEG images of a megapixel, with as much detail as a camera's."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        scene = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        noise = rng.normal(0, 6, scene.shape).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(scene + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        rows.append({"image_id": tables.image_id(buffer.getvalue()), "uri": f"{number}.jpg", "bytes": buffer.getvalue()})
    image_table.write(folder, rows)


def make_model(folder: str) -> None:
    """A small model that looks at images as SmolVLM does: up to 17 tiles of 512 x 512 pixels, 64 tokens each."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(resolve_model("leaml-tiny"))
    marks = ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": marks})
    images = processor.image_processor
    images.size, images.max_image_size, images.do_image_splitting = {"longest_edge": 2048}, {"longest_edge": 512}, True
    processor.image_seq_len = 64
    processor.save_pretrained(folder)

    config = AutoConfig.from_pretrained(resolve_model("leaml-tiny"))
    config.scale_factor, config.vision_config.image_size, config.vision_config.patch_size = 4, 512, 16
    config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = 1
    config.text_config.max_position_embeddings, config.text_config.vocab_size = 8192, len(processor.tokenizer)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)


def prepared(folder: str, count: int, cpus: int) -> float:
    """Images a second from the engine's start to the last published file."""
    resources = ResourcesConfig(engine_cpus=cpus, images_per_shard=SHARD)
    start_ray(resources)
    spec = engine_spec(ModelConfig(name=f"{folder}/model"), resources)
    spec = NullSpec(**vars(replace(spec, cpus=float(cpus))))
    shards = make_shards("null", store.index(f"{folder}/photos"), {}, SHARD)
    with tempfile.TemporaryDirectory() as output:
        work = Clocked(AnyReply(), f"{output}/first")
        run_shards("null", shards, spec, work, output, resources, 10**7)
        ready = Path(output, "first").stat().st_mtime
        done = max(file.stat().st_mtime for file in Path(output, "rows").iterdir())
    return count / (done - ready)


def rates(folder: str, count: int, rounds: int) -> dict[str, Any]:
    """The rate of this machine over its cores, all of which the one engine has."""
    cores = os.cpu_count() or 1
    make_photos(f"{folder}/photos", count)
    make_model(f"{folder}/model")
    found = []
    for number in range(rounds):
        found.append(in_new_process(prepared, folder, count, cores))
        print(f"round {number + 1} of {rounds}, preparation: {found[-1]:.1f} images/s", file=sys.stderr, flush=True)
    shown = [round(rate / cores, 2) for rate in found]
    return {"prepared_images_per_s_per_core": statistics.median(shown), "prepared_rounds": shown, "prepared_cores": cores}
