"""Map steps (caption, generate, evaluate) in shards: one shard of images is one atomically published file.

A shard (pipelines/shard.py) is named by the ids of its images, so "done" is "its file exists": a rerun does the missing
shards and nothing else, no image twice and none lost, wherever the process was killed, and also if the shard size was
changed. Ray Data streams the shards: bytes are read on CPU tasks, an actor pool holds the engines, and the actor that made a
shard's rows publishes them. When all of them are done they are gathered into one table (pipelines/gather.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
from PIL import Image

from leaml import images
from leaml.config import ResourcesConfig
from leaml.data import step_rows, tables
from leaml.data.image_ids import SortedIds
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Closable, Completion, Engine
from leaml.engine.spec import EngineSpec
from leaml.errors import EngineDiedError, LeamlError, StepError
from leaml.io import files
from pipelines import attempts, kept, quarantine
from pipelines.attempts import Attempts
from pipelines.clock import EngineClock, Spent
from pipelines.gather import gather, published
from pipelines.metrics import StepMetrics
from pipelines.progress import Bar, say
from pipelines.run import Run, Step
from pipelines.shard import LoadedShard, PackedShard, Shard
from pipelines.stream import rows_of, saturation, stream
from pipelines.summaries import PROMPT_TOKENS, describe
from pipelines.table_rows import OutputRow
from pipelines.turns import SharedEngineActor, TurnRow, by_turn

Extra = TypeVar("Extra")
"""A step's own data of an image."""

CUT = "replies cut at the token limit"
"""Name of the count of replies that ended there instead of by themselves."""


@dataclass(frozen=True)
class Item(Generic[Extra]):
    """One image of a shard as the engine actor sees it; `extra` is the step's own data for this image."""

    image_id: str
    image: Image.Image
    extra: Extra


class ShardWork(Protocol[Extra]):
    """What a step does with the images of one shard. Must be picklable.

    Returns one row per image, which is one of `quarantine.refused` where there is no result, and counts for the summary.
    """

    schema: pa.Schema

    def __call__(self, engine: Engine, items: list[Item[Extra]]) -> tuple[Sequence[OutputRow], Counter[str]]: ...


class ShardResult(TurnRow):
    """What an actor says of a shard; `counts` is JSON."""

    shard: str
    counts: str
    seconds: float
    free_seconds: float


_NOTHING: ShardResult = {"turn": 0, "shard": "", "counts": "{}", "error": [], "seconds": 0.0, "free_seconds": 0.0}
_DECODERS = 2
"""Least threads that decode images; they hand them on to the engine, which may have as many CPUs as it computes with."""


class EngineActor(Generic[Extra]):
    """Holds one engine; makes, checks and publishes the rows of one shard at a time.

    Our own errors are returned, in the column `error`, since Ray hands on the text of an exception only. Threads call it, so
    that one shard is decoded or published while another is with the engine; `seconds` add up to the time with any.
    """

    def __init__(
        self, spec: EngineSpec, work: ShardWork[Extra], output: str, max_pixels: int, known: kept.Kept | None = None
    ) -> None:
        self.work, self.output, self.max_pixels = work, output, max_pixels
        self.known = None if spec.url is None else known or {}
        self.error: LeamlError | None = None
        self.attempts = Attempts(output)
        try:
            with self.attempts.starting():
                self.engine = spec.build()
        except LeamlError as error:
            self.error = error
        self.clock = EngineClock(None if self.error else self.engine)
        self.decoders = ThreadPoolExecutor(max(_DECODERS, int(spec.cpus)), thread_name_prefix="decode")

    def __call__(self, shard: LoadedShard) -> ShardResult:
        self.clock.begin()
        result: ShardResult = {**_NOTHING, "turn": shard["turn"], "shard": shard["shard"]}
        try:
            if self.error is not None:
                raise self.error
            self.attempts.begin(shard["shard"])
            result["counts"] = json.dumps(self._publish(shard))
        except EngineDiedError as error:
            self.attempts.end(error)
        except LeamlError as error:
            result["error"] = [type(error).__name__, str(error)]
        finally:
            result["seconds"], result["free_seconds"] = self.clock.end()
        return result

    def close(self) -> None:
        """Make room for another engine in this process."""
        self.decoders.shutdown(wait=False)
        if self.error is None and isinstance(self.engine, Closable):
            self.engine.close()

    def _publish(self, shard: LoadedShard) -> Counter[str]:
        items, quarantined = self._decode(shard)
        engine, replies = self.engine, f"{self.output}/{kept.FOLDER}/{shard['shard']}"
        if self.known is not None:
            engine = kept.KeptReplies(engine, replies, self.known)  # type: ignore[arg-type]  # of a URL
        rows, counts = self.work(engine, items) if items else ([], Counter())

        made, expected = [r["image_id"] for r in rows], [i.image_id for i in items]
        if made != expected:
            msg = (
                f"shard {shard['shard']}: {len(expected)} images went in, rows of {len(made)} came out in another order or "
                "number"
            )
            raise StepError(msg)

        reasons = {str(row["image_id"]): str(row[quarantine.REASON]) for row in rows if quarantine.REASON in row}
        kept_rows = [row for row in rows if row["image_id"] not in reasons]
        quarantined += [_quarantined(shard, image_id, reason) for image_id, reason in reasons.items()]
        if quarantined:
            tables.write(
                f"{self.output}/{quarantine.FOLDER}/{shard['shard']}.parquet",
                tables.table(quarantined, tables.QUARANTINE),
            )

        counts["images"] = len(kept_rows)
        counts.update(quarantine.counts_of(quarantined))
        files.write_bytes(f"{self.output}/counts/{shard['shard']}.json", json.dumps(counts).encode())

        # last, since the rows' file is what makes the shard done
        tables.write(f"{self.output}/rows/{shard['shard']}.parquet", tables.table(kept_rows, self.work.schema))
        if self.known is not None:
            files.delete_tree(replies)
        return counts

    def _decode(self, shard: LoadedShard) -> tuple[list[Item[Extra]], list[OutputRow]]:
        items: list[Item[Extra]] = []
        quarantined: list[OutputRow] = []
        decoded = self.decoders.map(self._decoded, shard["bytes"])
        columns = (shard["image_id"], decoded, shard["lost"], json.loads(shard["extra"]))
        for image_id, image, lost, extra in zip(*columns, strict=True):
            if isinstance(image, images.ImageRejected):
                quarantined.append(_quarantined(shard, image_id, lost or str(image)))  # there are no bytes of a lost one
            else:
                items.append(Item(image_id, image, extra))
        return items, quarantined

    def _decoded(self, data: bytes) -> Image.Image | images.ImageRejected:
        try:
            return images.decode(data, self.max_pixels)
        except images.ImageRejected as error:
            return error


def _quarantined(shard: LoadedShard, image_id: str, reason: str) -> OutputRow:
    return {"image_id": image_id, "uri": None, "step": shard["step"], "reason": reason}


def replied(completions: Iterable[Completion]) -> Counter[str]:
    """What is counted of every reply: its tokens, those of a request that a server counted, and whether it was cut."""
    counts = Counter[str]()
    for completion in completions:
        counts["tokens"] += completion.tokens
        counts[PROMPT_TOKENS] += completion.prompt_tokens
        counts[CUT] += completion.cut
    return +counts


def _remaining(shards: list[PackedShard], output: str) -> list[PackedShard]:
    """The shards that are not published. Images published in shards of another size are taken out of theirs."""
    finished = published(output)
    todo = [u for u in shards if u["shard"] not in finished]
    foreign = sorted(finished - {u["shard"] for u in shards})
    if not foreign or not todo:
        return todo
    found: list[pa.ChunkedArray] = []
    for name in foreign:
        for folder in ("rows", "quarantine"):
            file = f"{output}/{folder}/{name}.parquet"
            if folder == "rows" or files.exists(file):
                found.append(tables.read(file, columns=["image_id"])["image_id"])
    done = SortedIds(pa.chunked_array([chunk for ids in found for chunk in ids.chunks], pa.string()))
    rest = [Shard.unpack(u).without(done) for u in todo]
    return [shard.pack() for shard in rest if shard.ids]


def _sweep(output: str, finished: set[str]) -> None:
    """Remove what killed shards left beside the rows of others."""
    for folder in ("quarantine", "counts"):
        for file in _listing(f"{output}/{folder}"):
            if file.rsplit("/", 1)[-1].rpartition(".")[0] not in finished:
                files.delete_tree(file)
    for folder in (attempts.FOLDER, kept.FOLDER):
        files.delete_tree(f"{output}/{folder}")


@dataclass(frozen=True)
class ShardStep(Generic[Extra]):
    """The shards of a step, the engine for them, what is done with their images, and the folder of what is made."""

    label: str
    shards: list[PackedShard]
    spec: EngineSpec
    work: ShardWork[Extra]
    output: str


def run_shards(
    label: str,
    shards: list[PackedShard],
    spec: EngineSpec,
    work: ShardWork[Extra],
    output: str,
    resources: ResourcesConfig,
    max_pixels: int,
    max_quarantined: float = 1.0,
) -> dict[str, float]:
    """`run_in_turn` of one step; returns its totals over all shards.

    Args:
        label: Of the step, for progress and messages.
        shards: All of its shards, published or not.
        spec: The engine that it asks.
        work: What it does with a shard's images.
        output: Its folder.
        resources: Engines, and what each takes.
        max_pixels: Images with more are quarantined.
        max_quarantined: Share of the images, from 0 to 1, that may have no result.
    """
    (summary,) = run_in_turn([ShardStep(label, shards, spec, work, output)], resources, max_pixels, max_quarantined)
    return summary


def run_in_turn(
    steps: Sequence[ShardStep[Extra]], resources: ResourcesConfig, max_pixels: int, max_quarantined: float = 1.0
) -> Iterator[dict[str, float]]:
    """Do every shard that is not published yet; yields the totals of each step when it is done.

    One pool of engines does them all, and is given back with the last step. Seconds and rates are
    of all attempts: `images_per_engine_s` while an engine works, without its start.

    Args:
        steps: In this order.
        resources: Of the pool.
        max_pixels: As of `run_shards`.
        max_quarantined: As of `run_shards`, for each step.

    Raises:
        StepError: A worker failed, or too many images have no result; what is published stays.
    """
    begun = [_Begun(step, max_quarantined) for step in steps]
    waiting = [each for each in begun if each.todo]
    results: Iterator[Iterator[ShardResult]] = iter(())
    if waiting:
        todo: list[PackedShard] = [{**shard, "turn": turn} for turn, each in enumerate(waiting) for shard in each.todo]
        arguments = [
            (each.step.spec, each.step.work, each.step.output, max_pixels, kept.read(each.step.output)) for each in waiting
        ]
        if len(waiting) == 1:
            streamed = stream(todo, EngineActor, arguments[0], resources)
        else:
            streamed = stream(todo, SharedEngineActor, (EngineActor, arguments), resources)
            streamed.context.execution_options.preserve_order = True  # or engines would go back to a step and on again
        labels = ", ".join(each.step.label for each in waiting)
        results = by_turn(rows_of(streamed, ShardResult, labels), [len(each.todo) for each in waiting])
    for each in begun:
        yield each.finish(next(results) if each.todo else iter(()), resources)


class _Begun(Generic[Extra]):
    """A step of which some shards are published, or none."""

    def __init__(self, step: ShardStep[Extra], max_quarantined: float) -> None:
        self.step, self.most = step, max_quarantined
        files.delete_tree(f"{step.output}/{attempts.FOLDER}")
        self.total = sum(u["count"] for u in step.shards)
        self.earlier = quarantine.settle(step.output, max_quarantined * self.total)
        self.todo = _remaining(step.shards, step.output)
        if self.todo:
            step_rows.remove(step.output)  # it lacks them

    def finish(self, rows: Iterator[ShardResult], resources: ResourcesConfig) -> dict[str, float]:
        """Follow the rest of the shards, whose results come in `rows`; returns the totals over all shards."""
        label, spent = self.step.label, Spent(self.step.output)
        done = self.total - sum(u["count"] for u in self.todo)
        if done:
            say(f"{label}: {done} of {self.total} images were done before; {self.total - done} to do")
        if self.todo:
            sequences = self.step.spec.engine.sequences
            say(f"{label}: {len(self.todo)} shards, {resources.engines} engines; {saturation(resources, sequences)}")
            self._follow(rows, done, spent)

        spent.save()
        summary: dict[str, float] = {**self._gather(), "engine_seconds": round(spent.engine_seconds, 1)}
        summary["wall_seconds"] = round(spent.wall_seconds, 1)

        if spent.images:
            busy = max(spent.engine_seconds, 1e-3)
            summary["images_per_engine_s"] = round(spent.images / busy, 3)
            hours = busy / spent.images * 1e6 / 3600
            summary["engine_hours_per_million_images"] = round(hours, 2)
            if spent.free_share is not None:
                summary["engine_free_share"] = round(spent.free_share, 3)
            if resources.engine_gpus:
                summary["gpu_hours_per_million_images"] = round(hours * resources.engine_gpus, 2)

        say(f"{label}: {describe(summary)}")
        return summary

    def _gather(self) -> Counter[str]:
        """Make the step's table of its shards, unless it was made before; returns the totals over all shards."""
        output = self.step.output
        if not self.todo and step_rows.exists(output):
            return StepRows(output).counts
        finished = published(output)
        _sweep(output, finished)
        size = max((shard["count"] for shard in self.step.shards), default=1)
        found = gather(self.step.label, output, self.step.work.schema, sorted(finished), size)
        quarantine.check(self.step.label, found.counts, self.total, self.total, self.most, output)
        step_rows.commit(output, self.step.work.schema, found.parts, found.counts)
        return found.counts

    def _follow(self, rows: Iterator[ShardResult], done: int, spent: Spent) -> None:
        label, output = self.step.label, self.step.output
        counts = Counter[str]()
        sizes = {u["shard"]: u["count"] for u in self.todo}
        with Bar(label, self.total, "images", done) as bar, StepMetrics(output, label) as exported:
            exported.progress(done, self.total)
            for row in rows:
                made = Counter(json.loads(row["counts"]))
                counts.update(made)
                spent.add(made["images"], row["seconds"], row["free_seconds"])
                done += sizes[row["shard"]]
                bar.update(done)
                quarantine.check(label, counts + self.earlier, done, self.total, self.most, output)
                exported.shard(made, row["seconds"], row["free_seconds"])
                exported.progress(done, self.total)


def run_step(
    run: Run,
    step: Step,
    shards: list[PackedShard],
    spec: EngineSpec,
    work: ShardWork[Extra],
    resources: ResourcesConfig | None = None,
) -> dict[str, float]:
    """`run_shards` with the step's label and folder, and the run's limits.

    Args:
        run: Its configuration has the limits.
        step: Whose folder the shards are published in.
        shards: All of them.
        spec: The engine.
        work: What is done with a shard's images.
        resources: Of the engines; None: the run's.
    """
    config = run.config
    limits = (config.data.max_pixels, config.data.max_quarantined)
    return run_shards(step.label, shards, spec, work, step.folder, resources or config.resources, *limits)


def _listing(folder: str) -> list[str]:
    return files.listing(folder) if files.exists(folder) else []
