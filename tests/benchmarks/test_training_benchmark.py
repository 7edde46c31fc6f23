"""The benchmark of trainings: its arms train what they say, ratios are of one round, and a small run says everything."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import training, training_arms, training_equalities, training_input, training_model, training_turns
from benchmarks.training_arms import Measured, Plan
from benchmarks.training_equalities import Case, apart
from leaml.config import ModelConfig
from leaml.neurons import scores
from leaml.vlm import load

PHOTO = (96, 80)
DONE = Measured([1.0], 2**30, 2**29, 2**28, 100.0, [1.0], 10, 2**28)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the small model."""
    folder = tmp_path_factory.mktemp("models") / "small"
    training_model.write(folder, quick=True)
    return str(folder)


def test_a_small_run_reports_time_memory_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    sizes = ["--rounds", "1", "--tiled-rounds", "0", "--batch", "2", "--steps", "1", "--threads", "1"]
    training.main(["--quick", "--parts", "arms", "--arms", "trl_lora", "lora", *sizes, "--json", str(file)])
    found = json.loads(file.read_text())
    one = found["arms"]["lora"]
    assert one["s_per_example"] > 0
    assert 0 < one["libraries_gib"] < one["training_gib"] <= one["peak_gib"] < 4
    assert one["tokens_per_s"] > 0
    assert found["left_out"].keys() == ({"trl_lora"} if found["software"]["trl"] is None else set())
    assert (found["lora_vs_trl_time"] is None) == (found["software"]["trl"] is None)
    assert "| lora | " in capsys.readouterr().out


def test_ratios_are_medians_over_steps_and_the_worse_of_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        ("lora", False): [4.0, 8.0, 30.0],
        ("trl_lora", False): [8.0, 10.0, 20.0],
        ("lora", True): [9.0],
        ("trl_lora", True): [10.0],
    }
    memory = {"lora": 3 * 2**30, "trl_lora": 4 * 2**30}

    def measure(plans: Sequence[Plan]) -> list[Measured]:
        return [
            replace(DONE, seconds=seconds[plan.arm, plan.tiles], peak_bytes=memory[plan.arm], estimate_bytes=estimate)
            for plan, estimate in zip(plans, (2**28, 0), strict=True)
        ]

    monkeypatch.setattr(training, "measure", measure)
    found = training.of_arms(training.Settings(Path(), Plan("lora", "", batch=4), (1, 1), ("lora", "trl_lora")))
    assert found["ratios"]["tiles_off"]["lora_vs_trl_time"] == 0.8
    assert found["ratios"]["tiles_on"]["lora_vs_trl_time"] == 0.9
    assert (found["lora_vs_trl_time"], found["lora_vs_trl_memory"]) == (0.9, 0.75)
    assert found["neurons10_vs_full_time"] is None
    assert found["arms"]["lora"]["s_per_example"] == 2.0
    assert found["arms"]["lora_tiles"]["s_per_example"] == 9.0
    assert found["arms"]["lora"]["tokens_per_s"] == 50.0
    assert found["estimate_error"] == 0.0


TAKES_STEPS = """
import sys, threading, time
from benchmarks.training_turns import Clock
log, name = sys.argv[1:]

def busy():
    while True:
        open(log, "a").write(name)
        time.sleep(0.01)

threading.Thread(target=busy, daemon=True).start()
clock = Clock()
clock.begin()
for _ in range(2):
    time.sleep(0.2)
    clock.step()
print(min(clock.seconds), max(clock.seconds))
"""


def test_trainings_take_turns_and_only_one_is_awake(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = [[sys.executable, "-c", TAKES_STEPS, str(log), name] for name in "ab"]
    ends = training_turns.take_turns(commands, dict(os.environ), 2)
    for line in ends:
        least, most = map(float, line.split())
        assert 0.2 <= least <= most < 0.4  # the 0.2 s of the other are not among them
    # perhaps a, b before the first turn; a, b, and in reverse b, a; perhaps a, b at the end: else it writes nothing
    changes = [name for name, _ in itertools.groupby(log.read_text())]
    assert 3 <= len(changes) <= 6, changes


def test_a_training_that_fails_ends_the_others_and_says_why(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", TAKES_STEPS, str(tmp_path / "log"), "a"],
        [sys.executable, "-c", "raise SystemExit('no')"],
    ]
    with pytest.raises(RuntimeError, match="failed with 1:\nno"):
        training_turns.take_turns(commands, dict(os.environ), 2)
    size = (tmp_path / "log").stat().st_size
    time.sleep(0.1)
    assert (tmp_path / "log").stat().st_size == size


@pytest.mark.parametrize(("method", "share"), [("neurons10", 0.1), ("neurons30", 0.3)])
def test_neurons_are_a_share_of_the_rows_that_lora_is_put_on(small: str, method: str, share: float) -> None:
    vlm = load.load(ModelConfig(name=small))
    sizes = [(m.out_features, m.in_features) for m in scores.all_linears(vlm.model).values()]
    training_arms.adapt(vlm, method)
    trained = sum(p.numel() for n, p in vlm.model.named_parameters() if p.requires_grad and n.endswith("delta.default"))
    assert trained == sum(round(share * out) * width for out, width in sizes)


def test_photos_are_cut_into_tiles_or_not(small: str) -> None:
    from leaml.vlm.lengths import Lengths

    whole, tiles = (Lengths.of_model(ModelConfig(name=small, image_tiles=tiles)).image(PHOTO) for tiles in (False, True))
    assert tiles > 10 * whole


def test_losses_of_trainings_that_are_cut_differently_are_apart_by_rounding(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_equalities, "EXAMPLES", 2)
    cases = (Case(small, steps=2), Case(small, steps=2, budget=1, checkpointing=True), Case(small, steps=2, lr=1e-2))
    whole, cut, other = (training_equalities._losses(case, 0, 1) for case in cases)
    assert apart(cut, whole) < 1e-5
    assert apart(other, whole) > 1e-5


def test_the_processes_of_a_training_are_killed_and_leave_a_checkpoint(small: str, tmp_path: Path) -> None:
    case = Case(small, sharded=True, checkpoints=f"{tmp_path}/checkpoint", stop_at=5)
    assert training_equalities.kill(case, 2) == [-signal.SIGKILL] * 2
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == 3
    assert {file.name.split("_")[2] for file in (tmp_path / "checkpoint").glob("*.distcp")} == {"0", "1"}


def test_losses_of_a_training_that_went_on_are_compared_with_the_last_ones() -> None:
    assert apart([2.0, 1.1], [9.0, 2.0, 1.0]) == pytest.approx(0.1)


def test_a_slow_model_waits_less_for_its_input(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROCESSES": 0, "WARM": 1, "STEPS": 2, "EXAMPLES": 2}.items():
        monkeypatch.setattr(training_input, name, value)
    assert training_input.wait_share(small, PHOTO, rate=2.0) < 0.7 * training_input.wait_share(small, PHOTO, rate=1e6)


def test_a_vocabulary_is_that_of_embeddings_and_head(tmp_path: Path) -> None:
    assert training_model.write(tmp_path / "model", quick=True, vocabulary=2000) == 2000 * 128
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == 2000
