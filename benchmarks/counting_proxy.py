"""A TCP proxy in front of an HTTP server that counts requests, and the bytes that come back."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

_REQUEST = b" HTTP/1.1\r\n"
"""End of the first line of a request."""


class CountingProxy:
    """Forwards connections to `endpoint`; `received` are the bytes of its replies so far, headers included, `requests` those
    that were sent."""

    def __init__(self, endpoint: str) -> None:
        found = urlsplit(endpoint)
        self._target = (str(found.hostname), int(found.port or 80))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.received = self.requests = 0
        self._counting = threading.Lock()

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        end = b""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                with self._counting:
                    if is_reply:
                        self.received += len(data)
                    else:
                        self.requests += (end + data).count(_REQUEST)
                        end = data[1 - len(_REQUEST) :]
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
