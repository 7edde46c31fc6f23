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

from benchmarks.label_efficiency import FILTERS, FILTERS_AT, FULL_BUDGETS
from benchmarks.pair_precision import truth_of
from benchmarks.stacked import domain, model
from benchmarks.stacked.domain import Case, Domain
from benchmarks.stacked.lab import Experiment, Lab
from benchmarks.stacked.texts import Texts
from benchmarks.stacked.training import Bench
from benchmarks.stacked.workers import Workers
from leaml.config import Config, resolve_model
from leaml.config.reading import override, parse
from pipelines.method import replaced, self_training

AT = FILTERS_AT
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


Plan = list[list[Experiment]]
"""Groups of experiments; what a group gave is written before the next one begins."""


def table(given: Domain) -> Plan:
    """The methods at 1 %, then at the other budgets, then on the first `FEW` draws every other control and each filter."""
    cases = [c for c in given.cases.values() if c.name != "full"]
    at, rest = [c for c in cases if c.budget == AT], [c for c in cases if c.budget != AT]
    groups = [_methods(given, at, NEURONS[:2]), _methods(given, rest, ())]
    few = [c for c in at if c.draw < FEW]
    last = [Experiment(kind, c, seeded(given.config, c), kind) for c in few for kind in ("captions_mixed", "self_training")]
    for case in few:
        config = seeded(given.config, case)
        last += [Experiment(name, case, replaced(config, name)) for name in NEURONS[2:]]
        for name, keys in FILTERS.items():
            last.append(Experiment(f"leaml_{name}", case, changed(config, *(f"generate.filters.{k}" for k in keys))))
    return [group for group in (*groups, last) if group]


def _methods(given: Domain, cases: list[Case], controls: tuple[str, ...]) -> list[Experiment]:
    """The label-only baselines, all labels, the method, the method without captions, and some controls."""
    found = []
    for case in cases:
        config = seeded(given.config, case)
        found += [Experiment(kind, case, config, kind) for kind in (*LABELS_ALONE, "full_labels")]
        found.append(Experiment("leaml", case, config))
        found += [Experiment(name, case, replaced(config, name)) for name in ("no_captions", *controls)]
    return found


def one_factor(given: Domain, choices: dict[str, list[str]], draws: int) -> list[Experiment]:
    """LEAML with each of `choices` (name -> keys) on the first draws of 1 %."""
    cases = [c for c in given.cases.values() if c.budget == AT and c.draw < draws]
    return [Experiment(name, c, changed(seeded(given.config, c), *keys)) for c in cases for name, keys in choices.items()]


def neurons(given: Domain, draws: int = 1) -> Plan:
    """Score, ratio and learning rate of distillation, judged by the generator."""
    choices = {
        f"{method} {ratio:g} {rate:g}": [f"score.method={method}", f"score.ratio={ratio}", f"distill.lr={rate}"]
        for method in ("squared", "absolute", "gradient_weight", "random", "magnitude", "lowest")
        for ratio in (0.02, 0.1, 0.3)
        for rate in RATES
    }
    choices |= {f"all 1 {rate:g}": ["score.ratio=1.0", f"distill.lr={rate}"] for rate in RATES}
    return [[replace(e, kind="generator") for e in one_factor(given, choices, draws)]]


def parts(given: Domain, draws: int = 1) -> Plan:
    """One part of the method at a time, to its adapted model."""
    choices: dict[str, list[str]] = {
        "default": [],
        "captions 0": ["distill.skip=true"],
        "captions 250": ["caption.max_images=250"],
        "captions 1000": ["caption.max_images=1000"],
        "lambda 0": ["distill.qa_weight=0"],
        "lambda 0.3": ["distill.qa_weight=0.3"],
        "lambda 3": ["distill.qa_weight=3"],
        "qa share 0.25": ["distill.qa_share=0.25"],
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
        "finetune the generator": ["finetune.start=generator"],
        "correct off": ["generate.correct_above=null"],
        "correct 0.9": ["generate.correct_above=0.9"],
        "all rows": ["score.ratio=1.0"],
        "random rows": ["score.method=random"],
    }
    found = one_factor(given, choices, draws)
    for case in {e.case.name: e.case for e in found}.values():
        found += [Experiment(kind, case, given.config, kind) for kind in (*LABELS_ALONE, *PLAIN)]
        config = seeded(given.config, case)
        known = self_training(config, given.labels(case)).generate.model_copy(update={"max_images": 400})
        found.append(Experiment("known questions 400", case, config.model_copy(update={"generate": known})))
    return [found]


PLANS: dict[str, Callable[[Domain], Plan]] = {"table": table, "neurons": neurons, "parts": parts}


def run(given: Domain, plan: str, teacher: str, bench: dict[str, Any], workers: int, seconds: float | None, out: Path) -> None:
    """All experiments of a plan, group by group; the file `out` is written after each.

    Args:
        given: The domain.
        plan: A key of `PLANS`.
        teacher: Folder of the model that captions.
        bench: `device`, and further arguments of `Bench`.
        workers: Processes that parse and filter.
        seconds: Time after which no further question is asked and no group begun; None: no limit.
        out: JSON file.
    """
    began, device = time.time(), bench.pop("device")
    folder = resolve_model(given.config.model.name)

    def say(line: str) -> None:
        print(f"{time.time() - began:7.1f} s  {line}", flush=True)

    found: dict[str, Any] = {"plan": plan, "config": given.config.model_dump(), "results": []}
    with Workers(workers, truth_of(given.labeled)) as forked:
        pixels = torch.tensor(given.pixels, device=device)
        made = Bench(model.Shape.of(folder), Texts(folder), pixels, progress=say, **bench)
        models = (model.load(resolve_model(name), device) for name in (folder, teacher))
        lab = Lab(given, made, *models, forked, None if seconds is None else began + seconds)
        for group in PLANS[plan](given):
            if lab.late():
                say(f"no time is left for {len(group)} experiments")
                break
            for result in lab.run(group):
                found["results"].append(vars(result) | {"correct": "".join("01"[c] for c in result.correct)})
            found |= {"seconds": round(time.time() - began, 1), "device": device}
            out.write_text(json.dumps(found) + "\n")
            say(f"{len(found['results'])} results")


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
        domain.make(given.config, given.overrides, FULL_BUDGETS).save(given.file)
        return
    if given.threads:
        torch.set_num_threads(given.threads)
    read = Domain.read(given.file)
    read = replace(read, config=changed(read.config, *given.overrides))
    teacher = given.teacher or read.config.caption.teacher.name
    bench = {"device": given.device, "together": given.together, "compile": given.compile}
    run(read, given.plan, teacher, bench, given.workers, given.seconds, given.out)


if __name__ == "__main__":
    main()
