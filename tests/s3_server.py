"""A real S3 server (SeaweedFS) in a process of its own, for tests in which objects come from many machines at once."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from local_cluster import BIN, bury, free_port

KEY, SECRET = "key", "secret"


@contextlib.contextmanager
def seaweed(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Endpoint of an empty server that keeps its objects in `folder`."""
    rights = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    listening = [
        option for name, port in ports.items() for option in (f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}")
    ]
    options = [f"-dir={folder}/data", f"-ip={address}", f"-ip.bind={address}", "-s3", f"-s3.config={folder}/s3.json"]
    # catalogs that nobody asks listen on ports of their own, which a second server could not have; and nothing is reported home
    without = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    options += ["-master.volumeSizeLimitMB=64", "-volume.max=20", *without, *listening]
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen([str(BIN / "weed"), "server", *options], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while socket.socket().connect_ex((address, ports["s3"])):
            assert time.monotonic() < end, (folder / "weed.log").read_text()
            time.sleep(0.2)
        yield f"http://{address}:{ports['s3']}"
    finally:
        bury(server)
