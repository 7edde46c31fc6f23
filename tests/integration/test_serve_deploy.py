"""serve/config.yaml as a cluster takes it: `serve deploy`, asked over HTTP, shut down."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from endpoint import KEY, Endpoint, questions, wait_until
from local_cluster import BIN, free_port, head

pytestmark = pytest.mark.timeout(600)
CONFIG = Path(__file__).resolve().parents[2] / "serve" / "config.yaml"


ASKED_EVERY = 1.0
"""Seconds; an answer of Ray's dashboard costs it a tenth of one."""


@dataclass
class Cluster:
    """A cluster that may serve, and its copy of the configuration."""

    dashboard: str
    environment: dict[str, str]
    config: Path
    tree: dict[str, Any]

    def serve(self, *arguments: str) -> None:
        """A command of Ray's that says what is to be; again, where the dashboard of a busy machine has dropped the request."""
        command = [str(BIN / "serve"), *arguments, "--address", self.dashboard]
        for left in reversed(range(4)):
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=100, check=False)
            if done.returncode == 0:
                return
            assert left and "ConnectionError" in done.stderr, done.stderr
            time.sleep(5)

    def deploy(self, **settings: Any) -> None:
        """`serve deploy` of the configuration with other settings, until Serve says that it is done."""
        application = self.tree["applications"][0] | {"args": self.tree["applications"][0]["args"] | settings}
        self.config.write_text(yaml.safe_dump(self.tree | {"applications": [application]}))
        self.serve("deploy", str(self.config))
        wait_until(lambda: self.status()["status"] in ("RUNNING", "DEPLOY_FAILED"), 250, ASKED_EVERY)
        assert self.status()["status"] == "RUNNING", self.status()["message"]

    def status(self) -> dict[str, Any]:
        reply = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=10).json()
        return dict(reply["applications"].get("leaml", {"status": "NONE", "message": ""}))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    base = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))  # a short name: the paths of Ray's sockets have a limit
    path = f"{BIN}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TMPDIR": str(base), "LEAML_API_KEYS": KEY}
    tree = yaml.safe_load(CONFIG.read_text())
    tree["http_options"]["port"] = free_port()
    with head(environment) as dashboard:
        yield Cluster(dashboard, environment, base / "config.yaml", tree)
    shutil.rmtree(base, ignore_errors=True)


def test_the_shipped_configuration_is_deployed_and_shut_down(cluster: Cluster, tmp_path: Path) -> None:
    def answers() -> bool:
        try:
            return httpx.get(f"{cluster.dashboard}/api/version", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(answers, 60, ASKED_EVERY)
    # a domain that cannot be served leaves the others serving
    cluster.deploy(domains=[{"name": "gone", "source": str(tmp_path / "nothing")}])
    asked = Endpoint(f"http://127.0.0.1:{cluster.tree['http_options']['port']}")
    data, question = questions()[0]
    first = asked.vqa(data, question)
    assert first.status_code == 200, first.text
    assert httpx.post(f"{asked.base}/v1/vqa", json={}).status_code == 401  # the keys are the cluster's
    models = {m["id"]: m["state"] for m in asked.client.get("/v1/models").json()["data"]}
    assert models == {"leaml-tiny": "ready", "leaml-tiny:gone": "failed"}

    cluster.serve("shutdown", "-y")
    wait_until(lambda: cluster.status()["status"] == "NONE", 60, ASKED_EVERY)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{asked.base}/health")
