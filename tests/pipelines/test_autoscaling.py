"""A plan on a cluster that has no GPU yet and may add some: Ray's own autoscaler, with its provider of pretended nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from leaml.config import ResourcesConfig
from leaml.errors import ResourceError
from pipelines import autoscaling
from pipelines.runtime import check_resources

KINDS: dict[str, Any] = {
    FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
    "cpu": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    "gpu": {"resources": {"CPU": 4, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}
CONFIG: dict[str, Any] = {
    "cluster_name": "pretended",
    "max_workers": 4,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 5,
    "provider": {
        "type": "external",  # "fake_multinode" itself wants a file that Ray's wheel leaves out
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "auth": {"ssh_user": "nobody"},
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    **{f"{part}_commands": [] for part in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{part}_start_ray_commands": [] for part in ("head", "worker")},
    "available_node_types": KINDS,
}


@pytest.fixture(scope="module")
def growing() -> Iterator[str]:
    """Address of a cluster whose head has no CPUs, with an autoscaler that may add two nodes of each kind."""
    folder = Path(tempfile.mkdtemp(prefix="la-", dir="/tmp"))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, client = one.getsockname()[1], other.getsockname()[1]
    provider = CONFIG["provider"] | {"gcs_address": f"127.0.0.1:{port}"}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"provider": provider}))
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "LEAML_TEST": str(folder),
    }
    options = ["--num-cpus=0", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false", "--block"]
    options += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", f"--temp-dir={folder}/r"]
    command = [Path(sys.executable).parent / "ray", "start", "--head", f"--autoscaling-config={folder}/config.json", *options]
    log = (folder / "log").open("w")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until = time.time() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.time() < until, (folder / "log").read_text()
            assert head.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)
        while autoscaling._seen() is None:
            assert time.time() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        ray.shutdown()
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("LEAML_TEST") == str(folder):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        head.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def plan(growing: str, **changes: Any) -> ResourcesConfig:
    return ResourcesConfig(address=growing, **{"engines": 2, "engine_cpus": 2, "engine_gpus": 1} | changes)


def test_what_the_autoscaler_cannot_add_is_refused(growing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # as in a process that was connected to a cluster without an autoscaler before
    monkeypatch.setattr("ray.autoscaler.v2.utils.cached_is_autoscaler_v2", False)
    assert ray.cluster_resources().get("GPU", 0) == 0
    for changes in ({"engines": 3}, {"engine_cpus": 6}, {"engine_gpus": 2, "engines": 1}):
        began = time.time()
        with pytest.raises(ResourceError, match=r"resources\.engines needs"):
            check_resources(plan(growing, **changes))
        assert time.time() - began < autoscaling.PATIENCE - 10  # the autoscaler's word, not its silence


def test_what_it_can_add_is_taken(growing: str) -> None:
    check_resources(plan(growing))
    gpu = ray.remote(num_gpus=1, num_cpus=2)(lambda: ray.get_runtime_context().get_node_id())
    assert ray.get(gpu.remote(), timeout=60)  # the node is not only promised


def test_an_answer_of_before_the_request_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoscaler publishes what it decided on a state that it fetched just before the request was made."""
    State = autoscaling.State
    looks = [State(10, 8, False), State(11, 8, False), State(13, 10, False), State(14, 11, False), State(16, 15, True)]
    told = iter(looks)
    requests: list[list[dict[str, float]]] = []
    monkeypatch.setattr(autoscaling, "_seen", lambda: next(told))
    monkeypatch.setattr(autoscaling, "_request", requests.append)
    assert not autoscaling.would_add(2, {"CPU": 1, "GPU": 0})
    assert next(told, None) is None  # it waited for the last of them
    assert requests == [[{"CPU": 1}, {"CPU": 1}], []]


def test_a_cluster_that_cannot_grow_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscaling, "_seen", lambda: None)
    assert not autoscaling.would_add(1, {"CPU": 1})
