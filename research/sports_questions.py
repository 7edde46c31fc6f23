"""Questions of all six Kvasir-VQA types, and a caption, about a checked frame of `research.sports_games`.

A question is asked only where its answer is clear: not where an object lies on the line between two places, or two objects
are as far left as each other, or an object's pixels have no one colour.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from leaml.data.records import Question
from research.sports_games import KITS, Frame, Thing
from research.tiny.world import COLUMNS, ROWS, place

_NEAR = 45.0  # from a kit's colour in RGB; fields and skins are further away
_CLEAR = 3.0  # pixels: what is nearer to a line is on neither side
_SHIRT = 6  # pixels without which the colour of a shirt is not known
_PEOPLE = ("player", "paddle")
_BALLS = ("ball", "puck")
_NO_BALL = ("boxing", "skiing")  # sports whose captions need not say that there is none


def name_color(pixels: np.ndarray) -> str | None:
    """The name in `KITS` that is nearest to at least 60 % of the pixels (n, 3) and looks like them, or None."""
    distances = np.linalg.norm(pixels[:, None].astype(float) - np.array(list(KITS.values())), axis=-1)
    alike = distances.argmin(1)[distances.min(1) <= _NEAR]
    counts = np.bincount(alike, minlength=len(KITS))
    return list(KITS)[int(counts.argmax())] if counts.max() >= 0.6 * len(pixels) else None


def color(thing: Thing) -> str | None:
    """The colour of a thing; of a player that of the shirt, which is between a quarter and 55 % of the height from the top."""
    pixels = thing.pixels
    if thing.word == "player":
        pixels = pixels[(thing.heights >= 0.25) & (thing.heights <= 0.55)]
    return name_color(pixels) if len(pixels) >= _SHIRT or thing.word != "player" else None


def center(thing: Thing) -> tuple[float, float]:
    left, top, right, bottom = thing.box
    return (left + right) / 2, (top + bottom) / 2


def where(thing: Thing, frame: Frame) -> str:
    """The cell of a 3 x 3 grid in words."""
    (x, y), (height, width) = center(thing), frame.screen.shape
    return place(ROWS[int(y * 3 / height)], COLUMNS[int(x * 3 / width)])


def _in_one_cell(thing: Thing, frame: Frame) -> bool:
    (x, y), (height, width) = center(thing), frame.screen.shape
    lines = [abs(x - width * n / 3) for n in (1, 2)] + [abs(y - height * n / 3) for n in (1, 2)]
    return min(lines) >= _CLEAR


def _halves(frame: Frame) -> tuple[list[Thing], list[Thing]] | None:
    """The things in the left half and those in the top half, or None where one is in between."""
    centers, (height, width) = [center(thing) for thing in frame.things], frame.screen.shape
    if any(abs(x - width / 2) < _CLEAR or abs(y - height / 2) < _CLEAR for x, y in centers):
        return None
    left = [thing for thing, (x, _) in zip(frame.things, centers, strict=True) if x < width / 2]
    return left, [thing for thing, (_, y) in zip(frame.things, centers, strict=True) if y < height / 2]


def _checked(things: Sequence[Thing]) -> str:
    return "; ".join(sorted({thing.word for thing in things})) or "none"


def questions(frame: Frame, rng: random.Random) -> Iterator[Question]:
    """Every question that has a clear answer in this frame; `rng` chooses the colours that are asked about."""
    people = sorted((t for t in frame.things if t.word in _PEOPLE), key=center)
    balls = [t for t in frame.things if t.word in _BALLS]
    yield Question("Which sport is this?", frame.sport, "single_choice")
    yield Question("Which objects are visible? Check all that are present.", _checked(frame.things), "multiple_choice")
    if frame.sport != "hockey":
        yield Question("Is there a ball in the picture?", "yes" if balls else "no", "yes_no")
    yield from _about_balls(balls, frame)
    if people:
        yield from _about_colors(people, frame, rng)
        yield from _about_two(people, balls)
    if frame.sport != "pong":
        yield Question("How many players are visible?", str(len(people)), "count")
    for word, sport in (("pin", "bowling"), ("flag", "skiing")):
        if frame.sport == sport:
            yield Question(f"How many {word}s are visible?", str(sum(t.word == word for t in frame.things)), "count")
    if halves := _halves(frame):
        for half, name in zip(halves, ("left", "top"), strict=True):
            listed = f"Which objects are in the {name} half of the picture? Check all that are present."
            yield Question(listed, _checked(half), "multiple_choice")
            if people and people[0].word == "player":
                number = sum(t.word == "player" for t in half)
                yield Question(f"How many players are in the {name} half of the picture?", str(number), "count")


def _about_balls(balls: Sequence[Thing], frame: Frame) -> Iterator[Question]:
    for ball in balls:
        (x, _), middle = center(ball), frame.screen.shape[1] / 2
        if _in_one_cell(ball, frame):
            yield Question(f"Where is the {ball.word}?", where(ball, frame), "location")
        if abs(x - middle) >= _CLEAR:
            yield Question(f"Is the {ball.word} in the left half of the picture?", "yes" if x < middle else "no", "yes_no")
        if ball.word == "ball" and (name := color(ball)):
            yield Question("What color is the ball?", name, "color")


def _about_colors(people: Sequence[Thing], frame: Frame, rng: random.Random) -> Iterator[Question]:
    worn = [color(thing) for thing in people]
    word = people[0].word
    if None in worn:
        return
    names = Counter(name for name in worn if name)
    for name, number in sorted(names.items()):
        person = people[worn.index(name)]
        if number == 1 and _in_one_cell(person, frame):
            which = f"player in {name}" if word == "player" else f"{name} paddle"
            yield Question(f"Where is the {which}?", where(person, frame), "location")
    asked = rng.choice(sorted(names)) if rng.random() < 0.5 else rng.choice([name for name in KITS if name not in names])
    which = f"player in {asked}" if word == "player" else f"{asked} paddle"
    yield Question(f"Is there a {which}?", "yes" if asked in names else "no", "yes_no")
    what = "What color is the shirt of the player" if word == "player" else "What color is the paddle"
    if len(people) == 1:
        if word == "player":
            yield Question(f"{what}?", names.most_common(1)[0][0], "color")
        return
    listed = "What colors are the shirts of the players" if word == "player" else "What colors are the paddles"
    yield Question(f"{listed}? If more than one separate with ;", "; ".join(sorted(names)), "color")
    columns = [center(thing)[0] for thing in people]
    for side, end, next_to_it in (("left", 0, 1), ("right", -1, -2)):
        if abs(columns[end] - columns[next_to_it]) >= 2 * _CLEAR:
            yield Question(f"{what} on the {side}?", str(worn[end]), "color")


def _about_two(people: Sequence[Thing], balls: Sequence[Thing]) -> Iterator[Question]:
    """Questions that compare two players."""
    if len(people) != 2:
        return
    word = people[0].word
    (x0, y0), (x1, y1) = map(center, people)
    if x1 - x0 < 2 * _CLEAR:
        return
    if abs(y0 - y1) >= 2 * _CLEAR:
        higher = "left" if y0 < y1 else "right"
        yield Question(f"Which {word} is higher in the picture, the left or the right one?", higher, "single_choice")
    for ball in balls:
        x, y = center(ball)
        distances = np.hypot(x - x0, y - y0), np.hypot(x - x1, y - y1)
        if abs(distances[0] - distances[1]) >= 4 * _CLEAR:
            closer = "left" if distances[0] < distances[1] else "right"
            yield Question(f"Which {word} is closer to the {ball.word}, the left or the right one?", closer, "single_choice")


def caption(frame: Frame) -> str:
    """What is in the picture, as far as it is known."""
    sentences = [f"A picture of {frame.sport}."]
    for thing in sorted(frame.things, key=lambda t: (t.word in _BALLS, center(t))):
        if thing.word in (*_PEOPLE, *_BALLS, "basket"):
            name = color(thing) if thing.word not in ("basket", "puck") else None
            if thing.word == "player":
                what = f"player in {name}" if name else "player"
            else:
                what = f"{name} {thing.word}" if name else thing.word
            spot = where(thing, frame)
            sentences.append(
                f"{'An' if what[0] in 'aeiou' else 'A'} {what} is {'in' if spot == 'center' else 'at'} the {spot}."
            )
    for word in ("pin", "tree", "flag"):
        if number := sum(t.word == word for t in frame.things):
            sentences.append(f"{number} {word}{'s are' if number > 1 else ' is'} visible.")
    if frame.sport not in _NO_BALL and not any(t.word in _BALLS for t in frame.things):
        sentences.append("There is no ball.")
    return " ".join(sentences)
