"""Doors of a running adapt and serve, tried from outside: sockets, the token of Ray, API keys, `--add` from elsewhere.

Those of a whole adapt, to its report, are looked at in tests/integration/test_adapt.py too.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from command_line import leaml as leaml_here
from local_cluster import bury, free_port
from open_sockets import Seen, own_shell, watched
from peft import LoraConfig, get_peft_model
from scripted_service import ScriptedService, data_url

from leaml.config import ModelConfig
from leaml.vlm import load
from pipelines import local_ray
from serve.app import create_app
from serve.settings import load_settings

ROOT = Path(__file__).parents[2]
KEY = "sk-open-doors-0123456789"
HOST = "127.0.0.2"
"""Stands for an address that others reach: it is not the one that everything else is to be bound to."""

pytestmark = pytest.mark.timeout(700)

INTRUDER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("uid", ray.get(ray.remote(num_cpus=0)(lambda: __import__("os").getuid()).remote(), timeout=30))
"""


WITHOUT_HAPROXY = """
import sys, time
from serve import launch
from serve.settings import load_settings
launch.deploy = lambda made: None  # Ray, Serve and its proxy are what listens; an engine would take a minute
http = {"host": sys.argv[1], "port": int(sys.argv[2]), "haproxy": False}
launch.start(load_settings({"model": "leaml-tiny", "http": http}))
time.sleep(3)  # for a look or two
"""


def leaml(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(
        command, cwd=home, env=own_shell(home, **more), capture_output=True, text=True, timeout=400, check=False
    )


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as name:  # short: the paths of Ray's sockets have a limit
        yield Path(name)


def test_nothing_of_a_running_adapt_listens_beyond_this_machine(home: Path) -> None:
    tree = {
        "name": "doors",
        "storage": str(home / "runs"),
        "data": {
            "labeled": {"format": "easy_vqa", "split": "train", "limit": 24},
            "evaluation": {"format": "easy_vqa", "split": "test", "limit": 4},
            "budget": {"count": 8},
        },
        "warmup": {"steps": 4, "batch_size": 4},
    }
    config = home / "doors.yaml"
    config.write_text(json.dumps(tree))
    given = own_shell(home, LEAML_API_KEYS=KEY)
    command = [sys.executable, "-m", "pipelines.cli", "warmup", str(config)]
    with watched(given) as seen:
        done = subprocess.run(command, cwd=home, env=given, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen.is_an_adapt_on_loopback(KEY, home)


@dataclass
class Server:
    """A `leaml serve` of another process."""

    home: Path
    base: str
    ray: str
    seen: Seen
    process: subprocess.Popen[bytes]

    def status(self, path: str, key: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.base + path, headers=headers, timeout=30).status_code

    def models(self) -> dict[str, str]:
        reply = httpx.get(f"{self.base}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
        return {model["id"]: model["state"] for model in reply.json()["data"]}


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    port = free_port()
    given = own_shell(home, LEAML_API_KEYS=KEY)
    arguments = ["leaml-tiny", "--host", HOST, "--port", str(port), "engine.max_adapters=2"]
    log = home / "serve.log"
    with watched(given) as seen, log.open("w") as stream:
        command = [sys.executable, "-m", "pipelines.cli", "serve", *arguments]
        process = subprocess.Popen(command, cwd=home, env=given, stdout=stream, stderr=stream)
        try:
            end = time.monotonic() + 500
            while not (found := re.search(r"Ray: (\S+?:\d+)", log.read_text())):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            yield Server(home, f"http://{HOST}:{port}", found[1], seen, process)
        finally:
            bury(process)


def lora(folder: Path) -> str:
    model = get_peft_model(
        load.load(ModelConfig(name="leaml-tiny")).model, LoraConfig(r=4, target_modules=r".*layers\.0\.mlp\.up_proj")
    )
    model.save_pretrained(str(folder))
    return folder.name


def test_only_the_address_asked_for_listens_beside_loopback(server: Server) -> None:
    time.sleep(1.5)  # a look or two at everything that is up
    assert {name for name, _, _ in server.seen.sockets} >= {"raylet", "gcs_server", "haproxy"}
    assert server.seen.beyond_loopback() == set()
    port = int(server.base.rpartition(":")[2])
    assert {entry for entry in server.seen.sockets if entry[1] != "127.0.0.1" and "ffff" not in entry[1]} == {
        ("haproxy", HOST, port)
    }


def test_without_haproxy_the_same_address_alone_is_open(home: Path) -> None:
    given, port = own_shell(home, LEAML_API_KEYS=KEY), free_port()
    with watched(given) as seen:
        command = [sys.executable, "-c", WITHOUT_HAPROXY, HOST, str(port)]
        done = subprocess.run(command, cwd=home, env=given, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert seen.beyond_loopback() == set()
    elsewhere = {entry for entry in seen.sockets if entry[1] != "127.0.0.1" and "ffff" not in entry[1]}
    assert {entry[1:] for entry in elsewhere} == {(HOST, port)}
    assert all("ProxyActor" in name for name, _, _ in elsewhere)


def test_no_process_has_the_raw_keys(server: Server) -> None:
    names = " ".join(name for _, name in server.seen.environments)
    assert all(part in names for part in ("raylet", "ServeReplica", "EngineCore", "haproxy", "ProxyActor"))
    now = Seen()  # the command itself had them when it started
    now.look(next(iter(re.findall(rb"LEAML_TEST_MARK=(\w+)", next(iter(server.seen.environments.values()))))).decode())
    assert len(now.environments) > 5
    assert now.with_secret(KEY) == []


def intruder(address: str, home: Path, token: str | None) -> subprocess.CompletedProcess[str]:
    """A stranger's program that knows the address, and perhaps a token."""
    given = own_shell(home, TMPDIR=tempfile.gettempdir(), RAY_AUTH_MODE="token" if token else "disabled")
    given[local_ray.LOOPBACK] = "0"  # or Ray would look for it at this machine's other address, where nothing is
    if token:
        given["RAY_AUTH_TOKEN"] = token
    command = [sys.executable, "-c", INTRUDER, address]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=300, check=False)


def test_nobody_uses_ray_without_its_token(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        tries = list(pool.map(lambda token: intruder(server.ray, tmp_path, token), [None, "f" * 64]))
    for tried in tries:
        assert tried.returncode != 0
        assert "uid" not in tried.stdout
        assert "token" in tried.stderr.lower()
    assert server.status("/health") == 200


def test_a_domain_added_and_removed_from_another_shell_leaves_the_keys_alone(server: Server) -> None:
    assert server.status("/v1/models") == 401
    source = lora(server.home / "adapter")
    commands = [
        ("--add", f"sports={source}", "--address", server.ray),
        ("--remove", "sprots", "--address", server.ray),
    ]
    with ThreadPoolExecutor(2) as pool:
        added, unknown = pool.map(lambda given: leaml(server.home, "serve", *given), commands)
    assert unknown.returncode == 2 and "sprots" in unknown.stderr
    unnamed = leaml_here("serve", "--add", f"sports={source}")
    assert unnamed.code == 2 and "--address" in unnamed.err
    again = leaml_here("serve", "leaml-tiny", "--address", server.ray, "--port", server.base.rpartition(":")[2])
    assert again.code == 2 and "API keys" in again.err  # a server that would take its place
    assert added.returncode == 0, added.stdout + added.stderr
    for path in ("/v1/models", "/v1/card", "/metrics", "/"):
        assert server.status(path) == 401, path
        assert server.status(path, KEY) == 200, path
    assert server.models() == {"leaml-tiny": "ready", "leaml-tiny:sports": "ready"}
    removed = leaml(server.home, "serve", "--remove", "sports", "--address", server.ray)
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert server.models() == {"leaml-tiny": "ready"}
    assert server.status("/v1/models") == 401
    assert not (server.home / ".ray").exists()


def test_its_http_port_is_not_taken_for_its_ray_by_another_shell(server: Server) -> None:
    wrong = leaml(server.home, "serve", "--remove", "sports", "--address", server.base.removeprefix("http://"))
    assert wrong.returncode == 2 and "not its HTTP port" in wrong.stderr


def test_the_console_holds_lines_of_ours_alone_and_ends_with_one_that_says_so(server: Server) -> None:
    """The last test of this server: it is stopped."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(120) == 0
    time.sleep(1)  # what is left of Ray could speak
    lines = (server.home / "serve.log").read_text().splitlines()
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d |warning: ", line)] == []
    assert [re.sub(r"^\S+ ", "", line).partition(":")[0].partition(" ")[0] for line in lines if line[0].isdigit()] == [
        "serving",
        "stopping",
        "stopped",
    ]


@pytest.fixture(scope="module")
def keyless() -> Iterator[str]:
    """The application without keys, on a socket."""
    app = create_app(ScriptedService(), load_settings({"model": "tiny"}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "evil.example"}, 421),  # a name that was pointed to 127.0.0.1
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"X-Forwarded-For": "203.0.113.9"}, 403),
    ],
)
def test_pages_and_proxies_do_not_reach_a_server_without_keys(keyless: str, headers: dict[str, str], status: int) -> None:
    body = {"image": data_url(), "question": "a"}
    assert httpx.post(f"{keyless}/v1/vqa", json=body, headers=headers).status_code == status
    assert httpx.get(f"{keyless}/v1/models", headers=headers).status_code == status
