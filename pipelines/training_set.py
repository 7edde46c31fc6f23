"""Draws what a training learns from out of the table of a step: no more than its steps read, by a hash of each example.

Tasks read parts of the table and return what is drawn of them; the driver writes it to the file that workers map into memory.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from leaml.config import Config, TrainConfig
from leaml.data import tables
from leaml.data.step_rows import StepRows
from leaml.generation import prompts
from leaml.generation.draws import uniform
from leaml.training.examples import Example, in_tables, publish
from pipelines.progress import say
from pipelines.run import Step
from pipelines.stream import in_tasks

PART = 8192
"""Images that a task reads."""


@dataclass(frozen=True)
class Source:
    """How examples are made of the rows of a table.

    Attributes:
        columns: Of the table, that are read.
        make: Examples of an image, from its row; must be picklable.
    """

    columns: tuple[str, ...]
    make: Callable[[dict[str, Any]], Iterable[Example]]


def _captions(row: dict[str, Any], request: str) -> Iterator[Example]:
    if row["caption"]:
        yield Example(row["image_id"], request, row["caption"])


def _accepted(row: dict[str, Any]) -> Iterator[Example]:
    for pair in row["pairs"]:
        if pair["accepted"]:
            yield Example(row["image_id"], pair["question"], pair["answer"])


PAIRS = Source(("image_id", "pairs"), _accepted)
"""Accepted pairs of a filter step; the one door from pseudo pairs to training."""


def draw_captions(label: str, captions: Step, config: Config, training: TrainConfig, uri: str) -> int:
    """`draw` of the captions of a step, as the configuration asks for them."""
    source = Source(("image_id", "caption"), functools.partial(_captions, request=config.caption.prompt or prompts.CAPTION))
    return draw(label, captions, source, len(StepRows(captions.folder)), training, config.seed, uri)


def draw(label: str, step: Step, source: Source, total: int, config: TrainConfig, seed: int, uri: str) -> int:
    """Write the file of examples of a training; all of them where its steps read that many.

    Args:
        label: Of the training, for the log.
        step: Whose table they are made from.
        source: Makes them of its rows.
        total: How many it makes of all rows.
        config: Of the training: how many examples its steps read.
        seed: With an example itself it decides whether that is drawn.
        uri: The file.

    Returns:
        How many were drawn: a little more than are read, or all.

    Raises:
        LeamlError: The table cannot be read, or the file not be written.
    """
    read = config.steps * config.batch_size
    share = (read + 4 * math.sqrt(read) + 16) / max(1, total)  # so that hardly ever fewer are drawn than are read
    rows = len(StepRows(step.folder))
    work = functools.partial(_drawn, folder=step.folder, source=source, share=share, seed=seed)
    drawn = in_tasks([str(start) for start in range(0, rows, PART)], work, label, ordered=True)
    count = publish(uri, (pa.ipc.open_stream(each["result"]).read_all() for each in drawn))
    if share < 1:
        say(f"{label}: {count} of {total} examples are drawn, as {config.steps} steps read no more")
    return count


def _drawn(start: str, folder: str, source: Source, share: float, seed: int) -> bytes:
    rows = StepRows(folder).part(int(start), PART, list(source.columns)).to_pylist()
    made = (example for row in rows for example in source.make(row))
    chosen = made if share >= 1 else (each for each in made if uniform(_key(seed, each)) < share)
    found = pa.BufferOutputStream()
    with pa.ipc.new_stream(found, tables.EXAMPLES) as writer:
        for table in in_tables(chosen):
            writer.write_table(table)
    return found.getvalue().to_pybytes()


def _key(seed: int, example: Example) -> str:
    return json.dumps([seed, example.image_id, example.request, example.reply])
