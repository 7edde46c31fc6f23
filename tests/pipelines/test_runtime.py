"""What a plan needs beside what the nodes have, and growing pools."""

from __future__ import annotations

import time
from typing import Any

import pytest

from leaml.config import ResourcesConfig
from leaml.errors import ResourceError
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


@pytest.mark.usefixtures("ray_local")
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


def test_a_pool_cannot_grow_below_its_size() -> None:
    with pytest.raises(ValueError, match="max_engines is 1, less than engines, 2"):
        ResourcesConfig(engines=2, max_engines=1)
