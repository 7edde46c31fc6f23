"""How much there is of everything, and how much a step has to do, for plans and estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaml.data.count import Count


FILE_IMAGES = 1024
"""Images in a fragment: 128 MiB of images of 128 KiB (leaml/data/image_table.py)."""
GUESSES = {"label_images": 100, "label_rows": 300, "asked": 3000, "asked_images": 1000}
"""Of labels and evaluation, for a plan of `frames` where only ingest can tell the others."""

Tree = dict[str, Any]
"""The configuration as plain data."""


@dataclass(frozen=True)
class Amounts:
    """How much there is of everything; None where only ingest can tell."""

    labeled: Count
    unlabeled: Count | None
    evaluation: Count
    label_images: int | None
    label_rows: int | None
    training: int | None
    asked: int | None
    asked_images: int | None
    validation: int | None = None
    """Rows of the labels that are held out."""
    excluded: int | None = None
    """Images left out because the evaluation has them; None: unknown, or none are to be."""
    given: int | None = None
    """Images that have a caption in `caption.file`."""
    captioned: str | None = None
    """`captioned_key` of the images to be captioned."""
    frames: int | None = None
    """Unlabeled images that are planned for instead of those that there are."""
    guessed: tuple[str, ...] = ()
    """Names of the numbers that are assumed for that, see `GUESSES`."""
    image_size: tuple[int, int] | None = None
    """Median width and height of the training images; None before ingest."""
    largest_image: tuple[int, int] | None = None
    """Width and height of the largest of those that were looked at; None before ingest."""

    @property
    def rest(self) -> int | None:
        """Training images that are not labeled."""
        return None if self.training is None or self.label_images is None else max(0, self.training - self.label_images)


@dataclass(frozen=True)
class Workload:
    """What a step has to do: images or examples of gradients (None: not known yet), and questions where it answers them.

    Without labels that are `held_out` no learning rates are compared.
    """

    images: int | None = None
    questions: int | None = None
    held_out: bool = True


@dataclass(frozen=True)
class Requests:
    """PUT requests and GET or HEAD requests of a step, where the storage is S3, for each of what it reads."""

    shard: tuple[int, int] = (0, 0)
    """Of `resources.images_per_shard` images."""
    image_file: tuple[int, int] = (0, 0)
    """Of a fragment of `FILE_IMAGES` images."""
    image: tuple[int, int] = (0, 0)
    """Or example of a training or of gradients."""

    def of(self, images: int, shard: int) -> tuple[int, int]:
        """Of so many images, or examples, in shards of this size."""
        counted = (
            (math.ceil(images / shard), self.shard),
            (math.ceil(images / FILE_IMAGES), self.image_file),
            (images, self.image),
        )
        puts, gets = (sum(count * each[which] for count, each in counted) for which in (0, 1))
        return puts, gets


@dataclass(frozen=True)
class Tokens:
    """Assumed lengths of replies."""

    caption: int = 150
    pair: int = 40
    answer: int = 10
