"""Ingest as a Ray Data job: one task lists the source and cuts it into parts, others read, check and write them.

A part is done when its file is there (leaml/data/part_files.py), so an ingest that was killed does the other parts.
"""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

from leaml.config import ResourcesConfig
from leaml.data import image_table, registry
from leaml.data.ingest import MapParts, in_this_process
from leaml.data.part_files import PartWriter, WrittenPart
from leaml.data.parts import PartReader
from leaml.data.records import Record
from leaml.errors import LeamlError
from leaml.io import files, stored
from pipelines.progress import warn
from pipelines.runtime import start_ray
from pipelines.stream import WorkerRow, rows_of

ALONE = 2
"""Parts that this process writes itself, unless they are large: half a minute of work, and a Ray takes seconds to start."""
_LISTING_CPUS = 0.5
"""Other than those of a writer, or Ray would do both in one task."""


class PackedPart(WorkerRow):
    """A part as a row of Ray Data, or why there is none."""

    packed: bytes


class WrittenRow(WorkerRow):
    """A `WrittenPart` as a row of Ray Data, or why there is none."""

    file: str
    key: str
    after: str


def on_cluster(label: str, resources: ResourcesConfig, verbose: bool = False) -> MapParts:
    """Who writes the parts of a source: the cluster, or this process if they are few.

    Args:
        label: Of the step, for messages.
        resources: With the address of the cluster, if it is not to be started here.
        verbose: Show the logs of Ray.
    """

    def mapped(parts: PartReader, write: PartWriter) -> Iterator[WrittenPart]:
        parts = replace(parts, wanted=registry.keep(parts.source))  # not again by the task that lists
        paths, is_small = _beginning(parts)
        if is_small:
            yield from in_this_process(parts, write)
            return
        start_ray(resources, verbose)
        if seen_by_all(paths):
            yield from write_parts(label, parts, write)
            return
        warn(f"{label}: not every node has {paths[0]}, so this process reads it alone; put it into S3 or on a shared disk")
        yield from in_this_process(parts, write)

    return mapped


def _beginning(parts: PartReader) -> tuple[list[str], bool]:
    """Paths on this machine that the source is read from, the first image's among them, and whether it has few parts."""
    beginning = list(itertools.islice(parts, ALONE + 1))
    size = sum(portion.size for part in beginning for portion in part.portions)
    is_small = len(beginning) <= ALONE and (len(beginning) == 1 or size <= ALONE * image_table.PART_BYTES)
    source, found = parts.source, list[str | None]()
    for part in beginning[:1]:
        found += [portion.name for portion in part.portions[:1]]
        found += [each.uri for each in part.records[:1] if isinstance(each, Record) and each.data is None]
    local = [path for path in (source.path, source.images, *found) if path is not None and not files.is_remote(path)]
    return local, is_small


def seen_by_all(paths: list[str], nodes: list[str] | None = None) -> bool:
    """Whether the nodes of the cluster that can run tasks have the same files at these paths as this machine.

    Args:
        paths: Local ones.
        nodes: Ids of the nodes to ask; None: all, if there are several.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if nodes is None:
        able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        nodes = [str(node["NodeID"]) for node in able] if len(able) > 1 else []
    look = ray.remote(num_cpus=0)(_versions)
    asked = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths) for node in nodes]
    return all(found == _versions(paths) for found in ray.get(asked))


def _versions(paths: list[str]) -> list[str]:
    return [stored.version(path) for path in paths]


def write_parts(label: str, parts: PartReader, write: PartWriter, workers: int | None = None) -> Iterator[WrittenPart]:
    """Write the parts of a source on the Ray that this process is connected to; yields them in their order.

    Args:
        label: Of the step, for messages.
        parts: The parts.
        write: Writes one; a task of one CPU each.
        workers: Parts at a time; None: as many as the cluster has CPUs for.

    Raises:
        LeamlError: What a worker raised of ours.
        StepError: A worker failed in another way.
    """
    import ray

    # Ray's types know no TypedDict
    listed = cast(Callable[[dict[str, object]], list[dict[str, object]]], functools.partial(_listed, parts=parts))
    written = cast(Callable[[dict[str, object]], dict[str, object]], functools.partial(_written, write=write))
    streamed = (
        ray.data.from_items([{"source": parts.source.format}], override_num_blocks=1)
        .flat_map(listed, num_cpus=_LISTING_CPUS)
        .map(written, num_cpus=1, concurrency=workers)
    )
    # A part each is a block, so that it is written as soon as it is listed
    streamed.context.target_max_block_size = 1
    streamed.context.execution_options.preserve_order = True
    for row in rows_of(streamed, WrittenRow, label):
        yield WrittenPart(row["file"], row["key"], row["after"])


def _listed(_: object, parts: PartReader) -> Iterator[PackedPart]:
    try:
        for part in parts:
            yield {"packed": pickle.dumps(part), "error": []}
    except LeamlError as error:
        yield {"packed": b"", "error": [type(error).__name__, str(error)]}


def _written(row: PackedPart, write: PartWriter) -> WrittenRow:
    if len(row["error"]):
        return {"file": "", "key": "", "after": "", "error": list(row["error"])}
    try:
        part = write(pickle.loads(row["packed"]))
    except LeamlError as error:
        return {"file": "", "key": "", "after": "", "error": [type(error).__name__, str(error)]}
    return {"file": part.file, "key": part.key, "after": part.after, "error": []}
