"""A Ray of this process's own: where it listens, who may use it, and what is left of it."""

from __future__ import annotations

import fcntl
import http.server
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from leaml.errors import ResourceError
from leaml.io import owned
from pipelines import _compat, local_ray

JOIN = """
import sys, os, ray
from pipelines import local_ray
local_ray.join(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("pid", ray.get(ray.remote(num_cpus=0)(lambda: __import__("os").getppid()).remote(), timeout=60))
"""


class _Page(http.server.BaseHTTPRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["http", "silent", "closed"])
def no_ray(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of what is no Ray."""
    if request.param == "http":
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"127.0.0.1:{server.server_port}"
            server.shutdown()
        return
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if request.param == "silent":
            held.listen()
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.timeout(40)
def test_what_is_no_ray_is_not_joined(no_ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself retries without end there and ignores signals; so it must not be asked."""
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked to join it"))
    monkeypatch.setattr(local_ray, "_HEAD_ANSWERS", 2.0)
    with pytest.raises(ResourceError, match=f"no Ray answers at {no_ray} within 2 s; give the address of the head"):
        local_ray.join(no_ray)


@pytest.mark.usefixtures("ray_own")
def test_a_ray_is_known_as_one_without_its_token() -> None:
    import ray

    assert _compat.is_head(ray.get_runtime_context().gcs_address, 10)  # of this process, which has no token set any more


@pytest.mark.usefixtures("ray_own")
def test_it_has_no_processes_that_only_a_cluster_uses() -> None:
    started = [Path(part).name for child in psutil.Process().children() for part in child.cmdline() if part.endswith(".py")]
    assert "log_monitor.py" in started  # logs are shown here
    assert {"monitor.py", "dashboard.py"}.isdisjoint(started)


@pytest.mark.usefixtures("ray_own")
def test_it_is_on_loopback_and_its_user_joins_it_by_its_address(tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    token = local_ray.token_of(address)
    assert token is not None
    assert stat.S_IMODE(token.resolve().stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[union-attr]
    assert token.parent in session.parents or stat.S_IMODE(session.parents[0].stat().st_mode) == 0o700
    assert (session / owned.NAME).is_file()  # which lets a later process remove it
    assert os.environ["RAY_AUTH_MODE"] == "disabled"  # as tests/conftest.py says: what is set for Ray is set for Ray alone
    assert local_ray.LOOPBACK not in os.environ
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", JOIN, address]
    joined = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)
    assert joined.returncode == 0 and "pid" in joined.stdout, joined.stderr
    assert list(tmp_path.iterdir()) == []  # no ~/.ray/auth_token


def test_a_token_is_found_only_for_a_ray_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"leaml-{os.getuid()}"
    folder.mkdir(mode=0o700)
    (folder / "6379.token").write_text("secret")
    assert local_ray.token_of("127.0.0.1:6379") == folder / "6379.token"
    assert local_ray.token_of("[::1]:6379") == folder / "6379.token"
    for other in ("10.0.0.1:6379", "127.0.0.1:6380", "127.0.0.1", "auto", "ray://127.0.0.1:6379", "127.0.0.1:../6379"):
        assert local_ray.token_of(other) is None, other


def test_a_folder_that_others_can_enter_holds_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"leaml-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(ResourceError, match="not a folder that only this user can enter; remove it"):
        local_ray._write_token()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match="only this user"):
        local_ray._write_token()
    folder.unlink()
    folder.write_text("a file")
    with pytest.raises(ResourceError, match="only this user"):
        local_ray._write_token()


@pytest.mark.parametrize("address", ["local", ""])
def test_ray_s_word_for_a_new_cluster_is_no_address(address: str) -> None:
    with pytest.raises(ResourceError, match="leave it out to start one here"):
        local_ray.join(address)


def test_tokens_of_killed_processes_are_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = local_ray._write_token()
    local_ray._publish(first, "127.0.0.1:1111")
    killed = (
        "import os, tempfile; from pathlib import Path; from pipelines import local_ray; "
        f"tempfile.tempdir = {str(tmp_path)!r}; token = local_ray._write_token(); "
        "local_ray._publish(token, '127.0.0.1:2222'); print(token, flush=True); os._exit(1)"
    )
    dead = Path(subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, check=False).stdout.strip())
    assert dead.is_file()
    (first.parent / "99999999-folder").mkdir()
    # one that lives where this process id is unknown, as in another container, is known by its lock alone
    elsewhere = first.with_name("99999999-00000000")
    elsewhere.write_text("other")
    with elsewhere.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = local_ray._write_token()
    names = {file.name for file in first.parent.iterdir()}
    assert names == {first.name, second.name, elsewhere.name, "1111.token", "99999999-folder"}
    assert first.read_text() != second.read_text()


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "::1", "::ffff:127.0.0.1", "::1%lo")],
        *[
            (host, False)
            for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example.org", "::ffff:10.0.0.1", "127.0.0.1.")
        ],
    ],
)
def test_addresses_of_this_machine(host: str, own: bool) -> None:
    assert local_ray.is_loopback(host) is own


@pytest.mark.parametrize(
    "said",
    [
        Exception("The current node timed out during startup. This could happen because some of the raylet failed to startup"),
        RuntimeError("Failed to start GCS.  Last 0 lines of error files:"),
        RuntimeError("Failed to get node info for possible node ids: ['a'] when trying to resolve node to connect to."),
        TimeoutError("Timed out after 30 seconds while waiting for node to startup."),
    ],
)
def test_a_machine_that_is_too_busy_for_ray_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ray_fails(monkeypatch, said)
    monkeypatch.setattr(os, "getloadavg", lambda: (17.2, 9.0, 4.0))
    with pytest.raises(ResourceError, match=r"did not start in time; the load average is 17 on \d+ cores\. End other programs"):
        local_ray.start()


def test_another_fault_of_ray_is_not_taken_for_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ray_fails(monkeypatch, ValueError("no such option"))
    with pytest.raises(ValueError, match="no such option"):
        local_ray.start()


def ray_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """`ray.init` raises. The Ray of this module keeps its token: with another one it would end this process."""
    import ray

    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(local_ray._compat, "reload_authentication", lambda: None)
