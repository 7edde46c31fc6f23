"""The process group of a training: Ray Train's, over the network that connects the nodes."""

from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig

VARIABLE = "GLOO_SOCKET_IFNAME"


class NodeNetwork(TorchConfig):
    """Ray Train's own, but Gloo listens where Ray says the node is. By itself it listens where the host name leads, which is
    loopback on machines whose /etc/hosts says so (Debian's installer writes that), and nobody else reaches it there."""

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray makes it known through an object only
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(listen_on_node_address)
        super().on_start(worker_group, backend_config)


def listen_on_node_address() -> None:
    """Name the interface with this node's address to Gloo, unless the environment names one."""
    import ray

    if found := interface(ray.util.get_node_ip_address()):
        os.environ.setdefault(VARIABLE, found)


def interface(address: str) -> str | None:
    """The network interface of this machine with the address; None: no such."""
    import psutil

    return next((name for name, entries in psutil.net_if_addrs().items() if any(e.address == address for e in entries)), None)
