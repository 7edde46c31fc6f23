"""Environment and fixtures of all tests. The environment is set before any test module imports Ray, torch or transformers."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Unset, a fresh local ray.init() turns token authentication on and writes ~/.ray/auth_token.
    "RAY_AUTH_MODE": "disabled",
    "RAY_prestart_worker_first_driver": "0",  # no process for each CPU before anybody asks
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call of Ray without a Ray is an error, and not a Ray that nobody asked for
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two processes of tests share two cores
    # boto3 looks for credentials on a cloud's metadata server where it finds none; no test may.
    "AWS_EC2_METADATA_DISABLED": "true",
    "LEAML_MODEL_CACHE": tempfile.mkdtemp(prefix="leaml-test-models-"),  # copies of models end with the tests
}
atexit.register(shutil.rmtree, ENVIRONMENT["LEAML_MODEL_CACHE"], ignore_errors=True)
os.environ.update(ENVIRONMENT)
os.environ.pop("RAY_ADDRESS", None)  # tests never join a cluster that happens to run

settings.register_profile("leaml", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("leaml")

ROOT = Path(__file__).resolve().parent.parent
SLOWEST_FIRST = (
    "integration/test_adapt.py",
    "integration/test_cluster_adapt.py",
    "integration/test_serving.py",
    "integration/test_tune.py",
    "security/test_open_doors.py",
    "pipelines/test_kills.py",
    "integration/test_train_workers.py",
    "integration/test_serve_deploy.py",
    "pipelines/test_nodes.py",
    "pipelines/test_submit.py",
    "integration/test_s3_faults.py",
    "cluster/test_slurm.py",
)
"""Files whose tests run first, so that no process of tests is left with a long one at the end."""
SHARES_RAY = pytest.StashKey[set[Path]]()
"""Files that use `ray_local`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest files first, then those that share a Ray; the others stay in their order."""
    sharing = {item.path for item in items if "ray_local" in getattr(item, "fixturenames", ())}
    config.stash[SHARES_RAY] = sharing
    slowest = {ROOT / "tests" / name: number for number, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: slowest.get(item.path, len(slowest) + (item.path not in sharing)))


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder `shared` beside the repository, with data that is not part of it; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}, which holds data that is not part of the repository")
    return folder


def _end_ray() -> None:
    if "ray" in sys.modules:
        from pipelines import _compat

        sys.modules["ray"].shutdown()
        _compat.reload_authentication()  # a module that starts a Ray in another way has none


def pytest_sessionfinish() -> None:
    """End the Ray that modules shared."""
    _end_ray()


@pytest.fixture(scope="module", autouse=True)
def _leave_no_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray starts by itself at some calls; the next module in this process must not find that one."""
    shares = request.path in request.config.stash[SHARES_RAY]
    if not shares:
        _end_ray()
    yield
    if not shares:
        _end_ray()


@pytest.fixture(scope="module")
def private_environment() -> Iterator[None]:
    """The environment that `start_ray` gives a Ray of its own."""
    from pipelines.runtime import PRIVATE

    with pytest.MonkeyPatch.context() as patch:
        for name, value in PRIVATE.items():
            patch.setenv(name, value)
        yield


def _start_ray() -> None:
    from pipelines import local_ray

    local_ray.start(num_cpus=4, object_store_memory=500_000_000, logging_level=logging.WARNING)


@pytest.fixture(scope="module")
def ray_local(private_environment: None) -> None:
    """A Ray with 4 logical CPUs, as `start_ray` makes one, never a running cluster; test modules share it."""
    import ray

    if not ray.is_initialized():
        _start_ray()


@pytest.fixture(scope="module")
def ray_own(private_environment: None) -> None:
    """Such a Ray of this test module's own, with this process's environment as it is now."""
    _start_ray()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Endpoint of an empty S3 server of this test module's own."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket on the server as an s3:// URI; the environment is that of its clients."""
    import boto3

    settings = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**settings, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"
