"""The process group of a training: Ray Train's, over the network that connects the nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ray.train.torch import TorchConfig

from pipelines import _compat
from pipelines.local_ray import GLOO, interface

if TYPE_CHECKING:
    from ray.train.backend import Backend


class WorkerGroup(Protocol):
    """Of Ray's workers what is used here: each of them runs a function."""

    def execute(self, func: Callable[[], None], /) -> object: ...


class NodeNetwork(TorchConfig):
    """Ray Train's own, but Gloo listens where Ray says the node is. By itself it listens where the host name leads, which is
    loopback on machines whose /etc/hosts says so (Debian's installer writes that), and nobody else reaches it there."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray makes it known through an object only
    def on_start(self, worker_group: WorkerGroup, backend_config: TorchConfig) -> None:
        worker_group.execute(listen_on_node_address)
        super().on_start(worker_group, backend_config)


def listen_on_node_address() -> None:
    """Let this worker's sockets listen at the node's address: Gloo's, unless the environment names its interface, and torch's
    store."""
    import ray

    _compat.torch_store_on_its_address()
    if found := interface(ray.util.get_node_ip_address()):
        os.environ.setdefault(GLOO, found)
