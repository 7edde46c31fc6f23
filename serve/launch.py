"""`leaml serve`: deploys on a Ray of its own or on a cluster, waits, and drains when it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from leaml.config import ResourcesConfig
from leaml.errors import InputError, StepError
from leaml.vlm import load
from pipelines.progress import say
from pipelines.runtime import start_ray
from serve import auth, forward
from serve.deploy import INGRESS, Plan, application, plan
from serve.service import Model
from serve.settings import MARGIN, Domain, ServeSettings, load_settings

APPLICATION = "leaml"


def serve_until_stopped(settings: ServeSettings, address: str | None = None, verbose: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; then no new requests are taken and those under way are answered.

    Raises:
        InputError: no keys for an address that others reach, a model that cannot be used, or no room for it.
        StepError: the engine does not start.
    """
    made = start(settings, address, verbose)
    import ray
    from ray import serve

    where = ray.get_runtime_context().gcs_address
    say(f"serving {made.main.id} at http://{settings.http.host}:{settings.http.port} (keys: {len(made.digests)}; Ray: {where})")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    say("stopping: requests under way are answered first")
    serve.delete(APPLICATION)
    if address is None:
        serve.shutdown()
    ray.shutdown()


def start(settings: ServeSettings, address: str | None = None, verbose: bool = False) -> Plan:
    """Deploy and return when it answers."""
    digests = auth.read_keys(settings.auth.keys_file)
    auth.refuse_open_server(settings.http.host, digests)
    made = plan(settings, digests)
    load.check(made.base)
    refuse_failed(made.adapters)
    if address is None and settings.http.haproxy:
        os.environ.update(forward.environment(settings.limits))
    engine = settings.engine
    replicas = max(1, settings.scaling.min_replicas)
    start_ray(ResourcesConfig(engines=replicas, engine_cpus=engine.cpus, engine_gpus=engine.gpus, address=address), verbose)
    from ray import serve

    serve.start(
        http_options={
            "host": settings.http.host,
            "port": settings.http.port,
            "request_timeout_s": settings.drain_seconds - MARGIN + 5,  # ours comes first, with a reply of its own
            "keep_alive_timeout_s": 75,
        },
        logging_config={"enable_access_log": False, "log_level": "INFO" if verbose else "WARNING"},
    )
    deploy(made)
    return made


def deploy(made: Plan) -> None:
    """Deploy or update in place. Raises StepError with what the engine said."""
    from ray import serve

    try:
        serve.run(application(made), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        msg = f"the model could not be served: {error}; `leaml serve -v` shows the logs of Ray and vLLM"
        raise StepError(msg) from None


def add_domain(name: str, source: str, address: str) -> Model:
    """Add a domain to a server that runs, or give one another source; others are served all the while.

    A LoRA is loaded into the running engine; anything else gets an engine of its own beside it. If it fails, the server goes
    back to what it was.

    Raises:
        InputError: nothing runs there, or the domain cannot be served, with the reason.
    """
    start_ray(ResourcesConfig(address=address))
    from ray import serve

    try:
        handle: Any = serve.get_deployment_handle(INGRESS, APPLICATION)
        before = load_settings(handle.current.remote().result(timeout_s=30)["settings"])
    except Exception as error:
        msg = f"no `leaml serve` answers at {address}: {type(error).__name__}; give the Ray address that it printed"
        raise InputError(msg) from None
    others = [domain for domain in before.domains if domain.name != name]
    wanted = before.model_copy(update={"domains": [*others, Domain(name=name, source=source)]})
    digests = auth.read_keys(before.auth.keys_file)
    made, old = plan(load_settings(wanted.model_dump()), digests), plan(before, digests)
    refuse_failed([entry for entry in made.adapters if entry["id"] not in {o["id"] for o in old.adapters}])
    deploy(made)
    models: list[Model] = handle.current.remote().result(timeout_s=60)["models"]
    found = next((m for m in models if m.id == f"{made.main.id}:{name}"), None)
    if found is None or found.state == "failed":
        deploy(old)
        why = found.reason if found else "it did not appear"
        msg = f"the domain {name!r} was refused: {why}; the others are served as before"
        raise InputError(msg)
    return found


def refuse_failed(entries: list[dict[str, str]]) -> None:
    """Raise InputError for domains that are known to be unusable before anything is started."""
    for entry in entries:
        if entry["reason"]:
            msg = f"the domain {entry['id']!r} cannot be served: {entry['reason']}"
            raise InputError(msg)
