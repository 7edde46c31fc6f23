"""The endpoint beside vLLM's own server and Ray's default application; and under overload, scaling, a kill and an update.

    python -m benchmarks.serving [--parts rates overload scale kill update] [--rounds 3] [--threads 1] [--json FILE]

`rates`: the three servers run at the same time, and take turns, round by round, at 1, 8 and 32 closed-loop clients; requests
are chats about one of 64 images (64 x 64 pixels, PNG data URL), greedy, at most 16 tokens, of the shipped model, in float32.
All engines have the same arguments and the same number of threads; the others idle while one is asked. Ratios and differences
are taken within a round, medians reported.

`overload`: ten times more clients than the endpoint has places send without pause for a minute; memory is that of its
processes. `scale`: load that needs two replicas, then load that needs one. `kill`: the replica is killed with SIGKILL under
load. `update`: a rolling update of two replicas under load. In the last three, clients retry what fails on the way, as
OpenAI's clients do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.hardware import hardware
from benchmarks.serving_arms import ARMS, KEY, Client, Server, free_port, started

PARTS = ("rates", "overload", "scale", "kill", "update")
CLIENTS = (1, 8, 32)


def asked(server: Server, clients: int, seconds: float, **more: Any) -> dict[str, Any]:
    """Result of one closed loop."""
    return _client(server, clients, seconds, **more).finished()


def _client(server: Server, clients: int, seconds: float, **more: Any) -> Client:
    load = {"url": server.url, "model": server.model, "key": server.key, "clients": clients, "seconds": seconds}
    return Client(**load | more)


def rates(rounds: int, seconds: float, threads: int) -> dict[str, Any]:
    """Rates of all arms, by clients, and what is compared."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {name: {c: [] for c in CLIENTS} for name in ARMS}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(started(name, threads)) for name in ARMS}
        for server in servers.values():
            asked(server, 8, 3)
        for number in range(rounds):
            for clients in CLIENTS:
                for name in reversed(servers) if number % 2 else servers:
                    one = asked(servers[name], clients, seconds, warmup=1)
                    if one["p50_ms"] is None:
                        msg = f"{name} answered none of {clients} clients: {one['statuses']}"
                        raise RuntimeError(msg)
                    print(f"round {number + 1}, {clients} clients, {name}: {one['requests_per_s']} requests/s", flush=True)
                    found[name][clients].append({k: v for k, v in one.items() if k not in ("answered_at", "load")})
        starts = {name: server.start_seconds for name, server in servers.items()}

    def ratio(other: str, clients: int) -> float:
        pairs = zip(found["ours"][clients], found[other][clients], strict=True)
        return round(statistics.median(a["requests_per_s"] / b["requests_per_s"] for a, b in pairs), 3)

    overhead = [a["p50_ms"] - b["p50_ms"] for a, b in zip(found["ours"][1], found["vllm"][1], strict=True)]
    return {
        "throughput_vs_vllm": ratio("vllm", 32),
        "throughput_vs_vllm_by_clients": {c: ratio("vllm", c) for c in CLIENTS},
        "throughput_vs_ray_default": ratio("ray_default", 32),
        "p50_overhead_ms": round(statistics.median(overhead), 2),
        "failed": sum(each["lost"] for c in CLIENTS for each in found["ours"][c]),
        "start_seconds": starts,
        "arms": {
            name: {
                c: {
                    "requests_per_s": statistics.median(e["requests_per_s"] for e in runs),
                    "p50_ms": statistics.median(e["p50_ms"] for e in runs),
                    "p99_ms": statistics.median(e["p99_ms"] for e in runs),
                    "failed": sum(e["lost"] for e in runs),
                    "rounds": [e["requests_per_s"] for e in runs],
                }
                for c, runs in by_clients.items()
            }
            for name, by_clients in found.items()
        },
    }


def overload(seconds: float, threads: int) -> dict[str, Any]:
    """Ten times more clients than places: what they are answered, how long it takes, memory, and the recovery."""
    deadline, places, queue = 30.0, 16, 16
    limits = {"concurrency": places, "queue": queue, "deadline_seconds": deadline, "retry_after_seconds": 1}
    with started("ours", threads, settings={"limits": limits}) as server:
        calm = asked(server, 4, 5, warmup=1)
        before = server.memory()
        load = _client(server, 10 * (places + queue), seconds)
        peaks: list[int] = []
        while load.process.poll() is None and len(peaks) < 10_000:
            peaks.append(server.memory())
            time.sleep(2)
        result = load.finished()
        after_first = max(peaks[: max(1, len(peaks) // 3)])
        began = time.monotonic()
        recovered = None
        while recovered is None and time.monotonic() - began < 60:
            again = asked(server, 1, 1)
            if again["statuses"].get("200") and again["p50_ms"] < 3 * calm["p50_ms"]:
                recovered = round(time.monotonic() - began, 1)
    return {
        "clients": 10 * (places + queue),
        "deadline_s": deadline,
        "calm": _short(calm),
        "overload": _short(result),
        "only_200_and_429": set(result["statuses"]) <= {"200", "429"},
        "memory_mib": {
            "before": before >> 20,
            "first_third": after_first >> 20,
            "last_third": max(peaks[-max(1, len(peaks) // 3) :]) >> 20,
        },
        "recovered_s": recovered,
    }


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k not in ("answered_at", "load")}


@contextlib.contextmanager
def deployed(settings: dict[str, Any]) -> Iterator[tuple[Server, Any]]:
    """The endpoint deployed from this process, so that it can be watched and changed; and Serve's handle of it."""
    os.environ["LEAML_API_KEYS"] = KEY
    import ray

    from serve import launch
    from serve.deploy import INGRESS
    from serve.settings import load_settings

    port = free_port()
    launch.start(load_settings({"model": "leaml-tiny", "http": {"port": port}, **settings}))
    from ray import serve

    try:
        handle = serve.get_deployment_handle(INGRESS, launch.APPLICATION)
        yield Server("ours", f"http://127.0.0.1:{port}", "leaml-tiny", None, 0.0, KEY), handle  # type: ignore[arg-type]
    finally:
        serve.shutdown()
        ray.shutdown()


def _replicas() -> int:
    from ray import serve

    from serve.deploy import INGRESS
    from serve.launch import APPLICATION

    states = serve.status().applications[APPLICATION].deployments[INGRESS].replica_states
    return sum(int(count) for state, count in states.items() if str(state).endswith("RUNNING"))


def _until(count: int, seconds: float) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if _replicas() == count:
            return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return None


def scale(threads: int) -> dict[str, Any]:
    """One replica, two under load, one again, with a client that never stops."""
    scaling = {"max_replicas": 2, "target_requests": 4, "upscale_seconds": 4, "downscale_seconds": 8}
    with deployed({"engine": {"cpus": threads}, "scaling": scaling}) as (server, _):
        steady = _client(server, 2, 220, retries=8, pace=0.2)
        heavy = _client(server, 14, 90, retries=8)
        up = _until(2, 100)
        load = heavy.finished()
        down = _until(1, 110)
        result = steady.finished()
    return {"up_s": up, "down_s": down, "lost": load["lost"] + result["lost"], "heavy": _short(load), "steady": _short(result)}


def kill(threads: int) -> dict[str, Any]:
    """The replica is killed under load; its engine's process must go with it."""
    with deployed({"engine": {"cpus": threads}, "scaling": {"health_seconds": 1}}) as (server, handle):
        load = _client(server, 8, 100, retries=12)
        time.sleep(8)
        replica = psutil.Process(handle.current.remote().result(timeout_s=30)["pid"])
        family = [replica, *replica.children(recursive=True)]
        killed = time.time()
        os.kill(replica.pid, signal.SIGKILL)
        result = load.finished()
        _, alive = psutil.wait_procs(family, timeout=1)
    first = min((t for t in result["answered_at"] if t > killed + 1), default=None)
    recovered = None if first is None else round(first - killed, 1)
    return {"recovered_s": recovered, "lost": result["lost"], "left_behind": len(alive), "load": _short(result)}


def update(threads: int) -> dict[str, Any]:
    """Two replicas are replaced, one after the other, under load."""
    scaling = {"min_replicas": 2, "max_replicas": 2}
    with deployed({"engine": {"cpus": threads}, "scaling": scaling}) as (server, handle):
        from serve import auth, launch
        from serve.deploy import plan
        from serve.settings import load_settings

        load = _client(server, 8, 150, retries=8)
        time.sleep(5)
        tree = handle.current.remote().result(timeout_s=30)["settings"]
        tree["limits"]["n"] = 3
        began = time.monotonic()
        launch.deploy(plan(load_settings(tree), [auth.digest(KEY)]))
        took = round(time.monotonic() - began, 1)
        result = load.finished()
    return {"update_s": took, "lost": result["lost"], "load": _short(result)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    options = parser.parse_args()
    results: dict[str, Any] = {"hardware": hardware("cpu"), "threads": options.threads}
    for part in options.parts:
        found = {
            "rates": lambda: rates(options.rounds, options.seconds, options.threads),
            "overload": lambda: overload(60, options.threads),
            "scale": lambda: scale(options.threads),
            "kill": lambda: kill(options.threads),
            "update": lambda: update(options.threads),
        }[part]()
        results |= found if part == "rates" else {part: found}
        print(json.dumps({part: found}, indent=1), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
