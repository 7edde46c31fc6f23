"""A map step on two nodes, one of which dies, comes late or is slow: every image once. Has a cluster of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import Step
from local_cluster import nodes

from pipelines.runtime import quiet_data

ENGINE_CPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node with CPUs for two engines."""
    import ray

    with nodes(num_cpus=5) as found:
        ray.init(address=found.address, log_to_driver=False)
        faults.register()
        quiet_data(False)
        yield found
        ray.shutdown()


def engines(step: Step) -> dict[str, str]:
    """Node of each engine, by process."""
    return {mark.name.partition("-")[2]: mark.read_text() for mark in step.marks.glob("engine-*")}


def work_by_engine(step: Step) -> Counter[str]:
    """Calls of each engine, by process."""
    return Counter(call.name.partition("-")[0] for call in step.log.iterdir())


@pytest.mark.timeout(180)
def test_an_added_node_is_used_within_a_minute(tmp_path: Path, cluster: Any) -> None:
    import ray

    step = Step.make(tmp_path, 250, 1, seconds=0.3)  # 75 s of one engine
    with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread only
        running = pool.submit(step.run, engines=1, max_engines=2, engine_cpus=3)
        faults.wait(lambda: step.seen("committed") >= 3, "three shards")
        assert len(engines(step)) == 1  # two of three CPUs do not fit
        began = time.monotonic()
        node = cluster.add_node(num_cpus=3)
        faults.wait(lambda: len(work_by_engine(step)) == 2, "work of an engine on the new node")
        assert time.monotonic() - began < 60
        faults.wait(lambda: min(work_by_engine(step).values()) > 10, "ten calls of each engine")
        step.hurry()
        summary = running.result()
    assert set(engines(step).values()) == {ray.get_runtime_context().get_node_id(), node.node_id}
    step.check_finished(summary)
    cluster.remove_node(node)


@pytest.mark.timeout(180)
def test_a_slow_node_does_not_stall_the_rest(tmp_path: Path, cluster: Any) -> None:
    import ray

    shards, slowness = 60, 30
    step = Step.make(tmp_path, 2 * shards, 2, seconds=0.1)
    taken = ray.util.placement_group([{"CPU": ENGINE_CPUS}])
    assert taken.wait(30)
    node = cluster.add_node(num_cpus=3)
    summary = step.run(engines=2, engine_cpus=ENGINE_CPUS, slow_node=node.node_id, slowness=slowness)
    ray.util.remove_placement_group(taken)
    slow, fast = sorted(work_by_engine(step).values())
    assert (slow + fast, len(engines(step))) == (shards, 2)
    assert slow <= shards / 10  # it is given a shard when it has done one; an even share would be half
    step.check_finished(summary)
    cluster.remove_node(node)


@pytest.mark.timeout(180)
def test_node_killed_in_the_middle(tmp_path: Path, cluster: Any) -> None:
    import ray

    shards = 60
    step = Step.make(tmp_path, 2 * shards, 2, seconds=0.1)
    # taken from the head until both engines stand, so that one of them has to go to the other node
    taken = ray.util.placement_group([{"CPU": ENGINE_CPUS}])
    assert taken.wait(30)
    node = cluster.add_node(num_cpus=3)

    def kill_node() -> int:
        faults.wait(lambda: len(work := work_by_engine(step)) == 2 and min(work.values()) >= 3, "three calls of each engine")
        assert set(engines(step).values()) == {ray.get_runtime_context().get_node_id(), node.node_id}
        ray.util.remove_placement_group(taken)
        cluster.remove_node(node, allow_graceful=False)
        return step.seen("committed")

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_node)
        summary = step.run(engines=2, engine_cpus=ENGINE_CPUS)
        committed = killed.result()
    assert 0 < committed < shards
    assert Counter(engines(step).values())[ray.get_runtime_context().get_node_id()] == 2  # the lost engine came back here
    step.check_finished(summary)
