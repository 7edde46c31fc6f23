"""The comparison of neurons to distill into: what an arm trains and is asked, and its table."""

from __future__ import annotations

import random

import pytest

from leaml.config import Config, ModelConfig
from leaml.data import tables
from leaml.generation import prompts
from leaml.neurons import scores
from leaml.training.batches import Example
from leaml.training.examples import write_examples
from leaml.vlm import load
from pipelines.distill import CAPTION_QUESTIONS
from pipelines.ingest import draw_labels, ingest
from pipelines.run import Run
from pipelines.warmup import answer_examples, pair_examples
from research import neuron_choice
from research.neuron_choice import Arm, Folders

pytestmark = pytest.mark.research


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Folders, frozenset[str]]:
    """A run's steps as `neuron_choice.made` names them, without having been run: 8 labeled images of 24."""
    folder = tmp_path_factory.mktemp("run")
    source = {"format": "easy_vqa", "split": "train", "limit": 24}
    config = Config.model_validate(
        {
            "name": "run",
            "storage": str(folder),
            "data": {"labeled": source, "evaluation": source | {"split": "test"}, "budget": {"count": 8}},
            "score": {"samples": 16, "batch_size": 8},
            "distill": {"batch_size": 8},
        }
    )
    with Run(config) as run:
        sources = ingest(run)
        labels = draw_labels(run, sources)
        run.finish()
    warmed, distilled = folder / "warmed", folder / "distilled"
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    load.save(vlm.model, vlm.processor, warmed / "model")
    write_examples(str(warmed / "pairs.arrow"), pair_examples(labels, {}))
    write_examples(str(warmed / "answers.arrow"), answer_examples(labels))
    images = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED)["image_id"].to_pylist()
    random.seed(0)
    captions = [Example(i, prompts.CAPTION, random.choice(["A teal circle.", "A gray square."])) for i in sorted(set(images))]
    write_examples(str(distilled / "captions.arrow"), captions)
    for name, make in CAPTION_QUESTIONS.items():
        write_examples(str(distilled / f"{name}.arrow"), make({e.image_id: e.reply for e in captions}, 0))
    return config, Folders(sources.labeled.folder, str(warmed), str(distilled)), labels.image_ids


def test_questions_are_about_images_without_a_label_only(given: tuple[Config, Folders, frozenset[str]]) -> None:
    _, folders, labeled = given
    asked = neuron_choice.unlabeled_questions(folders, 40)
    assert len(asked) == 40
    assert not labeled & {e.image_id for e in asked}
    assert len({e.image_id for e in asked}) > 10  # from all over the table


def test_an_arm_trains_the_share_it_says_and_is_asked_on_the_way(given: tuple[Config, Folders, frozenset[str]]) -> None:
    config, folders, _ = given
    asked = neuron_choice.unlabeled_questions(folders, 40)
    found = {
        arm.ratio: neuron_choice.distil(config, folders, asked, arm)
        for arm in (Arm("squared", 0.1, "module", 0, 4, 1e-3), Arm("random", 0.5, "global", 0, 4, 1e-3))
    }
    linears = scores.all_linears(load.load(ModelConfig(name="leaml-tiny")).model).values()
    every = sum(p.numel() for linear in linears for p in linear.parameters())
    for ratio, row in found.items():
        assert row["trained"] == pytest.approx(ratio * every, rel=0.1)
        assert list(row["on_the_way"]) == ["1", "2", "3", "4"]
        assert row["accuracy"] == row["on_the_way"]["4"]
        assert round(row["accuracy"] * 40, 6).is_integer()


def test_the_gradient_methods_differ_and_random_depends_on_the_seed(given: tuple[Config, Folders, frozenset[str]]) -> None:
    config, folders, _ = given
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    store = neuron_choice.ImageStore([f"{folders.images}/images"])
    examples = neuron_choice.read_examples(f"{folders.warmed}/answers.arrow")

    def ranked(method: str, seed: int) -> list[int]:
        found = neuron_choice.score(vlm, store, examples, config.score, Arm(method, 0.1, "module", seed, 1, 1e-3))
        return next(iter(found.values())).argsort().tolist()

    assert ranked("squared", 0) == ranked("lowest", 0)[::-1]
    assert ranked("squared", 0) != ranked("gradient_weight", 0)
    assert ranked("random", 0) != ranked("random", 1)
    assert ranked("random", 0) == ranked("random", 0)


def test_table_has_a_line_for_method_and_scope() -> None:
    rows = [
        {"method": "squared", "scope": "module", "ratio": 0.05, "accuracy": 0.8},
        {"method": "squared", "scope": "module", "ratio": 0.05, "accuracy": 0.9},
        {"method": "random", "scope": "module", "ratio": 0.05, "accuracy": 0.7},
        {"method": "squared", "scope": "global", "ratio": 0.3, "accuracy": 0.95},
    ]
    assert neuron_choice.table(rows).splitlines() == [
        "| neurons | 5% | 30% |",
        "|---|---|---|",
        "| random, module | 0.700 (0.700) |  |",
        "| squared, global |  | 0.950 (0.950) |",
        "| squared, module | 0.850 (0.800 0.900) |  |",
    ]
