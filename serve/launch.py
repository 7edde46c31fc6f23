"""`leaml serve`: deploys on a Ray of its own or on a cluster, waits, and drains when it is told to stop."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from leaml.config import ResourcesConfig, resolve_model
from leaml.errors import InputError, ResourceError, StepError
from leaml.io import files
from leaml.vlm import load
from pipelines import ray_watch
from pipelines.local_ray import busy, remove_serving_keys, token_of
from pipelines.progress import say, warn
from pipelines.runtime import refuse_unschedulable, start_ray
from serve import auth, haproxy
from serve.changes import alone
from serve.deploy import DOMAIN, INGRESS, DeploymentPlan, application, plan
from serve.service import Model
from serve.settings import MARGIN, Domain, ServeSettings, load_domain, load_settings
from serve.state import ServerState

APPLICATION = "leaml"

_LOOKS_EVERY = 2.0
"""Seconds between two looks at the engines."""

PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30"}
"""For the proxy on a busy machine: Serve gives it 5 s to start, of which imports alone take 4, and 10 s to say it is well."""


def serve_until_stopped(settings: ServeSettings, address: str | None = None, verbose: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests under way and take no new ones.

    Args:
        settings: Of the server.
        address: Of a Ray cluster to serve on; None: on a Ray of its own.
        verbose: Show the logs of Ray and vLLM.

    Raises:
        As `start`.
    """
    made = start(settings, address, verbose)
    import ray
    from ray import serve

    where = ray.get_runtime_context().gcs_address
    say(f"serving {made.main.id} at http://{settings.http.host}:{settings.http.port} (keys: {len(made.digests)}; Ray: {where})")
    stopped = threading.Event()

    def stop(*_: object) -> None:
        ray_watch.told_to_stop(0)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    watch = EngineWatch(made.main.id)
    while not stopped.wait(_LOOKS_EVERY):
        watch.look()
    say("stopping: requests under way are answered first")
    if address is None:
        haproxy.say_stopping()
    serve.delete(APPLICATION)
    ray.shutdown()  # which ends all of a Ray of its own; Serve's own end is told by Ray as one that failed
    say(f"stopped: what had begun was answered; the same command serves {made.main.id} again")


class EngineWatch:
    """Says when an engine of the server has stopped, and when the one in its place answers.

    Args:
        main: The main model; domains with engines of their own are `main:name`.
    """

    def __init__(self, main: str) -> None:
        self._main, self._gone = main, set[str]()

    def look(self) -> None:
        """Ask Serve once; what cannot be asked, as while Ray is busy, is asked the next time."""
        from ray import serve

        try:
            application = serve.status().applications.get(APPLICATION)
        except Exception as error:  # Ray and Serve have many
            logging.getLogger(__name__).debug("Serve was not asked: %s", type(error).__name__)
            return
        for name, found in (application.deployments if application else {}).items():
            model = self._main if name == INGRESS else f"{self._main}:{name.removeprefix(DOMAIN)}"
            if found.status == "UNHEALTHY" and name not in self._gone:
                self._gone.add(name)
                say(f"the engine of {model} has stopped and is being replaced; meanwhile its clients are told to try again")
            elif found.status == "HEALTHY" and name in self._gone:
                self._gone.remove(name)
                say(f"{model} answers again")


def start(settings: ServeSettings, address: str | None = None, verbose: bool = False) -> DeploymentPlan:
    """Deploy and return when it answers.

    The raw keys are read, hashed and dropped before anything else starts.

    Args:
        settings: Of the server; local folders in them are made absolute.
        address: Of a Ray cluster to deploy on; None: a Ray of its own is started in this process.
        verbose: Show the logs of Ray and vLLM.

    Returns:
        What was deployed.

    Raises:
        InputError: no keys for a cluster or an address that others reach, a model that cannot be
            used, no room for the engines, or a server is there.
        StepError: the engine does not start.
    """
    digests = auth.read_keys(settings.auth.keys_file, remove_serving_keys())
    auth.refuse_open_server(settings.http.host, digests)
    if address is not None:
        auth.refuse_keyless_cluster(digests)

    made = plan(_found_from_anywhere(settings), digests)
    load.check(made.base)
    refuse_failed(made.adapters)

    host = settings.http.host
    if address is None:
        refuse_taken_port(host, settings.http.port)
    if address is None and settings.http.haproxy and (behind := haproxy.environment(settings.limits, host)):
        os.environ.update(behind)
        host = haproxy.BEHIND

    for variable, seconds in PATIENCE.items():
        os.environ.setdefault(variable, seconds)

    start_ray(ResourcesConfig(address=address), verbose)
    if not verbose:
        _quiet()
    refuse_unschedulable_engines(made, grows=address is not None)
    if address is None:
        warn_of_few_cores(made)

    with contextlib.nullcontext() if address is None else alone(address):
        _deploy_first(made, host, address, verbose)
    return made


def _quiet() -> None:
    """Let this process not tell of options that Ray Serve "will not apply", and of libraries that are not there."""
    importlib.import_module("ray.serve")  # which sets the level of its logger
    for name in ("ray.serve", "vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _deploy_first(made: DeploymentPlan, host: str, address: str | None, verbose: bool) -> None:
    """Start Serve at `host` and deploy where no server runs yet. Raises InputError where one does, StepError."""
    from ray import serve
    from ray.exceptions import RayActorError

    settings = made.settings
    if APPLICATION in serve.status().applications:
        msg = f"a server runs at {address} already; change its domains with --add and --remove, or stop it first"
        raise InputError(msg)
    try:
        serve.start(
            http_options={
                "host": host,
                "port": settings.http.port,
                "request_timeout_s": settings.drain_seconds - MARGIN + 5,  # ours comes first, with a reply of its own
                "keep_alive_timeout_s": 75,
            },
            logging_config={"enable_access_log": False, "log_level": "INFO" if verbose else "WARNING"},
        )
    except (TimeoutError, RayActorError) as error:  # Serve ends a proxy that is late
        why = "its proxy was late" if isinstance(error, RayActorError) else str(error).rstrip(".")
        msg = f"Ray Serve did not start in time ({why}); {busy()}"
        raise StepError(msg) from None
    deploy(made)


def _found_from_anywhere(settings: ServeSettings) -> ServeSettings:
    """The settings with local folders by their whole paths: a later command may run in another folder."""
    domains = [domain.model_copy(update={"source": _whole(domain.source)}) for domain in settings.domains]
    return settings.model_copy(update={"model": _whole(settings.model), "domains": domains})


def _whole(source: str) -> str:
    local = not files.is_remote(source) and resolve_model(source) == source and Path(source).exists()
    return str(Path(source).absolute()) if local else source


def deploy(made: DeploymentPlan) -> None:
    """Deploy or update in place. Raises StepError with what the engine said."""
    from ray import serve

    try:
        serve.run(application(made), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        msg = f"the model could not be served: {error}; `leaml serve -v` shows the logs of Ray and vLLM"
        raise StepError(msg) from None


def add_domain(name: str, source: str, address: str | None) -> Model:
    """Add a domain to a server that runs, or give one another source; others are served all the while.

    A LoRA is loaded into the running engine; anything else gets an engine of its own beside it. A domain that is there with the
    same source is loaded again if its files have changed. If it fails, the server goes back to what it was. Keys, limits and
    everything else stay as they were deployed, whatever this process's environment says.

    Args:
        name: What clients write behind the colon.
        source: As `domains.source` of the settings.
        address: Of the Ray that the server runs on, host:port.

    Raises:
        InputError: nothing runs there, or the domain cannot be served, with the reason.
        StepError: the server is starting or restarting.
    """
    domain = load_domain(name, _whole(source))
    with _changing(address):
        return _add(domain, _deployed(address), here=token_of(address or "") is not None)


def _add(domain: Domain, old: DeploymentPlan, here: bool) -> Model:
    name = domain.name
    made = old.without(name).with_domain(domain)
    refuse_failed([entry for entry in made.adapters if entry["id"] == f"{made.main.id}:{name}"])
    refuse_unschedulable_engines(made, grows=True)
    if here:
        warn_of_few_cores(made)
    found, why = None, "it did not appear"
    try:
        deploy(made)
        found = next((m for m in _current()["models"] if m.id == f"{made.main.id}:{name}"), None)
        why = found.reason if found else why
    except StepError as error:  # its engine does not start
        why = str(error)
    if found is None or found.state == "failed":
        deploy(old)
        msg = f"the domain {name!r} was refused: {why}; the others are served as before"
        raise InputError(msg)
    return found


def remove_domain(name: str, address: str | None) -> None:
    """Take a domain away from a server that runs; everything else is served as before.

    Args:
        name: What clients write behind the colon.
        address: Of the Ray that the server runs on, host:port.

    Raises:
        InputError: nothing runs there, or it has no such domain.
        StepError: the server is starting or restarting.
    """
    with _changing(address):
        old = _deployed(address)
        names = [domain.name for domain in old.settings.domains]
        if name not in names:
            msg = f"the server at {address} has no domain {name!r}; it has {', '.join(names) or 'none'}"
            raise InputError(msg)
        deploy(old.without(name))


@contextlib.contextmanager
def _changing(address: str | None) -> Iterator[None]:
    """Connected to the Ray at `address`, on which a server runs, while no other command changes it. Raises InputError."""
    host, _, port = (address or "").rpartition(":")
    if address is None or not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host) or not port.isdigit():
        got = "" if address is None else f", not {address!r}"
        msg = f"name the server to change: --address HOST:PORT, the address of its Ray, which `leaml serve` printed{got}"
        raise InputError(msg)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()  # Ray would try for minutes
        start_ray(ResourcesConfig(address=address))
        from ray import serve

        _quiet()
        # what it logs is of a client that goes away again: an error with a traceback after a change that went well, at times
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)

        found = APPLICATION in serve.status().applications
        why = "no server is deployed there"
    except ResourceError:
        found, why = False, "it is not the address of a Ray"
    except InputError:
        raise
    except Exception as error:
        found, why = False, type(error).__name__
    if not found:
        msg = (
            f"no `leaml serve` answers at {address}: {why}; give the Ray address that it printed, not its HTTP port, "
            "as the user who started it, or name its token's file in RAY_AUTH_TOKEN_PATH"
        )
        raise InputError(msg)
    with alone(address):
        yield


def _deployed(address: str | None) -> DeploymentPlan:
    """The plan of the server on the connected Ray, made of what it says itself, nothing of this environment."""
    from ray import serve

    try:
        now = _current()
    except Exception as error:  # Serve has many
        found = serve.status().applications.get(APPLICATION)
        state = found.status.value if found else "gone"
        msg = (
            f"the server at {address} does not say what it serves ({type(error).__name__}; Ray Serve calls it {state}): it is "
            "starting or restarting, or its engine has died; try again when its /health answers with 200"
        )
        raise StepError(msg) from None
    return DeploymentPlan(
        load_settings(now["settings"]),
        now["found"],
        now["main"],
        now["adapters"],
        now["merged"],
        now["cards"],
        now["digests"],
        now["environment"],
    )


def _current() -> ServerState:
    """What a replica of the running server says (VqaServer.current)."""
    from ray import serve

    handle = serve.get_deployment_handle(INGRESS, APPLICATION)
    found: ServerState = handle.current.remote().result(timeout_s=60)
    return found


def refuse_unschedulable_engines(made: DeploymentPlan, grows: bool) -> None:
    """Raise ResourceError if the engines that are to run all the time have no room; Serve would wait for it without end.

    Args:
        made: What is to be deployed.
        grows: The cluster may have an autoscaler.
    """
    scaling, engine = made.settings.scaling, made.settings.engine
    domains = len(made.merged) * scaling.domain_min_replicas
    what = "the main model" + (f" with {domains} engines of domains (scaling.domain_min_replicas)" if domains else "")
    fix = "lower scaling.min_replicas or what each takes (engine.cpus, engine.gpus), or add nodes"
    if domains:
        fix += "; with scaling.domain_min_replicas=0 domains start when they are asked, one after the other"
    each = {"CPU": engine.cpus, "GPU": engine.gpus}
    refuse_unschedulable(what, max(1, scaling.min_replicas) + domains, each, fix, grows)


def warn_of_few_cores(made: DeploymentPlan) -> None:
    """Say it where engines that run all the time share this machine's cores; Ray counts at least four, whatever there is."""
    cores, engine, scaling = os.cpu_count() or 1, made.settings.engine, made.settings.scaling
    count = max(1, scaling.min_replicas) + len(made.merged) * scaling.domain_min_replicas
    if not engine.gpus and count * engine.cpus > cores:
        each = f"engine.cpus={engine.cpus:g}"
        warn(f"{count} engines ({each}) share the {cores} cores of this machine, so that each is slower; fewer domains help")


def refuse_failed(entries: list[dict[str, str]]) -> None:
    """Raise InputError for domains that are known to be unusable before anything is started."""
    for entry in entries:
        if entry["reason"]:
            msg = f"the domain {entry['id']!r} cannot be served: {entry['reason']}"
            raise InputError(msg)


def refuse_taken_port(host: str, port: int) -> None:
    """Raise InputError for an address at which something listens, or that is none of this machine's."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(where[:2], family=family).close()
    except OSError as error:
        msg = f"the server cannot listen at {host}:{port}: {error.strerror}; give another --port or --host"
        raise InputError(msg) from None
