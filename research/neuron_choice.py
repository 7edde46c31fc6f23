"""Which neurons to distill into: the generator's own answers after distillation, by score, share and scope of the selection.

    python -m research.neuron_choice [--config pipelines/configs/demo.yaml] [--methods squared random] [--ratios 0.05 0.1 0.3]
        [--scopes module] [--seeds 2] [--steps N] [--lr 1e-3] [--questions 4000] [--processes 2] [--json FILE] [a.b=value ...]

Distils from the warmed-up generator of the configuration's run, made first where it is missing, on the very examples of its own
distillation. Asked are questions about training images that are not labeled, whose truth the method never sees: enough to
tell half a point, and none of the test set. A seed draws the batches and the random scores; every result is written at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leaml import config
from leaml.config import Config, ModelConfig, ScoreConfig
from leaml.data import tables
from leaml.data.store import ImageStore
from leaml.io import files
from leaml.neurons import scores, selection
from leaml.run.records import LEAML, read_run
from leaml.text.scoring import ask
from leaml.training.batches import Example, Task
from leaml.training.examples import read_examples
from leaml.training.loop import Trainer, Validation
from leaml.training.worker import Worker
from leaml.vlm import load
from pipelines.adapt import adapt
from pipelines.warmup import QA_TASKS


@dataclass(frozen=True)
class Arm:
    """One distillation."""

    method: str
    ratio: float
    scope: str
    seed: int
    steps: int
    lr: float | list[float]


@dataclass(frozen=True)
class Folders:
    """Steps of the run that every arm reads."""

    images: str
    warmed: str
    distilled: str


def made(loaded: Config) -> Folders:
    """Run the method up to distillation, or find it done."""
    adapt(loaded, until="distill")
    run = read_run(loaded.run_folder)
    steps = (run.finished(name, variant) for name, variant in (("ingest", "labeled"), ("warmup", ""), ("distill", LEAML)))
    return Folders(*(files.join(loaded.run_folder, step.folder) for step in steps if step is not None))


def unlabeled_questions(folders: Folders, count: int) -> list[Example]:
    """Questions about images that are not labeled, evenly from the whole table."""
    labeled = {e.image_id for e in read_examples(files.join(folders.warmed, "answers.arrow"))}
    rows = tables.read(files.join(folders.images, "labeled.parquet"), tables.LABELED).to_pylist()
    rows = [row for row in rows if row["image_id"] not in labeled]
    return [Example(r["image_id"], ask(r), r["answer"]) for r in rows[:: max(1, len(rows) // count)][:count]]


def score(vlm: load.VLM, store: ImageStore, examples: list[Example], given: ScoreConfig, arm: Arm) -> scores.Scores:
    """The scores of an arm's method, as the score step makes them."""
    order = np.random.default_rng(arm.seed).permutation(len(examples))[: given.samples]
    vlm.model.requires_grad_(False).eval()
    linears = scores.selectable(scores.all_linears(vlm.model), given.modules)
    collate = scores.vlm_batches(vlm, store.get, "cpu")
    return scores.score(
        linears, arm.method, scores.Data([examples[i] for i in order], collate, given.batch_size), seed=arm.seed
    )


def distil(loaded: Config, folders: Folders, questions: list[Example], arm: Arm) -> dict[str, Any]:
    """Train one arm on this process's thread; returns its accuracy on the way and at the end."""
    from peft import get_peft_model

    from leaml.neurons.peft import NeuronConfig

    torch.set_num_threads(1)
    torch.manual_seed(arm.seed)
    given = loaded.distill.model_copy(update={"steps": arm.steps, "lr": arm.lr, "save_every": arm.steps})
    vlm = load.load(ModelConfig(name=files.join(folders.warmed, "model"), dtype=loaded.model.dtype), "cpu")
    store = ImageStore([files.join(folders.images, "images")], loaded.data.max_pixels)
    qa = {name: read_examples(files.join(folders.warmed, f"{name}.arrow")) for name in QA_TASKS}
    found = score(vlm, store, [e for examples in qa.values() for e in examples], loaded.score, arm)
    chosen = selection.select(found, arm.ratio, arm.scope, loaded.select.normalise)
    vlm.model = get_peft_model(vlm.model, NeuronConfig(rows=chosen))
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    made = {"captions": (1.0, 1.0)} | {name: (share, given.check_weight) for name, share in given.question_shares().items()}
    tasks = [
        Task(name, read_examples(files.join(folders.distilled, f"{name}.arrow")), share, weight)
        for name, (share, weight) in made.items()
    ]
    tasks = [task for task in tasks if task.examples]  # captions may give no questions
    if given.qa_weight:
        tasks += [Task(name, examples, given.qa_share, given.qa_weight) for name, examples in qa.items()]
    validation = Validation(questions, max(1, arm.steps // 4))
    outcome = Trainer(vlm, parameters, tasks, given, store.get, arm.seed, Worker(), validation).run()
    on_the_way = {str(v["step"]): v["accuracy"] for v in outcome.validations}
    trained = {"trained": sum(p.numel() for p in parameters), "seconds": round(outcome.seconds)}
    return asdict(arm) | {"accuracy": outcome.validations[-1]["accuracy"], "on_the_way": on_the_way} | trained


def table(found: list[dict[str, Any]]) -> str:
    """Mean accuracy over the seeds: a line for each method and scope, a column for each share."""
    cells: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        cells[row["method"], row["scope"]][row["ratio"]].append(row["accuracy"])
    ratios = sorted({row["ratio"] for row in found})
    lines = [f"| neurons | {' | '.join(f'{r:.0%}' for r in ratios)} |", "|---" * (len(ratios) + 1) + "|"]
    for (method, scope), by in sorted(cells.items()):
        shown = (f"{statistics.mean(by[r]):.3f} ({' '.join(f'{a:.3f}' for a in by[r])})" if r in by else "" for r in ratios)
        lines.append(f"| {method}, {scope} | {' | '.join(shown)} |")
    return "\n".join(lines)


def arms(given: argparse.Namespace, loaded: Config) -> Iterator[Arm]:
    """Every combination, seeds last, so that an early end leaves whole columns."""
    rate = given.lr or loaded.distill.lr
    for seed, ratio, method, scope in itertools.product(range(given.seeds), given.ratios, given.methods, given.scopes):
        yield Arm(method, ratio, scope, seed, given.steps or loaded.distill.steps, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("pipelines/configs/demo.yaml"))
    parser.add_argument("--methods", nargs="+", default=["squared", "random"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.05, 0.1, 0.3])
    parser.add_argument("--scopes", nargs="+", default=["module"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--questions", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    loaded = config.load(given.config, given.overrides)
    folders = made(loaded)
    questions = unlabeled_questions(folders, given.questions)
    found: list[dict[str, Any]] = []
    began, planned = time.time(), list(arms(given, loaded))
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.processes, maxtasksperchild=1) as pool:
        waiting = [pool.apply_async(distil, (loaded, folders, questions, arm)) for arm in planned]
        for number, result in enumerate(waiting, 1):
            found.append(result.get())
            eta = (time.time() - began) / number * (len(planned) - number)
            print(f"{number}/{len(planned)} {json.dumps(found[-1])} ETA {eta:.0f} s", flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(questions)} questions about unlabeled images")
    print(table(found))


if __name__ == "__main__":
    main()
