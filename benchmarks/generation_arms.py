"""The arms of `benchmarks.generation`: each makes the same replies to the same requests its own way and returns its rate."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.random_models import SHAPES
from leaml import images
from leaml.config import CaptionConfig, EngineConfig, GenerateConfig, ModelConfig, ResourcesConfig, resolve_model
from leaml.data import image_table, store, tables
from leaml.engine.interface import Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.errors import StepError
from leaml.generation import prompts
from leaml.vlm.collate import prompt
from pipelines import local_ray
from pipelines.caption import CaptionWork
from pipelines.generate import GenerateWork, sampling_seed
from pipelines.models import engine_spec
from pipelines.runtime import start_ray
from pipelines.shard import make_shards
from pipelines.shards import Item, ShardWork, run_shards
from pipelines.table_rows import OutputRow
from research.tiny import world

THREADS = 1
"""Of an engine; with 2 on 2 cores ours gets slower, since Ray and the decoding of images need one of them."""

BLOCK = 64
"""Images in a block of Ray Data for the default processor."""


@dataclass(frozen=True)
class Task:
    """What all arms do: a model's folder, images in shards, and requests."""

    name: str
    model: str
    images: str
    count: int
    shard: int
    pairs: int


@dataclass
class Turn:
    """Images per second from when the engine is ready, and the seconds until then."""

    rate: float
    startup: float


def make_images(folder: str, count: int) -> None:
    """`count` images of the teacher's world as an images table."""
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        buffer = io.BytesIO()
        world.render(world.sample_scene(rng, world.TEACHER)).save(buffer, "PNG")
        data = buffer.getvalue()
        rows.append({"image_id": tables.image_id(data), "uri": f"{number}.png", "bytes": data})
    image_table.write(folder, rows)


def make_large(folder: str) -> int:
    """The tiny model with the language model of SmolLM2-135M but a small vocabulary, random weights. Returns its size."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(resolve_model("leaml-tiny"))
    for key, value in SHAPES["135m"].text.items():
        if key != "vocab_size":
            setattr(config.text_config, key, value)
    config.text_config.head_dim = config.text_config.hidden_size // config.text_config.num_attention_heads
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(resolve_model("leaml-tiny")).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def max_tokens(task: Task, image_id: str) -> int:
    """Longest reply to one image: the caption step's, or for the large model 8 to 64 tokens, by image."""
    if task.name != "large":
        return CaptionConfig().max_tokens
    return 8 + int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) % 57


class VariedWork:
    """Greedy replies of varied length."""

    schema = tables.CAPTIONS

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[OutputRow], Counter[str]]:
        requests = [Request(i.image, i.image_id, prompts.CAPTION, max_tokens=max_tokens(self.task, i.image_id)) for i in items]
        replies = engine.generate(requests)
        rows: list[OutputRow] = [{"image_id": i.image_id, "caption": c.text} for i, (c,) in zip(items, replies, strict=True)]
        return rows, Counter(tokens=sum(c.tokens for (c,) in replies))


class Clocked:
    """A work that notes when it is first called, which is when the engine has started."""

    def __init__(self, work: ShardWork, mark: str) -> None:
        self.work, self.mark, self.schema = work, mark, work.schema

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[Sequence[OutputRow], Counter[str]]:
        with contextlib.suppress(FileExistsError):
            Path(self.mark).touch(exist_ok=False)
        return self.work(engine, items)


def resources_of(task: Task, engines: int = 1) -> ResourcesConfig:
    """Engines of `THREADS` threads."""
    return ResourcesConfig(engines=engines, engine_cpus=THREADS, images_per_shard=task.shard // engines)


def spec_of(task: Task, engines: int = 1) -> EngineSpec:
    """One of these engines."""
    engine = EngineConfig(sequences=min(128, task.shard))
    return engine_spec(ModelConfig(name=task.model), resources_of(task, engines), engine)


def decoded_images(task: Task) -> list[tuple[str, Any]]:
    """Ids and pixels of all images."""
    held = store.ImageStore([task.images], cache_pixels=10**10)
    return [(ref.image_id, held.get(ref.image_id)) for ref in store.index(task.images)]


def ours(task: Task, engines: int = 1) -> Turn:
    """The step as the pipeline runs it; commits are timed by the files' own times.

    With several engines the clock starts with the first that is ready, so the rate is too low.
    """
    began = time.time()
    resources = resources_of(task, engines)
    start_ray(resources)
    works: dict[str, ShardWork] = {
        "caption": CaptionWork(CaptionConfig()),
        "pairs": GenerateWork(GenerateConfig(pairs_per_image=task.pairs), prompts.CAPTION),
        "large": VariedWork(task),
    }
    shards = make_shards(task.name, store.index(task.images), {}, resources.images_per_shard)
    spec = spec_of(task, engines)
    with tempfile.TemporaryDirectory() as output:
        work = Clocked(works[task.name], f"{output}/first")
        run_shards(task.name, shards, spec, work, output, resources, 10**7)
        ready = Path(output, "first").stat().st_mtime
        done = max(f.stat().st_mtime for f in Path(output, "rows").iterdir())
    return Turn(task.count / (done - ready), ready - began)


def ours_two(task: Task) -> Turn:
    """The same with two engines, as many as the machine has cores."""
    return ours(task, 2)


def vllm(task: Task) -> Turn:
    """vLLM's own batch call, on images that are decoded before the clock starts."""
    began = time.time()
    engine = spec_of(task).build()
    decoded = decoded_images(task)
    config = GenerateConfig(pairs_per_image=task.pairs)

    def pairs(part: list[tuple[str, Any]]) -> None:
        requests = [
            Request(
                image,
                name,
                prompts.GENERATE,
                n=task.pairs,
                temperature=config.temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
                seed=sampling_seed(0, name),
            )
            for name, image in part
        ]
        replies = engine.generate(requests)
        found = [(n, image, prompts.parse_qa(c.text)) for (n, image), cs in zip(part, replies, strict=True) for c in cs]
        asked = {(name, pair[0]): image for name, image, pair in found if pair}
        engine.generate([Request(i, n, q, max_tokens=config.max_tokens) for (n, q), i in asked.items()])

    def captions(part: list[tuple[str, Any]]) -> None:
        engine.generate([Request(i, n, prompts.CAPTION, max_tokens=max_tokens(task, n)) for n, i in part])

    everything = pairs if task.name == "pairs" else captions
    started = time.time()
    everything(decoded)
    return Turn(len(decoded) / (time.time() - started), started - began)


def ray_default(task: Task) -> Turn:
    """`ray.data.llm` with the stages that are on by default: messages in, the image beside them, text out.

    Its stage for images in messages, which is off by default, does not run with vLLM 0.32 (it imports a module of 0.29).
    """
    return _ray_llm(task, _messages)


def ray_short(task: Task) -> Turn:
    """`ray.data.llm` with one stage: what others would do is done before."""
    return _ray_llm(task, _prompts, **dict.fromkeys(("chat_template_stage", "tokenize_stage", "detokenize_stage"), False))


def _messages(_: str, row: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": prompts.CAPTION}]
    image = images.decode(row["bytes"], 10**7)
    return {"messages": [{"role": "user", "content": content}], "multimodal_data": {"image": image}}


def _prompts(text: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": text, "multimodal_data": {"image": images.decode(row["bytes"], 10**7)}}


def _ray_llm(task: Task, inputs: Callable[[str, dict[str, Any]], dict[str, Any]], **stages: Any) -> Turn:
    """Timed from its first block, which comes out while others are far advanced: the rate is too high by up to a sixth."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from transformers import AutoProcessor

    began = time.time()
    local_ray.start(num_cpus=8, log_to_driver=False)  # on 4 its stages wait for each other without end
    start_ray(resources_of(task))
    model = resolve_model(task.model)
    text = prompt(AutoProcessor.from_pretrained(model), prompts.CAPTION)
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={"dtype": "float32", "enforce_eager": True, "limit_mm_per_prompt": {"image": 1}}
        | {"gpu_memory_utilization": 0.3},  # of the memory: its default, 0.92, does not start beside other processes
        placement_group_config={"bundles": [{"CPU": 1}]},
        concurrency=(1, 1),
        **stages,
    )
    sampling = {"max_tokens": CaptionConfig().max_tokens, "temperature": 0.0}
    processor = build_processor(
        config,
        preprocess=lambda r: {**inputs(text, r), "sampling_params": sampling, "image_id": r["image_id"]},
        postprocess=lambda r: {"image_id": r["image_id"], "caption": r["generated_text"], "at": time.time()},
    )
    read = ray.data.read_parquet(task.images, columns=["image_id", "bytes"]).repartition(task.count // BLOCK)
    rows = list(processor(read).iter_rows())
    if empty := sum(not row["caption"] for row in rows):
        msg = f"{empty} of {len(rows)} replies of ray.data.llm are empty"
        raise StepError(msg)
    times = sorted(row["at"] for row in rows)
    return Turn((len(times) - BLOCK) / (times[-1] - times[BLOCK - 1]), times[0] - began)


def hf(task: Task) -> Turn:
    """transformers `generate` in batches of 64; prompts have one length, a batch ends with its longest reply."""
    import torch

    from leaml.vlm import load

    began = time.time()
    torch.set_num_threads(THREADS)
    vlm = load.load(ModelConfig(name=task.model), "cpu")
    vlm.model.eval()
    text = prompt(vlm.processor, prompts.CAPTION)
    decoded = decoded_images(task)

    def answer(part: list[tuple[str, Any]]) -> None:
        for start in range(0, len(part), 64):
            batch = part[start : start + 64]
            pictures = [[image] for _, image in batch]
            inputs = vlm.processor(text=[text] * len(batch), images=pictures, padding=False, return_tensors="pt")
            longest = max(max_tokens(task, name) for name, _ in batch)
            with torch.no_grad():
                replies = vlm.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            for ids in replies[:, inputs["input_ids"].shape[1] :].tolist():
                vlm.processor.tokenizer.decode(ids, skip_special_tokens=True)

    started = time.time()
    answer(decoded)
    return Turn(len(decoded) / (time.time() - started), started - began)


ARMS = {"caption": (ours, ours_two, vllm, ray_default, ray_short, hf), "pairs": (ours, vllm), "large": (ours, vllm, hf)}
