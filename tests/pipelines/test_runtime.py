"""What a plan needs beside what the nodes have, and growing pools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from leaml.config import ResourcesConfig
from leaml.errors import ResourceError
from pipelines import runtime
from pipelines.runtime import check_resources, missing

GPU_NODE = {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("count", "each", "nodes", "message"),
    [
        (2, {"CPU": 2, "GPU": 0}, [{"CPU": 4.0}], "resources.engines needs 5 CPU, the cluster has 4"),
        (1, {"CPU": 1, "GPU": 1}, [{"CPU": 8.0}], "resources.engines needs 1 GPU, the cluster has 0"),
        (1, {"CPU": 1, "GPU": 0}, [], "resources.engines needs 2 CPU, the cluster has 0"),
        (
            3,
            {"CPU": 6, "GPU": 0},
            [{"CPU": 16.0}, {"CPU": 4.0}, {"CPU": 4.0}],
            "resources.engines needs 3 x 6 CPU, each on one node; 3 nodes hold 2 of them",
        ),
        (
            3,
            {"CPU": 1, "GPU": 3},
            [GPU_NODE, GPU_NODE, {"CPU": 8.0, "GPU": 1.0}],
            "resources.engines needs 3 x 1 CPU and 3 GPU, each on one node; 3 nodes hold 2 of them",
        ),
    ],
)
def test_what_is_missing_is_named(count: int, each: dict[str, float], nodes: list[dict[str, float]], message: str) -> None:
    assert missing("resources.engines", count, each, nodes) == message


@pytest.mark.parametrize(
    ("count", "each", "nodes"),
    [
        (3, {"CPU": 1, "GPU": 0}, [{"CPU": 4.0}]),
        (8, {"CPU": 1, "GPU": 0.5}, [GPU_NODE]),
        (10, {"CPU": 1, "GPU": 0.3}, [GPU_NODE]),
        (4, {"CPU": 6, "GPU": 2}, [GPU_NODE, GPU_NODE]),
        (0, {"CPU": 1, "GPU": 0}, [{"CPU": 1.0}]),
    ],
)
def test_plans_that_fit(count: int, each: dict[str, float], nodes: list[dict[str, float]]) -> None:
    assert missing("resources.engines", count, each, nodes) is None


@pytest.mark.usefixtures("ray_own")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engines": 4}, r"resources.engines needs 5 CPU, the cluster has 4; lower resources.engines or what each"),
        ({"engine_gpus": 1}, r"resources.engines needs 1 GPU, the cluster has 0"),
        ({"train_workers": 4, "train_cpus": 2}, r"resources.train_workers needs 9 CPU, the cluster has 4"),
        ({"engines": 2, "parallel_baselines": True}, r"needs 5 CPU, the cluster has 4; .*parallel_baselines off"),
    ],
)
def test_a_plan_that_ray_would_wait_for_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    began = time.time()
    with pytest.raises(ResourceError, match=message):
        check_resources(ResourcesConfig(**settings))
    assert time.time() - began < 10
    check_resources(ResourcesConfig(engines=3))


CACHED = """
import os, sys, ray
from leaml.config import ResourcesConfig
from pipelines.runtime import start_ray

start_ray(ResourcesConfig(address=sys.argv[1], model_cache="/models"))
print(os.environ["LEAML_MODEL_CACHE"], os.environ["HF_HUB_CACHE"])
print(*ray.get(ray.remote(lambda: [os.environ["LEAML_MODEL_CACHE"], os.environ["HF_HUB_CACHE"]]).remote(), timeout=60))
"""


@pytest.mark.usefixtures("ray_own")
def test_processes_of_a_cluster_keep_models_where_the_configuration_says() -> None:
    import ray

    command = [sys.executable, "-c", CACHED, ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["/models /models/hub"] * 2, done.stderr


def test_a_folder_of_models_is_the_same_on_every_node() -> None:
    with pytest.raises(ValueError, match="model_cache"):
        ResourcesConfig(model_cache="models")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_gpus": 1.5}, r"engine_gpus is 1\.5, but a process has a part of one GPU \(0\.5\) or whole ones"),
        ({"teacher_gpus": 2.5}, r"teacher_gpus is 2\.5"),
        (
            {"train_gpus": 0.5, "train_workers": 2},
            r"may not share a GPU .*; set train_workers to 1, or train_gpus to 1 or more",
        ),
    ],
)
def test_gpus_that_no_process_can_have_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResourcesConfig(**settings)


def test_trials_share_gpus() -> None:
    half = ResourcesConfig(engine_gpus=0.5, train_gpus=0.5, concurrent_runs=4)
    check_resources(half, [{"CPU": 9, "GPU": 2}])
    with pytest.raises(ResourceError, match=r"resources.engines needs 2 GPU, the cluster has 1; .*fewer trials"):
        check_resources(half, [{"CPU": 9, "GPU": 1}])


def test_a_pool_cannot_grow_below_its_size() -> None:
    with pytest.raises(ValueError, match="max_engines is 1, less than engines, 2"):
        ResourcesConfig(engines=2, max_engines=1)


AFTER_THE_END = """
from unittest import mock
from leaml.config import ResourcesConfig
from pipelines import runtime

runtime.quiet_data = runtime.check_resources = runtime.local_ray.start = mock.Mock()
runtime.start_ray(ResourcesConfig())  # all but the start itself: as it is once that Ray has ended
import ray

with mock.patch("ray.init") as started:
    try:
        ray.put(1)
    except Exception as error:
        print("refused:", type(error).__name__)
    print("started:", started.called)
"""


def test_a_call_after_the_end_of_ray_starts_none(capfd: pytest.CaptureFixture[str]) -> None:
    """By itself Ray would start one there, which listens on every interface without a token."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", AFTER_THE_END], check=True, env=bare, timeout=120)
    out = capfd.readouterr().out
    assert "refused: " in out
    assert "started: False" in out


@pytest.mark.parametrize("handler", [lambda *_: None, signal.SIG_DFL])
def test_a_command_keeps_its_handler_of_sigterm_when_ray_starts(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own ends the process with 1 and without a word; where there is none it stays, since it ends Ray's processes."""
    rays = lambda *_: None  # noqa: E731
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test may have started one
    monkeypatch.setattr(runtime.local_ray, "start", lambda **_: signal.signal(signal.SIGTERM, rays))
    monkeypatch.setattr(runtime, "quiet_data", lambda _: None)
    monkeypatch.setattr(runtime, "check_resources", lambda _: None)
    for name in runtime.QUIET | runtime.PRIVATE:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = signal.signal(signal.SIGTERM, handler)
    try:
        runtime.start_ray(ResourcesConfig())
        assert signal.getsignal(signal.SIGTERM) is (handler if callable(handler) else rays)
    finally:
        signal.signal(signal.SIGTERM, before)
