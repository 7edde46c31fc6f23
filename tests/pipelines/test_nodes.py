"""A map step on two nodes, one of which dies: it ends in the same call, with every image once. Has a cluster of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import Step

from pipelines.runtime import quiet_data

ENGINE_CPUS = 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node with CPUs for two engines."""
    import ray
    from ray.cluster_utils import Cluster

    # the file by which other processes of this machine find a running cluster is not this test's to change
    monkeypatch.setattr(ray._private.utils, "write_ray_address", lambda *_: None)
    monkeypatch.setattr(ray._common.utils, "reset_ray_address", lambda *_: None)
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}  # a dead node is known in 5 s, not in 15
    found = Cluster(True, head_node_args={"num_cpus": 5, "include_dashboard": False, "_system_config": health})
    ray.init(address=found.address, log_to_driver=False)
    faults.register()
    quiet_data(False)
    yield found
    ray.shutdown()
    found.shutdown()


def engines(step: Step) -> dict[str, str]:
    """Node of each engine, by process."""
    return {mark.name.partition("-")[2]: mark.read_text() for mark in step.marks.glob("engine-*")}


@pytest.mark.timeout(180)
def test_node_killed_in_the_middle(tmp_path: Path, cluster: Any) -> None:
    import ray

    units = 60
    step = Step.make(tmp_path, 2 * units, 2, seconds=0.1)
    # taken from the head until both engines stand, so that one of them has to go to the other node
    taken = ray.util.placement_group([{"CPU": ENGINE_CPUS}])
    assert taken.wait(30)
    node = cluster.add_node(num_cpus=3)

    def kill_node() -> int:
        def asked() -> Counter[str]:
            return Counter(call.name.partition("-")[0] for call in step.log.iterdir())

        faults.wait(lambda: len(asked()) == 2 and min(asked().values()) >= 3, "three calls of each engine")
        assert set(engines(step).values()) == {ray.get_runtime_context().get_node_id(), node.node_id}
        ray.util.remove_placement_group(taken)
        cluster.remove_node(node, allow_graceful=False)
        return step.seen("committed")

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_node)
        summary = step.run(engines=2, engine_cpus=ENGINE_CPUS)
        committed = killed.result()
    assert 0 < committed < units
    assert Counter(engines(step).values())[ray.get_runtime_context().get_node_id()] == 2  # the lost engine came back here
    step.check_finished(summary)
