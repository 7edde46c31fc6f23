"""A camera close to the game: a square cut out of a frame, pixel for pixel.

Models that see 64 x 64 pixels would get a whole screen of 160 x 210 with players of five pixels and a ball of one; they
learned neither shirts nor places from thousands of captions. In a cut-out of 64 pixels a player has the 12 to 20 that the
emulator draws.
"""

from __future__ import annotations

import random
from dataclasses import replace

from leaml.errors import DataError
from research.sports_games import EDGE, GAMES, Frame, Thing

_TRIES = 40  # places that the camera looks at in a frame


def check_size(sport: str, size: int) -> None:
    """DataError where the camera's picture is higher than the game's playing field."""
    top, bottom = GAMES[sport].rows
    if size > (rows := bottom - top):
        msg = (
            f"a picture of {size} pixels is higher than the {rows} rows of {sport}; ask for at most that, or leave {sport} out"
        )
        raise DataError(msg)


def close_up(frame: Frame, size: int, rng: random.Random) -> Frame | None:
    """Of some places in the playing field the one that shows most objects and cuts none; None where each is empty or cuts one.

    Args:
        frame: A whole frame.
        size: Edge of the cut-out in the emulator's pixels.
        rng: Chooses the places.

    Returns:
        A frame whose screen is (size, size), and whose objects' boxes count from its corner.
    """
    (top, bottom), (_, width) = GAMES[frame.sport].rows, frame.screen.shape
    best: tuple[tuple[int, int], list[Thing]] = (0, 0), []
    for _ in range(_TRIES):
        corner = rng.randint(EDGE, width - size), rng.randint(top, bottom - size)
        seen = [_seen(thing, corner, size) for thing in frame.things]
        if None not in seen and sum(map(bool, seen)) > len(best[1]):
            best = corner, [thing for thing, whole in zip(frame.things, seen, strict=True) if whole]
    (x, y), things = best
    if not things:
        return None
    shifted = (replace(t, box=(t.box[0] - x, t.box[1] - y, t.box[2] - x, t.box[3] - y)) for t in things)
    return replace(frame, screen=frame.screen[y : y + size, x : x + size], things=tuple(shifted))


def _seen(thing: Thing, corner: tuple[int, int], size: int) -> bool | None:
    """Whether a thing is in the picture; None where its edge, or the pixel beside it, is on the picture's edge."""
    (x, y), (left, top, right, bottom) = corner, thing.box
    if left > x and top > y and right < x + size and bottom < y + size:
        return True
    outside = right < x or bottom < y or left > x + size or top > y + size
    return False if outside else None
