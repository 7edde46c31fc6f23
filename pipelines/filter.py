"""Filter: candidates become accepted or rejected pairs, each with its reason. CPUs do it, and no model is asked.

Tasks read parts of the table of candidates, and each part becomes one file of pairs. Filters that need the pairs of all images
take two passes before that: one finds questions with so many pairs that some may go, one counts the answers to these; what the
first one has decided about each pair by itself is kept for the others, in the folder `decided`. A file of pairs that exists is
not made again; when all of them exist they are gathered into one table (pipelines/gather.py).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import numpy as np

from leaml.config import FilterConfig
from leaml.data import step_rows, tables
from leaml.data.step_rows import StepRows
from leaml.data.tables import PairRow
from leaml.generation import candidates, filters
from leaml.generation.dataset_filters import BUCKETS, PairSet, bucket
from leaml.io import files
from leaml.run.records import REJECTED
from pipelines.context import Context
from pipelines.gather import gather, published
from pipelines.metrics import StepMetrics
from pipelines.progress import Bar, say
from pipelines.run import Step
from pipelines.stream import in_tasks
from pipelines.summaries import describe
from pipelines.table_rows import CandidateRow, PseudoQaRow

PART = 4096
"""Images in a part."""
DECIDED = "decided"
"""Folder of parts that the filters of one image have decided about, until all pairs are decided."""

Decide: TypeAlias = Callable[[str], list[PseudoQaRow]]
"""The pairs of a part, with the verdicts of the filters of one image."""


def filter_pairs(context: Context) -> Step:
    """Decide about every candidate."""
    config = context.run.config.filter
    step = context.step("filter", config.model_dump(), [context.candidates])
    return context.run.execute(step, lambda: filter_rows(step.label, context.candidates.folder, step.folder, config))


def filter_rows(label: str, source: str, output: str, config: FilterConfig) -> dict[str, int]:
    """Make a file of pairs out of each part of the candidates, unless it is there, and one table of all of them.

    Filters of the whole set decide by a hash of the pair, so a run that is killed here and started
    again comes to the same.

    Args:
        label: Of the step, for progress.
        source: Folder of the step with the candidates.
        output: Folder of this step.
        config: Which filters are on.

    Returns:
        Totals over all parts, as `counts_of`.
    """
    parts = [f"{start:09d}-{PART}" for start in range(0, len(StepRows(source)), PART)]
    whole = PairSet(config)
    if whole.active:
        count_pairs(f"{label}, all pairs", source, output, parts, whole)
    made = published(output)
    todo = [part for part in parts if part not in made]
    done = len(parts) - len(todo)
    work = functools.partial(_publish, source=source, output=output, config=config, whole=whole if whole.active else None)
    with Bar(label, len(parts), "parts", done) as bar, StepMetrics(output, label) as exported:
        for number, each in enumerate(in_tasks(todo, work, label), done + 1):
            exported.shard(json.loads(each["result"]), 0.0, 0.0)
            exported.progress(number, len(parts))
            bar.update(number)
    found = gather(label, output, tables.PSEUDO_QA, parts, PART)
    step_rows.commit(output, tables.PSEUDO_QA, found.parts, found.counts)
    files.delete_tree(f"{output}/{DECIDED}")
    say(f"{label}: {describe(found.counts)}")
    return dict(found.counts)


def decided(row: CandidateRow, config: FilterConfig) -> PseudoQaRow:
    """A row of the PSEUDO_QA table: what the filters of one image make of a row of candidates."""
    pairs = filters.apply(candidates.of_row(row, config.correct_above if config.round_trip else None), config)
    return {"image_id": row["image_id"], "caption": row["caption"], "pairs": cast(list[PairRow], pairs)}


def thin(whole: PairSet, rows: Sequence[PseudoQaRow]) -> None:
    """Ask the filters of the whole set about the accepted pairs of rows that `decided` made, in place."""
    for row in rows:
        for pair in row["pairs"]:
            if pair["accepted"] and (reason := whole.reason(row["image_id"], pair["question"], pair["answer"])):
                pair["accepted"], pair["reason"] = False, reason


def counts_of(rows: Sequence[PseudoQaRow]) -> Counter[str]:
    """How many images and pairs there are, how many are accepted, and how many are rejected for each reason."""
    pairs = [pair for row in rows for pair in row["pairs"]]
    counts = Counter(f"{REJECTED}{pair['reason']}" for pair in pairs if not pair["accepted"])
    return counts + Counter(images=len(rows), pairs=len(pairs), accepted=sum(bool(pair["accepted"]) for pair in pairs))


def count_pairs(label: str, source: str, output: str, parts: list[str], whole: PairSet) -> None:
    """Count all pairs that the filters of their image accept, in order: groups of similar questions depend on it."""
    decide = functools.partial(_kept, source=source, output=output, config=whole.config)
    crowded = _crowded(label, parts, decide, whole) if whole.config.similar_questions is None else None
    work = functools.partial(_accepted, decide=decide, crowded=crowded)
    with Bar(label, len(parts), "parts") as bar:
        for number, each in enumerate(in_tasks(parts, work, label, ordered=True), 1):
            for question, answer, times in json.loads(each["result"]):
                whole.count(question, answer, times)
            bar.update(number)


def _crowded(label: str, parts: list[str], decide: Decide, whole: PairSet) -> np.ndarray:
    """Which buckets of questions have so many accepted pairs that some of them may be left out."""
    pairs = np.zeros(BUCKETS, np.uint32)
    for each in in_tasks(parts, functools.partial(_buckets, decide=decide), label):
        found, times = np.unique(np.frombuffer(each["result"], np.uint32), return_counts=True)
        pairs[found] += times.astype(np.uint32)
    return np.packbits(pairs > whole.thins_above)


def _buckets(part: str, decide: Decide) -> bytes:
    return np.array([bucket(p["question"]) for row in decide(part) for p in row["pairs"] if p["accepted"]], np.uint32).tobytes()


def _accepted(part: str, decide: Decide, crowded: np.ndarray | None) -> bytes:
    """Questions of `crowded` buckets and answers of a part's accepted pairs, and how often each comes."""
    among = None if crowded is None else np.unpackbits(crowded)
    pairs = (pair for row in decide(part) for pair in row["pairs"] if pair["accepted"])
    counted = (pair for pair in pairs if among is None or among[bucket(pair["question"])])
    found = Counter((pair["question"], pair["answer"]) for pair in counted)
    return json.dumps([(question, answer, times) for (question, answer), times in found.items()]).encode()


def _publish(part: str, source: str, output: str, config: FilterConfig, whole: PairSet | None) -> bytes:
    if whole is None:
        rows = _decided(part, source, config)
    else:
        rows = _kept(part, source, output, config)
        thin(whole, rows)
    counts = json.dumps(counts_of(rows)).encode()
    files.write_bytes(f"{output}/counts/{part}.json", counts)
    # last, since this file is what makes the part done
    tables.write(f"{output}/rows/{part}.parquet", tables.table(rows, tables.PSEUDO_QA))
    return counts


def _kept(part: str, source: str, output: str, config: FilterConfig) -> list[PseudoQaRow]:
    """`_decided`, once: another pass finds it in a file."""
    file = f"{output}/{DECIDED}/{part}.parquet"
    if files.exists(file):
        return cast(list[PseudoQaRow], tables.read(file, tables.PSEUDO_QA).to_pylist())
    rows = _decided(part, source, config)
    tables.write(file, tables.table(rows, tables.PSEUDO_QA))
    return rows


def _decided(part: str, source: str, config: FilterConfig) -> list[PseudoQaRow]:
    start, count = map(int, part.split("-"))
    return [decided(row, config) for row in StepRows(source).part(start, count).to_pylist()]
