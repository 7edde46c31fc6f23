"""Processes that train together over gloo, as the workers of a training do."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

PRELOADED = ["torch", "transformers", "peft", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"]
TIMEOUT = 240.0


def run(world: int, body: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """What `body(rank, *arguments)` returns in each process of a group; None of those that did not end well.

    Args:
        world: Number of processes.
        body: A function of a module.
        arguments: Pickled.
        timeout: In seconds, after which all are killed.

    Raises:
        AssertionError: One has failed, and none was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # imported once for all groups
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_member, args=(r, world, folder, body, arguments)) for r in range(world)]
        for process in processes:
            process.start()
        end = time.monotonic() + timeout
        try:
            for process in processes:
                process.join(max(0.1, end - time.monotonic()))
        finally:
            stuck = [process.pid for process in processes if process.is_alive()]
            for process in processes:
                process.kill()
                process.join()
        assert not stuck, f"processes {stuck} did not end within {timeout} s"
        codes = [process.exitcode for process in processes]
        failed = "\n".join(file.read_text() for file in Path(folder).glob("*.txt"))
        assert not any(codes) or -signal.SIGKILL in codes, failed  # with a dead one the others cannot go on
        return [_found(Path(folder) / f"{rank}.pt") for rank in range(world)]


def _found(file: Path) -> Any:
    return torch.load(file, weights_only=False) if file.exists() else None


def _member(rank: int, world: int, folder: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(body(rank, *arguments), f"{folder}/{rank}.pt")
    except Exception:
        Path(f"{folder}/{rank}.txt").write_text(traceback.format_exc())
        raise
    distributed.destroy_process_group()
