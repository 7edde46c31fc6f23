"""One change of a server at a time: what two commands read and deploy at once, the later one would undo."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from pipelines.progress import say

_NAME, _NAMESPACE = "change-of-the-server", "leaml"


class _Holder:
    """Its name is held for as long as the process that made it lives, however that ends."""


@contextlib.contextmanager
def alone(address: str) -> Iterator[None]:
    """Wait until no other command changes the server on the Ray that this process is connected to; then others wait.

    Args:
        address: Of that Ray, for the message.
    """
    import ray
    from ray.actor import ActorHandle

    wanted = ray.remote(_Holder).options(name=_NAME, namespace=_NAMESPACE, num_cpus=0)
    told = False
    while True:
        try:
            holder = wanted.remote()
            break
        except ValueError:  # the name is taken
            if not told:
                say(f"another command changes the server at {address}; waiting for it to end")
            told = True
            time.sleep(0.5)
    try:
        yield
    finally:
        assert isinstance(holder, ActorHandle)
        ray.kill(holder)
