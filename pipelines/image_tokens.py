"""How many tokens an image takes in the models of a plan; loads no weights."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from leaml.config import Config, ModelConfig, resolve_model
from leaml.data.count import Count
from leaml.data.image_table import ImageTable
from leaml.errors import LeamlError
from leaml.io import files
from pipelines.amounts import Amounts
from pipelines.run import Run, Step
from pipelines.steps import steps_of
from pipelines.summaries import IngestSummary

SIZE = (1000, 1000)
"""Width and height that are assumed where no image is ingested."""
_UNCOUNTED = Amounts(Count(), None, Count(), None, None, None, None, None)
_LOOKED_AT = 4096
"""Images of each source whose sizes the median is of."""


@dataclass(frozen=True)
class ImageTokens:
    """Tokens of an image of `size` (width, height) in the model at `key` of the configuration.

    Attributes:
        tokens: None: they cannot be counted here, for the reason `why`.
        context: Tokens that the model takes in all; None: its files do not say.
    """

    key: str
    model: str
    size: tuple[int, int]
    tokens: int | None
    context: int | None = None
    why: str = ""

    def text(self, measured: bool) -> str:
        """In words; `measured`: the size is that of images, and not assumed."""
        of = "the median of the images" if measured else "the size of the images is unknown until ingest"
        if self.tokens is None:
            return f"{self.model}: unknown tokens an image, {self.why}"
        context = f" of the {self.context:,} that it takes" if self.context else ""
        return f"{self.model}: {self.tokens:,} tokens{context}, at {self.size[0]} x {self.size[1]} pixels ({of})"


def of_plan(config: Config, size: tuple[int, int] | None) -> tuple[ImageTokens, ...]:
    """Of the model, and of those that engines of other steps load, as the teacher where it is not asked by URL.

    Args:
        config: The run.
        size: Width and height of an image; None: `SIZE`.
    """
    tree = config.model_dump(mode="json")
    engines = [spec for spec in steps_of(config) if spec.kind == "engine" and not spec.url(tree)]
    keys = ["model", *(spec.model for spec in engines if spec.work(tree, _UNCOUNTED).images != 0)]
    models = {key: attrgetter(key)(config) for key in keys}
    return tuple(_count(key, model, size or SIZE) for key, model in models.items())


def median_size(run: Run, steps: Sequence[Step]) -> tuple[int, int] | None:
    """Median width and height of the first images of ingested sources; None before ingest."""
    sizes = _sizes(run, steps)
    if not sizes:
        return None
    width, height = (round(statistics.median(side)) for side in zip(*sizes, strict=True))
    return width, height


def _sizes(run: Run, steps: Sequence[Step]) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    for step in steps:
        if run.done(step):
            table = ImageTable(step.path("images")).columns(["width", "height"], first=_LOOKED_AT).to_pydict()
            sizes += [pair for pair in zip(table["width"], table["height"], strict=True) if None not in pair]
    return sizes


def largest_size(run: Run, steps: Sequence[Step]) -> tuple[int, int] | None:
    """Width and height of the image of ingested sources that takes most in the run's model; None before ingest.

    It is the image of most tokens, since a model that cuts images into tiles makes more of a small square than of a large
    banner, and of these the one of most pixels.
    """
    found = {size for step in steps if run.done(step) for size in IngestSummary.of(run.summary(step)).largest}
    sizes = sorted(found, key=_area, reverse=True)
    local = at_hand(run.config.model)
    if local is None or len(sizes) < 2:
        return sizes[0] if sizes else None
    from leaml.vlm import lengths

    try:
        tokens = lengths.Lengths.of_model(local).image
        return max(sizes, key=lambda size: (tokens(size), _area(size)))
    except LeamlError:  # `load.check` says what is wrong with a model
        return sizes[0]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def at_hand(model: ModelConfig) -> ModelConfig | None:
    """The model as a folder whose small files are read without asking a hub; None: they are not on this machine yet."""
    from leaml.vlm import hub

    if Path(resolve_model(model.name)).is_dir() or files.is_remote(model.name):
        return model
    folder = hub.cached_folder(model)
    return None if folder is None else model.model_copy(update={"name": folder, "revision": None})


def _count(key: str, model: ModelConfig, size: tuple[int, int]) -> ImageTokens:
    from leaml.vlm import lengths  # imports torch, whose seconds a command that fails early should not take

    local = at_hand(model)
    if local is None:
        return ImageTokens(key, model.name, size, None, why="its processor is not on this machine yet")
    try:
        tokens = lengths.Lengths.of_model(local).image(size)
        return ImageTokens(key, model.name, size, tokens, lengths.context(local))
    except LeamlError as error:
        return ImageTokens(key, model.name, size, None, why=str(error).replace(local.name, model.name))
