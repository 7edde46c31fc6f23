"""Experiments on ensembles: the table's plan on sixty images and a few steps, and what experiments share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaml import config
from leaml.config import resolve_model
from leaml.errors import InputError
from pipelines.ingest import draw_labels, ingest, sample_refs, training_images
from pipelines.run import Run
from research.ensemble import domain, experiments, lab, plans

pytestmark = pytest.mark.research

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
    "evaluate.baselines.no_captions_warmup=2",
    *(f"{section}.precision=float32" for section in ("warmup", "distill", "finetune")),
    *(f"evaluate.baselines.{name}.precision=float32" for name in ("finetune_labels", "lora_labels")),
    *(f"{section}.batch_size=8" for section in ("warmup", "distill", "finetune")),
    *(f"evaluate.baselines.{name}.batch_size=8" for name in ("finetune_labels", "lora_labels")),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> domain.Domain:
    storage = tmp_path_factory.mktemp("ensemble")
    made = domain.make(DEMO, [*SMALL, f"storage={storage}"], {0.1: 1})
    file = storage / "domain.npz"
    made.save(file)
    read = domain.Domain.read(file)
    assert vars(read) | {"pixels": None} == vars(made) | {"pixels": None}
    assert (read.pixels == made.pixels).all()
    return read


def test_cases_hold_the_labels_and_images_that_a_run_draws(given: domain.Domain) -> None:
    keys = [*SMALL, f"storage={given.config.storage}", "name=ensemble", "data.budget.count=null"]
    for case in given.cases.values():
        own = [] if case.name == "full" else [f"data.budget.fraction={case.budget}", f"data.budget.seed={case.draw}"]
        run = Run(config.load(DEMO, [*keys, *own]))
        sources = ingest(run)
        labels, images = draw_labels(run, sources), training_images(sources)
        for places, table in ((case.train, labels.train), (case.validation, labels.validation)):
            mine = [(given.labeled[p]["question"], given.labeled[p]["answer"]) for p in places]
            assert mine == list(zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True))
        assert given.labels(case).images == labels.images
        laboratory = lab.Lab.__new__(lab.Lab)
        laboratory.domain = given
        found = laboratory.unlabeled(lab.Experiment("leaml", case, given.config))
        expected = sample_refs(images.without(labels.image_ids), 8, given.config.generate.seed).ids.to_pylist()
        ids = images.ids.to_pylist()
        assert [ids[int(i)] for i in found] == expected


def test_every_row_of_the_table_is_run_and_written(
    given: domain.Domain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plans, "AT", 0.1)
    monkeypatch.setattr(plans, "FILTERS", {"sure": ["min_mean_logprob=-0.05"], "none": ["max_answer_chars=1"]})
    monkeypatch.setattr(lab, "QUESTIONS", 24)
    twice = lab.Experiment("twice", given.cases["10 % 0"], plans.changed(given.config, "rounds=2"))
    broken = lab.Experiment("broken", given.cases["10 % 0"], plans.changed(given.config, "distill.lr=1e30"))
    planned = [*plans.table(given), [twice, broken]]
    monkeypatch.setitem(plans.PLANS, "table", lambda given, results: planned)
    out = tmp_path / "found.json"
    bench = {"device": "cpu", "together": 4}
    experiments.run(given, "table", resolve_model("leaml-tiny-teacher"), bench, 2, None, out)
    found = {r["name"]: r for r in json.loads(out.read_text())["results"]}
    controls = {*plans.LABELS_ALONE, *plans.PLAIN, *plans.NEURONS, "no_captions"}
    assert set(found) == controls | {"leaml", "leaml_sure", "twice"}  # leaml_none accepts no pair, broken has no finite loss
    assert {len(r["correct"]) for r in found.values()} == {len(given.asked)}
    worth = {name: row["pairs"] for name, row in found.items() if row["pairs"]}
    assert set(worth) == set(found) - {*plans.LABELS_ALONE, "full_labels", "captions_mixed"}
    assert worth["leaml_sure"]["accepted"] < worth["leaml"]["accepted"]
    assert worth["leaml_sure"]["counts"]["pairs"] == worth["leaml"]["counts"]["pairs"]
    assert worth["leaml"]["counts"]["pairs"] >= 16  # two for each of the eight images, and corrections
    assert worth["leaml"] != worth["no_captions"]
    assert found["zero_shot"]["trained"]["lr"] == 0 and found["finetune_labels"]["trained"]["sweep"]


def test_no_group_is_begun_when_time_is_up(given: domain.Domain, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    experiments.run(given, "table", resolve_model("leaml-tiny-teacher"), {"device": "cpu"}, 1, -1.0, out)
    assert not out.exists()


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ensembles take 32 x 32 alone"):
        domain.make(DEMO, [*SMALL, f"storage={tmp_path}"], {}, size=32)


def test_plans_change_one_thing_at_a_time(given: domain.Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "AT", 0.1)
    scored, adapted = plans.neurons(given)
    assert len({e.name for e in scored}) == len(scored) == 2 * 3
    assert {e.kind for e in adapted} == {"method"} and {e.name for e in adapted}.isdisjoint(e.name for e in scored)
    assert [e.config for e in adapted] == [e.config for e in scored]
    generators, behind, again = plans.parts(given)
    assert {e.kind for e in (*scored, *generators)} == {"generator"}
    assert {e.name for e in generators}.isdisjoint(e.name for e in (*behind, *again))  # `show` tells them apart by name
    default = plans.seeded(given.config, behind[0].case)
    for group in (generators, [e for e in behind if e.kind == "method"], again):
        changes = {e.name: e.config for e in group}
        same = {name for name, config in changes.items() if config == default}
        assert all(name in same for name in changes if name.startswith("default"))
        assert len({c.model_dump_json() for c in changes.values()}) == len(changes) - max(0, len(same) - 1)
    assert {e.name: e.config for e in again}["rounds 2"] == default.model_copy(update={"rounds": 2})
    assert {e.kind for e in behind} == {"method", "full_labels"}


def test_the_table_is_made_with_the_settings_that_know_most_of_unlabeled_images(
    given: domain.Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "AT", 0.1)
    results: list[lab.Result] = []
    plan = iter(plans.chosen(given, results))
    tried = next(plan)
    with pytest.raises(InputError, match="weight 1, other was asked about unlabeled images"):
        plans.best(results, ["leaml, no cloze, weight 1", "other"])
    known = {"leaml, cloze, weight 0.2": 0.7, "leaml, no cloze, weight 1": 0.6, "no_captions, warm-up 300": 0.5}
    results += [lab.Result(e.name, e.case.name, [True], known.get(e.name, 0.4)) for e in tried if e.kind == "method"]
    results.append(lab.Result("no_captions, warm-up 60", "10 % 0"))  # nothing was asked
    table, tuned, few, again = plan
    rows = {e.name: e.config for e in (*table, *tuned, *few, *again)}
    assert {e.name for e in plans.table(given)[0]} <= set(rows)
    for name in ("leaml", "random_neurons", "leaml_no_filters", "leaml, rate by validation", "leaml, 2 rounds"):
        assert (rows[name].distill.check_weight, rows[name].distill.cloze_share, rows[name].warmup.steps) == (0.2, 0.5, 2)
    for name in ("no_captions", "no_captions, rate by validation"):
        assert rows[name].distill.skip and rows[name].warmup.steps == 300 != rows["leaml"].warmup.steps
    rates = [3e-4, 6e-4, 1e-3]
    assert rows["leaml, rate by validation"].finetune.lr == rows["no_captions, rate by validation"].finetune.lr == rates
    assert rows["random, 10 % of rows"].distill.lr == 2 * rows["leaml"].distill.lr  # type: ignore[operator]
