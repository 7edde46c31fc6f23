"""A whole `leaml adapt` over nodes and S3, whose head dies once and a node of which dies in a step of each kind.

Each node has an address of its own and an empty local disk where this process may make network namespaces (as root on
Linux), so that nothing can travel but through Ray and storage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError
from local_cluster import bury
from s3_server import KEY, SECRET, seaweed
from separate_nodes import Bridge, Machines, bridge

from leaml.data import store, tables
from leaml.io import files

ROOT = Path(__file__).parents[2]
IMAGES, SHARD, NODES, CPUS, PATIENCE = 200, 4, 2, 2, 500.0
TRAIN = {"steps": 20, "lr": 1e-3, "save_every": 10, "batch_size": 8}
KILLED = TRAIN | {"steps": 60, "save_every": 15}
KILLS = ("caption", "score leaml", "distill leaml")
"""A step of engines, of scores and of training; the others of a kind run the same code, and a death costs a minute here."""
LEAML = ("score", "select", "distill", "generate", "filter", "finetune", "evaluate")
STEPS = ("caption", "warmup", *(f"{name} leaml" for name in LEAML))
pytestmark = pytest.mark.timeout(1700)


def settings(address: str) -> dict[str, Any]:
    return {
        "name": "far",
        "storage": "s3://runs/here",
        "data": {
            "labeled": {"format": "easy_vqa", "split": "train", "limit": IMAGES},
            "evaluation": {"format": "easy_vqa", "split": "test", "limit": 30},
            "budget": {"count": 40},
        },
        "warmup": TRAIN,
        "score": {"samples": 360},
        "select": {"ratio": 0.2},
        "distill": KILLED,
        "generate": {"pairs_per_image": 2},
        "finetune": TRAIN,
        "evaluate": {
            "bootstrap": 100,
            "leave_out": ["finetune_labels", "lora_labels"],  # they run the code of the fine-tuning, for minutes
        },
        "resources": {
            "address": address,
            "images_per_shard": SHARD,
            "engines": 1,
            "engine_cpus": 1.5,  # one engine or training worker fits on a node, and reading beside it
            "train_workers": 2,
            "train_cpus": 1.5,
        },
    }


class Storage:
    """The bucket as the test sees it."""

    def __init__(self, endpoint: str) -> None:
        self.client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET)
        end = time.monotonic() + 60
        while True:  # it listens before it can
            try:
                self.client.create_bucket(Bucket="runs")
                return
            except ClientError:
                assert time.monotonic() < end
                time.sleep(0.5)

    def keys(self, prefix: str) -> dict[str, float]:
        """Objects of the run below `prefix`, with the time they were written."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix=f"here/far/{prefix}")
        return {o["Key"]: o["LastModified"].timestamp() for page in pages for o in page.get("Contents", [])}

    def step(self, label: str) -> dict[str, str]:
        """The step's entry in status.json, with `state` "" before there is one."""
        if "here/far/status.json" not in self.keys("status.json"):
            return {"state": ""}
        steps = json.loads(self.client.get_object(Bucket="runs", Key="here/far/status.json")["Body"].read())["steps"]
        return next((s | {"folder": Path(s["folder"]).name} for s in steps if s["label"] == label), {"state": ""})

    def work(self, folder: str) -> set[str]:
        """What the step would lose or has to take up again: shards, a checkpoint, scores under way."""
        scores = self.keys(f"{folder}/progress.json") if folder.startswith("score") else {}
        return {*self.keys(f"{folder}/rows/"), *self.keys(f"{folder}/checkpoints/checkpoint_"), *scores}

    def progress(self, folder: str) -> float:
        """When the step last wrote a shard or its progress."""
        return max((*self.keys(f"{folder}/rows/").values(), *self.keys(f"{folder}/progress.json").values()), default=0.0)


def started(pid: int) -> float:
    """When a process began; never, if it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return float("inf")


@pytest.fixture(scope="module")
def network() -> Iterator[Bridge]:
    with bridge() as made:
        yield made


@pytest.fixture(scope="module")
def storage(network: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with seaweed(tmp_path_factory.mktemp("s3"), network.address) as endpoint, pytest.MonkeyPatch.context() as patch:
        chosen = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        for name, value in {**chosen, "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        yield Storage(endpoint)


class Job:
    """`leaml adapt` on the head of new machines."""

    def __init__(self, network: Bridge, folder: Path) -> None:
        self.machines = Machines(network, os.environ, CPUS)
        for _ in range(NODES):
            self.machines.add()
        config, self.log = folder / "config.yaml", folder / "log"
        config.write_text(json.dumps(settings(self.machines.address)))
        command = [sys.executable, "-m", "pipelines.cli", "adapt", str(config)]
        self._wait_for_nodes()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.machines.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_for_nodes(self) -> None:
        from ray._raylet import GcsClient

        end = time.monotonic() + 180
        while True:
            try:
                alive = [n for n in GcsClient(address=self.machines.address).get_all_node_info().values() if n.state == 0]
                if len(alive) == 1 + NODES:
                    return
            except Exception as error:
                assert time.monotonic() < end, error
            assert time.monotonic() < end, f"the nodes did not join: {Path(f'{self.machines.base}.log').read_text()[-3000:]}"
            self.machines.replace_ended()
            time.sleep(0.5)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something to happen while the job runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the job ended before {what}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < end, f"waited in vain for {what}: {self.log.read_text()[-3000:]}"
            time.sleep(0.5)  # every look asks the storage and all processes of the machine

    def end(self) -> None:
        bury(self.process)
        self.machines.close()


class Killer(threading.Thread):
    """Kills a node that works, once in each of these steps, gives the cluster a new one, and times the recovery."""

    def __init__(self, job: Job, storage: Storage) -> None:
        super().__init__(daemon=True)
        self.job, self.machines, self.storage = job, job.machines, storage
        self.recovery: dict[str, float] = {}
        self.failed = ""

    def run(self) -> None:
        try:
            for label in KILLS:
                self.recovery[label] = self._kill_in(label)
                print(f"{label}: went on {self.recovery[label]} s after a node died", flush=True)
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
            self.job.process.kill()

    def _kill_in(self, label: str) -> float:
        self.job.until(lambda: self.storage.step(label)["state"] == "running", f"{label} to start")
        folder = self.storage.step(label)["folder"]
        before = self.storage.work(folder)
        self.job.until(lambda: self.storage.work(folder) - before, f"work of {label}")
        old = self.machines.workers()
        assert old, f"nobody works at {label}"
        assert self.storage.step(label)["state"] == "running", f"{label} ended too soon"
        killed = time.time()
        self.machines.kill(sorted(old.values())[-1])
        self.machines.add()

        def recovered() -> bool:
            new = self.machines.workers().keys() - old.keys()
            return self.storage.step(label)["state"] != "running" or (
                bool(new) and self.storage.progress(folder) > max(started(pid) for pid in new)
            )

        self.job.until(recovered, f"{label} to go on")
        return round(time.time() - killed, 1)


def test_steps_survive_the_death_of_a_node_and_the_run_that_of_its_head(
    network: Bridge, storage: Storage, tmp_path: Path
) -> None:
    job = Job(network, tmp_path)
    try:
        job.until(lambda: storage.step("caption")["state"] == "running", "captions")
        folder = storage.step("caption")["folder"]
        job.until(lambda: len(storage.work(folder)) > 2, "captions")
    finally:
        job.end()
    committed = {k: t for k, t in storage.keys("caption").items() if "/rows/" in k}
    assert 2 <= len(committed) < IMAGES // SHARD

    job = Job(network, tmp_path)
    killer = Killer(job, storage)
    killer.start()
    try:
        code = job.process.wait(1500)
    finally:
        killer.join(10)
        text = job.log.read_text()
        job.end()
    assert killer.failed == ""
    assert code == 0, text[-3000:]
    assert killer.recovery.keys() == set(KILLS)
    after = storage.keys("caption")
    assert {k: after[k] for k in committed} == committed  # what the first head's run had published was not made again

    folders = {label: storage.step(label)["folder"] for label in (*STEPS, "ingest labeled", "ingest evaluation")}
    evaluation, images = (
        set(store.index(f"{full(folders[f'ingest {part}'])}/images").ids.to_pylist()) for part in ("evaluation", "labeled")
    )
    for label, expected in (("caption", images), ("evaluate leaml", evaluation)):
        assert Counter(ids(folders[label], "rows/")) == Counter(expected), label  # none lost, none twice
    asked = Counter(ids(folders["generate leaml"], "rows/"))
    assert (len(asked), max(asked.values())) == (len(images) - 40, 1)  # all but the labeled ones
    assert asked.keys() <= images
    assert Counter(ids(folders["filter leaml"], "rows/")) == asked
    for label, noted in (
        ("warmup", [0, 10, 19]),
        ("distill leaml", [0, 10, 20, 30, 40, 50, 59]),
        ("finetune leaml", [0, 10, 19]),
    ):
        summary = json.loads(files.read_bytes(f"{full(folders[label])}/training.json"))
        assert [step for step, _ in summary["losses"]] == noted, label
    shown = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "status", "s3://runs/here/far"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(label in shown.stdout for label in STEPS)
    metrics = json.loads(files.read_bytes("s3://runs/here/far/evaluation/metrics.json"))
    assert set(metrics["rows"]) == {"blind_prior", "zero_shot", "leaml"}
    assert metrics["rows"]["leaml"]["n"] > 200
    assert any(text.startswith("Left out (evaluate.leave_out): Fine-tuned on labels, LoRA") for text in metrics["warnings"])


def full(folder: str) -> str:
    return f"s3://runs/here/far/{folder}"


def ids(folder: str, part: str) -> list[str]:
    """Image ids in the Parquet files of a step."""
    found = []
    for file in files.listing(full(folder)):
        if f"/{part}" in file and file.endswith(".parquet"):
            found += tables.read(file, columns=["image_id"])["image_id"].to_pylist()
    return found
