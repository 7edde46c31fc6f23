"""Asks the autoscaler of a cluster whether it would add the nodes that a plan needs and the cluster does not have yet."""

from __future__ import annotations

import time

PATIENCE = 25.0
"""Seconds for its answer; it looks at requests every 5."""


def would_add(count: int, each: dict[str, float]) -> bool:
    """Whether the cluster can grow to hold `count` processes with the resources `each`; False where nothing makes it grow.

    Ray tells nobody which nodes an autoscaler may add. But a request that no nodes can fulfil is named as such in its state, so
    one is made and taken back; the nodes that it has begun to add meanwhile are those the plan will ask for.
    """
    from ray.autoscaler.sdk import request_resources

    before = _seen()
    if before is None:
        return False
    bundle = {kind: amount for kind, amount in each.items() if amount}
    try:
        request_resources(bundles=[bundle] * count)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.5)
            # the next state it looks at may be of before the request
            if (found := _seen()) is not None and found[0] > before[0] + 1:
                return not found[1]
        return False
    finally:
        request_resources(bundles=[])


def _seen() -> tuple[int, bool] | None:
    """Which state of the cluster the autoscaler has looked at last, and whether that has a request it cannot fulfil; None
    without an autoscaler."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status())
    state = reply.autoscaling_state
    if not state.last_seen_cluster_resource_state_version:
        return None
    return state.last_seen_cluster_resource_state_version, bool(state.infeasible_cluster_resource_constraints)
