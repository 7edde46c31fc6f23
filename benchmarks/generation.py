"""Throughput of the map steps beside raw vLLM, the default `ray.data.llm` processor and a transformers loop.

    python -m benchmarks.generation [--images 3072] [--rounds 3] [--pairs 6] [--json FILE]

The same synthetic images (the shipped teacher's world, PNG bytes in Parquet) and the same requests in all arms:

    caption, one greedy reply an image, of leaml-tiny-teacher
        ours           Parquet in, Parquet out, through `pipelines.units` and the caption step's own work
        vllm           `vllm.LLM.generate`, all requests in one call, images decoded before the clock starts
        ray_default    `ray.data.llm`'s processor with its defaults (placed on a CPU, without stages that a ready prompt skips)
        hf             transformers `generate` in batches of 64
    pairs, `--pairs` sampled pairs an image and a greedy answer to each of their questions, of leaml-tiny
        ours           the generate step's own work, filters on
        vllm           the same requests in two calls; reading, parsing and filters are not part of it

Arms take turns, round by round, each turn in a process of its own with one engine and one thread. Rates are steady: images
after the first unit of 256 over the seconds since it was finished; start-up is reported apart. Ratios are taken within a round,
medians reported.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.neuron_training import hardware
from leaml import prompts, tables
from leaml.config import CaptionConfig, GenerateConfig, ModelConfig, ResourcesConfig
from leaml.data import store
from leaml.engine import Request
from leaml.tiny import world
from pipelines.models import engine_spec

UNIT = 256
MODELS = {"caption": "leaml-tiny-teacher", "pairs": "leaml-tiny"}
ARMS = {"caption": ("ours", "vllm", "ray_default", "hf"), "pairs": ("ours", "vllm")}


@dataclass
class Turn:
    """Steady images per second, and seconds from the start of the process to the end of the first unit."""

    rate: float
    startup: float


def make_images(folder: Path, count: int) -> None:
    """`count` images of the teacher's world as an images table in parts of 1,024."""
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        buffer = io.BytesIO()
        world.render(world.sample_scene(rng, world.TEACHER)).save(buffer, "PNG")
        data = buffer.getvalue()
        rows.append({"image_id": tables.image_id(data), "uri": f"{number}.png", "bytes": data})
    for start in range(0, count, 1024):
        part = tables.table(rows[start : start + 1024], tables.IMAGES)
        tables.write(f"{folder}/part-{start:06d}.parquet", part)


# --- the arms ------------------------------------------------------------------------------------------------------------


def ours(task: str, images: str, pairs: int) -> Turn:
    """The step as the pipeline runs it; commits are timed by the files' own times."""
    from pipelines.caption import CaptionWork
    from pipelines.generate import GenerateWork
    from pipelines.runtime import start_ray
    from pipelines.units import make_units, run_units

    began = time.time()
    resources = ResourcesConfig(images_per_unit=UNIT)
    start_ray(resources)
    work: Any = CaptionWork(CaptionConfig())
    if task == "pairs":
        work = GenerateWork(GenerateConfig(pairs_per_image=pairs), prompts.CAPTION)
    units = make_units(task, store.index(images), {}, UNIT)
    with tempfile.TemporaryDirectory() as output:
        run_units(task, units, engine_spec(ModelConfig(name=MODELS[task]), resources), work, output, resources, 10**7)
        done = sorted(f.stat().st_mtime for f in Path(output, "rows").iterdir())
    count = sum(len(u["image_id"]) for u in units[1:])
    return Turn(count / (done[-1] - done[0]), done[0] - began)


def _decoded(images: str) -> list[tuple[str, Any]]:
    held = store.ImageStore([images], cache_pixels=10**10)
    return [(ref.image_id, held.get(ref.image_id)) for ref in store.index(images)]


def vllm(task: str, images: str, pairs: int) -> Turn:
    """vLLM's own batch call."""
    from pipelines.generate import sampling_seed

    began = time.time()
    engine = engine_spec(ModelConfig(name=MODELS[task]), ResourcesConfig()).build()
    decoded = _decoded(images)

    def requests(part: list[tuple[str, Any]]) -> list[Request]:
        if task == "caption":
            return [Request(image, name, prompts.CAPTION, max_tokens=CaptionConfig().max_tokens) for name, image in part]
        config = GenerateConfig(pairs_per_image=pairs)
        settings = {"n": pairs, "temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
        return [Request(i, n, prompts.GENERATE, seed=sampling_seed(0, n), **settings) for n, i in part]  # type: ignore[arg-type]

    def everything(part: list[tuple[str, Any]]) -> None:
        replies = engine.generate(requests(part))
        if task == "pairs":
            found = [
                (name, image, prompts.parse_qa(c.text)) for (name, image), cs in zip(part, replies, strict=True) for c in cs
            ]
            asked = {(name, pair[0]): image for name, image, pair in found if pair}
            engine.generate([Request(i, n, q, max_tokens=GenerateConfig().max_tokens) for (n, q), i in asked.items()])

    everything(decoded[:UNIT])
    started = time.time()
    everything(decoded[UNIT:])
    return Turn((len(decoded) - UNIT) / (time.time() - started), started - began)


def ray_default(task: str, images: str, pairs: int) -> Turn:
    """`ray.data.llm` as its documentation shows it, for one reply an image."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from leaml.config import resolve_model
    from leaml.images import decode
    from leaml.vlm.collate import prompt
    from pipelines.runtime import start_ray

    began = time.time()
    start_ray(ResourcesConfig())
    model = resolve_model(MODELS[task])
    from transformers import AutoProcessor

    text = prompt(AutoProcessor.from_pretrained(model), prompts.CAPTION)
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={"dtype": "float32", "enforce_eager": True, "limit_mm_per_prompt": {"image": 1}},
        placement_group_config={"bundles": [{"CPU": 1}]},
        concurrency=(1, 1),
        prepare_multimodal_stage=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    sampling = {"max_tokens": CaptionConfig().max_tokens, "temperature": 0.0}
    processor = build_processor(
        config,
        preprocess=lambda r: {
            "prompt": text,
            "multimodal_data": {"image": decode(r["bytes"], 10**7)},
            "sampling_params": sampling,
            "image_id": r["image_id"],
        },
        postprocess=lambda r: {"image_id": r["image_id"], "caption": r["generated_text"]},
    )
    times = []
    for _ in processor(ray.data.read_parquet(images, columns=["image_id", "bytes"])).iter_rows():
        times.append(time.time())
    return Turn((len(times) - UNIT) / (times[-1] - times[UNIT - 1]), times[UNIT - 1] - began)


def hf(task: str, images: str, pairs: int) -> Turn:
    """transformers `generate` on batches of 64, on one thread as the engines; all prompts have one length."""
    import torch

    from leaml.vlm import load
    from leaml.vlm.collate import prompt

    began = time.time()
    torch.set_num_threads(1)
    vlm = load.load(ModelConfig(name=MODELS[task]), "cpu")
    vlm.model.eval()
    text = prompt(vlm.processor, prompts.CAPTION)
    decoded = _decoded(images)

    def answer(part: list[tuple[str, Any]]) -> None:
        for start in range(0, len(part), 64):
            batch = part[start : start + 64]
            inputs = vlm.processor(text=[text] * len(batch), images=[[i] for _, i in batch], return_tensors="pt")
            with torch.no_grad():
                replies = vlm.model.generate(**inputs, max_new_tokens=CaptionConfig().max_tokens, do_sample=False)
            vlm.processor.batch_decode(replies[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    answer(decoded[:UNIT])
    started = time.time()
    answer(decoded[UNIT:])
    return Turn((len(decoded) - UNIT) / (time.time() - started), started - began)


# --- the report ----------------------------------------------------------------------------------------------------------


def in_new_process(arm: str, task: str, images: str, pairs: int) -> Turn:
    """One turn in a process of its own, so that engines and clusters start from nothing."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(globals()[arm], task, images, pairs).result(timeout=900)


def measure(count: int, pairs: int, rounds: int) -> dict[str, dict[str, list[Turn]]]:
    turns: dict[str, dict[str, list[Turn]]] = {task: {arm: [] for arm in arms} for task, arms in ARMS.items()}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), count)
        for number in range(rounds):
            for task, arms in ARMS.items():
                for arm in reversed(arms) if number % 2 else arms:
                    turns[task][arm].append(in_new_process(arm, task, folder, pairs))
                    last = turns[task][arm][-1]
                    line = f"{task}, {arm}: {last.rate:.1f} images/s, start-up {last.startup:.0f} s"
                    print(f"round {number + 1} of {rounds}, {line}", file=sys.stderr, flush=True)
    return turns


def ratio(turns: dict[str, list[Turn]], other: str) -> float:
    """Median over the rounds of our rate over the other's in the same round."""
    return round(statistics.median(a.rate / b.rate for a, b in zip(turns["ours"], turns[other], strict=True)), 3)


def report(turns: dict[str, dict[str, list[Turn]]], settings: dict[str, Any]) -> dict[str, Any]:
    arms = {
        task: {
            arm: {
                "images_per_s": round(statistics.median(t.rate for t in found), 1),
                "images_per_s_rounds": [round(t.rate, 1) for t in found],
                "startup_s": round(statistics.median(t.startup for t in found), 1),
            }
            for arm, found in by_arm.items()
        }
        for task, by_arm in turns.items()
    }
    return {
        "images_per_s_vs_vllm": ratio(turns["pairs"], "vllm"),
        "caption_images_per_s_vs_vllm": ratio(turns["caption"], "vllm"),
        "images_per_s_vs_ray_default": ratio(turns["caption"], "ray_default"),
        "images_per_s_vs_hf": ratio(turns["caption"], "hf"),
        "arms": arms,
        "settings": settings,
        "hardware": hardware("cpu"),
        "date": time.strftime("%Y-%m-%d"),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    lines = ["| task | arm | images/s | rounds | ours / this | start-up, s |", "|---|---|---|---|---|---|"]
    ratios = {
        ("caption", "vllm"): "caption_images_per_s_vs_vllm",
        ("caption", "ray_default"): "images_per_s_vs_ray_default",
        ("caption", "hf"): "images_per_s_vs_hf",
        ("pairs", "vllm"): "images_per_s_vs_vllm",
    }
    for task, arms in found["arms"].items():
        for arm, numbers in arms.items():
            rounds = " ".join(map(str, numbers["images_per_s_rounds"]))
            ours_by = f"{found[ratios[task, arm]]:.2f}" if (task, arm) in ratios else ""
            lines.append(f"| {task} | {arm} | {numbers['images_per_s']} | {rounds} | {ours_by} | {numbers['startup_s']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    turns = measure(given.images, given.pairs, given.rounds)
    found = report(turns, {"images": given.images, "pairs": given.pairs, "rounds": given.rounds, "unit": UNIT})
    print(markdown(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
