"""What this process may use of its machine: the machine's or, if smaller, its container's."""

from __future__ import annotations

import os
from pathlib import Path

SHARDED_ABOVE = 0.7
"""Share of a training worker's memory that weights, gradients and moments may take before several workers share them."""
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> float:
    """CPUs this process may use: its affinity or, if smaller, its container's quota."""
    count: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words("cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        count = min(count, int(quota[0]) / int(quota[1]))
    return count


def total_memory() -> int:
    """Bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _words("memory.max")
    return min(total, int(limit[0])) if limit and limit[0].isdigit() else total


def free_memory() -> int:
    """Bytes that are not in use, those that hold copies of files among them."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = _words("memory.max"), _words("memory.current")
    if limit and used and limit[0].isdigit():
        cached = dict(zip(*[iter(_words("memory.stat"))] * 2, strict=False)).get("inactive_file", "0")
        free = min(free, int(limit[0]) - int(used[0]) + int(cached))
    return max(0, free)


def _words(name: str) -> list[str]:
    """Of a control group file (version 2), none where there is no limit to read."""
    try:
        return (_CONTROL_GROUP / name).read_text().split()
    except OSError:
        return []
