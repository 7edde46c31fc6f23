"""A Ray cluster in processes of its own, started as people start one: `ray start --head`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

BIN = Path(sys.executable).parent
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}
"""Ray's settings for a dead node to be known in 5 s, not in 15."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def head(environment: Mapping[str, str]) -> Iterator[str]:
    """Address of the dashboard of a new cluster with four CPUs; it may need some seconds until it answers."""
    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")}
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=4", "--object-store-memory=100000000"]
    ray = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", "--include-dashboard=true", *options],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{ports['dashboard-port']}"
    finally:
        bury(ray)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and everything it started, parents first."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def bury(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything it started."""
    for each in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(30)


@contextlib.contextmanager
def nodes(**head_node: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`, where a dead node is known in 5 s, not in 15; nothing is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    # the file by which other processes of this machine find a running cluster is not the tests' to change
    with (
        mock.patch.object(ray._private.utils, "write_ray_address", lambda *_: None),
        mock.patch.object(ray._common.utils, "reset_ray_address", lambda *_: None),
    ):
        cluster = Cluster(True, head_node_args={"include_dashboard": False, "_system_config": HEALTH, **head_node})
        try:
            yield cluster
        finally:
            cluster.shutdown()
