"""A run whose storage is S3 (a real server over HTTP), driven through the command line and killed between two units."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

from leaml import tables
from leaml.data import files

ROOT = Path(__file__).parents[2]
IMAGES = 240
pytestmark = pytest.mark.timeout(600)


class Bucket:
    """A bucket on a server of this module's own and the environment that leads to it."""

    def __init__(self, endpoint: str) -> None:
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        self.client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret")
        self.client.create_bucket(Bucket="runs")

    def written(self, part: str) -> dict[str, str]:
        """Key -> time and hash of the objects whose key holds `part`."""
        found = self.client.list_objects_v2(Bucket="runs").get("Contents", [])
        return {o["Key"]: f"{o['LastModified']} {o['ETag']}" for o in found if part in o["Key"]}


@pytest.fixture(scope="module")
def bucket(server: str) -> Bucket:
    return Bucket(server)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *arguments]


def test_a_run_on_s3_is_killed_and_goes_on(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "config.yaml"
    settings: dict[str, Any] = {
        "name": "far",
        "storage": "s3://runs/here",
        "data": {
            "labeled": {"format": "easy_vqa", "split": "train", "limit": IMAGES},
            "evaluation": {"format": "easy_vqa", "split": "test", "limit": 10},
            "budget": {"count": 20},
        },
        "warmup": {"steps": 20, "lr": 1e-3, "save_every": 10},
        "resources": {"images_per_unit": 16},
    }
    config.write_text(json.dumps(settings))

    process = subprocess.Popen(
        command("caption", str(config)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 240
    while time.time() < deadline and len(bucket.written("/rows/")) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # an actor of the killed session may still publish the unit it is at
    before = bucket.written("/rows/")
    assert 2 <= len(before) < IMAGES // 16

    done = subprocess.run(command("warmup", str(config)), cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = bucket.written("/rows/")
    assert {k: after[k] for k in before} == before, "a published unit was written again"
    made = Counter(i for k in after for i in tables.read(f"s3://runs/{k}", columns=["image_id"])["image_id"].to_pylist())
    assert len(made) == sum(made.values()) == IMAGES

    status = json.loads(files.read_bytes("s3://runs/here/far/status.json"))
    assert {s["label"]: s["state"] for s in status["steps"]} == {
        "ingest labeled": "reused",
        "ingest evaluation": "reused",
        "caption": "done",
        "warmup": "done",
    }
    shown = subprocess.run(
        command("status", "s3://runs/here/far"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "warmup" in shown.stdout
    assert [k for k in bucket.written("/model/") if k.endswith("model.safetensors")]
