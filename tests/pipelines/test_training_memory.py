"""The memory of trainings before anything is run: what a plan says, and what is refused with settings that are then taken."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leaml.config import Config, ScoreConfig, parse
from leaml.errors import ResourceError
from leaml.training import anatomy
from pipelines import plan, recipes, training_memory
from pipelines.training_memory import LIBRARIES, Training, of_score, of_training, refuse_large, room, trainings

SIZE = (640, 480)
SOURCE = {"format": "easy_vqa", "split": "train"}


def config(**changes: Any) -> Config:
    sections = {"data": {"labeled": SOURCE, "evaluation": SOURCE}, "finetune": {"precision": "float32", "batch_size": 64}}
    return parse({**sections, "score": {"batch_size": 1}, **changes})


def finetune(of: Config) -> Training:
    return next(one for one in trainings(of) if one.key == "finetune")


@pytest.mark.parametrize(("tokens", "examples"), [("auto", 1), (None, 32), (10_000, 32), (1, 1)])
def test_the_largest_micro_batch_is_of_the_largest_image(tokens: Any, examples: int) -> None:
    of = config(finetune={"micro_batch_tokens": tokens, "batch_size": 64, "precision": "float32"})
    need = of_training(finetune(of), of.model, SIZE, of.resources.model_copy(update={"train_workers": 2}))
    assert need is not None
    assert need.examples == examples
    assert need.one.reply == 40
    assert need.footprint.weights * 4 == need.footprint.fixed


def test_a_model_that_is_not_at_hand_is_not_estimated() -> None:
    of = config(model={"name": "somebody/model-of-7B"})
    assert of_training(finetune(of), of.model, SIZE, of.resources) is None
    refuse_large(of, SIZE)


def test_trainings_of_a_run_end_with_its_last_step() -> None:
    of = config()
    keys = [one.key for one in trainings(of)]
    assert keys[:3] == ["warmup", "distill", "finetune"]
    assert "evaluate.baselines.lora_labels" in keys
    assert [one.key for one in trainings(of, "distill")] == ["warmup", "distill"]
    assert not list(trainings(of, "caption"))


def test_what_is_refused_fits_with_the_settings_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    of = config(finetune={"micro_batch_tokens": None, "batch_size": 4096, "precision": "float32"})
    alone = of_training(finetune(config()), of.model, SIZE, of.resources)
    assert alone is not None
    memory = LIBRARIES + alone.peak + 20_000_000
    monkeypatch.setattr(training_memory, "usable_memory", lambda: memory)
    refuse_large(config(), SIZE)
    with pytest.raises(ResourceError, match=r"the training finetune takes about .* logits .* 4096 x .*; set ") as refused:
        refuse_large(of, SIZE)
    changes = dict(re.findall(r"finetune\.(\w+)=(\w+)", str(refused.value)))
    assert changes.keys() >= {"micro_batch_tokens"}
    changed = {name: json.loads(value) for name, value in changes.items()}
    refuse_large(config(finetune={"batch_size": 4096, "precision": "float32", **changed}), SIZE)


def test_where_no_setting_helps_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "usable_memory", lambda: LIBRARIES + 1_000_000)
    with pytest.raises(ResourceError, match=r"activation_checkpointing=true.*method=lora would not be enough: take a smaller"):
        refuse_large(config(warmup={"method": "full"}), SIZE)


def test_a_row_that_is_called_after_its_method_can_only_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proposed is what a configuration takes."""
    own = {"method": "lora", "precision": "float32"}
    of = config(warmup=own, distill=own, finetune=own)
    needs = {one.key: of_training(one, of.model, SIZE, of.resources) for one in trainings(of)}
    full = needs.pop("evaluate.baselines.finetune_labels")
    assert full is not None
    others = max(one.peak for one in needs.values() if one is not None)
    assert others < full.peak
    monkeypatch.setattr(training_memory, "usable_memory", lambda: LIBRARIES + others)
    with pytest.raises(ResourceError, match=r"finetune_labels takes about .*; (set|.*leave the row out)") as refused:
        refuse_large(of, SIZE)
    assert "method=lora" not in str(refused.value)
    refuse_large(config(warmup=own, distill=own, finetune=own, evaluate={"leave_out": ["finetune_labels"]}), SIZE)


def test_ray_and_the_driver_have_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "total_memory", lambda: 100 * 2**30)
    assert room(config().resources) == 95 * 2**30 - training_memory.BESIDE - LIBRARIES


def test_another_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "usable_memory", lambda: 10 * LIBRARIES)
    of = config(resources={"train_workers": 2, "parallel_baselines": True})
    assert room(of.resources) == 10 * LIBRARIES // 4 - LIBRARIES
    assert room(config(resources={"address": "ray://somewhere:10001"}).resources) is None


def test_the_plan_prints_it_and_says_what_would_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"labeled": SOURCE | {"limit": 12}, "evaluation": SOURCE | {"limit": 5}, "budget": {"count": 4}}
    of = config(name="planned", storage=str(tmp_path), data=data)

    def shown() -> str:
        stream = io.StringIO()
        monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
        plan.show(of)
        return stream.getvalue()

    parts = r"weights \S+, gradients \S+, moments \S+, activations \S+, logits \S+; 1 x \d+ tokens a micro-batch"
    assert re.search(rf"GiB of warmup.*: {parts}", shown())
    assert re.search(r"GiB of score leaml: weights \S+, activations \S+, logits \S+; 1 x \d+ tokens a micro-batch", shown())
    assert "warning: the training" not in shown()
    monkeypatch.setattr(training_memory, "usable_memory", lambda: LIBRARIES + 1_000_000)
    assert "warning: the training warmup takes about" in shown()


def test_anatomy_of_a_model_needs_no_weights() -> None:
    of = config()
    made = anatomy.of_config(of.model)
    assert made.parameters == pytest.approx(1.5e6, rel=0.6)
    assert len(made.layers["language"]) == 6 and len(made.layers["vision"]) == 4
    assert made.eager  # 64 patches


def test_only_settings_that_help_are_named(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen cuts no image into tiles, and has a size for them, which is small in a small checkpoint."""
    monkeypatch.setattr(training_memory, "FEWEST_PIXELS", 1000)
    model = {"name": str(shared_folder / "zoo" / "qwen2_5_vl"), "max_image_pixels": 40_000}
    of = config(model=model, finetune={"precision": "float32", "activation_checkpointing": True})
    whole, small = (
        of_training(finetune(of), of.model.model_copy(update={"max_image_pixels": pixels}), (4000, 3000), of.resources)
        for pixels in (40_000, 10_000)
    )
    assert whole is not None and small is not None and small.peak < whole.peak
    said = training_memory._refusal(finetune(of), of, (4000, 3000), whole, small.peak)
    assert "; set model.max_image_pixels=10000, with which it takes" in said


def test_workers_of_a_gpu_that_is_not_here_share_what_does_not_fit_one(shared_folder: Path) -> None:
    of = config(resources={"train_workers": 8, "train_gpus": 1})
    whole = of_training(finetune(of), of.model, SIZE, of.resources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_memory, "PLANNED_GPU", 1_000_000)
        part = of_training(finetune(of), of.model, SIZE, of.resources)
    assert whole is not None and part is not None
    assert part.footprint.fixed == pytest.approx(whole.footprint.fixed / 8, rel=1e-6)


def test_the_recipe_for_a_laptop_takes_what_it_says(shared_folder: Path) -> None:
    """In its first lines: with activations kept, and without."""
    of = recipes.load("laptop")
    model = of.model.model_copy(update={"name": str(shared_folder / "zoo" / "smolvlm256m_shape")})
    kept, again = (
        [of_training(one.changed(**changes), model, (1280, 1024), of.resources) for one in trainings(of)]
        for changes in ({}, {"activation_checkpointing": True})
    )
    said = [int(n) for n in re.findall(r"up to (\d) GiB", Path(recipes.shipped()["laptop"]).read_text())]
    for needs, most in zip((kept, again), said, strict=True):
        peaks = [one.peak for one in needs if one is not None]
        assert len(peaks) == 5
        assert most - 2 < max(peaks) / 2**30 < most


def small_trainings(**changes: Any) -> Config:
    """Trainings that take less than the scoring."""
    sections = {name: {"batch_size": 8, "micro_batch_tokens": 1, "precision": "float32"} for name in ("warmup", "finetune")}
    sections["distill"] = {**sections["warmup"], "method": "neurons"}
    return config(**sections, evaluate={"leave_out": ["finetune_labels", "lora_labels"]}, **changes)


def test_a_scoring_that_does_not_fit_is_refused_with_settings_with_which_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    of = small_trainings(score={"batch_size": 256, "samples": 256})
    whole, single = (of_score(each, of.model, SIZE, of.resources) for each in (of.score, ScoreConfig()))
    assert whole is not None and single is not None
    assert (whole.examples, single.examples, whole.at_least) == (256, 16, False)
    assert whole.peak > 8 * single.peak
    memory = LIBRARIES + max(need.peak for one in trainings(of) if (need := of_training(one, of.model, SIZE, of.resources)))
    monkeypatch.setattr(training_memory, "usable_memory", lambda: memory)
    refuse_large(of, SIZE, "warmup")
    with pytest.raises(ResourceError, match=r"the step score takes about .* GiB \(weights .*; 256 x .*; set ") as refused:
        refuse_large(of, SIZE)
    found = dict(re.findall(r"score\.(\w+)=(\w+)", str(refused.value)))
    assert found.keys() == {"batch_size"}
    refuse_large(small_trainings(score={"batch_size": int(found["batch_size"])}), SIZE)
    monkeypatch.setattr(training_memory, "usable_memory", lambda: 2**50)
    refuse_large(of, SIZE)


def test_without_a_training_of_neurons_a_scoring_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "of_score", lambda *_: pytest.fail("nothing is scored"))
    refuse_large(config(distill={"method": "lora"}, finetune={"method": "lora"}), SIZE)


def test_a_scoring_without_gradients_takes_no_pass() -> None:
    of = config(score={"method": "random"})
    assert of_score(of.score, of.model, SIZE, of.resources) is None


MIXED = [("qwen2_5_vl", True, 1), ("smolvlm2", True, 1), ("smolvlm2", False, 16)]


@pytest.mark.parametrize(("name", "tiles", "examples"), MIXED)
def test_examples_that_a_model_mixes_are_scored_one_at_a_time(
    shared_folder: Path, name: str, tiles: bool, examples: int
) -> None:
    of = config(model={"name": str(shared_folder / "zoo" / name), "image_tiles": tiles}, score={})
    need = of_score(of.score, of.model, SIZE, of.resources)
    assert need is not None
    assert (need.examples, need.at_least) == (examples, False)
    alone = of.score.model_copy(update={"modules": training_memory.LANGUAGE})
    found = of_score(alone, of.model, SIZE, of.resources)
    assert found is not None and found.examples == 16


def test_what_cannot_be_told_is_counted_as_one_example_and_called_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    of = config(score={})
    monkeypatch.setattr("leaml.neurons.footprint.goes_together", lambda *_: None)
    training_memory._scored.cache_clear()
    need = of_score(of.score, of.model, SIZE, of.resources)
    training_memory._scored.cache_clear()
    assert need is not None and need.at_least
    assert "; at least 1 x " in training_memory.parts_text(need)
    assert "takes at least" in training_memory._found("the step score", of, need, 0)
