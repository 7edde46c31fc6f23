"""Finds training images that nearly repeat evaluation images, as neighbouring frames of one video do.

Exact copies are found at ingest. This finds changed ones by perceptual hash, when `data.near_duplicate_bits` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypedDict, cast

import numpy as np

from leaml import images
from leaml.data.image_table import ImageTable
from leaml.errors import DataError
from leaml.images import duplicates
from pipelines.ingest import excluding, publish_excluded, refuse_shared, role_of
from pipelines.progress import Bar
from pipelines.run import Run, Step
from pipelines.sources import Sources


class ImageRows(TypedDict):
    """Some rows of the images table in `folder`."""

    folder: str
    first: int
    count: int


class HashedRows(TypedDict):
    """Ids, names (uri, else id) and hexadecimal hashes of the images in these rows."""

    ids: list[str]
    names: list[str]
    hashes: list[str]


HashRows = Callable[[ImageRows], HashedRows]
MapRows = Callable[[HashRows, list[ImageRows]], Iterable[HashedRows]]
"""Applies a function to parts of a table, in order."""
PART = 512
"""Images that a task hashes."""


class Hashes(NamedTuple):
    """Ids, names (uri, else id) and uint64 hashes of all images of a source."""

    ids: list[str]
    names: list[str]
    hashes: np.ndarray


def screen_near_duplicates(run: Run, sources: Sources, mapped: MapRows | None = None) -> Sources:
    """Hash all images and compare; near duplicates are left out of the sources, or refused by name.

    Args:
        run: The run; `data.near_duplicate_bits` none: nothing is done.
        sources: What it has ingested.
        mapped: How images are hashed; None: on the cluster, by Ray Data.

    Raises:
        DataError: There are some, and `data.exclude_evaluation` is not set.
    """
    data = run.config.data
    if data.near_duplicate_bits is None:
        return sources
    bits = data.near_duplicate_bits
    everything = [sources.evaluation, *sources.training]
    settings = {"bits": bits, "max_pixels": data.max_pixels} | ({"exclude": True} if data.exclude_evaluation else {})
    step = run.step("contamination", settings, everything)

    def work() -> dict[str, object]:
        tested, *others = [_hashes(s, data.max_pixels, mapped or _on_ray) for s in everything]
        near: dict[Step, list[str]] = {}
        for source, found in zip(sources.training, others, strict=True):
            pairs = duplicates.near_pairs(tested.hashes, found.hashes, bits)
            near[source] = sorted({found.ids[b] for _, b, _ in pairs} - sources.excluded)
            if pairs and not data.exclude_evaluation:
                shared = {b: f"{found.names[b]} is like {tested.names[a]} ({d} bits)" for a, b, d in reversed(pairs)}
                what = f"{len(shared)} images of the {role_of(source)} source are near duplicates of evaluation images"
                what += f" (data.near_duplicate_bits is {bits}; lower it if they are none)"
                refuse_shared(source, what, [shared[b] for b in sorted(shared)])
        counts: dict[str, object] = {
            "evaluation_images": len(tested.ids),
            "training_images": sum(len(found.ids) for found in others),
        }
        if not data.exclude_evaluation:
            return counts
        return counts | publish_excluded(step, near, "near duplicates of evaluation images")

    run.execute(step, work)
    return excluding(run, sources, step) if data.exclude_evaluation else sources


def _on_ray(function: HashRows, rows: list[ImageRows]) -> Iterator[HashedRows]:
    import ray

    untyped = cast(Callable[[dict[str, object]], dict[str, object]], function)  # Ray's types know no TypedDict
    stream = ray.data.from_items(rows, override_num_blocks=len(rows))
    yield from cast(Iterator[HashedRows], stream.map(untyped, num_cpus=1).iter_rows())


def _hashes(source: Step, max_pixels: int, mapped: MapRows) -> Hashes:
    folder = source.path("images")
    total = len(ImageTable(folder))
    parts: list[ImageRows] = [
        {"folder": folder, "first": first, "count": min(PART, total - first)} for first in range(0, total, PART)
    ]
    ids: list[str] = []
    names: list[str] = []
    hashes: list[int] = []
    with Bar(f"hashes of {role_of(source)}", total, "images") as bar:
        for row in mapped(partial(_hash_rows, max_pixels=max_pixels), parts):
            ids += list(row["ids"])
            names += list(row["names"])
            hashes += [int(h, 16) for h in row["hashes"]]
            bar.update(len(ids))
    return Hashes(ids, names, np.array(hashes, dtype=np.uint64))


def _hash_rows(rows: ImageRows, max_pixels: int) -> HashedRows:
    """Hexadecimal hashes, since Arrow has no 64-bit numbers that survive NumPy's signed default."""
    ids, names, hashes = [], [], []
    numbers = range(rows["first"], rows["first"] + rows["count"])
    for image in ImageTable(rows["folder"]).read(list(numbers)):
        if image["lost"] is not None:
            raise DataError(image["lost"])
        ids.append(image["image_id"])
        names.append(image["uri"] or image["image_id"])
        hashes.append(f"{duplicates.perceptual_hash(images.decode(image['bytes'], max_pixels)):016x}")
    return {"ids": ids, "names": names, "hashes": hashes}
