"""Environment and fixtures of all tests. The environment is set before any test module imports Ray, torch or transformers."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Unset, a fresh local ray.init() turns token authentication on and writes ~/.ray/auth_token.
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call of Ray without a Ray is an error, and not a Ray that nobody asked for
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two processes of tests share two cores
    # boto3 looks for credentials on a cloud's metadata server where it finds none; no test may.
    "AWS_EC2_METADATA_DISABLED": "true",
}
os.environ.update(ENVIRONMENT)
os.environ.pop("RAY_ADDRESS", None)  # tests never join a cluster that happens to run

settings.register_profile("leaml", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("leaml")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder `shared` beside the repository, with data that is not part of it; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}, which holds data that is not part of the repository")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _leave_no_ray() -> Iterator[None]:
    """Ray starts by itself at some calls; the next module in this process must not find that one."""
    yield
    if "ray" in sys.modules:
        from pipelines import _compat

        sys.modules["ray"].shutdown()
        _compat.reload_authentication()  # a module that starts a Ray in another way has none


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    """A Ray of this test module's own with 4 logical CPUs, as `start_ray` makes one; never a running cluster."""
    import ray

    from pipelines import local_ray
    from pipelines.runtime import PRIVATE

    with pytest.MonkeyPatch.context() as patch:
        for name, value in PRIVATE.items():
            patch.setenv(name, value)
        local_ray.start(num_cpus=4, include_dashboard=False, object_store_memory=500_000_000, logging_level=logging.WARNING)
        yield
        ray.shutdown()


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
