"""vLLM's engine core in a process of its own, which lives and dies with the process that asks it.

vLLM itself does neither: a core can outlive its parent and keep its memory, and a parent can hang on a dead core
(`SyncMPClient.get_output`, vLLM 0.32).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

DIES = "LEAML_ENGINE_DIES_WITH_PARENT"
LAST_WORDS = "LEAML_ENGINE_LAST_WORDS"
"""Environment variable with the file in which a core writes why it dies: vLLM tells its parent no more than that it is dead."""
GRACE = 5.0
"""Seconds that a parent has to say that its core is dead, and why, before its process ends."""
_CORE = "vllm.v1.engine.core"
"""The logger that tells of a core's death, with its exception."""


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
    if file := os.environ.get(LAST_WORDS):
        logging.getLogger(_CORE).addHandler(_LastWords(file))


class _LastWords(logging.Handler):
    """Writes the exception of a record into a file."""

    def __init__(self, file: str) -> None:
        super().__init__(logging.ERROR)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and (error := record.exc_info[1]):
            with contextlib.suppress(OSError):
                Path(self.file).write_text(f"{type(error).__name__}: {error}")


def listen() -> Callable[[], str]:
    """Let the next core of this process write why it dies.

    Returns:
        What gives its last words; "" when it had none.
    """
    handle, file = tempfile.mkstemp(prefix="leaml-engine-")
    os.close(handle)
    os.environ[LAST_WORDS] = file
    atexit.register(Path(file).unlink, missing_ok=True)

    def last_words() -> str:
        with contextlib.suppress(OSError):
            return Path(file).read_text()
        return ""

    return last_words


def die_with_children() -> Callable[[], None]:
    """End this process, with exit code 1, soon after a process that multiprocessing started for it ends before it does.

    Returns:
        What to call before these processes are ended on purpose.
    """
    children = [child.sentinel for child in multiprocessing.active_children()]
    over = threading.Event()
    atexit.register(over.set)  # runs before vLLM's own, which ends the core

    def watch() -> None:
        multiprocessing.connection.wait(children)
        if not over.wait(GRACE):
            os._exit(1)

    threading.Thread(target=watch, name="core-watch", daemon=True).start()
    return over.set
