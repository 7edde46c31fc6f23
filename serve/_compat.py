"""Private parts of Ray 2.60 that this package uses, in one place, each with the reason."""

from __future__ import annotations

from typing import Any


def replica_grpc_on_node_address() -> None:
    """Let the replica in this process take calls of other replicas at its node's address, which is where they look for it.

    By itself its gRPC server listens on every interface, and unpickles what it is sent. Serve starts it after the
    deployment's own `__init__`, which is where this must be called.
    """
    import ray
    from ray._common.network_utils import build_address
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray.serve._private import replica

    def add_port(server: Any, address: str) -> int:
        port = address.rpartition(":")[2]
        return int(add_port_to_grpc_server(server, build_address(ray.util.get_node_ip_address(), port)))

    replica.add_port_to_grpc_server = add_port
