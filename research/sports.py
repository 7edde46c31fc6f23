"""A visual question answering set of another domain: sports, with all six Kvasir-VQA types, rendered when it is needed.

    python -m research.sports FOLDER [--frames 4000] [--test-frames 1000] [--size 64] [--seed 0] [--sports tennis pong ...]

Writes, all determined by the seed:

    FOLDER/frames/train/*.png, FOLDER/frames/test/*.png     close-ups of seven Atari games, from different episodes
    FOLDER/train.jsonl, FOLDER/test.jsonl                   image, question, answer, question_type: the reader `jsonl`
    FOLDER/captions.jsonl                                   image, caption: the truth about every frame

A caption teacher must not be trained on the captions of the frames that it will describe: render other ones with another seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from leaml.errors import DataError, LeamlError
from research.sports_camera import check_size, close_up
from research.sports_games import GAMES, frames
from research.sports_questions import caption, questions

MOST = 0.5
"""Largest share of one answer among those to a question; questions above it are left out."""

_PATIENCE = 60  # frames looked at for one that is taken, before a game is given up

Row = dict[str, Any]


def render(
    split: str, counts: dict[str, int], size: int, seed: int, seen: set[bytes], folder: Path
) -> tuple[list[Row], list[Row]]:
    """Write the frames of one split; returns questions and captions.

    Args:
        split: train or test; part of the key of every episode.
        counts: Frames of each sport.
        size: Edge of the pictures (research.sports_camera).
        seed: Seed of the whole set.
        seen: Hashes of the pictures so far, of both splits; added to.
        folder: Where `frames/<split>` is made.

    Raises:
        DataError: A game yields too few different frames.
    """
    (folder / "frames" / split).mkdir(parents=True, exist_ok=True)
    asked, captions = [], []
    for sport, wanted in counts.items():
        refused: Counter[str] = Counter()
        source = frames(sport, f"{seed} {split}", refused)
        taken = 0
        while taken < wanted:
            whole = next(source)
            name = f"frames/{split}/{sport}-{whole.episode:04d}-{whole.number:02d}.png"
            rng = random.Random(f"{seed} {name}")
            frame = close_up(whole, size, rng)
            picture = b"" if frame is None else frame.palette[frame.screen].tobytes()
            if frame is None or (identity := hashlib.sha256(picture).digest()) in seen:
                refused["nothing in view" if frame is None else "seen before"] += 1
            else:
                seen.add(identity)
                taken += 1
                Image.frombytes("RGB", (size, size), picture).save(folder / name)
                asked += [
                    {"image": name, "question": q.question, "answer": q.answer, "question_type": q.question_type}
                    for q in questions(frame, rng)
                ]
                captions.append({"image": name, "caption": caption(frame)})
            if refused.total() > _PATIENCE * (taken + 10):
                msg = f"{sport}: only {taken} different frames of {wanted}; left out: {dict(refused)}; ask for fewer"
                raise DataError(msg)
        print(f"{split} {sport}: {taken} frames; left out: {dict(refused.most_common())}", flush=True)
    return asked, captions


def balanced(rows: Iterable[Row], seed: int) -> list[Row]:
    """Without so many rows, chosen by hash, that no answer to a question has more than `MOST` of its rows.

    A question with a single answer is left out: it asks nothing.
    """
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    rows = list(rows)
    for row in rows:
        groups[row["question"]][row["answer"]].append(row)
    dropped: set[int] = set()
    for answers in groups.values():
        common = max(answers.values(), key=len)
        others = sum(map(len, answers.values())) - len(common)
        room = int(others * MOST / (1 - MOST))
        ranked = sorted(common, key=lambda r: hashlib.sha256(f"{seed} {r['image']} {r['question']}".encode()).digest())
        dropped.update(map(id, ranked[room:]))
    return [row for row in rows if id(row) not in dropped]


def write(file: Path, rows: Iterable[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(folder: Path, numbers: dict[str, int], size: int = 64, seed: int = 0, sports: Sequence[str] = tuple(GAMES)) -> Row:
    """Write the whole set; returns its statistics.

    Args:
        folder: Must not hold frames yet.
        numbers: Frames per split: train and test.
        size: Edge of the pictures in pixels of the emulator; at most 66, the rows of bowling, for all sports.
        seed: Decides every byte.
        sports: Keys of `GAMES`.
    """
    if (folder / "frames").exists():
        msg = f"{folder} already holds frames; remove it or name another folder"
        raise DataError(msg)
    for sport in sports:
        check_size(sport, size)
    seen: set[bytes] = set()
    every, found = [], {}
    for split, number in numbers.items():
        counts = {sport: number * (n + 1) // len(sports) - number * n // len(sports) for n, sport in enumerate(sports)}
        asked, captions = render(split, counts, size, seed, seen, folder)
        rows = balanced(asked, seed)
        write(folder / f"{split}.jsonl", rows)
        every += captions
        found[split] = {"frames": number, **statistics(rows)}
    write(folder / "captions.jsonl", every)
    return found


def statistics(rows: list[Row]) -> Row:
    """Questions by type, and by question the number and the share of the most common answer."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row["question"]][row["answer"]] += 1
    best = sum(counter.most_common(1)[0][1] for counter in answers.values())
    return {
        "questions": len(rows),
        "by_type": dict(sorted(Counter(row["question_type"] for row in rows).items())),
        "prior": round(best / max(1, len(rows)), 3),
        "by_question": {
            question: {"questions": counter.total(), "prior": round(counter.most_common(1)[0][1] / counter.total(), 3)}
            for question, counter in sorted(answers.items())
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--test-frames", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sports", nargs="+", choices=tuple(GAMES), default=tuple(GAMES))
    parser.add_argument("--json", type=Path, help="also write the statistics to this file")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    numbers = {"train": options.frames, "test": options.test_frames}
    try:
        found = build(options.folder, numbers, options.size, options.seed, options.sports)
    except LeamlError as error:
        parser.exit(error.exit_code, f"sports: {error}\n")
    found["seconds"] = round(time.perf_counter() - start, 1)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
