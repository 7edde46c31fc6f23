"""vLLM's engine core in a process of its own, which lives and dies with the process that asks it.

vLLM itself does neither: a core can outlive its parent and keep its memory, and a parent can hang on a dead core
(`SyncMPClient.get_output`, vLLM 0.32).
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable

DIES = "LEAML_ENGINE_DIES_WITH_PARENT"


def die_with_parent() -> None:
    """Kill this process when the one that started it is gone; a `vllm.general_plugins` entry point, so each core calls it.

    Does nothing in processes without `LEAML_ENGINE_DIES_WITH_PARENT=1` and in those that multiprocessing did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(DIES) != "1":
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def die_with_children() -> Callable[[], None]:
    """End this process, with exit code 1, when a process that multiprocessing started for it ends before it does.

    Returns:
        What to call before these processes are ended on purpose.
    """
    children = [child.sentinel for child in multiprocessing.active_children()]
    over = threading.Event()
    atexit.register(over.set)  # runs before vLLM's own, which ends the core

    def watch() -> None:
        multiprocessing.connection.wait(children)
        if not over.is_set():
            os._exit(1)

    threading.Thread(target=watch, name="core-watch", daemon=True).start()
    return over.set
