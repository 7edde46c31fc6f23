"""`leaml adapt CONFIG --submit ADDRESS`: the same run on a cluster that is already there, through Ray's job API.

The configuration is resolved here and travels with the job, and so does the working tree (not with `--from-image`: the job then
runs what the cluster has installed). A run has one job at a time: submitted again while it runs, the command shows that job's
log instead, so the machine that submitted may go away. Afterwards the same command submits a new job, which reuses what is
finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import yaml

from leaml.config import Config, parse, relative_to, with_paths
from leaml.errors import InputError, ResourceError, StepError
from leaml.io import files
from pipelines.adapt import check_steps
from pipelines.progress import say

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

EXCLUDES = [".git", ".venv", "runs", "**/__pycache__", "*.egg-info", ".mypy_cache", ".ruff_cache", "build"]
"""Of the working tree, beside what .gitignore names (Ray leaves that out by itself)."""

CONFIG = "LEAML_CONFIG"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
TIMEOUT = 10.0
"""Seconds for the first reply of the cluster."""
POLL = 2.0
PATIENCE = 300.0
"""Seconds without the cluster, as while a laptop sleeps or a tunnel is renewed, before the command gives up following."""


def submit(config: Config, address: str, from_image: bool = False, shared_storage: bool = False, verbose: bool = False) -> None:
    """Run `config` as a job of the cluster at `address` and follow it to its end; a job of this run that is there is followed.

    Args:
        config: The configuration; paths in the current folder are meant in the working tree that travels.
        address: Of Ray's dashboard, http://host:port.
        from_image: The job runs what the cluster's image has installed, not this working tree.
        shared_storage: Local storage is a volume that every node mounts there.
        verbose: The job shows the logs of Ray and vLLM.

    Raises:
        ResourceError: no cluster answers there, it wants a token, or it has another Ray.
        InputError: the storage is this machine's, another job works on the run, or the job refused its input.
        StepError: the job failed or was stopped, or the cluster cannot be reached any more.
    """
    check_steps(config)
    with contextlib.nullcontext() if verbose else _quiet():
        _submit(config, address, from_image, shared_storage, verbose)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing below an error is logged meanwhile: Ray's client tells of every package and connection."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _submit(config: Config, address: str, from_image: bool, shared_storage: bool, verbose: bool) -> None:
    cluster = Cluster(address)
    config = config.model_copy(update={"storage": _storage(config, cluster, shared_storage)})
    if not from_image and not cluster.here:  # what lies in the working tree travels with it
        config = parse(with_paths(config.model_dump(mode="json"), relative_to(Path.cwd())))
    job = cluster.running(config)
    if job is None:
        job = cluster.start(config, from_image, verbose)
        say(f"submitted as job {job}; Ctrl-C leaves it running")
    else:
        say(f"job {job} works on this run already; this is its log")
    try:
        _follow(cluster, job)
    except KeyboardInterrupt as error:
        error.add_note(f"job {job} runs on; to stop it: ray job stop --address {cluster.address} {job}")
        raise
    _end(cluster, job, config)


class Cluster:
    """The job API of one cluster."""

    def __init__(self, address: str) -> None:
        if "://" not in address:
            address = f"http://{address}"
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            msg = f"--submit {address}: give the address of Ray's dashboard, for example http://127.0.0.1:8265"
            raise InputError(msg)
        token = _token()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = self._hello()
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would take these instead of what was asked for
            os.environ.pop(name, None)
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(self.address, headers=dict(self.headers))

    def _hello(self) -> str:
        """The session of the cluster. Raises ResourceError if it is none that we can use."""
        import ray

        try:
            reply = requests.get(f"{self.address}/api/version", headers=self.headers, timeout=TIMEOUT)
        except requests.RequestException as error:
            msg = (
                f"no Ray cluster answers at {self.address} ({type(error).__name__}); open the way to port 8265 of its head "
                "(kubectl port-forward, ray attach -p 8265, ssh -L) and give that address"
            )
            raise ResourceError(msg) from None
        if reply.status_code in (401, 403):
            wrong = "does not take this token" if self.headers else "asks for a token"
            msg = f"the cluster at {self.address} {wrong}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it"
            raise ResourceError(msg)
        try:
            found: dict[str, object] = reply.json()
            version, session = str(found["ray_version"]), str(found["session_name"])
        except (ValueError, KeyError, TypeError):
            msg = (
                f"{self.address} is not Ray's dashboard (it answers {reply.status_code}); give port 8265 of the cluster's head"
            )
            raise ResourceError(msg) from None
        if version != ray.__version__:
            msg = f"the cluster at {self.address} has Ray {version}, this LEAML needs {ray.__version__}; use an image with it"
            raise ResourceError(msg)
        return session

    @property
    def here(self) -> bool:
        """Whether its head runs on this machine."""
        return (Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / self.session).is_dir()

    def running(self, config: Config) -> str | None:
        """The job that works on this run. Raises InputError if it does so with another configuration."""
        for job in self._jobs(config):
            if job.status in ENDED:
                continue
            if (job.metadata or {}).get("leaml_config") != _digest(config):
                msg = (
                    f"job {job.submission_id} works on this run with another configuration; wait for it, stop it with "
                    f"ray job stop --address {self.address} {job.submission_id}, or choose another name=..."
                )
                raise InputError(msg)
            return str(job.submission_id)
        return None

    def start(self, config: Config, from_image: bool, verbose: bool) -> str:
        """Submit the job of a run.

        Args:
            config: The run, with the storage as the job sees it.
            from_image: Run the image's LEAML instead of what lies in the current folder.
            verbose: Show the logs of Ray and vLLM in the job's log.

        Returns:
            The job's id, which ends in a number that no job of the run has had.

        Raises:
            InputError: The cluster did not take the job, or the folder is too large for it.
        """
        numbers = [int(str(job.submission_id).rpartition("-")[2]) for job in self._jobs(config)]
        environment: dict[str, object] = {"env_vars": {CONFIG: _yaml(config), "PYTHONUNBUFFERED": "1"}}
        program = "leaml"
        if not from_image:
            environment |= {"working_dir": ".", "excludes": EXCLUDES}
            program = "python -m pipelines.cli" if Path("pipelines/cli.py").is_file() else program

        try:
            return str(
                self.client.submit_job(
                    entrypoint=f"printenv {CONFIG} | {program} adapt /dev/stdin resources.address=auto{' -v' * verbose}",
                    submission_id=f"{_prefix(config)}{max(numbers, default=0) + 1}",
                    runtime_env=environment,
                    metadata={"leaml_run": config.run_folder, "leaml_config": _digest(config)},
                    # a slot on a node that has CPUs, which the head of cluster/kuberay has not, and next to nothing of it
                    entrypoint_num_cpus=0.01,
                )
            )
        except (RuntimeError, ValueError) as error:
            msg = f"the cluster did not take the job: {error}"
            if "exceeds the maximum size" in str(error):
                msg = f"{Path.cwd()} is too large to travel with the job; submit from a folder with less, or with --from-image"
            raise InputError(msg) from None

    def _jobs(self, config: Config) -> list[JobDetails]:
        """All jobs of this run that the cluster knows, ended ones too."""
        pattern = re.compile(re.escape(_prefix(config)) + r"\d+")
        return [job for job in self.client.list_jobs() if pattern.fullmatch(job.submission_id or "")]


def _token() -> str | None:
    """The token for the cluster, from where Ray's own programs take it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path is None and os.environ.get("RAY_AUTH_MODE") == "token":
        path = str(Path.home() / ".ray" / "auth_token")
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        msg = f"cannot read the token in {path}: {error.strerror}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
        raise InputError(msg) from None


def _storage(config: Config, cluster: Cluster, shared: bool) -> str:
    """The storage as the job sees it. Raises InputError if that would be another folder on every node."""
    if files.is_remote(config.storage):
        return config.storage
    if cluster.here:
        return str(Path(config.storage).resolve())  # the job has another working directory
    if shared and Path(config.storage).is_absolute():
        return config.storage
    msg = (
        f"storage {config.storage} is a folder, and the cluster at {cluster.address} is not on this machine: each node would "
        "write to a disk of its own. Set storage=s3://bucket/prefix; or, where every node mounts one volume, an absolute path "
        "on it with --shared-storage"
    )
    raise InputError(msg)


def _prefix(config: Config) -> str:
    return f"leaml-{config.name}-{hashlib.sha256(config.run_folder.encode()).hexdigest()[:8]}-"


def _yaml(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _digest(config: Config) -> str:
    return hashlib.sha256(_yaml(config).encode()).hexdigest()[:16]


def _follow(cluster: Cluster, job: str) -> None:
    """Print the job's log until it has ended. A lost connection is taken up again where it broke off."""
    printed, seen, waited = 0, time.monotonic(), ""

    while True:
        try:
            found = cluster.client.get_job_info(job)
            seen = time.monotonic()
            if found.status == "PENDING":
                if waited != (waited := str(found.message or "waiting to be scheduled")):
                    say(f"job {job}: {waited}")
            else:
                printed = asyncio.run(_tail(cluster, job, printed))
                if cluster.client.get_job_info(job).status in ENDED:
                    return
        except _lost() as error:
            if time.monotonic() - seen > PATIENCE:
                msg = (
                    f"the cluster at {cluster.address} has not answered for {PATIENCE:.0f} s ({error}); job {job} may be "
                    "running: open the way to it again and run the same command to follow it"
                )
                raise StepError(msg) from None
        time.sleep(POLL)


async def _tail(cluster: Cluster, job: str, printed: int) -> int:
    """Print what the log has beyond `printed` characters, as it grows, until the cluster closes it; returns how far it is."""
    position = 0
    with contextlib.suppress(*_lost()):
        async for text in cluster.client.tail_job_logs(job):
            new = text[max(0, printed - position) :]
            position += len(text)
            printed = max(printed, position)
            sys.stdout.write(new)
            sys.stdout.flush()
    return printed


def _lost() -> tuple[type[Exception], ...]:
    """What Ray's client raises while the cluster cannot be reached."""
    import aiohttp

    return (requests.RequestException, aiohttp.ClientError, ConnectionError, RuntimeError, TimeoutError)


def _end(cluster: Cluster, job: str, config: Config) -> None:
    """Say how the job ended; an error if not well."""
    found = cluster.client.get_job_info(job)
    if found.status == "SUCCEEDED":
        say(f"job {job} is done; results: {config.run_folder} (leaml report, leaml status)")
        return
    log = f"log: ray job logs --address {cluster.address} {job}, on the cluster job-driver-{job}.log beside Ray's other logs"
    if found.status == "STOPPED":
        msg = f"job {job} was stopped; the same command goes on. {log}"
        raise StepError(msg)
    if found.driver_exit_code == 2:  # what the command refused, it said in the log above
        msg = f"job {job} refused its input. {log}"
        raise InputError(msg)
    reason = " ".join((found.message or "").split())[:300]
    msg = f"job {job} failed ({reason}); finished steps are kept, the same command goes on. {log}"
    raise StepError(msg)
