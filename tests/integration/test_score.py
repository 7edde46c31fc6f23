"""The score step on real Ray Train workers, of which one has no example, against the same scores computed here; and a
training of exactly what it selected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leaml.config import ModelConfig, ResourcesConfig, TrainConfig, parse, resolve_model
from leaml.data import tables
from leaml.data.store import ImageStore
from leaml.neurons import scores, selection
from leaml.neurons.units import feed_forwards
from leaml.training.batches import Example
from leaml.training.examples import write_examples
from leaml.vlm import load
from pipelines.context import Context
from pipelines.ingest import ingest
from pipelines.run import Run, Step
from pipelines.score import score
from pipelines.selection import select
from pipelines.sources import Labels
from pipelines.train import TaskFile, TrainJob, run_training
from pipelines.warmup import QA_TASKS

SETTINGS = {
    "data": {
        "labeled": {"format": "easy_vqa", "split": "train", "limit": 2},
        "evaluation": {"format": "easy_vqa", "split": "test", "limit": 2},
    },
    "score": {"samples": 2, "unit": "ffn"},
    "select": {"ratio": 0.2, "scope": "global"},
    "resources": {"train_workers": 3, "train_cpus": 0.5},
    **{section: {"batch_size": 6} for section in ("warmup", "distill", "finetune")},
    "evaluate": {"baselines": {name: {"batch_size": 6} for name in ("finetune_labels", "lora_labels")}},
}


def selected(context: Context) -> Path:
    return Path(select(context.with_made(score=score(context))).folder)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_local")
def test_three_workers_with_two_examples_score_as_one_process(tmp_path: Path) -> None:
    with Run(parse({**SETTINGS, "storage": str(tmp_path)})) as run:
        sources = ingest(run)
        warmed = Step("warmup", "warmup", "0", str(tmp_path / "warmup"))  # the shipped model stands in for a warmed-up one
        shutil.copytree(resolve_model("leaml-tiny"), warmed.path("model"))
        rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED).to_pylist()[:4]
        examples = [Example(r["image_id"], r["question"], r["answer"]) for r in rows]
        for task, part in zip(QA_TASKS, (examples[:2], examples[2:]), strict=True):
            write_examples(warmed.path(f"{task}.arrow"), part)
        folder = selected(Context(run, sources, Labels.none(), made={"warmup": warmed}))
        job = TrainJob(
            folder=str(tmp_path / "trained"),
            model=ModelConfig(name=warmed.path("model")),
            tasks=[TaskFile(task, warmed.path(f"{task}.arrow")) for task in QA_TASKS],
            images=sources.image_folders,
            config=TrainConfig(method="neurons", steps=2, lr=1e-2, batch_size=6, weight_decay=0.1),
            selection=str(folder),
        )
        run_training("train", job, ResourcesConfig())

    vlm = load.load(ModelConfig())
    linears = scores.all_linears(vlm.model)
    drawn = [examples[i] for i in np.random.default_rng(0).permutation(4)[:2]]
    collate = scores.vlm_batches(vlm, ImageStore(sources.image_folders, 10**6).get, "cpu")
    expected = scores.score(linears, "squared", scores.Data(drawn, collate), feed_forwards(linears))
    found = load_file(folder / "scores.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * float(value.max()))
    assert json.loads((folder / "selection.json").read_text())["examples"] == 2
    chosen = selection.load(str(folder), linears).rows
    columns = load_file(folder / "columns.safetensors")
    total = sum(len(v) for v in expected.values())
    neurons = sum(len(r) for n, r in chosen.items() if not n.endswith("up_proj"))  # gate and up have one neuron's rows each
    assert neurons == round(0.2 * total)
    assert all(torch.equal(columns[n.replace("gate", "down")], r) for n, r in chosen.items() if n.endswith("gate_proj"))
    trained = scores.all_linears(load.load(ModelConfig(name=f"{job.folder}/model")).model)
    moved_columns = 0
    for name, linear in linears.items():
        moved = trained[name].weight != linear.weight
        if name in columns:
            assert set(moved.any(0).nonzero().flatten().tolist()) <= set(columns[name].tolist())
            moved_columns += int(moved.any())
        else:
            picked = chosen.get(name, torch.tensor([], dtype=torch.int64))
            assert set(moved.any(1).nonzero().flatten().tolist()) <= set(picked.tolist())
    assert moved_columns == sum(len(c) > 0 for c in columns.values()) > 0
