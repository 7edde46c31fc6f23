"""What the processes of a command show to others: listening sockets and environments."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MARK = "LEAML_TEST_MARK"
ROOT = Path(__file__).parents[1]


@dataclass
class Seen:
    """What was seen of a family of processes.

    Attributes:
        sockets: Process name, address and port of each listening socket.
        environments: Environment of each process as the kernel shows it, by process id and name.
    """

    sockets: set[tuple[str, str, int]] = field(default_factory=set)
    environments: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def beyond_loopback(self) -> set[tuple[str, str, int]]:
        """Sockets that another machine could reach."""
        return {entry for entry in self.sockets if not _is_loopback(entry[1])}

    def is_an_adapt_on_loopback(self, secret: str, home: Path) -> None:
        """Assert that Ray, an engine and a training were seen, none open or with the secret, and nothing in the home."""
        names = {name for name, _, _ in self.sockets}
        assert {"raylet", "gcs_server"} <= names
        assert any("EngineActor" in name or "EngineCore" in name for name in names)
        assert any("RayTrainWorker" in name for name in names)  # its process group and torch's store
        assert self.beyond_loopback() == set()
        assert self.with_secret(secret) == []
        assert not (home / ".ray").exists()

    def with_secret(self, secret: str) -> list[tuple[int, str]]:
        """Processes whose environment holds a text."""
        return [who for who, text in self.environments.items() if secret.encode() in text]

    def look(self, mark: str) -> None:
        """Add what the processes with the mark in their environment show now."""
        marked: dict[int, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                if f"{MARK}={mark}".encode() in environment:
                    marked[process.pid] = process.name()
                    self.environments[process.pid, process.name()] = environment
        for found in psutil.net_connections("inet"):
            if found.status == psutil.CONN_LISTEN and found.pid in marked:
                self.sockets.add((marked[found.pid], found.laddr.ip, found.laddr.port))


def own_shell(home: Path, **more: str) -> dict[str, str]:
    """Environment of a shell: nothing of these tests' Ray, a home in which nothing is to appear, temporary files in `home/t`.

    Caches are this user's: what vLLM and matplotlib write there at their first start takes seconds, and is no door.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LEAML_"))}
    caches = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    (home / "t").mkdir(exist_ok=True)
    own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(home / "t"), "XDG_CACHE_HOME": caches}
    return kept | own | {"HF_HUB_OFFLINE": "1"} | more


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@contextlib.contextmanager
def watched(environment: dict[str, Any], seconds: float = 1.0) -> Iterator[Seen]:
    """Mark an environment, and look at the processes that have it until the end."""
    mark, seen, stop = uuid.uuid4().hex, Seen(), threading.Event()
    environment[MARK] = mark

    def go_on() -> None:
        while not stop.wait(seconds):
            seen.look(mark)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
