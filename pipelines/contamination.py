"""Finds training images that nearly repeat evaluation images, as neighbouring frames of one video do.

Exact copies are found at ingest. This finds changed ones by perceptual hash, when `data.near_duplicate_bits` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypedDict, cast

import numpy as np

from leaml import images
from leaml.data import tables
from leaml.images import duplicates
from leaml.io import files
from pipelines.ingest import excluding, publish_excluded, refuse_shared, role_of
from pipelines.progress import Bar
from pipelines.run import Run, Step
from pipelines.sources import Sources


class ImageFile(TypedDict):
    """A file of an images table."""

    file: str


class HashedFile(TypedDict):
    """Ids, names (uri, else id) and hexadecimal hashes of the images in a file."""

    ids: list[str]
    names: list[str]
    hashes: list[str]


HashFile = Callable[[ImageFile], HashedFile]
MapFiles = Callable[[HashFile, list[ImageFile]], Iterable[HashedFile]]
"""Applies a function to files, in order."""


class Hashes(NamedTuple):
    """Ids, names (uri, else id) and uint64 hashes of all images of a source."""

    ids: list[str]
    names: list[str]
    hashes: np.ndarray


def screen_near_duplicates(run: Run, sources: Sources, mapped: MapFiles | None = None) -> Sources:
    """Hash all images and compare; near duplicates are left out of the sources, or refused by name.

    Args:
        run: The run; `data.near_duplicate_bits` none: nothing is done.
        sources: What it has ingested.
        mapped: How files are hashed; None: on the cluster, by Ray Data.

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


def _on_ray(function: HashFile, rows: list[ImageFile]) -> Iterator[HashedFile]:
    import ray

    untyped = cast(Callable[[dict[str, object]], dict[str, object]], function)  # Ray's types know no TypedDict
    stream = ray.data.from_items(rows, override_num_blocks=len(rows))
    yield from cast(Iterator[HashedFile], stream.map(untyped, num_cpus=1).iter_rows())


def _hashes(source: Step, max_pixels: int, mapped: MapFiles) -> Hashes:
    parts = files.listing(source.path("images"), suffixes=(".parquet",))
    ids: list[str] = []
    names: list[str] = []
    hashes: list[int] = []
    with Bar(f"hashes of {role_of(source)}", len(parts), "files") as bar:
        for number, row in enumerate(mapped(partial(_hash_file, max_pixels=max_pixels), [{"file": f} for f in parts])):
            ids += list(row["ids"])
            names += list(row["names"])
            hashes += [int(h, 16) for h in row["hashes"]]
            bar.update(number + 1)
    return Hashes(ids, names, np.array(hashes, dtype=np.uint64))


def _hash_file(row: ImageFile, max_pixels: int) -> HashedFile:
    """Hexadecimal hashes, since Arrow has no 64-bit numbers that survive NumPy's signed default."""
    ids, names, hashes = [], [], []
    for record in tables.read(row["file"], columns=["image_id", "uri", "bytes"]).to_pylist():
        data = record["bytes"] if record["bytes"] is not None else files.read_bytes(record["uri"])
        ids.append(record["image_id"])
        names.append(record["uri"] or record["image_id"])
        hashes.append(f"{duplicates.perceptual_hash(images.decode(data, max_pixels)):016x}")
    return {"ids": ids, "names": names, "hashes": hashes}
