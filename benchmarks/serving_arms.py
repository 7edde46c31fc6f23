"""The three servers that are compared: ours, vLLM's own, and Ray's default application; same model, same engine arguments."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from leaml.config import resolve_model

SEQUENCES = 64
KEY = "sk-benchmark-0123456789"

RAY_DEFAULT = """
import json, sys
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app
from pipelines import local_ray
model, port, threads, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
local_ray.start(num_cpus=6)
serve.start(http_options={"host": "127.0.0.1", "port": port})
config = LLMConfig(
    model_loading_config={"model_id": "model", "model_source": model}, engine_kwargs=engine,
    placement_group_config={"bundles": [{"CPU": 1}]},
    runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "VLLM_CPU_KVCACHE_SPACE": "1"}},
)
serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)
"""


@dataclass
class Server:
    """A server that runs."""

    name: str
    url: str
    model: str
    process: subprocess.Popen[bytes]
    start_seconds: float
    key: str = ""

    def memory(self) -> int:
        """Resident bytes of its processes (proportional share of what they share)."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            return sum(_pss(p) for p in family)
        return 0


def _pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def engine_arguments() -> dict[str, Any]:
    """What all three engines get."""
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_seqs": SEQUENCES,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_cache_gb": 0.5,
        "seed": 0,
    }


def ours(port: int, threads: int, settings: dict[str, Any] | None = None) -> tuple[list[str], str]:
    """Command and model name of `leaml serve`."""
    tree = {
        "model": "leaml-tiny",
        "http": {"port": port},
        "engine": {"cpus": threads, "sequences": SEQUENCES},
        "limits": {"concurrency": SEQUENCES, "max_tokens": 512},
    }
    for key, value in (settings or {}).items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        json.dump(tree, file)
    return [str(Path(sys.executable).parent / "leaml"), "serve", "--settings", file.name], "leaml-tiny"


def vllm(port: int, _threads: int) -> tuple[list[str], str]:
    """Command and model name of vLLM's own server."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"]
    for name, value in engine_arguments().items():
        dashed = name.replace("_", "-")
        if value is True:
            flags.append(f"--{dashed}")
        elif value is False:
            flags.append(f"--no-{dashed}")
        else:
            flags += [f"--{dashed}", json.dumps(value) if isinstance(value, dict) else str(value)]
    # what `vllm serve` runs; the command itself asks for a package named "vllm", which the CPU build is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model("leaml-tiny")]
    return [*command, *flags], "model"


def ray_default(port: int, threads: int) -> tuple[list[str], str]:
    """Command and model name of `ray.serve.llm.build_openai_app` with its defaults."""
    arguments = [resolve_model("leaml-tiny"), str(port), str(threads), json.dumps(engine_arguments())]
    return [sys.executable, "-c", RAY_DEFAULT, *arguments], "model"


OTHERS = {"vllm": vllm, "ray_default": ray_default}
ARMS = ("ours", *OTHERS)


@contextlib.contextmanager
def started(name: str, threads: int, log: str | None = None, settings: dict[str, Any] | None = None) -> Iterator[Server]:
    """The server `name`, ready; its processes are gone afterwards. Raises RuntimeError with the end of its log."""
    port = free_port()
    command, model = ours(port, threads, settings) if name == "ours" else OTHERS[name](port, threads)
    environment = {
        **os.environ,
        "LEAML_API_KEYS": KEY if name == "ours" else "",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    path = log or tempfile.mktemp(prefix=f"serving-{name}-", suffix=".log")
    began = time.monotonic()
    with Path(path).open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    server = Server(name, f"http://127.0.0.1:{port}", model, process, 0.0, KEY if name == "ours" else "")
    try:
        _wait(server, path, 240)
        server.start_seconds = round(time.monotonic() - began, 1)
        yield server
    finally:
        _stop(process)


def _wait(server: Server, log: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    request = urllib.request.Request(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {server.key}"})
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as reply:
            if json.load(reply).get("data"):
                return
        time.sleep(0.3)
    text = Path(log).read_text(errors="replace")[-2000:]
    msg = f"{server.name} did not start: {text}"
    raise RuntimeError(msg)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then whatever of the family is left is killed."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for each in [*family, *([process] if process.poll() is None else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


class Client:
    """`benchmarks.serving_load` in a process of its own. Its reply goes to a file: a pipe that nobody reads yet holds it up."""

    def __init__(self, **load: Any) -> None:
        self._reply = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open until it is read
        command = [sys.executable, "-m", "benchmarks.serving_load", json.dumps(load)]
        self.process = subprocess.Popen(command, stdout=self._reply)

    def finished(self) -> dict[str, Any]:
        """Its result, when it has ended. Raises RuntimeError if it failed."""
        if self.process.wait():
            msg = "a client failed"
            raise RuntimeError(msg)
        with self._reply as reply:
            reply.seek(0)
            return dict(json.loads(reply.read().strip().splitlines()[-1]))
