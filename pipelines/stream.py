"""Work shards on Ray Data: bytes are read in CPU tasks, a pool of actors does the shards, and its errors come back as ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from leaml import errors
from leaml.config import ResourcesConfig
from leaml.errors import StepError
from pipelines.shard import load


def stream(todo: list[dict[str, Any]], actor: type, arguments: tuple[Any, ...], resources: ResourcesConfig) -> Any:
    """The Ray Data plan: read the shards' bytes in tasks, do them in a pool of `actor`."""
    import ray

    with warnings.catch_warnings():
        # Ray 2.60 warns of keywords without a named parameter, and has none for the two limits below
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return (
            ray.data.from_items(todo, override_num_blocks=len(todo))
            .map(load, num_cpus=0.5)
            .map(
                actor,  # type: ignore[arg-type]
                fn_constructor_args=arguments,
                compute=_pool(resources),
                num_cpus=resources.engine_cpus,
                num_gpus=resources.engine_gpus or None,
                max_restarts=-1,
                max_task_retries=-1,
            )
        )


def _pool(resources: ResourcesConfig) -> Any:
    """A fixed or growing pool of engines."""
    from ray.data import ActorPoolStrategy

    shards = resources.engine_shards
    threads: dict[str, Any] = {
        "max_concurrent_calls_per_actor": shards,
        "enable_true_multi_threading": shards > 1,
        "max_tasks_in_flight_per_actor": shards + 1,
    }
    if resources.max_engines is None:
        return ActorPoolStrategy(size=resources.engines, **threads)
    return ActorPoolStrategy(min_size=resources.engines, max_size=resources.max_engines, **threads)


def saturation(resources: ResourcesConfig) -> str:
    """Whether the shards an engine works on fill it, for the log."""
    images, sequences = resources.images_per_shard * resources.engine_shards, resources.engine_sequences
    if images >= sequences:
        return f"{images} images at a time fill an engine's {sequences} sequences"
    return (
        f"{images} images at a time cannot fill an engine's {sequences} sequences; "
        f"raise resources.images_per_shard to {-(-sequences // resources.engine_shards)} or more for full speed"
    )


def rows_of(streamed: Any, label: str) -> Iterator[dict[str, Any]]:
    """Rows of a Ray Data stream. Raises our own errors as they are, others as StepError."""
    import ray

    try:
        for row in streamed.iter_rows():
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
