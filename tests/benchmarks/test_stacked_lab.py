"""Experiments on stacked models: the table's plan on sixty images and a few steps, and what experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.pair_precision import truth_of
from benchmarks.stacked import domain, experiments, lab, model
from benchmarks.stacked.texts import Texts
from benchmarks.stacked.training import Bench
from benchmarks.stacked.workers import Workers
from leaml import config
from leaml.config import resolve_model
from pipelines.ingest import draw_labels, ingest, sample_refs, training_images
from pipelines.run import Run

DEMO = Path("pipelines/configs/demo.yaml")
SMALL = [
    "data.labeled.limit=60",
    "data.evaluation.limit=6",
    "data.evaluation_questions=null",
    "warmup.steps=2",
    "distill.steps=2",
    "finetune.steps=3",
    "generate.max_images=8",
    "generate.pairs_per_image=2",
    "generate.max_tokens=24",
    "evaluate.baselines.finetune_labels.steps=2",
    "evaluate.baselines.lora_labels.steps=2",
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> domain.Domain:
    storage = tmp_path_factory.mktemp("stacked")
    made = domain.make(DEMO, [*SMALL, f"storage={storage}"], {0.1: 2})
    file = storage / "domain.npz"
    made.save(file)
    read = domain.Domain.read(file)
    assert vars(read) | {"pixels": None} == vars(made) | {"pixels": None}
    assert (read.pixels == made.pixels).all()
    return read


def test_cases_hold_the_labels_and_images_that_a_run_draws(given: domain.Domain) -> None:
    keys = [*SMALL, f"storage={given.config.storage}", "name=stacked", "data.budget.count=null"]
    for case in given.cases.values():
        own = [] if case.name == "full" else [f"data.budget.fraction={case.budget}", f"data.budget.seed={case.draw}"]
        run = Run(config.load(DEMO, [*keys, *own]))
        sources = ingest(run)
        labels, images = draw_labels(run, sources), training_images(sources)
        for places, table in ((case.train, labels.train), (case.validation, labels.validation)):
            mine = [(given.labeled[p]["question"], given.labeled[p]["answer"]) for p in places]
            assert mine == list(zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True))
        laboratory = lab.Lab.__new__(lab.Lab)
        laboratory.domain = given
        found = laboratory.unlabeled(lab.Experiment("leaml", case, given.config))
        expected = sample_refs(images.without(labels.image_ids), 8, given.config.generate.seed).ids.to_pylist()
        ids = images.ids.to_pylist()
        assert [ids[int(i)] for i in found] == expected


def test_every_row_of_the_table_is_run(given: domain.Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "AT", 0.1)
    monkeypatch.setattr(experiments, "FILTERS", {"hard": ["hardness=true"], "balanced": ["max_answer_share=0.5"]})
    monkeypatch.setitem(given.cases, "10 % 1", given.cases["10 % 0"])
    folder = resolve_model("leaml-tiny")
    bench = Bench(model.Shape.of(folder), Texts(folder), torch.tensor(given.pixels), together=4)
    teacher = model.load(resolve_model("leaml-tiny-teacher"), "cpu")
    planned = [e for e in experiments.table(given) if e.case.name == "10 % 0"]
    planned.append(lab.Experiment("twice", planned[0].case, experiments.changed(given.config, "rounds=2")))
    with Workers(2, truth_of(given.labeled)) as workers:
        laboratory = lab.Lab(given, bench, model.load(folder, "cpu"), teacher, workers)
        found = {r.name: r for r in laboratory.run(planned)}
    assert set(found) == {
        *experiments.LABELS_ALONE,
        *experiments.PLAIN,
        *experiments.NEURONS,
        "leaml",
        "no_captions",
        "leaml_hard",
        "leaml_balanced",
        "twice",
    }
    assert all(len(r.correct) == len(given.asked) for r in found.values())
