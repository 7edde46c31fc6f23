"""The map steps beside raw vLLM, the default `ray.data.llm` processor and a transformers loop; and how they grow and fail.

    python -m benchmarks.generation [--parts rates preparation memory scaling nodes kills] [--rounds 3] [--json FILE]

`rates`: the same synthetic images (the shipped teacher's world, PNG bytes in Parquet) and the same requests in all arms:

    caption, one greedy reply an image, of leaml-tiny-teacher
        ours           Parquet in, Parquet out, through `pipelines.shards` and the caption step's own work
        ours_two       the same with two engines of one thread: what this machine's settings would be
        vllm           `vllm.LLM.generate`, all requests in one call, images decoded before the clock starts
        ray_default    `ray.data.llm`'s processor with its defaults, placed on a CPU
        ray_short      the same with one stage: prompts and pixels are made before it
        hf             transformers `generate` in batches of 64
    pairs, `--pairs` sampled pairs an image and a greedy answer to each of their questions, of leaml-tiny
        ours           the generate step's own work, filters on
        vllm           the same requests in two calls; reading, parsing and filters are not part of it
    large, greedy replies of 8 to 64 tokens, of a model with random weights and more than 100 M parameters
        ours, vllm, hf as above

Arms take turns, round by round, each turn in a process of its own with one engine of one thread (ours_two: two). Rates count
from when the engine is ready to the last reply (ours: to the last published file); start-up is reported apart. Ratios are taken
within a round, medians reported.

`preparation`: photos of a megapixel a second that are made ready for a model which answers at once, by one engine that has all
cores, over their number: for SmolVLM with 17 tiles and without (`tiles`, `whole`) and for Qwen2.5-VL. `ours` beside `before`,
when images were prepared one after the other (benchmarks/generation_prepare.py).

`memory`: peak of the driver and the object store over a caption step with an engine that answers at once, from `--images-from`
to `--images-to` images. `scaling`: two engines on two nodes over one engine on one, two threads in total. `nodes`: three
engines with one thread each on one, two and three nodes. `kills`: `leaml caption` killed at random moments and started again
until it is finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import generation_prepare as prepare
from benchmarks import generation_scale as scale
from benchmarks.generation_arms import ARMS, Task, Turn, make_images, make_large
from benchmarks.hardware import hardware

PARTS = ("rates", "preparation", "memory", "scaling", "nodes", "kills")
RATIOS = {
    "images_per_s_vs_vllm": ("pairs", "ours", "vllm"),
    "caption_images_per_s_vs_vllm": ("caption", "ours", "vllm"),
    "images_per_s_vs_ray_default": ("caption", "ours_two", "ray_default"),
    "one_engine_images_per_s_vs_ray_default": ("caption", "ours", "ray_default"),
    "images_per_s_vs_ray_short": ("caption", "ours_two", "ray_short"),
    "images_per_s_vs_hf": ("caption", "ours", "hf"),
    "large_images_per_s_vs_vllm": ("large", "ours", "vllm"),
    "large_images_per_s_vs_hf": ("large", "ours", "hf"),
}
"""Name of a ratio: task, numerator and denominator."""

Turns = dict[str, dict[str, list[Turn]]]


def make_tasks(folder: str, images: int, pairs: int) -> tuple[list[Task], int]:
    """Images and the large model in `folder`; the tasks and the large model's parameters."""
    make_images(f"{folder}/images", images)
    few = images // 16
    make_images(f"{folder}/few", few)
    parameters = make_large(f"{folder}/large")
    tasks = [
        Task("caption", "leaml-tiny-teacher", f"{folder}/images", images, 256, pairs),
        Task("pairs", "leaml-tiny", f"{folder}/images", images, 256, pairs),
        Task("large", f"{folder}/large", f"{folder}/few", few, 64, pairs),
    ]
    return tasks, parameters


def rates(tasks: list[Task], rounds: int) -> Turns:
    """Every arm of every task once a round, the order reversed every other round."""
    turns: Turns = {task.name: {arm.__name__: [] for arm in ARMS[task.name]} for task in tasks}
    for number in range(rounds):
        for task in tasks:
            arms = ARMS[task.name]
            for arm in reversed(arms) if number % 2 else arms:
                turn = scale.in_new_process(arm, task)
                turns[task.name][arm.__name__].append(turn)
                line = f"{task.name}, {arm.__name__}: {turn.rate:.1f} images/s, start-up {turn.startup:.0f} s"
                print(f"round {number + 1} of {rounds}, {line}", file=sys.stderr, flush=True)
    return turns


def ratio(turns: dict[str, list[Turn]], one: str, other: str) -> float:
    """Median over the rounds of one arm's rate over the other's in the same round."""
    return round(statistics.median(a.rate / b.rate for a, b in zip(turns[one], turns[other], strict=True)), 3)


def report(turns: Turns) -> dict[str, Any]:
    """Ratios first, then every arm's rates."""
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
    return {name: ratio(turns[task], *pair) for name, (task, *pair) in RATIOS.items()} | {"arms": arms}


def markdown(found: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    lines = ["| task | arm | images/s | rounds | start-up, s |", "|---|---|---|---|---|"]
    for task, arms in found["arms"].items():
        for arm, numbers in arms.items():
            rounds = " ".join(map(str, numbers["images_per_s_rounds"]))
            lines.append(f"| {task} | {arm} | {numbers['images_per_s']} | {rounds} | {numbers['startup_s']:.0f} |")
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {task}: {one} / {other} | {found[name]:.2f} |" for name, (task, one, other) in RATIOS.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--photos", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images-from", type=int, default=20_000)
    parser.add_argument("--images-to", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks: list[Any] = []
        parameters = 0
        if set(given.parts) & {"rates", "scaling", "nodes"}:
            tasks, parameters = make_tasks(folder, given.images, given.pairs)
        if "rates" in given.parts:
            found |= report(rates(tasks, given.rounds)) | {"large_parameters": parameters}
            print(markdown(found))
        if "preparation" in given.parts:
            found |= prepare.rates(folder, given.photos, given.rounds)
        if "memory" in given.parts:
            found |= scale.memory([given.images_from, given.images_to])
        if "scaling" in given.parts:
            found |= scale.scaling(tasks[0], given.rounds)
        if "nodes" in given.parts:
            found |= scale.nodes(tasks[0], given.rounds)
    if "kills" in given.parts:
        found |= scale.kills(4000, 10, 2)
    found |= {"hardware": hardware("cpu"), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({k: v for k, v in found.items() if k != "arms"}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
