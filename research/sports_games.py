"""Frames of Atari sports games and the objects in them, read from the emulator's memory and checked against the pixels.

Needs ale-py (the emulator and its games, GPL-2) and OCAtari (where each game keeps its objects in memory, MIT), for benchmarks
and tests alone: LEAML neither imports nor ships them, and no frame is stored in the repository.

A frame is taken only where memory and picture agree: every object that memory places in the picture shows enough pixels of its
own, and nothing else is there that does not belong to the empty field. That costs frames in which objects hide one another, and
it catches what OCAtari gets wrong.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import ndimage

from leaml.errors import ResourceError

FRAMES_PER_EPISODE = 12

KITS = {
    "red": (206, 32, 41),
    "orange": (245, 130, 32),
    "yellow": (250, 225, 40),
    "green": (30, 170, 60),
    "blue": (35, 60, 205),
    "purple": (125, 45, 170),
    "pink": (250, 150, 195),
    "black": (8, 8, 8),
    "white": (250, 250, 250),
}
"""Colours of shirts and balls. Each episode draws its own, so that they must be seen and do not follow from the game."""

_CALIBRATION = 120  # frames that show the empty field behind moving objects
EDGE = 8
"""Columns at the left that the games do not use."""


@dataclass(frozen=True)
class Game:
    """What is known of a game beside its ROM.

    `words` maps OCAtari's categories to words; nothing is asked about one without a word. `kits` are the emulator's colour
    numbers of what gets a colour from `KITS`, and the categories that wear them; the kits in `taken` look like the field. In a
    frame that is taken, each object shows as many pixels of its own as `least` says, in its kit's colour if it has one. `rows`
    bound the playing field, scores are outside.
    """

    rom: str
    module: str
    words: Mapping[str, str]
    least: Mapping[str, int]
    kits: Mapping[tuple[str, ...], tuple[int, ...]]
    taken: tuple[str, ...]
    rows: tuple[int, int]


GAMES = {
    "tennis": Game(
        "tennis",
        "tennis",
        {"Player": "player", "Enemy": "player", "Ball": "ball", "BallShadow": ""},
        {"Player": 40, "Enemy": 40, "Ball": 2, "BallShadow": 1},
        {("Player",): (76,), ("Enemy",): (140,), ("Ball",): (14,)},
        ("green",),
        (14, 190),
    ),
    "boxing": Game(
        "boxing",
        "boxing",
        {"Player": "player", "Enemy": "player"},
        {"Player": 150, "Enemy": 150},
        {("Player",): (12,), ("Enemy",): (0,)},
        ("green", "orange"),
        (37, 177),
    ),
    "bowling": Game(
        "bowling",
        "bowling",
        {"Player": "player", "Ball": "ball", "Pin": "pin"},
        {"Player": 50, "Ball": 12, "Pin": 5},
        {("Player",): (134, 136), ("Ball", "Pin"): (132,)},
        ("orange",),
        (106, 172),
    ),
    "basketball": Game(
        "double_dunk",
        "doubledunk",
        {
            **dict.fromkeys(("Player_Small", "Player_Big", "Opponent_Small", "Opponent_Big"), "player"),
            "Ball": "ball",
            "Basket": "basket",
        },
        {**dict.fromkeys(("Player_Small", "Player_Big", "Opponent_Small", "Opponent_Big"), 10), "Ball": 5, "Basket": 20},
        {
            ("Player_Small", "Player_Big"): (180,),
            ("Opponent_Small", "Opponent_Big"): (14, 52, 82, 252),
            ("Ball",): (34,),
        },
        ("black",),
        (26, 182),
    ),
    "pong": Game(
        "pong",
        "pong",
        {"Player": "paddle", "Enemy": "paddle", "Ball": "ball"},
        {"Player": 12, "Enemy": 12, "Ball": 4},
        {("Player",): (200,), ("Enemy",): (56,), ("Ball",): (14,)},
        ("orange",),
        (34, 194),
    ),
    "skiing": Game(
        "skiing",
        "skiing",
        {"Player": "player", "Tree": "tree", "Flag": "flag", "Mogul": ""},
        {"Player": 40, "Tree": 10, "Flag": 14, "Mogul": 0},
        {("Player",): (72,), ("Flag",): (134,)},
        ("white",),
        (28, 178),
    ),
    "hockey": Game(
        "ice_hockey",
        "icehockey",
        {"Player": "player", "Enemy": "player", "Ball": "puck"},
        {"Player": 8, "Enemy": 8, "Ball": 2},
        {("Player",): (132,), ("Enemy",): (250, 252)},
        ("black",),
        (26, 187),
    ),
}


@dataclass(frozen=True)
class Thing:
    """A visible object: its word, the box around its own pixels (left, top, right, bottom) and these pixels.

    `heights` (n,) is where the pixels are in the whole object, 0 at its top and 1 at its bottom; `pixels` (n, 3) their colours.
    """

    word: str
    box: tuple[int, int, int, int]
    heights: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Frame:
    """A checked picture: `screen` (H, W) of numbers of colours in `palette` (256, 3), and the objects in it.

    As a game shows it, it has 210 x 160 pixels.
    """

    sport: str
    episode: int
    number: int
    screen: np.ndarray
    palette: np.ndarray
    things: tuple[Thing, ...]


def _emulator() -> Any:
    try:
        ale_py = importlib.import_module("ale_py")
    except ImportError:
        ale_py = None
    if ale_py is None or importlib.util.find_spec("ocatari") is None:
        msg = (
            "the sports benchmark needs ale-py and OCAtari; install them with `pip install -e '.[sports]'` and then "
            "`pip install --no-deps ocatari==2.2.1` (its own requirement of numpy < 2 is not needed here)"
        )
        raise ResourceError(msg)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


@cache
def _memory_map(name: str) -> ModuleType:
    """OCAtari's module for one game. Its package is passed by: importing that needs pygame, gymnasium and scikit-image."""
    package = f"{__name__}_ocatari"
    if package not in sys.modules:
        spec = importlib.util.find_spec("ocatari")
        assert spec is not None and spec.origin is not None
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(Path(spec.origin).parent / "ram")]
    return importlib.import_module(f"{package}.{name}")


def _play(game: Game, key: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[Any]]]:
    """An episode of random play: now and then the screen, its palette and OCAtari's objects; both arrays are the caller's."""
    ale_py, memory = _emulator(), _memory_map(game.module)
    rng = random.Random(key)
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", rng.randrange(2**31))
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(importlib.import_module("ale_py.roms").get_rom_path(game.rom))
    ale.reset_game()
    actions = ale.getMinimalActionSet()
    wait = rng.randint(20, 400)
    while not ale.game_over():
        action = rng.choice(actions)
        for _ in range(rng.randint(1, 12)):
            ale.act(action)
            wait -= 1
        if wait <= 0 and not ale.game_over():
            objects = memory._init_objects_ram(False)
            # OCAtari subtracts from these: as uint8 they would wrap around or raise
            memory._detect_objects_ram(objects, ale.getRAM().astype(int), False)
            screen = ale.getScreen().reshape(210, 160)
            palette = np.zeros((256, 3), np.uint8)
            palette[screen] = ale.getScreenRGB()
            yield screen.copy(), palette, [o for o in objects if o and o.category in game.words]
            wait = rng.randint(8, 40)


def _corners(thing: Any, margin: int = 0) -> tuple[slice, slice]:
    (x, y), (w, h) = thing.xy, thing.wh
    return slice(max(0, y - margin), max(0, y + h + margin)), slice(max(0, x - margin), max(0, x + w + margin))


@cache
def empty_field(sport: str) -> np.ndarray:
    """The screen without objects: at each place the most common colour of the frames in which no object is near.

    Where an object nearly always is, the colour of the nearest place where it is known.
    """
    game = GAMES[sport]
    counts = np.zeros((256, 210, 160), np.int32)
    episodes = (itertools.islice(_play(game, f"field {sport} {n}"), FRAMES_PER_EPISODE) for n in itertools.count())
    for screen, _, objects in itertools.islice(itertools.chain.from_iterable(episodes), _CALIBRATION):
        free = np.ones(screen.shape, bool)
        for thing in objects:
            free[_corners(thing, 3)] = False
        rows, columns = np.nonzero(free)
        counts[screen[rows, columns], rows, columns] += 1
    field = counts.argmax(0).astype(np.uint8)
    nearest = ndimage.distance_transform_edt(counts.max(0) < 3, return_distances=False, return_indices=True)
    return field[tuple(nearest)]


def _worn(game: Game) -> dict[str, int]:
    """The number that `_dress` gives the colour of each category that has a kit."""
    return {category: 2 * place + 1 for place, wearers in enumerate(game.kits) for category in wearers}


def _dress(game: Game, key: str) -> tuple[np.ndarray, dict[int, tuple[int, int, int]]]:
    """New number of every colour number, and the colours of the new ones. The emulator's own numbers are even."""
    chosen = random.Random(f"kits {key}").sample([name for name in KITS if name not in game.taken], len(game.kits))
    numbers = np.arange(256, dtype=np.uint8)
    for place, old in enumerate(game.kits.values()):
        numbers[list(old)] = 2 * place + 1
    return numbers, {2 * place + 1: KITS[name] for place, name in enumerate(chosen)}


def check(game: Game, screen: np.ndarray, palette: np.ndarray, objects: list[Any], field: np.ndarray) -> list[Thing] | str:
    """The visible objects, or why memory and picture do not agree.

    Args:
        game: The game that is played.
        screen: uint8 (210, 160) colour numbers, dressed.
        palette: uint8 (256, 3) their colours.
        objects: OCAtari's objects.
        field: uint8 (210, 160), `empty_field` of the game, dressed.
    """
    top, bottom = game.rows
    worn = _worn(game)
    differs = screen != field
    differs[:top], differs[bottom:], differs[:, :EDGE] = False, False, False
    claims = np.zeros(screen.shape, np.uint8)
    for thing in objects:
        claims[_corners(thing, 1)] += 1
    found = []
    for thing in objects:
        place = _corners(thing, 1)
        if claims[place].size == 0 or min(thing.wh) <= 0:
            continue  # outside of the picture
        kit = worn.get(thing.category)
        own = differs[place] & (claims[place] == 1) & ~np.isin(screen[place], list(set(worn.values()) - {kit}))
        if (own if kit is None else own & (screen[place] == kit)).sum() < game.least[thing.category]:
            return f"{thing.category} hardly seen"
        if word := game.words[thing.category]:
            rows, columns = np.nonzero(own)
            rows, columns = rows + place[0].start, columns + place[1].start
            box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
            found.append(Thing(word, box, (rows - thing.xy[1]) / thing.wh[1], palette[screen[rows, columns]]))
    labels, _ = ndimage.label(differs, np.ones((3, 3)))
    known = {0}
    for thing in objects:
        known.update(np.unique(labels[_corners(thing, 2)]).tolist())
    return "unknown object" if set(np.unique(labels).tolist()) - known else found


def frames(sport: str, key: str, refused: Counter[str]) -> Iterator[Frame]:
    """Checked frames without end, `FRAMES_PER_EPISODE` of an episode at most; `key` decides all of them.

    Args:
        sport: A key of `GAMES`.
        key: Episodes of different keys have nothing in common but the game.
        refused: Counts the frames that were not taken, by reason.
    """
    game = GAMES[sport]
    for episode in itertools.count():
        numbers, colors = _dress(game, f"{key} {sport} {episode}")
        played = itertools.islice(_play(game, f"{key} {sport} {episode}"), FRAMES_PER_EPISODE)
        for number, (screen, palette, objects) in enumerate(played):
            dressed = numbers[screen]
            dressed[:, :EDGE][screen[:, :EDGE] == 0] = 0  # the black edge is no shirt
            for color, rgb in colors.items():
                palette[color] = rgb
            found = check(game, dressed, palette, objects, numbers[empty_field(sport)])
            if isinstance(found, str):
                refused[found] += 1
            else:
                yield Frame(sport, episode, number, dressed, palette, tuple(found))
