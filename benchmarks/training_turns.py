"""Programs that are compared go on in turn, a step each, so that a machine that is slower for a minute is slower for all.

Each is a process that says "ready" before its first step and after each step, and goes on when a line comes (`Clock`). While it
waits it is stopped with its helpers, so that nothing is prepared in the time of others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

READY = "ready for a step"


@dataclass
class Clock:
    """The time of steps, in the process that takes them.

    Attributes:
        seconds: Of each step; what it waited for its turn is not in them.
    """

    seconds: list[float] = field(default_factory=list)
    _since: float = 0.0

    def begin(self) -> None:
        """Wait for the first turn."""
        print(READY, flush=True)
        sys.stdin.readline()
        self._since = time.perf_counter()

    def step(self) -> None:
        """A step has ended: wait for the next turn."""
        self.seconds.append(time.perf_counter() - self._since)
        self.begin()


def take_turns(commands: Sequence[Sequence[str]], environment: Mapping[str, str], steps: int) -> list[str]:
    """Run programs, one step at a time, every other turn in reverse; returns the last line that each has written.

    Args:
        commands: Of each program.
        environment: Of all of them.
        steps: That each takes.

    Raises:
        RuntimeError: One of them failed; with the end of what it wrote.
    """
    with contextlib.ExitStack() as running:
        programs = [running.enter_context(_started(command, environment)) for command in commands]
        for turn in range(steps):
            for program in reversed(programs) if turn % 2 else programs:
                program.go_on()
        return [program.end() for program in programs]


@dataclass
class _Program:
    name: str
    process: subprocess.Popen[str]
    errors: IO[str]

    def go_on(self) -> None:
        """Let it take a step, and stop it after that."""
        os.killpg(self.process.pid, signal.SIGCONT)
        self._tell()
        self.wait()

    def wait(self) -> None:
        """Stop it as soon as it is ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == READY:
                os.killpg(self.process.pid, signal.SIGSTOP)
                return
        self._fail()

    def end(self) -> str:
        """Let it come to its end; returns the last line of its output."""
        os.killpg(self.process.pid, signal.SIGCONT)
        self._tell()
        assert self.process.stdout is not None
        lines = self.process.stdout.read().splitlines()
        if self.process.wait() or not lines:
            self._fail()
        return lines[-1]

    def _tell(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, which reading finds
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def _fail(self) -> None:
        code = self.process.wait()
        self.errors.seek(0)
        msg = f"{self.name} failed with {code}:\n{self.errors.read()[-3000:]}"
        raise RuntimeError(msg)


@contextlib.contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[_Program]:
    """A program that waits for its first turn; at the end it is gone with all that it has started."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(list(command), cwd=Path(__file__).parents[1], env=dict(environment), stderr=errors, **pipes)  # type: ignore[call-overload]
        program = _Program(" ".join(command)[-200:], process, errors)
        try:
            program.wait()
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
