"""How often shards are begun and engines are started in one run of a step, noted in its folder.

Ray starts an engine's process again and hands its shards on without end, also where an image, or the engine's own start, kills
every one of them; but it cannot tell that from a node that is lost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from leaml.errors import DataError, EngineDiedError, StepError
from leaml.io import files

FOLDER = "attempts"
MOST = 3
"""Times that a shard is begun, or an engine's start, before the step is given up."""
_REASON = "reason.txt"
"""What the last engine said that could say why it died."""


class Attempts:
    """Of an engine's process, which ends when its engine died."""

    def __init__(self, output: str) -> None:
        self._folder = f"{output}/{FOLDER}"

    def begin(self, shard: str) -> None:
        """Note that the shard is begun. Raises StepError when that was noted too often."""
        if not self._noted(shard):
            msg = (
                f"{MOST} engines died at work on {shard}, or on a shard beside it; {self._reason()}; an image may be what "
                "kills them: find it with smaller resources.images_per_shard and engine_shards 1. Finished shards are kept, "
                "run the same command again to go on"
            )
            raise StepError(msg)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """While an engine starts. Raises StepError when its process has died too often in that."""
        name = f"start-{_actor()}"
        if not self._noted(name):
            msg = (
                f"an engine died {MOST} times while it started; {self._reason()}. Finished shards are kept, run the same "
                "command again to go on"
            )
            raise StepError(msg)
        yield
        for number in range(MOST):
            files.delete_tree(f"{self._folder}/{name}-{number}")

    def end(self, error: EngineDiedError) -> None:
        """End this process, whose engine died; Ray starts it again and hands its shards to others meanwhile."""
        with contextlib.suppress(DataError):
            files.write_bytes(f"{self._folder}/{_REASON}", str(error).encode())
        print(f"{error}; its process ends", flush=True)
        os._exit(1)

    def _noted(self, name: str) -> bool:
        """Whether there was room for one more note of this name."""
        return any(files.write_bytes(f"{self._folder}/{name}-{number}", b"", if_absent=True) for number in range(MOST))

    def _reason(self) -> str:
        file = f"{self._folder}/{_REASON}"
        if files.exists(file):
            return f"the last one that said why: {files.read_bytes(file).decode()}"
        return "none of them could say why, as a process that is killed for its memory cannot"


def _actor() -> str:
    """Stays the same when Ray starts an actor's process again."""
    import ray

    return str(ray.get_runtime_context().get_actor_id()) if ray.is_initialized() else "0"
