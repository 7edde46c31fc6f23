"""Map steps on a real Ray that are killed at any moment, and broken by the disk: a rerun ends with every image once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from faults import Faulty, Step
from scripted import MAX_PIXELS, ScriptedSpec, published

from leaml.errors import DataError
from pipelines.runtime import quiet_data
from pipelines.shard import load, make_shards
from pipelines.shards import EngineActor


@pytest.fixture(scope="module", autouse=True)
def ray_small() -> Iterator[None]:
    """A Ray with one CPU beside the engine's: each driver has workers of its own, and every one takes a second to start."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    faults.register()
    quiet_data(False)
    yield
    ray.shutdown()


def moments(draw: random.Random) -> list[tuple[str, int, float]]:
    """Six moments in a driver's life: what to wait for, how often, and seconds after that.

    They lie before it joined Ray, before its engine started, between two commits, and after the last one.
    """
    started = [("driver", 0, draw.uniform(0, 0.5)), ("driver", 1, draw.uniform(0, 1)), ("engine", 1, draw.uniform(0, 0.2))]
    working = [(draw.choice(("asked", "committed")), draw.randint(1, 5), draw.uniform(0, 0.1)) for _ in range(3)]
    mixed = draw.sample(started + working, 5)
    return [*mixed, ("last commit", 0, draw.uniform(0, 0.3))]


@pytest.mark.timeout(300)
def test_driver_killed_at_random_moments(tmp_path: Path) -> None:
    shards, corrupt = 64, tuple(range(5, 128, 7))
    step = Step.make(tmp_path, 2 * shards, 2, corrupt, seconds=0.04)
    for event, count, delay in moments(random.Random(11)):
        left = shards - step.seen("committed")
        assert left > 5  # else this kill proves little
        with step.exactly_once():
            step.kill_driver(*(("committed", left) if event == "last commit" else (event, count)), delay)
    assert published(step.output) == dict.fromkeys(step.ids, 1)
    with step.exactly_once():
        summary = step.run()
    step.check_finished(summary, corrupt)


BOUNDARIES = {
    ("engine", "unasked"): (0, 0),
    ("quarantine", "written"): (0, 0),
    ("quarantine", "published"): (1, 0),
    ("counts", "published"): (1, 1),
    ("rows", "written"): (1, 1),
    ("rows", "published"): (0, 0),
}
"""Moments in the life of a shard, and how many files of quarantine and counts without their shard's rows a death leaves."""


@pytest.mark.timeout(300)
def test_killed_at_each_commit_boundary_one_resume_after_the_other(tmp_path: Path) -> None:
    """Driver and worker die together while their third shard is published; each resume begins where the last one died."""
    corrupt = tuple(range(0, 28, 2))  # one of the two images of each shard
    step = Step.make(tmp_path, 28, 2, corrupt)
    done = 0
    for (where, moment), left in BOUNDARIES.items():
        with step.exactly_once(), step.driver(where, moment) as process:
            process.join(faults.PATIENCE)
            assert process.exitcode == -signal.SIGKILL, step.said()
        done += 3 if (where, moment) == ("rows", "published") else 2
        assert step.seen("committed") == done
        assert (step.undone("quarantine"), step.undone("counts")) == left
    for _ in range(2):  # the second time nothing is left to do
        with step.exactly_once():
            summary = step.run()
        step.check_finished(summary, corrupt)


@pytest.mark.timeout(120)
def test_full_disk_ends_the_step_and_a_rerun_finishes_it(tmp_path: Path) -> None:
    step = Step.make(tmp_path, 20, 4)
    with step.exactly_once():
        with pytest.raises(DataError, match=r"^cannot write /.*/out/rows/shard-\S+\.parquet: .*No space left on device"):
            step.run(Faulty("rows", "written"))
        assert step.seen("committed") == 2
        end = time.monotonic() + 20  # an actor may be at a file of another shard still
        while list(step.output.rglob(".*")) and time.monotonic() < end:
            time.sleep(0.1)
        assert not list(step.output.rglob(".*"))
    with step.exactly_once():
        summary = step.run()
    step.check_finished(summary)


@pytest.mark.parametrize("folder", ["quarantine", "counts", "rows"])
def test_full_disk_at_any_file_of_a_shard_then_other_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Without Ray: what the actor returns and leaves. The rerun cuts the images in shards of another size."""
    corrupt = (1, 3, 5)
    step = Step.make(tmp_path, 12, 2, corrupt)
    actor = EngineActor(ScriptedSpec("x", log=str(step.log)), Faulty(folder, "written"), str(step.output), MAX_PIXELS)
    shards = [load(shard) for shard in make_shards("caption", step.refs, {}, 2)[:3]]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", os.fsync)  # what the work changes is put back
        errors = [actor(shard)["error"] for shard in shards]
    assert errors[:2] == [[], []]
    kind, message = errors[2]
    assert kind == "DataError"
    assert f"cannot write {step.output}/{folder}/{shards[2]['shard']}" in message
    assert "No space left on device" in message
    assert step.seen("committed") == 2
    assert not list(step.output.rglob(".*"))
    with step.exactly_once():
        summary = step.run(size=3)
    step.check_finished(summary, corrupt)


@pytest.mark.timeout(60)
def test_output_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    step = Step.make(tmp_path, 4, 2)
    step.output.write_text("mine")
    with pytest.raises(DataError, match=r"^cannot write /.*/out/.*: .*Not a directory.*; check the path"):
        step.run()
    assert step.output.read_text() == "mine"
    step.output.unlink()
    step.check_finished(step.run())
