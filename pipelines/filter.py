"""Filter: candidates become accepted or rejected pairs, each with its reason. CPUs do it, and no model is asked.

Ray Data streams the files of candidates, and each becomes one file of pairs. Filters that need the pairs of all images take a
pass before that, which counts them. A file of pairs that exists is not made again.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from leaml.config import FilterConfig
from leaml.data import tables
from leaml.data.tables import PairRow
from leaml.errors import LeamlError
from leaml.generation import candidates, filters
from leaml.generation.dataset_filters import PairSet
from leaml.io import files
from leaml.run.records import REJECTED
from pipelines.context import Context
from pipelines.metrics import StepMetrics
from pipelines.progress import Bar, say
from pipelines.run import Step
from pipelines.shards import read_files
from pipelines.stream import WorkerRow, rows_of
from pipelines.summaries import describe
from pipelines.table_rows import CandidateRow, PseudoQaRow

COUNTS = "counts"


def filter_pairs(context: Context) -> Step:
    """Decide about every candidate."""
    config = context.run.config.filter
    step = context.step("filter", config.model_dump(), [context.candidates])
    return context.run.execute(step, lambda: filter_files(step.label, context.candidates.folder, step.folder, config))


def filter_files(label: str, source: str, output: str, config: FilterConfig) -> dict[str, int]:
    """Make a file of pairs out of each file of candidates, unless it is there.

    Filters of the whole set decide by a hash of the pair, so a run that is killed here and started
    again comes to the same.

    Args:
        label: Of the step, for progress.
        source: Folder of the step with the candidates, which are in its `rows`.
        output: Folder of this step; the pairs go to its `rows`.
        config: Which filters are on.

    Returns:
        Totals over all files, as `counts_of`.
    """
    parts = files.listing(f"{source}/rows")
    whole = PairSet(config)
    if whole.active:
        _count(f"{label}, all pairs", parts, whole)
    done = {name.rsplit("/", 1)[-1] for name in files.listing(f"{output}/rows")} if files.exists(f"{output}/rows") else set()
    todo = [part for part in parts if part.rsplit("/", 1)[-1] not in done]
    work = functools.partial(_publish, output=output, config=config, whole=whole if whole.active else None)
    with Bar(label, len(parts), "files", len(parts) - len(todo)) as bar, StepMetrics(output, label) as exported:
        for number, row in enumerate(_stream(todo, work, label), len(parts) - len(todo) + 1):
            exported.shard(json.loads(row["result"]), 0.0)
            exported.progress(number, len(parts))
            bar.update(number)
    summary = Counter[str]()
    for part in parts:
        summary.update(json.loads(files.read_bytes(_counts_file(output, part))))
    say(f"{label}: {describe(summary)}")
    return dict(summary)


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


def read_accepted(step: Step) -> list[tuple[str, str, str]]:
    """`(image_id, question, answer)` of accepted pairs only; the one door from pseudo pairs to training."""
    return [
        (row["image_id"], pair["question"], pair["answer"])
        for rows in read_files(step.folder, tables.PSEUDO_QA)
        for row in rows.to_pylist()
        for pair in row["pairs"]
        if pair["accepted"]
    ]


def _count(label: str, parts: list[str], whole: PairSet) -> None:
    """Count all pairs that the filters of their image accept, file by file: groups of similar questions depend on the order."""
    waiting: dict[str, list[tuple[str, str, int]]] = {}
    following = 0
    with Bar(label, len(parts), "files") as bar:
        for row in _stream(parts, functools.partial(_accepted, config=whole.config), label):
            waiting[row["part"]] = json.loads(row["result"])
            while following < len(parts) and parts[following] in waiting:
                for question, answer, times in waiting.pop(parts[following]):
                    whole.count(question, answer, times)
                following += 1
                bar.update(following)


def _accepted(part: str, config: FilterConfig) -> list[tuple[str, str, int]]:
    """Questions and answers of a file's accepted pairs, and how often each comes."""
    rows = [decided(row, config) for row in tables.read(part, tables.CANDIDATES).to_pylist()]
    found = Counter((pair["question"], pair["answer"]) for row in rows for pair in row["pairs"] if pair["accepted"])
    return [(question, answer, times) for (question, answer), times in found.items()]


def _publish(part: str, output: str, config: FilterConfig, whole: PairSet | None) -> Counter[str]:
    rows = [decided(row, config) for row in tables.read(part, tables.CANDIDATES).to_pylist()]
    if whole is not None:
        thin(whole, rows)
    counts = counts_of(rows)
    files.write_bytes(_counts_file(output, part), json.dumps(counts).encode())
    # last, since this file is what makes the part done
    tables.write(f"{output}/rows/{part.rsplit('/', 1)[-1]}", tables.table(rows, tables.PSEUDO_QA))
    return counts


def _counts_file(output: str, part: str) -> str:
    return f"{output}/{COUNTS}/{part.rsplit('/', 1)[-1].removesuffix('.parquet')}.json"


class FileResult(WorkerRow):
    """What a task made of a file, as JSON."""

    part: str
    result: str


def _stream(parts: list[str], work: Callable[[str], object], label: str) -> Iterator[FileResult]:
    """What `work` makes of each file, in whatever order it is ready."""
    import ray

    if not parts:
        return
    given = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    yield from rows_of(given.map(_Task(work), num_cpus=1), FileResult, label)


class _Task:
    """Calls `work` with the file of a row; our own errors come back in the column `error`, as those of engines do."""

    def __init__(self, work: Callable[[str], object]) -> None:
        self.work = work

    def __call__(self, row: dict[str, str]) -> dict[str, str | list[str]]:
        try:
            return {**row, "result": json.dumps(self.work(row["part"])), "error": []}
        except LeamlError as error:
            return {**row, "result": "{}", "error": [type(error).__name__, str(error)]}
