"""Part of `benchmarks.generation`: photos a second that are made ready for an engine, whose model answers at once.

All else is real: JPEG bytes from a table of images, shards on Ray Data, decoding, vLLM's own processing of prompts and images,
and published files. vLLM's core alone is replaced: it ends each request with one token.

`before` is how images were prepared until threads did it ahead of vLLM: one after the other, in the thread that talks to vLLM,
whose own call of the processor makes the pixels, with arithmetic on all of the engine's cores. Decoding is in threads in both.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.generation_scale import in_new_process
from leaml.config import ModelConfig, ResourcesConfig, resolve_model
from leaml.data import image_table, store, tables
from leaml.engine import driver
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
ZOO = Path(__file__).parents[2] / "shared" / "zoo" / "qwen2_5_vl"


@dataclass(frozen=True)
class NullSpec(EngineSpec):
    """vLLM with a core that computes nothing. It has prepared images when it is noted in `notes` that it is there."""

    notes: str = ""

    def build(self) -> Engine:
        engine = EngineSpec(**{name: value for name, value in vars(self).items() if name != "notes"}).build()
        assert isinstance(engine, VllmEngine)
        llm: Any = engine._driver.llm
        llm.llm_engine.engine_core = NullCore(llm.llm_engine.engine_core)
        engine.generate([Request(Image.new("RGB", SIZE), f"{n}", prompts.CAPTION, max_tokens=1) for n in range(4)])
        note(self.notes, 0)
        return engine


@dataclass(frozen=True)
class BeforeSpec(NullSpec):
    """The same, with images that are prepared one after the other."""

    def build(self) -> Engine:
        driver.Preparer = OneByOne  # type: ignore[misc, assignment]
        return super().build()


class OneByOne:
    """In place of the threads that prepare images: they are shrunk where they are asked for, and vLLM makes the pixels."""

    caches = False

    def __init__(self, renderer: Any, threads: int) -> None:
        pass

    def is_cached(self, name: str) -> bool:
        return False

    def submit(self, image: Image.Image, shrink: Callable[[Image.Image], Image.Image], make: bool) -> Future[Image.Image]:
        done: Future[Image.Image] = Future()
        done.set_result(shrink(image))
        return done

    def close(self) -> None:
        pass


ARMS: dict[str, type[NullSpec]] = {"before": BeforeSpec, "ours": NullSpec}


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


def note(folder: str, images: int) -> None:
    """Write down that so many images are done, when that was, and what the process has taken of the processor, in seconds."""
    at = time.monotonic()
    Path(folder, str(at)).write_text(json.dumps([at, time.process_time(), images]))


class AnyReply:
    """One request an image; whatever is replied is its caption."""

    schema = tables.CAPTIONS

    def __init__(self, notes: str) -> None:
        self.notes = notes

    def __call__(self, engine: Engine, items: list[Item[object]]) -> tuple[list[OutputRow], Counter[str]]:
        found = engine.generate([Request(i.image, i.image_id, prompts.CAPTION, max_tokens=1) for i in items])
        if errors := [reply.error for (reply,) in found if reply.error]:
            raise StepError(errors[0])
        note(self.notes, len(items))
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


def make_qwen(folder: str) -> bool:
    """A small model that looks at images as Qwen2.5-VL does, all of 1288 x 1036 pixels in patches; whether there is one."""
    if not ZOO.is_dir():
        return False
    shutil.copytree(ZOO, folder)
    file = Path(folder, "preprocessor_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_pixels": 12_845_056}))
    return True


@dataclass(frozen=True)
class Prepared:
    """Images a second of one core, and seconds of processor time an image."""

    rate: float
    seconds: float


def prepared(arm: str, model: ModelConfig, photos: str, cpus: int) -> Prepared:
    """What an arm makes ready on the cores of one engine, from when the engine is there to its last reply."""
    resources = ResourcesConfig(engine_cpus=cpus, images_per_shard=SHARD)
    start_ray(resources)
    spec = replace(engine_spec(model, resources), cpus=float(cpus))
    shards = make_shards("null", store.index(photos), {}, SHARD)
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryDirectory() as notes:
        run_shards("null", shards, ARMS[arm](**vars(spec), notes=notes), AnyReply(notes), output, resources, 10**7)
        found = sorted(json.loads(file.read_text()) for file in Path(notes).iterdir())
    (began, spent, _), (ended, spent_then, _) = found[0], found[-1]
    images = sum(count for _, _, count in found)
    return Prepared(images / (ended - began) / cpus, (spent_then - spent) / images)


def rates(folder: str, count: int, rounds: int) -> dict[str, Any]:
    """Both arms' rates of this machine over its cores, all of which the one engine has; ratios within a round, and medians."""
    cores = os.cpu_count() or 1
    make_photos(f"{folder}/photos", count)
    make_model(f"{folder}/smolvlm")
    models = {"tiles": ModelConfig(name=f"{folder}/smolvlm"), "whole": ModelConfig(name=f"{folder}/smolvlm", image_tiles=False)}
    if make_qwen(f"{folder}/qwen"):
        models["qwen"] = ModelConfig(name=f"{folder}/qwen")
    turns: dict[str, dict[str, list[Prepared]]] = {name: {arm: [] for arm in ARMS} for name in models}
    for number in range(rounds):
        for name, model in models.items():
            for arm in reversed(ARMS) if number % 2 else ARMS:
                turn = in_new_process(prepared, arm, model, f"{folder}/photos", cores)
                turns[name][arm].append(turn)
                shown = f"{turn.rate:.2f} images/s of a core, {1000 * turn.seconds:.0f} ms of processor time an image"
                print(f"round {number + 1} of {rounds}, {name}, {arm}: {shown}", file=sys.stderr, flush=True)
    return report(turns) | {"prepared_cores": cores}


def report(turns: dict[str, dict[str, list[Prepared]]]) -> dict[str, Any]:
    """Ratios first; those of the model in tiles by themselves."""
    ratios = {
        name: round(statistics.median(a.rate / b.rate for a, b in zip(arms["ours"], arms["before"], strict=True)), 2)
        for name, arms in turns.items()
    }
    shown = {
        name: {
            arm: {
                "images_per_s_per_core": round(statistics.median(t.rate for t in found), 2),
                "rounds": [round(t.rate, 2) for t in found],
                "cpu_ms_per_image": round(1000 * statistics.median(t.seconds for t in found), 1),
            }
            for arm, found in arms.items()
        }
        for name, arms in turns.items()
    }
    return {
        "prepared_images_per_s_per_core_vs_before": ratios["tiles"],
        "prepared_images_per_s_per_core": shown["tiles"]["ours"]["images_per_s_per_core"],
        "prepared_ratios": ratios,
        "preparation": shown,
    }
