"""Starts or joins Ray, and refuses plans that the cluster cannot schedule (Ray alone would never stop waiting)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator

from leaml.config import ResourcesConfig
from leaml.errors import ResourceError
from leaml.io import node_cache
from pipelines import local_ray
from pipelines.autoscaling import would_add

MIN_LOGICAL_CPUS = 4
"""Ray needs a few logical CPUs for its own operators beside a pool of one engine, also on a 2-core machine."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Else a call of Ray's after its end starts another one, which listens on every interface and asks nobody for a token
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

PRIVATE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each training, which waits for news of nodes to be taken away
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # between looks whether a training has ended; one machine can afford more
    "RAY_prestart_worker_first_driver": "0",  # a process for each CPU before anybody asks, 2 s of a processor each
}
"""Environment of a Ray of this process's own."""


def start_ray(resources: ResourcesConfig, verbose: bool = False) -> None:
    """Connect to `resources.address`, or start Ray in this process; then check that the plan fits."""
    for name, value in (QUIET | (PRIVATE if resources.address is None else {})).items():
        os.environ.setdefault(name, value)
    node_cache.use(resources.model_cache)
    warnings.filterwarnings("ignore", category=FutureWarning)
    import ray

    if not ray.is_initialized():
        level = logging.INFO if verbose else logging.ERROR
        with _own_sigterm_handler():
            if resources.address is not None:
                cache = {"env_vars": node_cache.environment(resources.model_cache)} if resources.model_cache else {}
                local_ray.join(resources.address, log_to_driver=verbose, logging_level=level, runtime_env=cache)
            else:
                cpus = max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)
                local_ray.start(num_cpus=cpus, log_to_driver=verbose, logging_level=level)
    quiet_data(verbose)
    check_resources(resources)


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, if it has one: Ray puts in its own, which exits without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def quiet_data(verbose: bool) -> None:
    """Ray Data and Train print plans and bars of their own; ours replace them unless `verbose`."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


def check_resources(resources: ResourcesConfig, nodes: list[dict[str, float]] | None = None) -> None:
    """Raise ResourceError naming what an engine pool or the training workers need and the cluster lacks and cannot add.

    Args:
        resources: The plan.
        nodes: What each node has; None: those of the Ray that this process is connected to.
    """
    lanes, teacher = resources.lanes, resources.teacher
    plan = {
        "engines": (lanes * resources.engines, {"CPU": resources.engine_cpus, "GPU": resources.engine_gpus}),
        "teacher_engines": (teacher.engines, {"CPU": teacher.engine_cpus, "GPU": teacher.engine_gpus}),
        "train_workers": (lanes * resources.train_workers, {"CPU": resources.train_cpus, "GPU": resources.train_gpus}),
    }
    for what, (count, each) in plan.items():
        beside = ", or switch resources.parallel_baselines off" if resources.parallel_baselines else ""
        beside += ", or let fewer trials (tune.concurrent) run at a time" if resources.concurrent_runs > 1 else ""
        fix = f"lower resources.{what} or what each of them takes{beside}, or add nodes"
        refuse_unschedulable(f"resources.{what}", count, each, fix, grows=resources.address is not None, nodes=nodes)


def own_nodes() -> list[dict[str, float]]:
    """What the one node of a Ray of this process's own will have."""
    import torch

    return [{"CPU": float(max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)), "GPU": float(torch.cuda.device_count())}]


def refuse_unschedulable(
    what: str, count: int, each: dict[str, float], fix: str, grows: bool, nodes: list[dict[str, float]] | None = None
) -> None:
    """Raise ResourceError, with the `fix`, if the cluster has no room for `count` processes with the resources `each`.

    Args:
        what: The setting that asks for them.
        count: How many.
        each: Resources of one.
        fix: What to do about it.
        grows: Ask the cluster's autoscaler, if it has one, whether it would add what is missing.
        nodes: What each node has; None: those of the Ray that this process is connected to.
    """
    if nodes is None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if (message := missing(what, count, each, nodes)) and not (grows and would_add(count, each)):
        msg = f"{message}; {fix}"
        raise ResourceError(msg)


def missing(what: str, count: int, each: dict[str, float], nodes: list[dict[str, float]]) -> str | None:
    """What nodes lack for some processes, and one more CPU for Ray's own tasks.

    A process lies on one node as a whole, so totals are not enough: two nodes of 4 CPUs hold no
    process of 6.

    Args:
        what: The setting that asks for the processes, for the text.
        count: How many.
        each: Resources of one, by Ray's names: "CPU", "GPU".
        nodes: What each node has.

    Returns:
        A text that says so; None: nothing is lacking.
    """
    for kind, amount in each.items():
        extra, total = (1 if kind == "CPU" else 0), sum(node.get(kind, 0) for node in nodes)
        if (need := count * amount + extra) > total:
            return f"{what} needs {need:g} {kind}, the cluster has {total:g}"
    slots = [min((int(node.get(kind, 0) / amount + 1e-9) for kind, amount in each.items() if amount)) for node in nodes]
    if sum(slots) < count:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in each.items() if amount)
        return f"{what} needs {count} x {wanted}, each on one node; {len(nodes)} nodes hold {sum(slots)} of them"
    return None
