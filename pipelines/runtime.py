"""Starts or joins Ray, and refuses plans that the cluster cannot schedule (Ray alone would wait for ever)."""

from __future__ import annotations

import logging
import os
import warnings

from leaml.config import ResourcesConfig
from leaml.errors import ResourceError

MIN_LOGICAL_CPUS = 4
"""Ray needs a few logical CPUs for its own operators beside a pool of one engine, also on a 2-core machine."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def start_ray(resources: ResourcesConfig, verbose: bool = False) -> None:
    """Connect to `resources.address`, or start Ray in this process; then check that the plan fits."""
    for name, value in (QUIET if verbose else QUIET | {"RAY_BACKEND_LOG_LEVEL": "fatal"}).items():
        os.environ.setdefault(name, value)
    if resources.address is None:  # a private Ray on loopback needs no token file in the user's home
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import ray

    if not ray.is_initialized():
        local = (
            {} if resources.address else {"num_cpus": max(MIN_LOGICAL_CPUS, os.cpu_count() or 1), "include_dashboard": False}
        )
        ray.init(
            address=resources.address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,  # type: ignore[arg-type]
        )
    quiet_data(verbose)
    check_resources(resources)


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


def check_resources(resources: ResourcesConfig) -> None:
    """Raise ResourceError naming what an engine pool or the training workers need and the cluster lacks."""
    import ray

    total = ray.cluster_resources()
    beside = ", or switch resources.parallel_baselines off" if resources.parallel_baselines else ""
    needs = {
        "engines": {
            "CPU": resources.lanes * resources.engines * resources.engine_cpus + 1,
            "GPU": resources.lanes * resources.engines * resources.engine_gpus,
        },
        "train_workers": {
            "CPU": resources.lanes * resources.train_workers * resources.train_cpus + 1,
            "GPU": resources.lanes * resources.train_workers * resources.train_gpus,
        },
    }
    for what, need in needs.items():
        for kind, amount in need.items():
            if amount > total.get(kind, 0):
                msg = (
                    f"resources.{what} needs {amount:g} {kind}, the cluster has {total.get(kind, 0):g}; "
                    f"lower resources.{what} or its {kind.lower()}s{beside}, or add nodes"
                )
                raise ResourceError(msg)
