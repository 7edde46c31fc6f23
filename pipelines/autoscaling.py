"""Asks the autoscaler of a cluster whether it would add the nodes that a plan needs and the cluster does not have yet."""

from __future__ import annotations

import time
from typing import NamedTuple

from pipelines import _compat

PATIENCE = 25.0
"""Seconds for its answer; it looks at requests every 5."""


class State(NamedTuple):
    """The cluster as its autoscaler knows it."""

    now: int  # number of this look at the cluster
    looked_at: int  # number of the look that the autoscaler has decided on last
    infeasible: bool  # whether that had a request that no nodes it may add can fulfil


def would_add(count: int, each: dict[str, float]) -> bool:
    """Whether the cluster can grow to hold `count` processes with the resources `each`; False where nothing makes it grow.

    Ray tells nobody which nodes an autoscaler may add. But a request that no nodes can fulfil is named as such in its state, so
    one is made and taken back; the nodes that it has begun to add meanwhile are those the plan will ask for.
    """
    if _seen() is None:
        return False
    bundle = {kind: amount for kind, amount in each.items() if amount}
    try:
        _request([bundle] * count)
        until = time.monotonic() + PATIENCE
        asked = _seen()
        while asked is not None and time.monotonic() < until:
            time.sleep(0.5)
            # every look at the state of the cluster, ours too, has a number of its own: only a later one knows the request
            if (found := _seen()) is not None and found.looked_at > asked.now:
                return not found.infeasible
        return False
    finally:
        _request([])


def _request(bundles: list[dict[str, float]]) -> None:
    """Ask the autoscaler for these resources instead of what it was asked for before."""
    import ray
    from ray.autoscaler.v2.sdk import request_cluster_resources

    # ray.autoscaler.sdk.request_resources would ask the old autoscaler, if this process has seen a cluster without one
    wanted = [{"resources": bundle, "label_selector": {}} for bundle in bundles]
    request_cluster_resources(ray.get_runtime_context().gcs_address, wanted)


def _seen() -> State | None:
    """What the autoscaler says of the cluster; None without an autoscaler."""
    reply = _compat.cluster_status()
    told = reply.autoscaling_state
    if not told.last_seen_cluster_resource_state_version:
        return None
    now = reply.cluster_resource_state.cluster_resource_state_version
    return State(now, told.last_seen_cluster_resource_state_version, bool(told.infeasible_cluster_resource_constraints))
