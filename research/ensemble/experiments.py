"""Tables of experiments on ensembles: all methods over budgets and draws, and one choice of the method at a time.

    python -m research.ensemble.experiments pack pipelines/configs/demo.yaml FILE.npz [a.b=value ...]
    python -m research.ensemble.experiments run FILE.npz [a.b=value ...] --plan table --out FILE.json [--teacher FOLDER]

`pack` needs the pipeline's packages; `run` needs torch, tokenizers and leaml, and a GPU if the plan is to end today.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from leaml.config import resolve_model
from research.ensemble import domain, model
from research.ensemble.domain import Domain
from research.ensemble.lab import Lab, Result
from research.ensemble.plans import PLANS, changed
from research.ensemble.texts import Texts
from research.ensemble.training import Bench
from research.ensemble.workers import Workers
from research.label_efficiency import FULL_BUDGETS
from research.pair_precision import truth_of


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

    found: dict[str, Any] = {"plan": plan, "config": given.config.model_dump()}
    with Workers(workers, truth_of(given.labeled)) as forked:
        pixels = torch.tensor(given.pixels, device=device)
        made = Bench(model.Shape.of(folder), Texts(folder), pixels, progress=say, **bench)
        base, captioner = model.load(folder, device), model.load(resolve_model(teacher), device)
        lab = Lab(given, made, base, captioner, forked, None if seconds is None else began + seconds)
        results: list[Result] = []
        for group in PLANS[plan](given, results):
            if lab.late():
                say(f"no time is left for {len(group)} experiments")
                break
            results += lab.run(group)
            found["results"] = [vars(r) | {"correct": "".join("01"[c] for c in r.correct)} for r in results]
            found |= {"seconds": round(time.time() - began, 1), "device": device}
            out.write_text(json.dumps(found) + "\n")
            say(f"{len(results)} results")


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
