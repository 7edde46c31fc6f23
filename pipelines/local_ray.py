"""A Ray of this process's own: it listens on loopback alone, and only those who hold its token may use it.

Anyone who reaches a Ray without a token can run any code in it. Ray's own default is to listen on every interface, and where no
token is set to answer everybody.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import ipaddress
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict, Unpack

import psutil

from leaml.errors import ResourceError
from leaml.io import owned
from pipelines import _compat, ray_watch

SERVING_KEYS = "LEAML_API_KEYS"
"""API keys of the endpoint; nothing that Ray starts needs them, so nothing that Ray starts may have them."""

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for a cluster of more than this machine, on every platform; "0": the node is called 127.0.0.1."""

GLOO = "GLOO_SOCKET_IFNAME"
"""Interface that Gloo listens on."""

_NOT_IN_TIME = re.compile(r"timed out during startup|Failed to (?:start|connect to) GCS|Failed to get node info|No node info")
"""What Ray says when a process of its own does not answer within 30 s of its start."""

_HEAD_ANSWERS = 10.0
"""Seconds for a head to say that it is one; a closed port and a server of HTTP are told from it at once."""

_LONGEST_SESSION_FOLDER = 40
"""Characters; the paths of sockets may have 107, and Ray puts up to 66 behind the folder."""

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class RayOptions(TypedDict, total=False):
    """Of `ray.init`, those that are used here."""

    num_cpus: int
    log_to_driver: bool
    logging_level: int
    runtime_env: dict[str, dict[str, str]]


def start(**options: Unpack[RayOptions]) -> str:
    """Start Ray in this process with `ray.init(**options)`, without a dashboard. Returns its address, 127.0.0.1:port.

    The token is in a file that only this user can read, from where `join` takes it. Ray's session, whose sockets and logs Ray
    opens to everybody, is in the same folder. Those of processes that have ended are removed there, but the last one, for its
    logs.

    Raises:
        ResourceError: the machine is too busy, the folder of tokens is not this user's alone, or Ray is not on loopback.
    """
    import ray

    remove_serving_keys()
    token = _write_token()
    folder = _session_folder(token.parent)
    owned.sweep(folder, "session_*", keep=1)
    loopback = interface("127.0.0.1")
    sockets = {LOOPBACK: "0", "VLLM_HOST_IP": "127.0.0.1", GLOO: loopback, "NCCL_SOCKET_IFNAME": loopback}
    authentication = {MODE: "token", TOKEN: None, TOKEN_PATH: str(token)}
    lean = _compat.head_without_services(logs=options.get("log_to_driver", True))
    with _environment(sockets | authentication), _compat.ray_on_loopback(), lean:
        _compat.reload_authentication()
        try:
            # no address would join a cluster that happens to run here
            ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **options)
        except Exception as error:
            if not (isinstance(error, TimeoutError) or _NOT_IN_TIME.search(str(error))):
                raise
            msg = f"Ray did not start in time; {busy()}"
            raise ResourceError(msg) from None
    address = str(ray.get_runtime_context().gcs_address)
    if not is_loopback(address.rpartition(":")[0]):
        ray.shutdown()
        msg = f"Ray listens at {address}, not on loopback, so it was stopped; use the version that LEAML is locked to"
        raise ResourceError(msg)
    ray_watch.watch(TOKEN_PATH, str(token))
    _publish(token, address)
    session = folder / ray.get_runtime_context().get_session_name()
    if session.is_dir():
        owned.own(session)
    return address


def busy() -> str:
    """How busy this machine is and what to do about it, to follow what did not start in time."""
    load = f"the load average is {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    return f"{load}. End other programs or wait, then run the same command again"


def join(address: str, **options: Unpack[RayOptions]) -> None:
    """Connect this process to the Ray at `address` with `ray.init(address, **options)`.

    The token is the environment's (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH) or, for a Ray that `start` started on this machine
    for this user, the one that it left. Nothing is written to the user's home.

    Raises:
        ResourceError: the address is Ray's word for a new cluster, or no Ray answers there.
    """
    if address in ("", "local"):
        msg = f"the address {address!r} names no cluster that runs; leave it out to start one here"
        raise ResourceError(msg)
    import ray

    remove_serving_keys()
    changes: dict[str, str | None] = {}
    with contextlib.ExitStack() as stack:
        if is_loopback(address.rpartition(":")[0].strip("[]")):  # else Ray looks for it where other machines would
            changes[LOOPBACK] = "0"
            stack.enter_context(_compat.ray_on_loopback())
        given = os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)
        if not given and (token := token_of(address)) is not None:
            changes |= {MODE: "token", TOKEN_PATH: str(token)}
        stack.enter_context(_environment(changes))
        _compat.reload_authentication()
        _refuse_other_programs(address)
        ray.init(address=address, **options)


def _refuse_other_programs(address: str) -> None:
    """Raise ResourceError where what listens at host:port, if anything does, is no Ray; Ray's words, as `auto`, are its own."""
    if re.fullmatch(r"[^:/]+:[0-9]+|\[[^]/]+\]:[0-9]+", address) and not _compat.is_head(address, _HEAD_ANSWERS):
        msg = (
            f"no Ray answers at {address} within {_HEAD_ANSWERS:g} s; give the address of the head of a Ray that runs, "
            "not that of a server, of a dashboard or of another node"
        )
        raise ResourceError(msg)


def token_of(address: str) -> Path | None:
    """File with the token of the Ray that this user runs at a loopback address; None: there is no such."""
    host, _, port = address.rpartition(":")
    file = _folder() / f"{port}.token"
    return file if is_loopback(host.strip("[]")) and port.isdigit() and file.is_file() else None


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def interface(address: str) -> str | None:
    """The network interface of this machine with the address; None: no such."""
    return next((name for name, entries in psutil.net_if_addrs().items() if any(e.address == address for e in entries)), None)


def remove_serving_keys() -> str | None:
    """Take the raw API keys out of this process's environment, where children and /proc would show them.

    Returns:
        Them; None: the variable is not set.
    """
    keys = os.environ.get(SERVING_KEYS)
    if keys:
        _overwrite(SERVING_KEYS)
    os.environ.pop(SERVING_KEYS, None)
    return keys


def _overwrite(name: str) -> None:
    """Overwrite a variable where /proc/PID/environ shows it; unsetting alone leaves that memory as it is."""
    import ctypes

    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    where = getenv(name.encode())
    if where:
        ctypes.memset(where, 0, len(ctypes.string_at(where)))


@contextlib.contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Variables (None: not set) for what is started meanwhile; this process has read them once and needs them no longer."""
    before = {name: os.environ.get(name) for name in changes}

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    put(changes)
    try:
        yield
    finally:
        put(before)


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"leaml-{os.getuid()}"


def _write_token() -> Path:
    """A new token in a file of this process. Raises ResourceError if others could read or plant it."""
    folder = _folder()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        msg = f"{folder} is to hold tokens, but is not a folder that only this user can enter; remove it, or set TMPDIR"
        raise ResourceError(msg)
    _sweep(folder)
    file = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)  # held until this process ends
    os.write(handle, secrets.token_hex(32).encode())
    atexit.register(file.unlink, missing_ok=True)
    return file


def _session_folder(folder: Path) -> Path:
    """Where Ray puts its session: below `folder`, or where that is too deep for the paths of sockets, in a folder like it."""
    found = folder / "ray"
    if len(str(found)) > _LONGEST_SESSION_FOLDER:
        found = Path(tempfile.mkdtemp(prefix="lr-", dir="/tmp"))
        atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found


def _publish(token: Path, address: str) -> None:
    """Let `join` find the token by the address."""
    named = token.with_name(f"{address.rpartition(':')[2]}.token")
    named.unlink(missing_ok=True)  # of a process that was killed
    named.symlink_to(token.name)
    atexit.register(_remove_link, named, token.name)


def _remove_link(named: Path, target: str) -> None:
    if named.is_symlink() and str(named.readlink()) == target:
        named.unlink()


def _sweep(folder: Path) -> None:
    """Remove tokens of processes that ended without doing so: those that nobody has locked.

    Process ids would not tell: containers and machines that share the folder have their own.
    """
    found = list(folder.iterdir())
    for file in found:
        if file.is_file() and not file.is_symlink():
            with contextlib.suppress(OSError), file.open() as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
    for link in found:
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
