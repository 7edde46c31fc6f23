"""Tables of experiments on stacked models: all methods over budgets and draws, and one choice of the method at a time.

    python -m benchmarks.stacked.experiments pack pipelines/configs/demo.yaml FILE.npz [a.b=value ...]
    python -m benchmarks.stacked.experiments run FILE.npz [a.b=value ...] --plan table --out FILE.json [--teacher FOLDER]

`pack` needs the pipeline's packages; `run` needs torch, tokenizers and leaml, and a GPU if the plan is to end today.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.label_efficiency import FILTERS
from benchmarks.pair_precision import truth_of
from benchmarks.stacked import domain, model
from benchmarks.stacked.domain import Case, Domain
from benchmarks.stacked.lab import Experiment, Lab
from benchmarks.stacked.texts import Texts
from benchmarks.stacked.training import Bench
from benchmarks.stacked.workers import Workers
from leaml.config import Config, resolve_model
from leaml.config.reading import override, parse
from pipelines.method import replaced

BUDGETS = {0.005: 1, 0.01: 5, 0.02: 1, 0.05: 1, 0.1: 1}
AT = 0.01
"""The budget with several draws, at which choices are compared."""
FEW = 1
"""Draws on which the many variants are run."""
LABELS_ALONE = ("zero_shot", "finetune_labels", "lora_labels")
PLAIN = ("full_labels", "captions_mixed", "self_training")
NEURONS = ("all_neurons", "random_neurons", "magnitude_neurons", "lowest_neurons")
RATES = [5e-4, 1e-3, 2e-3, 4e-3]


def changed(config: Config, *keys: str) -> Config:
    """The configuration with `a.b=value` keys changed."""
    tree = config.model_dump()
    for key in keys:
        override(tree, key)
    return parse(tree)


def seeded(config: Config, case: Case) -> Config:
    """Random neurons are other ones in every draw of the labels."""
    return config.model_copy(update={"score": config.score.model_copy(update={"seed": case.draw})})


def table(given: Domain) -> list[Experiment]:
    """The methods at every budget; at 1 % every control, and on the first `FEW` draws each filter and the other neurons."""
    found = []
    cases = [c for c in given.cases.values() if c.name != "full"]
    for case in sorted(cases, key=lambda c: c.budget != AT):
        config = seeded(given.config, case)
        found += [Experiment(kind, case, config, kind) for kind in (*LABELS_ALONE, "full_labels")]
        found += [Experiment("leaml", case, config), Experiment("no_captions", case, replaced(config, "no_captions"))]
        if case.budget == AT:
            found += [Experiment(kind, case, config, kind) for kind in ("captions_mixed", "self_training")]
            neurons = NEURONS if case.draw < FEW else NEURONS[:2]
            found += [Experiment(name, case, replaced(config, name)) for name in neurons]
        if case.budget == AT and case.draw < FEW:
            for name, keys in FILTERS.items():
                found.append(Experiment(f"leaml_{name}", case, changed(config, *(f"generate.filters.{k}" for k in keys))))
    return found


def one_factor(given: Domain, choices: dict[str, list[str]], draws: int) -> list[Experiment]:
    """LEAML with each of `choices` (name -> keys) on the first draws of 1 %."""
    cases = [c for c in given.cases.values() if c.budget == AT and c.draw < draws]
    return [Experiment(name, c, changed(seeded(given.config, c), *keys)) for c in cases for name, keys in choices.items()]


def neurons(given: Domain, draws: int = 1) -> list[Experiment]:
    """Score, ratio and learning rate of distillation, judged by the generator."""
    choices = {
        f"{method} {ratio:g} {rate:g}": [f"score.method={method}", f"score.ratio={ratio}", f"distill.lr={rate}"]
        for method in ("squared", "absolute", "gradient_weight", "random", "magnitude", "lowest")
        for ratio in (0.02, 0.1, 0.3)
        for rate in RATES
    }
    choices |= {f"all 1 {rate:g}": ["score.ratio=1.0", f"distill.lr={rate}"] for rate in RATES}
    return [replace(e, kind="generator") for e in one_factor(given, choices, draws)]


def parts(given: Domain, draws: int = 1) -> list[Experiment]:
    """One part of the method at a time, to its adapted model."""
    choices: dict[str, list[str]] = {
        "default": [],
        "captions 0": ["distill.skip=true"],
        "captions 250": ["caption.max_images=250"],
        "captions 1000": ["caption.max_images=1000"],
        "lambda 0": ["distill.qa_weight=0"],
        "lambda 0.3": ["distill.qa_weight=0.3"],
        "lambda 3": ["distill.qa_weight=3"],
        "checks 0": ["distill.check_share=0"],
        "checks 1": ["distill.check_share=1"],
        "distill 1600": ["distill.steps=1600"],
        "pairs 2": ["generate.pairs_per_image=2"],
        "pairs 16": ["generate.pairs_per_image=16"],
        "images 400": ["generate.max_images=400"],
        "images all": ["generate.max_images=null"],
        "rounds 2": ["rounds=2"],
        "rounds 3": ["rounds=3"],
        "finetune 800": ["finetune.steps=800"],
        "finetune 1e-3": ["finetune.lr=0.001"],
        "correct off": ["generate.correct_above=null"],
        "correct 0.9": ["generate.correct_above=0.9"],
        "all rows": ["score.ratio=1.0"],
        "random rows": ["score.method=random"],
    }
    found = one_factor(given, choices, draws)
    for case in {e.case.name: e.case for e in found}.values():
        found += [Experiment(kind, case, given.config, kind) for kind in (*LABELS_ALONE, *PLAIN)]
        config = seeded(given.config, case)
        questions = sorted({r["question"] for r, _ in given.rows(case)})
        known = config.generate.model_copy(update={"questions": questions, "pairs_per_image": 0, "max_images": 400})
        found.append(Experiment("known questions 400", case, config.model_copy(update={"generate": known})))
    return found


def probe(given: Domain) -> list[Experiment]:
    """What there is to gain: the method beside few labels, no captions and all labels, on one draw of 1 %."""
    case = next(c for c in given.cases.values() if c.budget == AT)
    found = [Experiment(kind, case, given.config, kind) for kind in ("zero_shot", "finetune_labels", "full_labels")]
    return [*found, *(Experiment(n, case, replaced(given.config, n)) for n in ("no_captions", "all_neurons"))]


PLANS: dict[str, Callable[[Domain], list[Experiment]]] = {"table": table, "neurons": neurons, "parts": parts, "probe": probe}


def run(
    given: Domain, plan: str, teacher: str, together: int, device: str, workers: int, compile: bool, seconds: float | None
) -> dict[str, Any]:
    """All experiments of a plan; returns what the JSON file holds."""
    began = time.time()
    folder = resolve_model(given.config.model.name)

    def say(line: str) -> None:
        print(f"{time.time() - began:7.1f} s  {line}", flush=True)

    with Workers(workers, truth_of(given.labeled)) as forked:
        pixels = torch.tensor(given.pixels, device=device)
        bench = Bench(model.Shape.of(folder), Texts(folder), pixels, together, compile, say)
        models = (model.load(resolve_model(name), device) for name in (folder, teacher))
        deadline = None if seconds is None else began + seconds
        results = Lab(given, bench, *models, forked, deadline).run(PLANS[plan](given))
    found: dict[str, Any] = {"plan": plan, "config": given.config.model_dump(), "seconds": round(time.time() - began, 1)}
    found |= {"device": torch.cuda.get_device_name() if device != "cpu" else "cpu"}
    found["results"] = [vars(r) | {"correct": "".join("01"[c] for c in r.correct)} for r in results]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack")
    pack.add_argument("config", type=Path)
    pack.add_argument("file", type=Path)
    pack.add_argument("overrides", nargs="*")
    running = commands.add_parser("run")
    running.add_argument("file", type=Path)
    running.add_argument("--plan", choices=PLANS, default="table")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--teacher", help="folder; default: the configuration's")
    running.add_argument("--together", type=int, default=32)
    running.add_argument("--workers", type=int, default=14)
    running.add_argument("--compile", action="store_true")
    running.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    running.add_argument("--threads", type=int)
    running.add_argument("--seconds", type=float, help="hand over what there is after this time")
    running.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.command == "pack":
        domain.make(given.config, given.overrides, BUDGETS).save(given.file)
        return
    if given.threads:
        torch.set_num_threads(given.threads)
    read = Domain.read(given.file)
    read = replace(read, config=changed(read.config, *given.overrides))
    teacher = given.teacher or read.config.caption.teacher.name
    found = run(read, given.plan, teacher, given.together, given.device, given.workers, given.compile, given.seconds)
    given.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
