"""Gathers the published files of a step's shards into the step's one table, whose commit is its manifest.

Tasks read the files and write parts of the table; the driver commits them at once. A driver that is killed before that leaves
parts that belong to no table; the next run of the step removes them and gathers again.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from leaml.data import step_rows, tables
from leaml.data.image_table import PART_IMAGES
from leaml.io import files, s3
from pipelines.stream import in_tasks


def published(output: str) -> set[str]:
    """Names of the shards that are published in the folder of a step."""
    found = files.listing(f"{output}/rows") if files.exists(f"{output}/rows") else []
    return {file.rsplit("/", 1)[-1].removesuffix(".parquet") for file in found}


@dataclass
class Gathered:
    """Parts of a table that nobody can see yet, and the totals over all shards."""

    parts: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def gather(label: str, output: str, schema: pa.Schema, shards: Sequence[str], size: int) -> Gathered:
    """Write the rows of all shards as parts of the table of a step, in their order.

    Args:
        label: Of the step, for the message of a failure.
        output: Folder of the step.
        schema: Of its rows.
        shards: Names of those that are published.
        size: Images of a shard.
    """
    step_rows.remove(output)
    together = max(1, PART_IMAGES // size)
    groups = [json.dumps(shards[start : start + together]) for start in range(0, len(shards), together)]
    found = Gathered()
    for each in in_tasks(groups, functools.partial(_gathered, output=output, schema=schema), label, ordered=True):
        made = json.loads(each["result"])
        found.parts += [made["part"]] if made["part"] else []
        found.counts.update(made["counts"])
    return found


def _gathered(group: str, output: str, schema: pa.Schema) -> bytes:
    """Write the rows of some shards as one part, and add up their counts."""
    names = json.loads(group)
    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        rows = list(pool.map(lambda name: tables.read(f"{output}/rows/{name}.parquet", schema), names))
        counts = list(pool.map(lambda name: json.loads(files.read_bytes(f"{output}/counts/{name}.json")), names))
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return json.dumps({"part": step_rows.write_part(output, rows), "counts": total}).encode()
