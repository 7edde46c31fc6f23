"""How many tokens a forward and backward pass may have: measured on one example, for what the machine has left."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from leaml.machine import free_memory
from leaml.training.prepare import SMALL

SHARE = 0.7
"""Of the free memory that activations may take; the rest is for what else a step allocates."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def allocator(parameters: int | None) -> dict[str, str]:
    """Environment of a process that trains on a CPU, for glibc's allocator; read when the process starts.

    A small model's steps are short: what they free is kept for the next one (3.8 instead of 3.5 steps/s for the shipped model
    on 2 cores). A large one's buffers go back to the system, or the heap has holes: a step of two examples of SmolVLM-256M with
    LoRA then peaks at 2.55 GiB and not at 1.68.

    Args:
        parameters: Of the model; None: unknown, so as for a large one.
    """
    if parameters is not None and parameters <= SMALL:
        return {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    return {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


def token_budget(
    once: Callable[[int], None], tokens: int, trained: int, device: torch.device, share: float = 1.0
) -> int | None:
    """Tokens of a pass that fit into the free memory; None where the system does not say how much a pass takes.

    What two copies of the example take more than one is the price of its tokens; the rest of a pass costs the same whatever its
    size: gradients, autocast's copies of weights, workspaces.

    Args:
        once: A forward and backward pass of so many copies of one example.
        tokens: Of that example.
        trained: Number of weights that are trained; AdamW's two moments of each come on top.
        device: Where it is done.
        share: Of its GPU, or of the machine's free memory, that this process may take; others have the rest.
    """
    free = _free(device, share)
    once(1)  # what is allocated once and kept
    one = _peak_of(partial(once, 1), device)
    try:
        two = _peak_of(partial(once, 2), device)
    except torch.OutOfMemoryError:
        return tokens  # one example fits, and no more
    if one is None or two is None:
        return None
    each = max(1.0, (two - one) / tokens)
    fixed = max(0.0, one - tokens * each) + 12 * trained
    return max(tokens, int(SHARE * max(0.0, free - fixed) / each))


def keep_to_share(device: torch.device, share: float) -> None:
    """Let this process take no more of a GPU than its share: what others on it lack would end them."""
    if device.type == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def _free(device: torch.device, share: float) -> float:
    """Bytes that this process may still take: of a GPU up to its share of all, of a machine its share of what is free."""
    if device.type != "cuda":
        return free_memory() * share
    (free, total), reserved = torch.cuda.mem_get_info(device), torch.cuda.memory_reserved(device)
    return min(free, share * total - reserved) + reserved - torch.cuda.memory_allocated(device)


def _peak_of(once: Callable[[], None], device: torch.device) -> int | None:
    """Bytes that a call takes at its height, beside what is taken before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        once()
        return int(torch.cuda.max_memory_allocated(device)) - before
    reset = False
    with contextlib.suppress(AttributeError):  # glibc keeps what was freed; the pass would take that, and seem to take nothing
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # Linux alone has it
        _CLEAR.write_text("5")
        reset = True
    before = _status("VmRSS")
    once()
    return _status("VmHWM") - before if reset else None


def _status(name: str) -> int:
    """Bytes that the kernel says of this process under a name."""
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 if found else 0
