"""What a Ray Train worker does besides training: shares its machine, keeps checkpoints, says how far it is."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaml.io import files
from leaml.training.worker import TrainingState
from pipelines.progress import PROGRESS

if TYPE_CHECKING:
    from ray.train import Checkpoint


def share_machine(lanes: int) -> None:
    """Give this worker its part of its machine's CPUs, where `lanes` trainings run at a time."""
    import ray.train
    import torch

    from leaml.machine import usable_cpus

    workers = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, int(usable_cpus() / (workers * lanes))))


class StoredCheckpoint:
    """A checkpoint that Ray Train has stored."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> bytes:
        """A file of it, without the others."""
        storage: Any = self._checkpoint.filesystem
        with storage.open_input_stream(f"{self._checkpoint.path}/{name}") as stream:
            return bytes(stream.read())

    def as_directory(self) -> AbstractContextManager[str]:
        """All of its files; downloaded once by the workers of a node."""
        return self._checkpoint.as_directory()


def restore() -> StoredCheckpoint | None:
    """The last checkpoint of this training, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    return None if checkpoint is None else StoredCheckpoint(checkpoint)


def save(folder: Path, state: TrainingState, last: bool) -> None:
    """Store this worker's part of a checkpoint, while the next steps are done.

    Args:
        folder: The part; Ray deletes it once it is stored.
        state: Its step and phase are reported with it.
        last: Wait until it is stored. Ray would give up what is still on its way when the writing
            of the model fails.
    """
    import ray.train

    modes = ray.train.CheckpointUploadMode
    ray.train.report(
        {"step": state["step"], "phase": state["phase"]},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=modes.SYNC if last else modes.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def progress_writer(folder: str, every: float = 2.0) -> Callable[[Mapping[str, object]], None]:
    """Writes the latest metrics to progress.json every few seconds, where driver and `leaml status` read them."""
    last = 0.0

    def write(metrics: Mapping[str, object]) -> None:
        nonlocal last
        if time.time() - last >= every:
            last = time.time()
            files.write_bytes(f"{folder}/{PROGRESS}", json.dumps({**metrics, "peak_memory": peak_memory()}).encode())

    return write


def peak_memory() -> int:
    """Most bytes this process has used so far: of its GPU where it has used one, else of the machine."""
    import torch

    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return int(used)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
