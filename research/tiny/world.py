"""The procedural image world the tiny models are trained on: shapes, colours, positions, captions and questions.

Two disjoint *worlds* are drawn from the same code. `BASE` is what `leaml-tiny` has seen; it holds none of the colours,
shapes and question templates that make up the demo's target (easy-VQA): no teal, gray, black or brown, no rectangles and no
triangles. `TEACHER` is what the captioner has seen; it knows more shapes and colours, but only its own images and captions and
no questions at all. Neither world contains a target image.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 64
"""Edge length of every image, in pixels."""

SUPERSAMPLE = 2
"""Shapes are drawn this many times larger and scaled down, which smooths their edges."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (235, 20, 20),
    "green": (20, 220, 30),
    "blue": (20, 30, 235),
    "yellow": (245, 240, 20),
    "orange": (250, 140, 10),
    "purple": (130, 30, 190),
    "pink": (250, 120, 190),
    "cyan": (40, 235, 245),
    "white": (250, 250, 250),
    "teal": (10, 130, 130),
    "gray": (128, 128, 128),
    "black": (10, 10, 10),
    "brown": (160, 45, 40),
}

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")


@dataclass(frozen=True)
class World:
    """What may appear in an image: colours and shapes with their drawing weights."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    weights: tuple[int, ...]


BASE = World(
    colours=("red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan"),
    shapes=("circle", "star", "cross", "pentagon", "ring", "ellipse", "crescent", "heart"),
    weights=(2, 1, 1, 1, 1, 1, 1, 1),
)
TEACHER = World(
    colours=("red", "green", "blue", "yellow", "teal", "gray", "black", "brown", "orange", "purple", "pink"),
    shapes=("circle", "rectangle", "triangle", "star", "cross", "pentagon", "ring", "ellipse"),
    weights=(5, 5, 5, 1, 1, 1, 1, 1),
)


@dataclass(frozen=True)
class Scene:
    """One object on a plain background. `x`, `y` and `radius` are in pixels of the final image."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    aspect: float
    rgb: tuple[int, int, int]
    background: tuple[int, int, int]

    @property
    def row(self) -> str:
        return ROWS[min(2, int(self.y / SIZE * 3))]

    @property
    def column(self) -> str:
        return COLUMNS[min(2, int(self.x / SIZE * 3))]

    @property
    def size(self) -> str:
        return "small" if self.radius < 9 else "large"

    @property
    def position(self) -> str:
        return place(self.row, self.column)


def place(row: str, column: str) -> str:
    """Position in words."""
    return "center" if (row, column) == ("middle", "center") else f"{row} {column}"


def sample_scene(rng: random.Random, world: World) -> Scene:
    """Draw one scene; half of the objects stand upright, the others are rotated freely."""
    shape = rng.choices(world.shapes, world.weights)[0]
    colour = rng.choice(world.colours)
    radius = math.exp(rng.uniform(math.log(4.0), math.log(18.0)))
    margin = radius * 0.85
    x, y = rng.uniform(margin, SIZE - margin), rng.uniform(margin, SIZE - margin)
    rgb = tuple(min(255, max(0, c + rng.randint(-18, 18))) for c in RGB[colour])
    background = tuple(rng.randint(218, 255) for _ in range(3))
    angle = 0.0 if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
    return Scene(shape, colour, x, y, radius, angle, rng.uniform(0.45, 1.0), rgb, background)  # type: ignore[arg-type]


def _polygon(scene: Scene, angles_and_radii: list[tuple[float, float]]) -> list[tuple[float, float]]:
    s = SUPERSAMPLE
    return [
        (
            s * (scene.x + scene.radius * r * math.sin(a + scene.angle)),
            s * (scene.y - scene.radius * r * math.cos(a + scene.angle)),
        )
        for a, r in angles_and_radii
    ]


def _outline(scene: Scene) -> list[tuple[float, float]] | None:
    """Vertices of the polygonal shapes in supersampled pixels, or None for the round ones."""
    regular = {"triangle": 3, "pentagon": 5, "hexagon": 6}
    if scene.shape in regular:
        n = regular[scene.shape]
        return _polygon(scene, [(2 * math.pi * i / n, 1.0) for i in range(n)])
    if scene.shape == "star":
        return _polygon(scene, [(math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)])
    if scene.shape == "rectangle":
        wide, tall = (1.0, scene.aspect) if scene.y < scene.x else (scene.aspect, 1.0)
        corners = [(wide, -tall), (wide, tall), (-wide, tall), (-wide, -tall)]
        return _polygon(scene, [(math.atan2(cx, -cy), 0.85 * math.hypot(cx, cy)) for cx, cy in corners])
    if scene.shape == "cross":
        w = 0.33
        arms = [(w, 1), (w, w), (1, w), (1, -w), (w, -w), (w, -1)]
        corners = arms + [(-cx, -cy) for cx, cy in arms]
        return _polygon(scene, [(math.atan2(cx, cy), math.hypot(cx, cy)) for cx, cy in corners])
    if scene.shape == "ellipse":
        turn = [2 * math.pi * i / 36 for i in range(36)]
        return _polygon(
            scene, [(math.atan2(0.5 * math.sin(t), math.cos(t)), math.hypot(0.5 * math.sin(t), math.cos(t))) for t in turn]
        )
    if scene.shape == "heart":
        points = []
        for i in range(40):
            t = 2 * math.pi * i / 40
            hx = 16 * math.sin(t) ** 3 / 17
            hy = (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17
            points.append((math.atan2(hx, hy), math.hypot(hx, hy)))
        return _polygon(scene, points)
    return None


def render(scene: Scene) -> Image.Image:
    """Render a scene as an RGB image of SIZE x SIZE pixels."""
    s = SUPERSAMPLE
    image = Image.new("RGB", (SIZE * s, SIZE * s), scene.background)
    draw = ImageDraw.Draw(image)
    outline = _outline(scene)
    cx, cy, r = scene.x * s, scene.y * s, scene.radius * s
    if outline is not None:
        draw.polygon(outline, fill=scene.rgb)
    else:
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=scene.rgb)
        if scene.shape == "ring":
            draw.ellipse((cx - r * 0.55, cy - r * 0.55, cx + r * 0.55, cy + r * 0.55), fill=scene.background)
        if scene.shape == "crescent":
            dx, dy = 0.5 * r * math.cos(scene.angle), 0.5 * r * math.sin(scene.angle)
            draw.ellipse((cx + dx - r * 0.8, cy + dy - r * 0.8, cx + dx + r * 0.8, cy + dy + r * 0.8), fill=scene.background)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)
