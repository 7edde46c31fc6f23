"""The caption teacher of the sports set: what is counted as right, and that it is trained and can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaml.config import ModelConfig, TrainConfig
from leaml.vlm import load
from research import sports_captions, sports_teacher

pytestmark = pytest.mark.research

TENNIS = "A picture of tennis. A player in blue is at the top left. A player in red is in the center. There is no ball."
SKIING = "A picture of skiing. A player in red is at the top left. 3 trees are visible. 1 flag is visible."


def test_sentences_by_what_they_are_about() -> None:
    found = sports_captions.parts(SKIING)
    assert found["sport"] == {"A picture of skiing."}
    assert found["people"] == {"A player in red is at the top left."}
    assert found["numbers"] == {"3 trees are visible.", "1 flag is visible."}
    assert (found["ball"], found["rest"]) == (frozenset(), frozenset())


def test_a_kind_is_right_when_it_says_what_is_true_and_nothing_else() -> None:
    turned = (
        "A picture of tennis. A player in red is in the center. A player in blue is at the top left. A ball is in the center."
    )
    found = sports_captions.right([turned, SKIING, SKIING], [TENNIS, SKIING, SKIING.replace("3 trees", "2 trees")])
    assert found == {
        "sport": 1.0,
        "people": 1.0,
        "ball": 0.0,
        "numbers": 0.5,
        "all": pytest.approx(1 / 3, abs=1e-4),
    }


def test_training_goes_on_from_the_shipped_teacher_and_reads_training_frames_only(tmp_path: Path) -> None:
    frames = sports_teacher.rendered(tmp_path / "frames", {"train": 8, "test": 2}, 64, 3)
    assert not (tmp_path / "frames.part").exists()
    rows = [json.loads(line) for line in (frames / "captions.jsonl").read_text().splitlines()]
    trained, held_out = (sports_captions.read_captions(frames, split) for split in ("train", "test"))
    assert len(trained) == 8
    assert len(held_out) == 2
    assert {**trained, **held_out} == {frames / row["image"]: row["caption"] for row in rows}
    losses = sports_teacher.train(tmp_path, TrainConfig(steps=12, lr=1e-3, batch_size=8), 0)
    assert [step for step, _ in losses] == [0, 10, 11]
    assert losses[-1][1] < losses[0][1]
    assert load.load(ModelConfig(name=str(tmp_path / "model")), "cpu").processor.image_processor.size == {"longest_edge": 64}
