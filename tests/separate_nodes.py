"""A Ray cluster whose nodes are as separate as one machine allows: own network addresses, own local disks where permitted."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from local_cluster import BIN, HEALTH, bury, free_port


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


class Bridge:
    """A network of this process's own; `isolated` is False where that is not permitted, and all is on loopback."""

    def __init__(self) -> None:
        self.id, self.names, self.last = f"{os.getpid() % 100000}", list[str](), 1
        self.prefix = f"10.231.{os.getpid() % 250}"
        self.link = f"lb{self.id}"
        self.isolated = (
            shutil.which("ip") is not None
            and shutil.which("unshare") is not None
            and os.geteuid() == 0
            and _ip("link", "add", self.link, "type", "bridge")
            and _ip("addr", "add", f"{self.prefix}.1/24", "dev", self.link)
            and _ip("link", "set", self.link, "up")
            and self.plug() != "127.0.0.1"
        )
        self.address = f"{self.prefix}.1" if self.isolated else "127.0.0.1"

    def plug(self) -> str:
        """Address of a new namespace, the last one in `names`."""
        self.last += 1
        number = self.last
        name, ends = f"ln{self.id}-{number}", (f"lv{self.id}-{number}a", f"lv{self.id}-{number}b")
        made = (
            _ip("netns", "add", name)
            and _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            and _ip("link", "set", ends[0], "master", self.link, "up")
            and _ip("link", "set", ends[1], "netns", name)
            and _ip("-n", name, "addr", "add", f"{self.prefix}.{number}/24", "dev", ends[1])
            and _ip("-n", name, "link", "set", ends[1], "up")
            and _ip("-n", name, "link", "set", "lo", "up")
        )
        self.names.append(name)
        return f"{self.prefix}.{number}" if made else "127.0.0.1"

    def remove(self) -> None:
        for name in self.names:
            _ip("netns", "del", name)
        _ip("link", "del", self.link)


class Machines:
    """A head without CPUs in this process's namespace and nodes in others, each with a disk of its own at `base`."""

    def __init__(self, bridge: Bridge, environment: Mapping[str, str], cpus: int) -> None:
        self.bridge, self.cpus = bridge, cpus
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.base = Path(tempfile.mkdtemp(prefix="ln-", dir="/tmp"))  # a short name: the paths of Ray's sockets have a limit
        # every node counts all cores as its own, so threads that wait must not spin; what vLLM finds out about its own classes,
        # in a process that takes 7 s, is no work of a node
        own = {"TMPDIR": str(self.base), "HOME": str(self.base), "OMP_WAIT_POLICY": "PASSIVE"}
        own["VLLM_CACHE_ROOT"] = environment.get("VLLM_CACHE_ROOT", f"{Path.home()}/.cache/vllm")
        self.environment = dict(environment) | own
        port = free_port()
        self.address = f"{bridge.address}:{port}"
        options = [f"--port={port}", f"--ray-client-server-port={free_port()}", "--num-cpus=0", "--include-dashboard=false"]
        options += [f"--system-config={json.dumps(HEALTH)}", f"--temp-dir={self.base}/r"]
        self.head = self._start("", bridge.address, ["--head", *options])

    def _start(self, namespace: str, ip: str, options: list[str]) -> subprocess.Popen[bytes]:
        agent = f"--dashboard-agent-listen-port={free_port()}"
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={ip}", "--object-store-memory=80000000", agent]
        command += options
        if namespace:
            inside = f"mount -t tmpfs none {self.base} && exec {shlex.join(command)}"
            command = ["ip", "netns", "exec", namespace, "unshare", "--mount", "bash", "-c", inside]
        with Path(f"{self.base}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def add(self) -> str:
        """Name of a new node, which joins within seconds."""
        ip = self.bridge.plug() if self.bridge.isolated else self.bridge.address
        where = self.bridge.names[-1] if self.bridge.isolated else ""
        name = where or f"node-{len(self.nodes)}-{time.monotonic_ns()}"
        self.nodes[name] = self._start(where, ip, [f"--address={self.address}", f"--num-cpus={self.cpus}"])
        return name

    def replace_ended(self) -> None:
        """New nodes for those that gave up, as a cluster manager makes them: Ray lets a node start for 30 s at most."""
        for name, node in list(self.nodes.items()):
            if node.poll() is not None:
                self.kill(name)
                self.add()

    def workers(self) -> dict[int, str]:
        """Processes that hold an engine or train, with their nodes."""
        roots = {node.pid: name for name, node in self.nodes.items()}
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and ("EngineActor" in title or "RayTrainWorker" in title):
                    node = next((parent.pid for parent in process.parents() if parent.pid in roots), None)
                    if node is not None:
                        found[process.pid] = roots[node]
        return found

    def kill(self, name: str) -> None:
        """All processes of a node die at once."""
        bury(self.nodes.pop(name))

    def close(self) -> None:
        for process in (*self.nodes.values(), self.head):
            bury(process)
        shutil.rmtree(self.base, ignore_errors=True)
        Path(f"{self.base}.log").unlink(missing_ok=True)


@contextlib.contextmanager
def bridge() -> Iterator[Bridge]:
    made = Bridge()
    try:
        yield made
    finally:
        made.remove()
