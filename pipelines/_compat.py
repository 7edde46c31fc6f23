"""Private parts of Ray 2.60 and torch 2.13 that this package uses, in one place, each with the reason."""

from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.context import TrainRunContext as TrainRunContext  # of callbacks of Ray Train

T = TypeVar("T")


class StoreOptions(TypedDict, total=False):
    """Of torch's TCPStore."""

    timeout: timedelta
    wait_for_workers: bool
    multi_tenant: bool
    master_listen_fd: int | None
    use_libuv: bool | None


@contextlib.contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Let a Ray that this process starts meanwhile call its node 127.0.0.1; its servers then bind to loopback alone.

    Ray has a switch for it (`local_ray.LOOPBACK`), but reads it once, at its first import, and turns a `_node_ip_address` of
    127.0.0.1 into the address that other machines reach.
    """
    from ray._private import ray_constants

    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextlib.contextmanager
def head_without_services(logs: bool) -> Iterator[None]:
    """Let a Ray that this process starts meanwhile do without processes that only a cluster uses; there is no setting for it.

    They are an autoscaler, the dashboard's server, whose imports `ray.init` waits for even without a dashboard, and, unless
    `logs` are to be shown, what carries logs to the driver: on two cores 6 of 13 s at each start, and more while they run.
    """
    from ray._private.node import Node

    dropped = ["start_monitor", "start_api_server", *([] if logs else ["start_log_monitor"])]
    with contextlib.ExitStack() as stack:
        for name in dropped:
            stack.enter_context(_replaced(Node, name, lambda *_, **__: None))
        yield


def reload_authentication() -> None:
    """Let this process follow RAY_AUTH_MODE, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH as they are now; Ray reads them once."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # Cython

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def is_head(address: str, seconds: float) -> bool:
    """Whether a Ray's head (its GCS) answers at host:port within some seconds, be it that the token is not its own.

    `ray.init` never stops trying where another program listens, in C++, where no signal ends it; this is what Ray's own
    `ray health-check` asks.
    """
    import grpc
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with create_gcs_channel(address) as channel:
        try:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            request = gcs_service_pb2.CheckAliveRequest()  # type: ignore[attr-defined]  # made at run time
            head.CheckAlive(request, timeout=seconds)
        except grpc.RpcError as error:
            refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            # gRPC makes the same codes of a 401 and 403 of a server that speaks HTTP/2, as HAProxy in front of ours does
            return isinstance(error, grpc.Call) and error.code() in refused and "http2 header" not in (error.details() or "")
    return True


def torch_store_on_its_address() -> None:
    """Let the key-value store through which torch's processes find each other listen where they look for it.

    By itself the store's server listens on every interface whatever host it is given, and answers everybody. `env://` and
    `tcp://` have no argument for another socket.
    """
    from torch.distributed import TCPStore

    rendezvous = importlib.import_module("torch.distributed.rendezvous")  # the name of a function, too

    class AddressStore(TCPStore):
        def __init__(
            self,
            host_name: str,
            port: int,
            world_size: int | None = None,
            is_master: bool = False,
            **options: Unpack[StoreOptions],
        ) -> None:
            if is_master:
                family, _, _, _, address = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)[0]
                with contextlib.suppress(OSError):  # not an address of this machine: then as torch does
                    options["master_listen_fd"] = socket.create_server(address[:2], family=family, backlog=1024).detach()
            super().__init__(host_name, port, world_size, is_master, **options)

    rendezvous.TCPStore = AddressStore  # type: ignore[attr-defined]


def plain(trainer: T, private: bool) -> T:
    """A Ray Train trainer without parts that every one has; returns `trainer`.

    A handler of Ctrl-C, which stays afterwards, swallows the first two and ends with exit code 0 or 1. An actor that hands out
    Ray datasets, of which there are none here: 3 s of processor time at each start of the workers. And where Ray is `private`
    the actor, as dear, that gives placement groups back when a controller dies: it asks a dashboard, which there is none of,
    and all of such a Ray ends with the driver.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    dropped = (DatasetsCallback, PlacementGroupCleanerCallback) if private else (DatasetsCallback,)
    inner: Any = trainer
    default = inner._create_default_callbacks
    inner._register_sigint_handler = lambda _controller: None
    inner._create_default_callbacks = lambda: [each for each in default() if not isinstance(each, dropped)]
    return trainer


def cluster_status() -> Any:
    """What the autoscaler has told the cluster that this process is in, as Ray's message `GetClusterStatusReply`."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status())
    return reply
