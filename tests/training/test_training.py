"""The training loop: that it resumes bit for bit, sweeps, refuses, and splits over workers."""

import copy
import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_runs import CONFIG, Disk, KilledError, get_image, mixture, questions

from leaml.config import TrainConfig
from leaml.errors import ConfigError, StepError
from leaml.training.batches import Example, Task
from leaml.training.loop import Outcome, Trainer, Validation
from leaml.training.worker import Worker
from leaml.vlm.load import VLM


@pytest.fixture
def vlm(tiny: VLM) -> VLM:
    return VLM(copy.deepcopy(tiny.model), tiny.processor, tiny.name)


def train(vlm: VLM, tasks: list[Task], config: TrainConfig, worker: Worker | None = None, seed: int = 1) -> Outcome:
    vlm.model.requires_grad_(True)
    parameters = list(vlm.model.parameters())
    return Trainer(vlm, parameters, tasks, config, get_image, seed, worker or Worker()).run()


def weights(vlm: VLM) -> list[torch.Tensor]:
    return [p.detach().clone() for p in vlm.model.parameters()]


def identical(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_learns(vlm: VLM) -> None:
    outcome = train(vlm, [questions(5)], CONFIG.model_copy(update={"steps": 25}))
    losses = [loss for _, loss in outcome.losses]
    assert [step for step, _ in outcome.losses] == [0, 10, 20, 24]
    assert losses[-1] < 0.5 * losses[0]
    assert outcome.lr == 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tiny: VLM, dropout: float) -> None:
    def model() -> VLM:
        copied = copy.deepcopy(tiny.model)
        for layer in copied.model.text_model.layers:
            layer.self_attn.attention_dropout = dropout
        return VLM(copied, tiny.processor, tiny.name)

    whole, config = model(), CONFIG.model_copy(update={"weight_decay": 0.05})
    expected = train(whole, mixture(), config)
    disk, first, second = Disk(), model(), model()
    with pytest.raises(KilledError):
        train(first, mixture(), config, disk.worker(die_at=(0, 5)))
    torch.manual_seed(99)  # a new process has another random state
    resumed = train(second, mixture(), config, disk.worker())
    assert disk.steps == [(0, n) for n in (1, 2, 3, 4, 5, 5, 6)]
    assert resumed.losses == expected.losses
    assert identical(weights(second), weights(whole))
    assert not identical(weights(second), weights(tiny))


def test_seed_changes_the_run(tiny: VLM) -> None:
    one, other = (VLM(copy.deepcopy(tiny.model), tiny.processor, "") for _ in range(2))
    config = CONFIG.model_copy(update={"steps": 2})
    assert train(one, [questions()], config, seed=1).losses != train(other, [questions()], config, seed=2).losses


# --- the sweep ---------------------------------------------------------------------------------------------------------

SWEEP = CONFIG.model_copy(update={"steps": 10, "lr": [1e-7, 2e-3], "save_every": 3})


@pytest.mark.parametrize("rates", [[1e-7, 2e-3], [2e-3, 1e-7]])
def test_sweep_picks_the_rate_that_does_better_on_held_out_rows(vlm: VLM, rates: list[float]) -> None:
    outcome = train(vlm, [questions(10, held_out=5)], SWEEP.model_copy(update={"lr": rates}))
    assert outcome.lr == 2e-3
    assert [row["lr"] for row in outcome.sweep] == rates
    by_rate = {row["lr"]: row for row in outcome.sweep}
    assert by_rate[2e-3]["loss"] < by_rate[1e-7]["loss"]
    assert by_rate[2e-3]["accuracy"] >= by_rate[1e-7]["accuracy"]


def test_rate_that_diverges_is_reported_and_not_taken(tiny: VLM, vlm: VLM) -> None:
    rows = questions(10, held_out=5)
    outcome = train(vlm, [rows], SWEEP.model_copy(update={"lr": [1e30, 2e-3]}))
    assert outcome.lr == 2e-3
    assert outcome.sweep[0] == {"lr": 1e30, "accuracy": 0.0}
    alone = VLM(copy.deepcopy(tiny.model), tiny.processor, "")
    train(alone, [rows], SWEEP.model_copy(update={"lr": 2e-3}))
    assert identical(weights(vlm), weights(alone))
    with pytest.raises(StepError, match=r"not finite at any of the learning rates \[1e\+30, 1e\+29\]; give lower"):
        train(vlm, [rows], SWEEP.model_copy(update={"lr": [1e30, 1e29]}))


def test_sweep_trains_without_the_held_out_rows_and_the_end_with_them_from_the_start(tiny: VLM, vlm: VLM) -> None:
    rows = questions(10, held_out=5)
    seen: list[str] = []

    def spy(name: str) -> Image.Image:
        seen.append(name)
        return get_image(name)

    only_held_out = [Example("yellow", e.request, "yellow", held_out=True) if e.held_out else e for e in rows.examples]
    vlm.model.requires_grad_(True)
    asked_in_phase: dict[int, set[str]] = {}
    phases = set()

    def note(metrics: dict[str, Any]) -> None:
        phases.add(metrics["phases"])
        if metrics["step"] == metrics["steps"]:  # before validation looks at the held-out rows
            asked_in_phase[metrics["phase"]] = set(seen)
            seen.clear()

    worker = Worker(progress=note)
    Trainer(vlm, list(vlm.model.parameters()), [Task("labels", only_held_out)], SWEEP, spy, 1, worker).run()
    assert "yellow" not in asked_in_phase[0]
    assert "yellow" in asked_in_phase[2]
    assert phases == {3}
    fresh = VLM(copy.deepcopy(tiny.model), tiny.processor, "")
    train(fresh, [Task("labels", only_held_out)], SWEEP.model_copy(update={"lr": 2e-3}))
    assert identical(weights(vlm), weights(fresh))


@pytest.mark.parametrize(
    ("killed", "resumes_at"),
    [((0, 8), (0, 7)), ((1, 2), (1, 1)), ((1, 5), (1, 4)), ((2, 7), (2, 7))],
)
def test_run_killed_in_the_sweep_resumes_in_its_phase(
    tiny: VLM, whole_sweep: tuple[Outcome, list[torch.Tensor]], killed: tuple[int, int], resumes_at: tuple[int, int]
) -> None:
    expected, trained = whole_sweep
    disk = Disk()
    models = [VLM(copy.deepcopy(tiny.model), tiny.processor, "") for _ in range(2)]
    tasks = [questions(10, held_out=5)]
    with pytest.raises(KilledError):
        train(models[0], tasks, SWEEP, disk.worker(die_at=killed))
    before = len(disk.steps)
    outcome = train(models[1], tasks, SWEEP, disk.worker())
    assert disk.steps[before] == resumes_at
    assert disk.steps[-1] == (2, 10)
    assert (outcome.lr, outcome.sweep, outcome.losses) == (expected.lr, expected.sweep, expected.losses)
    assert identical(weights(models[1]), trained)


@pytest.fixture(scope="module")
def whole_sweep(tiny: VLM) -> tuple[Outcome, list[torch.Tensor]]:
    model = VLM(copy.deepcopy(tiny.model), tiny.processor, "")
    return train(model, [questions(10, held_out=5)], SWEEP), weights(model)


@pytest.mark.parametrize("held_out", [0, 10])
def test_without_rows_on_both_sides_the_first_rate_is_used(vlm: VLM, held_out: int) -> None:
    told: list[dict[str, float]] = []
    outcome = train(
        vlm, [questions(10, held_out=held_out)], SWEEP.model_copy(update={"steps": 1}), Worker(progress=told.append)
    )
    assert (outcome.lr, outcome.sweep) == (1e-7, [])
    assert [each["phases"] for each in told] == [1]  # so a bar ends at its end


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_value_that_is_not_finite_stops_before_the_update_and_names_the_step(vlm: VLM, where: str) -> None:
    disk, calls = Disk(), itertools.count()

    def poison(module: Any, args: Any, output: Any) -> Any:
        if next(calls) == 3:
            if where == "loss":
                output.logits = output.logits * float("nan")
            else:
                output.logits.register_hook(lambda gradient: gradient * float("inf"))
        return output

    vlm.model.register_forward_hook(poison)
    with pytest.raises(StepError, match=r"not finite at step 3 \(learning rate 0.001\); the update was not applied"):
        train(vlm, [questions()], CONFIG.model_copy(update={"save_every": 1}), disk.worker())
    assert disk.saved[-1].state()["step"] == 3
    saved = disk.saved[-1].weights()
    assert all(torch.equal(p, saved[name]) for name, p in vlm.model.named_parameters() if name in saved)
    assert saved.keys() == dict(vlm.model.named_parameters()).keys()


def test_task_without_examples_is_named(vlm: VLM) -> None:
    with pytest.raises(StepError, match=r"'pseudo' has no examples"):
        train(vlm, [questions(), Task("pseudo", [])], CONFIG)
    assert train(vlm, [questions(), Task("pseudo", [], share=0.0)], CONFIG.model_copy(update={"steps": 1})).losses


def test_batch_that_workers_or_tasks_cannot_share_is_refused_before_training(vlm: VLM) -> None:
    with pytest.raises(ConfigError, match="batch_size 4 cannot be split over 3 workers"):
        train(vlm, [questions()], CONFIG, Worker(world=3))
    with pytest.raises(ConfigError, match="batch_size 1 has no slot"):
        Trainer(vlm, [], mixture(), CONFIG.model_copy(update={"batch_size": 1}), get_image, 0, Worker())


def test_nothing_trainable_leaves_the_model_as_it_is(vlm: VLM) -> None:
    """A selection ratio of 0 is a valid control."""
    before = weights(vlm)
    vlm.model.requires_grad_(False)
    outcome = Trainer(vlm, [], [questions()], CONFIG, get_image, 0, Worker()).run()
    assert (outcome.lr, outcome.losses) == (1e-3, [])
    assert identical(weights(vlm), before)


# --- validation --------------------------------------------------------------------------------------------------------


def test_validation_on_the_way_is_reported_and_changes_nothing(tiny: VLM) -> None:
    plain, watched = copy.deepcopy(tiny), copy.deepcopy(tiny)
    expected = train(plain, [questions()], CONFIG)
    seen: list[dict[str, float]] = []
    validation = Validation(questions().examples[:3], every=4, report=seen.append)
    watched.model.requires_grad_(True)
    parameters = list(watched.model.parameters())
    outcome = Trainer(watched, parameters, [questions()], CONFIG, get_image, 1, Worker(), validation).run()
    assert [found["step"] for found in seen] == [4, 6]
    assert all(0 <= found["accuracy"] <= 1 and found["loss"] > 0 for found in seen)
    assert outcome.validations == seen
    assert outcome.losses == expected.losses
    assert identical(weights(plain), weights(watched))


def test_the_time_that_a_validation_waits_for_its_input_is_told(tiny: VLM) -> None:
    def slow(name: str) -> Image.Image:
        time.sleep(0.1 if name.endswith("slow") else 0.0)
        return get_image(name)

    def run(asked: list[Example]) -> Outcome:
        vlm = copy.deepcopy(tiny)
        vlm.model.requires_grad_(True)
        validation = Validation(asked, every=2)
        return Trainer(vlm, list(vlm.model.parameters()), [questions()], CONFIG, slow, 1, Worker(), validation).run()

    asked = questions().examples[:3]
    fast, waited = run(asked), run([replace(e, image_id=f"{e.image_id}-slow") for e in asked])
    assert waited.wait_share * waited.seconds > 3 * 3 * 0.1  # three times three images
    assert waited.wait_share * waited.seconds - fast.wait_share * fast.seconds > 0.5


def test_checkpoints_of_a_process_that_was_killed_are_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal; from leaml.training import checkpoints; folder = checkpoints._scratch(); "
        "(folder / 'checkpoint-x').mkdir(); print(folder, flush=True); {end}"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    ends = ("os.kill(os.getpid(), signal.SIGKILL)", "print(sorted(os.listdir(folder.parent)))")
    commands = ([sys.executable, "-c", program.format(end=end)] for end in ends)
    killed, ended = (
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        for command in commands
    )
    assert killed.returncode == -9
    folder, seen = ended.stdout.splitlines()
    assert seen == str([Path(folder).name])
    assert list(tmp_path.iterdir()) == []
