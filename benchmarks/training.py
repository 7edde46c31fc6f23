"""What a training costs beside TRL's SFTTrainer: time, memory, and whether its ways of cutting the work come out alike.

    python -m benchmarks.training [--json FILE]                 # an hour on two idle cores
    python -m benchmarks.training --quick [--json FILE]         # a small model, a minute: does the program work?

SmolVLM-256M's shape with random weights (`shared/zoo/smolvlm256m_shape` beside the repository, else the same sizes with a
shipped tokenizer), photos of 1280 x 1024, tiles off and on, float32. Five trainings, each in a process of its own, which go on
in turn, a step each:

    trl_lora             TRL's SFTTrainer with PEFT's LoRA of rank 16 on every Linear, what a user would pick instead
    lora                 ours with the same LoRA
    neurons10, neurons30 ours with 10 and 30 % of the rows of every Linear
    full                 ours with every weight

All compute activations again, in micro-batches of one example, with the same threads. Time: seconds of a step with its input,
after a first step that is not counted; ratios are those of the same step, and their median counts. Peak memory: of the whole
process (Linux). A ratio over both sizes of images is the worse of the two. Names with `_tiles` are those with tiles on.

TRL is not among the project's packages: `pip install -e ".[bench]"`, or `pip install --no-deps --target FOLDER trl` and FOLDER
in PYTHONPATH; without it the arm is left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from benchmarks import training_equalities, training_input, training_model
from benchmarks.hardware import hardware
from benchmarks.training_arms import ARMS, Measured, Plan, measure

PARTS = ("arms", "memory", "input", "equalities")
GOALS = {
    "lora_vs_trl_time": 1.0,
    "lora_vs_trl_memory": 1.0,
    "neurons10_vs_trl_lora_time": 0.75,
    "neurons10_vs_full_time": 0.75,
    "wait_share": 0.03,
    "estimate_error": 0.15,
}
"""The most that each may be."""
RATIOS = {
    "lora_vs_trl_time": ("lora", "trl_lora"),
    "neurons10_vs_trl_lora_time": ("neurons10", "trl_lora"),
    "neurons10_vs_full_time": ("neurons10", "full"),
}
GIB = 2**30
Turns = dict[str, list[Measured]]


class ArmReport(TypedDict):
    """What the turns of a training took; the estimate is None where there is none."""

    s_per_example: float
    s_per_example_range: list[float]
    peak_gib: float
    training_gib: float
    libraries_gib: float
    tokens_per_s: float
    trained_parameters: int
    estimate_gib: float | None
    estimate_error: float | None


@dataclass(frozen=True)
class Settings:
    """How much is done.

    Attributes:
        small: Folder of the small model, which equalities are measured on.
        plan: What the trainings have in common.
        rounds: Runs of every training with tiles off, and with tiles on.
        arms: Names of the trainings.
    """

    small: Path
    plan: Plan
    rounds: tuple[int, int]
    arms: tuple[str, ...]


def say(what: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def take_turns(settings: Settings) -> Turns:
    """All rounds of all trainings; those of a round go on in turn, a step each."""
    found: Turns = {}
    for tiles, rounds in zip((False, True), settings.rounds, strict=True):
        # a photo in tiles is 17 times the work: one example a step, and one step that is timed
        sizes = {"batch": 1, "steps": 2} if tiles else {}
        plans = [replace(settings.plan, arm=arm, tiles=tiles, **sizes) for arm in settings.arms]  # type: ignore[arg-type]
        for number in range(rounds):
            for plan, one in zip(plans, measure(plans), strict=True):
                name = plan.arm + "_tiles" * tiles
                found.setdefault(name, []).append(one)
                each = statistics.median(one.seconds) / plan.batch
                say(f"{name}, round {number + 1}: {each:.2f} s an example, {one.peak_bytes / GIB:.2f} GiB")
    return found


def of_arms(settings: Settings) -> dict[str, Any]:
    """What the trainings took, and their ratios."""
    turns = take_turns(settings)
    examples = {name: 1 if name.endswith("_tiles") else settings.plan.batch for name in turns}
    seconds = {name: [s / examples[name] for turn in each for s in turn.seconds] for name, each in turns.items()}
    arms: dict[str, ArmReport] = {}
    for name, each in turns.items():
        middle, first = statistics.median(seconds[name]), each[0]
        arms[name] = {
            "s_per_example": round(middle, 4),
            "s_per_example_range": [round(min(seconds[name]), 4), round(max(seconds[name]), 4)],
            "peak_gib": round(max(t.peak_bytes for t in each) / GIB, 3),
            "training_gib": round(max(t.run_bytes for t in each) / GIB, 3),
            "libraries_gib": round(first.before_bytes / GIB, 3),
            "tokens_per_s": round(first.tokens / middle, 1),
            "trained_parameters": first.trained,
            "estimate_gib": round(first.estimate_bytes / GIB, 3) if first.estimate_bytes else None,
            "estimate_error": round(first.estimate_error, 4) if first.estimate_bytes else None,
        }
    errors = [one["estimate_error"] for one in arms.values() if one["estimate_error"] is not None]
    by_size = {"tiles_off": _ratios(seconds, arms, ""), "tiles_on": _ratios(seconds, arms, "_tiles")}
    worst = {name: _worst([one[name] for one in by_size.values()]) for name in (*RATIOS, "lora_vs_trl_memory")}
    return {"arms": arms, **worst, "estimate_error": max(errors, default=None), "ratios": by_size}


def _ratios(seconds: dict[str, list[float]], arms: dict[str, ArmReport], suffix: str) -> dict[str, float | None]:
    """By name; None where one of the two was left out."""
    found: dict[str, float | None] = {}
    for name, (ours, theirs) in RATIOS.items():
        pairs = zip(seconds.get(ours + suffix, ()), seconds.get(theirs + suffix, ()), strict=False)
        each = [one / other for one, other in pairs]
        found[name] = round(statistics.median(each), 4) if each else None
    both = [arms[name + suffix]["peak_gib"] for name in ("lora", "trl_lora") if name + suffix in arms]
    found["lora_vs_trl_memory"] = round(both[0] / both[1], 4) if len(both) == 2 else None
    return found


def _worst(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def of_memory(settings: Settings, folder: Path) -> dict[str, float]:
    """Peaks that must not grow with the batch and with the vocabulary, and must shrink where activations are computed again.

    Micro-batches have one example, but four in the pair with and without checkpointing.
    Of the pair of vocabularies the bytes of the head are taken off, which is weights; embeddings are mapped from their file, so
    that only rows of tokens that occur are held.
    """
    one = replace(settings.plan, arm="lora", steps=2)
    again = [replace(one, batch=4, micro=4), replace(one, batch=4, micro=4, checkpointing=False)]
    plans = {
        "batch_4_gib": replace(one, batch=4, steps=1),
        "batch_64_gib": replace(one, batch=64, steps=1),
        **dict(zip(("checkpointing_gib", "no_checkpointing_gib"), again, strict=True)),
    }
    found = {}
    for name, plan in plans.items():
        found[name] = _training_gib(plan)
        say(f"{name}: {found[name]}")
    quick = settings.plan.model == str(settings.small)
    for name, size in (("vocabulary_32k_gib", 32_000), ("vocabulary_152k_gib", 152_000)):
        model = folder / name
        head = 4 * training_model.write(model, quick, size)
        found[name] = _training_gib(replace(one, batch=2, model=str(model)), head)
        say(f"{name}: {found[name]}")
    return found


def _training_gib(plan: Plan, without: int = 0) -> float:
    return round((measure([plan])[0].run_bytes - without) / GIB, 3)


def versions() -> dict[str, str | None]:
    """Of what is compared."""
    names = ("torch", "transformers", "peft", "trl")
    return {name: importlib.metadata.version(name) if importlib.util.find_spec(name) else None for name in names}


def table(found: dict[str, Any]) -> str:
    """The trainings as Markdown."""
    heads = ("", "s / example", "tokens / s", "peak GiB", "estimate, GiB", "error")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, one in found.get("arms", {}).items():
        low, high = one["s_per_example_range"]
        estimate = ("", "") if one["estimate_gib"] is None else (f"{one['estimate_gib']:.2f}", f"{one['estimate_error']:.0%}")
        cells = (name, f"{one['s_per_example']:.2f} ({low:.2f} to {high:.2f})", f"{one['tokens_per_s']:.0f}")
        lines.append("| " + " | ".join((*cells, f"{one['peak_gib']:.2f}", *estimate)) + " |")
    for name, goal in GOALS.items():
        if name in found:
            lines.append(f"{name}: {found[name]} (goal: at most {goal})")
    return "\n".join(lines)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--rounds", type=int, default=1, help="runs of every training with tiles off; default 1")
    parser.add_argument("--tiled-rounds", type=int, default=1, help="and with tiles on; default 1")
    parser.add_argument("--batch", type=int, default=4, help="examples of a step; default 4")
    parser.add_argument("--steps", type=int, default=7, help="of a run, the first is not timed; default 7")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--quick", action="store_true", help="a small model and small photos")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the parts that were asked for have found."""
    small, model = folder / "small", folder / "model"
    training_model.write(small, quick=True)
    if not given.quick:
        training_model.write(model)
    photo = (96, 80) if given.quick else training_model.PHOTO
    trl = importlib.util.find_spec("trl") is not None
    plan = Plan(
        "lora",
        str(small if given.quick else model),
        given.batch,
        steps=given.steps,
        precision=given.precision,
        threads=given.threads,
        photo=photo,
    )
    arms = tuple(arm for arm in given.arms if trl or not arm.startswith("trl_"))
    settings = Settings(small, plan, (given.rounds, given.tiled_rounds), arms)
    found: dict[str, Any] = {"left_out": {} if trl else {"trl_lora": 'TRL is not installed: pip install -e ".[bench]"'}}
    if "arms" in given.parts:
        found |= of_arms(settings)
    if "memory" in given.parts:
        found["memory"] = of_memory(settings, folder)
    if "input" in given.parts:
        found["wait_share"] = round(training_input.wait_share(str(model if not given.quick else small), photo), 4)
    if "equalities" in given.parts:
        found["equalities"] = training_equalities.measure(str(small))
    return found


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    with tempfile.TemporaryDirectory(prefix="leaml-training-") as folder:
        found = measured(given, Path(folder))
    facts = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware("cpu"), "software": versions()}
    settings = {name: value for name, value in vars(given).items() if name != "json"}
    found |= facts | {"settings": settings, "goals": GOALS}
    print(table(found))
    for name in ("memory", "equalities", "left_out"):
        print(f"{name}: {json.dumps(found.get(name))}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
