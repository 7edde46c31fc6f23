"""Numbers of steps on Ray's Prometheus endpoint: what a real local Ray tells after a map step and a training's progress."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from prometheus_client.parser import text_string_to_metric_families

from pipelines import metrics, progress, train, worker
from pipelines.metrics import StepMetrics
from pipelines.runtime import quiet_data
from pipelines.shard import make_shards
from pipelines.shards import run_shards


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of the metrics of a Ray of this module's own."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")  # 10 s else
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=200_000_000, _metrics_export_port=port
        )
    ray.cloudpickle.register_pickle_by_value(scripted)  # the tests' folder is on no path of the workers'
    quiet_data(False)
    yield f"http://127.0.0.1:{port}/metrics"
    ray.shutdown()


def told(endpoint: str, wanted: Callable[[dict[tuple[str, str], float]], bool]) -> dict[tuple[str, str], float]:
    """Our metrics as (name, label of the step and verdict) -> value, once they are `wanted`; Ray exports every few seconds."""
    found: dict[tuple[str, str], float] = {}
    for _ in range(120):
        with urllib.request.urlopen(endpoint, timeout=5) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [s for f in families for s in f.samples if s.name.startswith("ray_leaml_step_")]
        found = {(s.name, " ".join(filter(None, (s.labels["label"], s.labels.get("verdict", ""))))): s.value for s in samples}
        if wanted(found):
            assert {s.labels["run"] for s in samples} == {"mine"}
            return found
        time.sleep(0.5)
    pytest.fail(f"not told within a minute: {found}")


def test_a_map_step_tells_its_numbers(endpoint: str, tmp_path: Path) -> None:
    output = str(tmp_path / "mine" / "caption-0123456789ab")
    summary = run_map_step(tmp_path, output)
    found = told(
        endpoint, lambda f: f.get(("ray_leaml_step_running", "caption")) == 0 and ("ray_leaml_step_done", "caption") in f
    )
    assert found["ray_leaml_step_images_total", "caption"] == summary["images"] == 12
    assert found["ray_leaml_step_tokens_total", "caption"] == summary["tokens"] > 0
    assert found["ray_leaml_step_done", "caption"] == found["ray_leaml_step_total", "caption"] == 13
    assert found["ray_leaml_step_engine_seconds_total", "caption"] == pytest.approx(summary["engine_seconds"], abs=0.1)
    assert found["ray_leaml_step_engine_free_seconds_total", "caption"] == pytest.approx(summary["engine_seconds"], abs=0.1)
    assert found["ray_leaml_step_quarantined_total", "caption"] == 1


def run_map_step(tmp_path: Path, output: str) -> dict[str, Any]:
    log = tmp_path / "log"
    log.mkdir()
    refs = scripted.images_table(tmp_path / "images", 13, corrupt=(5,))
    shards = make_shards("caption", refs, {}, 4)
    spec = scripted.ScriptedSpec("scripted", log=str(log))
    return run_shards("caption", shards, spec, scripted.CaptionLike(), output, scripted.RESOURCES, scripted.MAX_PIXELS)


def test_verdicts_of_pairs_are_told_apart(endpoint: str) -> None:
    with StepMetrics("s3://bucket/runs/mine/generate-0123456789ab", "generate leaml") as step:
        for _ in range(2):
            step.shard(
                Counter({"images": 3, "pairs": 10, "accepted": 6, "rejected: round trip": 3, "rejected: too long": 1}), 0.5
            )
        found = told(endpoint, lambda f: f.get(("ray_leaml_step_pairs_total", "generate leaml accepted")) == 12)
        assert found["ray_leaml_step_pairs_total", "generate leaml round trip"] == 6
        assert found["ray_leaml_step_pairs_total", "generate leaml too long"] == 2
        assert found["ray_leaml_step_running", "generate leaml"] == 1
    assert step.tags == {"run": "mine", "step": "generate", "label": "generate leaml"}


def test_a_trainings_progress_is_told(endpoint: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "mine" / "distill-0123456789ab")
    write = worker.progress_writer(folder, every=0)
    with train.ProgressMonitor("distill", folder, steps=100):
        write({"step": 40, "steps": 100, "phase": 1, "phases": 2, "loss": 0.25, "steps_per_s": 3.5, "wait_share": 0.125})
        found = told(endpoint, lambda f: f.get(("ray_leaml_step_done", "distill")) == 140)
    assert found["ray_leaml_step_total", "distill"] == 200
    assert found["ray_leaml_step_loss", "distill"] == 0.25
    assert found["ray_leaml_step_steps_per_second", "distill"] == 3.5
    assert found["ray_leaml_step_wait_share", "distill"] == 0.125
    assert 50e6 < found["ray_leaml_step_peak_memory_bytes", "distill"] < 64e9


def test_a_bar_says_that_the_model_waits_where_it_does() -> None:
    now: progress.TrainingProgress = {"step": 1, "steps": 2, "steps_per_s": 3.5, "loss": 0.25, "wait_share": 0.01}
    assert progress.note_of(now) == "loss 0.250"
    said = "loss 0.250, waits 12 % of the time for its input (resources.train_inputs)"
    assert progress.note_of({**now, "wait_share": 0.12}) == said
    assert progress.note_of({"step": 1, "steps": 2, "steps_per_s": 3.5}) == ""


def test_a_step_that_stands_still_is_still_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the alert on stalled runs needs: Ray forgets a gauge after two reports without it, here two seconds."""
    monkeypatch.setattr(metrics, "REFRESH", 0.5)
    with StepMetrics("runs/mine/score-0123456789ab", "score leaml") as step:
        step.progress(7, 20)
        time.sleep(5)
        found = told(endpoint, lambda f: ("ray_leaml_step_running", "score leaml") in f)
        assert found["ray_leaml_step_running", "score leaml"] == 1
        assert found["ray_leaml_step_done", "score leaml"] == 7
    told(endpoint, lambda f: ("ray_leaml_step_running", "score leaml") not in f)  # and gone when it has ended


def test_progress_holds_the_peak_memory(tmp_path: Path) -> None:
    worker.progress_writer(str(tmp_path), every=0)({"step": 1, "steps": 2})
    assert json.loads((tmp_path / worker.PROGRESS).read_text())["peak_memory"] > 50e6


def test_without_ray_nothing_is_told_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ray_runs", lambda: False)
    monkeypatch.setattr(metrics, "_gauge", None)
    monkeypatch.setattr(metrics, "_counter", None)
    with StepMetrics("runs/mine/caption-0", "caption") as step:
        step.shard({"images": 1, "pairs": 1, "accepted": 1}, 1.0)
