"""Work shards on Ray Data: bytes are read in CPU tasks, a pool of actors does the shards, and its errors come back as ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypedDict, TypeVar, cast

from leaml import errors
from leaml.config import ResourcesConfig
from leaml.errors import LeamlError, StepError
from pipelines.shard import PackedShard, load

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset


class WorkerRow(TypedDict):
    """What a worker's row has at least: type and text of our own error, or neither."""

    error: list[str]


Result = TypeVar("Result", bound=WorkerRow)


def stream(todo: list[PackedShard], actor: type, arguments: tuple[object, ...], resources: ResourcesConfig) -> Dataset:
    """The Ray Data plan: read the shards' bytes in tasks, do them in a pool of actors.

    Args:
        todo: Shards to do, at least one.
        actor: Class that is called with each `LoadedShard`.
        arguments: Of its constructor.
        resources: Size of the pool, and what each actor takes.
    """
    import ray

    read = cast(Callable[[dict[str, object]], dict[str, object]], load)  # Ray's types know no TypedDict
    with warnings.catch_warnings():
        # Ray 2.60 warns of keywords without a named parameter, and has none for the two limits below
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return (
            ray.data.from_items(todo, override_num_blocks=len(todo))
            .map(read, num_cpus=0.5)
            .map(
                actor,  # type: ignore[arg-type]
                fn_constructor_args=arguments,
                compute=_pool(resources),
                num_cpus=resources.engine_cpus,
                num_gpus=resources.engine_gpus or None,
                # Ray then warns of constructor arguments in its object store (ray#53727), of any class: they are its own
                # plan and settings, which the driver put there and holds while the plan runs
                max_restarts=-1,
                max_task_retries=-1,
            )
        )


def _pool(resources: ResourcesConfig) -> ActorPoolStrategy:
    """A fixed or growing pool of engines."""
    from ray.data import ActorPoolStrategy

    shards, grows = resources.engine_shards, resources.max_engines is not None
    return ActorPoolStrategy(
        size=None if grows else resources.engines,
        min_size=resources.engines if grows else None,
        max_size=resources.max_engines,
        max_concurrent_calls_per_actor=shards,
        enable_true_multi_threading=shards > 1,
        max_tasks_in_flight_per_actor=shards + 1,
    )


def saturation(resources: ResourcesConfig, sequences: int) -> str:
    """Whether the shards an engine works on fill the sequences that it works on at a time, for the log."""
    images = resources.images_per_shard * resources.engine_shards
    if images >= sequences:
        return f"{images} images at a time fill an engine's {sequences} sequences"
    return (
        f"{images} images at a time cannot fill an engine's {sequences} sequences; "
        f"raise resources.images_per_shard to {-(-sequences // resources.engine_shards)} or more for full speed"
    )


class TaskResult(WorkerRow):
    """What a task made of what it was given."""

    given: str
    result: bytes


def in_tasks(given: list[str], work: Callable[[str], bytes], label: str, ordered: bool = False) -> Iterator[TaskResult]:
    """What `work` makes of each text that is given, on CPUs of the cluster; a single one is worked on right here.

    Args:
        given: Names of files, parts of a table, ...
        work: Must be picklable.
        label: Of the step, for the message of a failure.
        ordered: In the order of `given`; else as they are ready.

    Raises:
        LeamlError: As `rows_of`.
    """
    import ray

    if len(given) < 2:
        for each in given:
            yield {"error": [], "given": each, "result": work(each)}
        return
    streamed = ray.data.from_items([{"given": each} for each in given], override_num_blocks=len(given)).map(
        _Task(work), num_cpus=1
    )
    streamed.context.execution_options.preserve_order = ordered
    yield from rows_of(streamed, TaskResult, label)


class _Task:
    """Calls `work`; our own errors come back in the column `error`, as those of engines do."""

    def __init__(self, work: Callable[[str], bytes]) -> None:
        self.work = work

    def __call__(self, row: dict[str, str]) -> dict[str, object]:
        try:
            return {**row, "result": self.work(row["given"]), "error": []}
        except LeamlError as error:
            return {**row, "result": b"", "error": [type(error).__name__, str(error)]}


def rows_of(streamed: Dataset, row_type: type[Result], label: str) -> Iterator[Result]:
    """Rows of a Ray Data stream.

    Args:
        streamed: It runs while its rows are taken.
        row_type: What the rows are.
        label: Of the step, for the message of a failure.

    Raises:
        LeamlError: Our own errors, as a worker has put them into a row.
        StepError: A worker failed in another way.
    """
    import ray

    try:
        for each in streamed.iter_rows():
            row = cast(Result, each)
            if len(row["error"]):
                kind, message = row["error"]
                raise getattr(errors, kind, StepError)(message)
            yield row
    except ray.exceptions.RayError as error:
        # the text ends with Ray's own wrapping, what was raised stands before it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        reason = next((line for line in reversed(raised) if not line.startswith("ray.")), (raised or lines)[-1])
        msg = f"{label}: a worker failed: {reason}; finished shards are kept, run the same command again to go on"
        raise StepError(msg) from error
