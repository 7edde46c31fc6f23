"""The sports question set: the same bytes for a seed, separate splits, and answers that hold in the pictures themselves."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from leaml.config import SourceConfig
from leaml.data import kvasir, registry
from leaml.errors import DataError, ResourceError
from research import sports, sports_games
from research.sports_camera import close_up
from research.sports_games import KITS, Frame, Thing
from research.sports_questions import caption, name_color, questions
from research.tiny.world import COLUMNS, ROWS, place

pytestmark = pytest.mark.research

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALLED = all(importlib.util.find_spec(name) for name in ("ale_py", "ocatari"))
needs_games = pytest.mark.skipif(not INSTALLED, reason="needs ale-py and OCAtari: the extra sports")

ARGUMENTS = ["--frames", "120", "--test-frames", "18", "--sports", "tennis", "bowling"]
CELLS = {place(row, column): (y, x) for y, row in enumerate(ROWS) for x, column in enumerate(COLUMNS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not INSTALLED:
        pytest.skip("needs ale-py and OCAtari: the extra sports")
    target = tmp_path_factory.mktemp("sports") / "set"
    sports.main([str(target), *ARGUMENTS])
    return target


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shown(picture: np.ndarray, color: str) -> np.ndarray:
    """Where a picture (n, n, 3) has exactly this kit's colour."""
    return (picture == KITS[color]).all(-1)


def test_another_process_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "research.sports", str(tmp_path / "again"), *ARGUMENTS], cwd=ROOT, check=True)
    assert contents(tmp_path / "again") == contents(folder)


def test_splits_share_no_picture(folder: Path) -> None:
    pictures = {split: [p.read_bytes() for p in (folder / "frames" / split).iterdir()] for split in ("train", "test")}
    assert {split: len(found) for split, found in pictures.items()} == {"train": 120, "test": 18}
    assert len(set(pictures["train"] + pictures["test"])) == 138
    train, test = (next(sports_games.frames("tennis", f"0 {split}", Counter())) for split in ("train", "test"))
    assert (train.screen != test.screen).any()


def test_all_six_types_and_no_common_answer(folder: Path) -> None:
    for split in ("train", "test"):
        found = rows(folder / f"{split}.jsonl")
        assert {row["question_type"] for row in found} == set(kvasir.QUESTION_TYPES.values())
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for row in found:
            answers[row["question"]][row["answer"]] += 1
        for question, counter in answers.items():
            assert max(counter.values()) <= sports.MOST * counter.total(), question


def test_the_project_reads_it(folder: Path) -> None:
    records = list(registry.read(SourceConfig(format="jsonl", path=str(folder / "test.jsonl"))))
    assert len(records) == 18
    assert all(record.data and not record.error for record in records)
    assert sum(len(record.questions) for record in records) == len(rows(folder / "test.jsonl"))
    unlabeled = list(registry.read(SourceConfig(format="folder", path=str(folder / "frames" / "train"))))
    assert len(unlabeled) == 120


def test_named_colours_and_places_are_in_the_picture(folder: Path) -> None:
    asked: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows(folder / "train.jsonl"):
        asked[row["image"]][row["question"]] = row["answer"]
    checked: Counter[str] = Counter()
    for image, answers in asked.items():
        picture = np.asarray(Image.open(folder / image))
        assert picture.shape == (64, 64, 3)
        for question, answer in answers.items():
            words = question.rstrip("?").split()
            if question.startswith("What color"):
                for name in answer.split("; "):
                    assert shown(picture, name).any(), (image, question, answer)
                    checked["color"] += 1
            if question.startswith("Where is the player in "):
                assert in_cell(shown(picture, words[-1]), answer), (image, question, answer)
                checked["player"] += 1
            if question.startswith("Is there a player in ") and words[-1] != answers.get("What color is the ball?") != "black":
                checked["yes_no"] += answer == "yes"
                assert answer == "no" or shown(picture, words[-1]).any()
        ball = answers.get("What color is the ball?")
        if ball and "Where is the ball?" in answers:
            assert in_cell(shown(picture, ball), answers["Where is the ball?"]), image
            checked["ball"] += 1
    assert min(checked[kind] for kind in ("color", "player", "yes_no", "ball")) >= 5, checked


def in_cell(mask: np.ndarray, cell: str) -> bool:
    """Whether a 3 x 3 cell of the mask (64, 64), or its rim, holds a pixel."""
    y, x = CELLS[cell]
    return bool(mask[max(0, 21 * y - 1) : 21 * y + 23, max(0, 21 * x - 1) : 21 * x + 23].any())


@needs_games
def test_counts_are_those_of_separate_patches() -> None:
    """Pins are counted in the picture alone: patches of eight pixels in the colour of pins. The ball has 32."""
    counts = set()
    for frame in itertools.islice(sports_games.frames("bowling", "count", Counter()), 40):
        field = frame.screen[slice(*sports_games.GAMES["bowling"].rows)]
        labels, number = ndimage.label(field == 3, np.ones((3, 3)))
        sizes = Counter(int((labels == n).sum()) for n in range(1, number + 1))
        if set(sizes) <= {8, 32}:  # no pin touches another or the ball
            answer = [q.answer for q in questions(frame, random.Random(0)) if q.question == "How many pins are visible?"]
            assert answer == [str(sizes[8])]
            counts.add(sizes[8])
    assert len(counts) > 1
    for frame in itertools.islice(sports_games.frames("boxing", "count", Counter()), 10):
        large = 0
        for color in (1, 3):
            labels, number = ndimage.label(frame.screen[37:177, 8:] == color, np.ones((3, 3)))
            large += sum((labels == n).sum() > 100 for n in range(1, number + 1))
        answer = [q.answer for q in questions(frame, random.Random(0)) if q.question == "How many players are visible?"]
        assert answer == [str(large)]


@needs_games
def test_frames_whose_objects_do_not_show_are_left_out() -> None:
    game = sports_games.GAMES["tennis"]
    numbers, _ = sports_games._dress(game, "check")
    field = numbers[sports_games.empty_field("tennis")]
    played = ((numbers[screen], *rest) for screen, *rest in itertools.islice(sports_games._play(game, "check"), 30))
    screen, palette, objects = next(p for p in played if isinstance(sports_games.check(game, *p, field), list))
    player = next(o for o in objects if o.category == "Player")
    assert (
        sports_games.check(game, np.where(screen == 1, 0, screen), palette, objects, field) == "Player hardly seen"
    )  # of no team
    player.xy = (20, 60) if player.xy[1] > 105 else (20, 160)  # where the field is empty
    assert sports_games.check(game, screen, palette, objects, field) == "Player hardly seen"
    assert sports_games.check(game, screen, palette, [o for o in objects if o is not player], field) == "unknown object"


def thing(word: str, left: int, top: int, color: str) -> Thing:
    pixels = np.array([KITS[color]] * 40)
    return Thing(word, (left, top, left + 10, top + 20), np.linspace(0, 1, 40), pixels)


def test_questions_about_a_known_frame() -> None:
    things = (thing("player", 10, 20, "red"), thing("player", 120, 170, "blue"), thing("ball", 85, 94, "white"))
    frame = Frame("tennis", 0, 0, np.zeros((210, 160), np.uint8), np.zeros((256, 3), np.uint8), things)
    answers = {q.question: q.answer for q in questions(frame, random.Random(0))}
    assert answers["Where is the player in red?"] == "top left"
    assert answers["Where is the ball?"] == "center"
    assert answers["What color is the shirt of the player on the right?"] == "blue"
    assert answers["Which player is higher in the picture, the left or the right one?"] == "left"
    assert answers["Which player is closer to the ball, the left or the right one?"] == "right"
    assert answers["Which objects are visible? Check all that are present."] == "ball; player"
    assert "How many players are in the top half of the picture?" not in answers  # the ball is on the line
    assert caption(frame) == (
        "A picture of tennis. A player in red is at the top left. A player in blue is at the bottom right. "
        "A white ball is in the center."
    )


def test_mixed_colours_have_no_name() -> None:
    mixed = np.array([KITS["red"], KITS["blue"]] * 10)
    assert name_color(mixed) is None
    assert name_color(mixed[::2]) == "red"
    assert name_color(np.array([[130, 130, 130]])) is None


def test_balancing_drops_the_most_common_answer_only() -> None:
    questions_of = [{"image": str(n), "question": "q", "answer": "yes" if n < 9 else "no"} for n in range(12)]
    alone = [{"image": str(n), "question": "one answer", "answer": "yes"} for n in range(5)]
    kept = sports.balanced(questions_of + alone, 0)
    assert Counter(row["answer"] for row in kept) == {"yes": 3, "no": 3}
    assert {row["question"] for row in kept} == {"q"}


@needs_games
@pytest.mark.parametrize("sport", sports_games.GAMES)
def test_close_ups_are_cut_from_the_field_and_cut_no_object(sport: str) -> None:
    seen = 0
    for whole in itertools.islice(sports_games.frames(sport, "camera", Counter()), 12):
        frame = close_up(whole, 64, random.Random(whole.number))
        if frame is None:
            continue
        seen += 1
        assert frame.screen.shape == (64, 64)
        windows = np.lib.stride_tricks.sliding_window_view(whole.screen, (64, 64))
        corners = np.argwhere((windows == frame.screen).all((2, 3)))
        top, bottom = sports_games.GAMES[sport].rows
        moved = {tuple(map(int, (x, y))) for y, x in corners if top <= y <= bottom - 64 and x >= sports_games.EDGE}
        assert any(not unlike(whole, frame, corner) for corner in moved)
    assert seen >= 6


def unlike(whole: Frame, frame: Frame, corner: tuple[int, int]) -> list[Thing]:
    """Things of a whole frame that a close-up at a corner has to show and does not, or shows in part."""
    x, y = corner
    shown = {(t.word, t.box) for t in frame.things}
    missing = []
    for thing in whole.things:
        left, top, right, bottom = thing.box
        inside = left >= x and top >= y and right <= x + 64 and bottom <= y + 64
        outside = right <= x or bottom <= y or left >= x + 64 or top >= y + 64
        if (thing.word, (left - x, top - y, right - x, bottom - y)) not in shown if inside else not outside:
            missing.append(thing)
    return missing


def test_the_camera_finds_what_is_there() -> None:
    two = (thing("player", 40, 60, "red"), thing("ball", 60, 90, "white"))
    screen = np.arange(210 * 160).reshape(210, 160).astype(np.uint8)
    frame = Frame("hockey", 0, 0, screen, np.zeros((256, 3), np.uint8), (*two, thing("player", 140, 160, "blue")))
    found = close_up(frame, 64, random.Random(0))
    assert found is not None and [t.word for t in found.things] == ["player", "ball"]
    (left, top, *_), (first, *_) = found.things[0].box, found.things
    assert (first.box[2] - left, first.box[3] - top) == (10, 20)
    assert found.screen[top, left] == screen[60, 40]
    wide = thing("player", 0, 0, "red")
    alone = Frame("hockey", 0, 0, screen, frame.palette, (replace(wide, box=(20, 30, 150, 180)),))
    assert close_up(alone, 64, random.Random(0)) is None


def test_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError, match="already holds frames"):
        sports.build(tmp_path, {"train": 1})
    with pytest.raises(DataError, match="67 pixels is higher than the 66 rows of bowling; ask for at most that"):
        sports.build(tmp_path / "large", {"train": 1}, size=67)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"\[sports\].*--no-deps ocatari==2\.2\.1"):
        sports.build(tmp_path / "new", {"train": 1})
