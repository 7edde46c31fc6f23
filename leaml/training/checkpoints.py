"""Checkpoints of a training: what is trained and AdamW's moments, each worker's part in files of its own.

They are written by torch.distributed.checkpoint, whose files any number of workers reads, sharded or not. Beside them lies
`state.json` with the rest of a `TrainingState`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from leaml.io import owned
from leaml.training.worker import TrainingState, Worker

if TYPE_CHECKING:
    from concurrent.futures import Future


STATE = "state.json"
LAG = 5
"""Steps after which a checkpoint has to be written at the latest; workers wait for each other only then."""


@dataclass
class _Writing:
    """A checkpoint that is being written."""

    folder: Path
    state: TrainingState
    ended: Future[Any] | None
    due: int


_SCRATCH = "leaml-training-"


@cache
def _scratch() -> Path:
    """A folder of this process for checkpoints until they are handed on; those of processes that were killed are removed."""
    owned.sweep(Path(tempfile.gettempdir()), f"{_SCRATCH}*")
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    owned.own(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Checkpoints:
    """Saves a training and restores it.

    Args:
        worker: Restores and takes checkpoints.
        model: What is trained has `requires_grad`.
    """

    def __init__(self, worker: Worker, model: nn.Module) -> None:
        self.worker, self.model = worker, model
        # its own group, since it exchanges plans beside the training's sums, and on the CPU; a worker on a GPU has NCCL alone,
        # with which torch saves nothing beside the next steps
        self._group = distributed.new_group(backend="gloo") if distributed.is_initialized() else None
        self._earlier = worker.restore()
        self._writing: _Writing | None = None

    def state(self) -> TrainingState | None:
        """Where the training was at its last checkpoint."""
        if self._earlier is None:
            return None
        state: TrainingState = json.loads(self._earlier.read(STATE))
        state["losses"] = [(step, loss) for step, loss in state["losses"]]
        return state

    def load(self, optimizer: torch.optim.Optimizer) -> bool:
        """Restore weights and optimizer from the last checkpoint, the first time; returns whether that has happened."""
        if self._earlier is None:
            return False
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import set_state_dict

        earlier, self._earlier = self._earlier, None
        tensors = self._tensors(optimizer)
        with earlier.as_directory() as folder, _of_one_process():
            checkpoint.load(tensors, checkpoint_id=str(folder), process_group=self._group, no_dist=self._group is None)
        set_state_dict(
            self.model,
            optimizer,
            model_state_dict=tensors["model"],
            optim_state_dict=tensors["optimizer"],
            options=self._options(),
        )
        return True

    def begin(self, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write a checkpoint; where it pays, while the next steps are done."""
        from torch.distributed import checkpoint

        self.finish()
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=_scratch()))
        if self.worker.rank == 0:
            (folder / STATE).write_text(json.dumps(state))
        tensors = self._own(self._tensors(optimizer))
        given: dict[str, Any] = {"checkpoint_id": str(folder), "process_group": self._group, "no_dist": self._group is None}
        ended = None
        with _of_one_process():
            if self.worker.writes_beside:
                ended = checkpoint.async_save(tensors, **given)
            else:
                checkpoint.save(tensors, **given)
        self._writing = _Writing(folder, dict(state), ended, state["step"] + LAG)  # type: ignore[arg-type]
        if ended is None:
            self.finish()

    def step(self, step: int) -> None:
        """Hand the checkpoint on once it has been written; all workers after the same step."""
        if self._writing and step >= self._writing.due:
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, and hand it on."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if writing.ended is not None:
            writing.ended.result()
        self.worker.save(writing.folder, writing.state)

    def _tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, moments = get_state_dict(self.model, optimizer, options=self._options())
        own = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {"model": {n: w for n, w in weights.items() if n in own}, "optimizer": moments}  # tied ones once

    def _own(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What this worker writes: its parts of weights that are cut, and a share of those that every worker has.

        The workers of a node would copy all of these to its memory before torch finds out which of them are the same.
        """
        rank, world = self.worker.rank, self.worker.world
        weights, moments = tensors["model"], tensors["optimizer"]
        cut = {name for name, weight in weights.items() if isinstance(weight, DTensor)}
        own = {name for number, name in enumerate(sorted(weights.keys() - cut)) if number % world == rank} | cut
        state = {name: values for name, values in moments["state"].items() if name in own}
        groups = {"param_groups": moments["param_groups"]} if rank == 0 else {}
        return {"model": {name: weights[name] for name in weights if name in own}, "optimizer": {"state": state, **groups}}

    @staticmethod
    def _options() -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        return StateDictOptions(ignore_frozen_params=True, strict=False)


@contextlib.contextmanager
def _of_one_process() -> Iterator[None]:
    """Without the warning that there is no group of processes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield
