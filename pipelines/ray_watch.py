"""Ends a command whose own Ray has ended. By itself it would wait: without end for a raylet that was killed, for a minute where
the head was, after which Ray ends the process without a word. Processes of both kinds would stay, with ports and memory."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import psutil

PARTS = {"raylet", "gcs_server"}
"""Processes without which a Ray does nothing more; the command is their parent."""

_LOOKS_EVERY = 1.0
_GRACE = 5.0
"""Seconds for the command to notice by itself, and to say more than is known here."""

_latest = threading.Event()
_code = 1


def told_to_stop(code: int) -> None:
    """Say that the command has been told to stop, and the exit code that it would end with: its Ray's end is no fault then.

    Who stops a service, or a group of processes, sends the signal to all of them.
    """
    global _code
    _code = code


def watch(variable: str, value: str) -> None:
    """Watch the Ray that this process has just started, until `ray.shutdown`; if it ends before, end this process too.

    Args:
        variable: Of the environment of every process of that Ray, and of no other.
        value: Of that variable.
    """
    global _latest
    _latest.set()  # of a Ray that this process had before
    _latest = threading.Event()
    parts = {child.name(): child for child in psutil.Process().children() if child.name() in PARTS}
    threading.Thread(target=_look, args=(parts, variable, value, _latest), daemon=True, name="watch of Ray").start()


def _look(parts: dict[str, psutil.Process], variable: str, value: str, replaced: threading.Event) -> None:
    import ray

    while not replaced.wait(_LOOKS_EVERY):
        gone = [name for name, process in parts.items() if _has_ended(process)]
        if not ray.is_initialized():  # shut down; said before its processes are ended
            return
        if gone and not replaced.wait(_GRACE) and ray.is_initialized():
            _end(gone, variable, value)


def _has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def _end(gone: list[str], variable: str, value: str) -> None:
    """End what is left of Ray, and this process; what atexit would remove the next start does."""
    what = f"Ray has ended ({', '.join(gone)})"
    if _code == 1:
        print(f"error: {what}; was it killed, or out of memory? The same command goes on", file=sys.stderr)
    else:
        print(f"stopped: {what} at the same time, so what was under way was cut off; the same command goes on", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    started = set(psutil.Process().children(recursive=True))
    started |= {each for each in psutil.process_iter(["environ"]) if (each.info["environ"] or {}).get(variable) == value}
    for process in started - {psutil.Process()}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(_code)
