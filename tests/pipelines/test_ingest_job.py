"""Ingest on a real Ray gives what one process gives, whoever is killed on the way; what is done is not done again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from faults import PATIENCE, STARTER, wait
from PIL import Image

from leaml.config import ResourcesConfig, SourceConfig, parse
from leaml.data import tables
from leaml.data.image_table import ImageTable
from leaml.data.ingest import IngestResult, ingest
from leaml.data.part_files import PartWriter, WrittenPart
from leaml.data.parts import Part, PartReader
from leaml.errors import DataError
from leaml.io import files
from pipelines import ingest as ingest_module
from pipelines import ingest_job
from pipelines.run import Run
from pipelines.runtime import quiet_data

COUNT, SIZE, WORKERS = 120, 5, 2


@pytest.fixture(scope="module", autouse=True)
def ray_small() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    quiet_data(False)
    yield
    ray.shutdown()


def frames(folder: Path) -> SourceConfig:
    """Images of which every tenth is one of the others and one is torn."""
    folder.mkdir(parents=True)
    for number in range(COUNT):
        image = Image.new("RGB", (200, 200), (number, number % 7, 9))
        image.save(folder / f"{number:03d}.png")
        if number % 10 == 9:
            (folder / f"{number:03d}.png").write_bytes((folder / f"{number - 7:03d}.png").read_bytes())
    (folder / "050.png").write_bytes(b"torn")
    return SourceConfig(format="folder", path=str(folder))


class SlowWriter(PartWriter):
    """Takes a while for a part, and says which parts it did; with `kills` the process of a part dies with it once."""

    marks = ""
    kills = -1

    def __call__(self, part: Part) -> WrittenPart:
        import time

        time.sleep(0.1)
        killed = Path(self.marks, f"killed-{part.number}")
        if part.number == self.kills and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(part)


def run(folder: Path, kills: int = -1) -> IngestResult:
    """The ingest of the images in `folder` on the Ray of this process."""

    def mapped(reader: PartReader, write: PartWriter) -> Iterator[WrittenPart]:
        slow = SlowWriter(write.source, write.images_out, write.max_pixels, write.split, write.copy)
        vars(slow).update(marks=str(folder), kills=kills)
        cut = PartReader(reader.source, reader.copy, reader.first, SIZE)
        yield from ingest_job.write_parts("ingest", cut, slow, WORKERS)

    source = SourceConfig(format="folder", path=str(folder / "frames"))
    return ingest(source, f"{folder}/images", f"{folder}/labeled.parquet", mapped=mapped)


def drive(address: str, folder: Path) -> None:
    """The driver that is killed."""
    import ray

    with (folder / "driver.txt").open("wb") as text:
        for stream in (1, 2):
            os.dup2(text.fileno(), stream)
    ray.init(address=address, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    quiet_data(False)
    run(folder)


@contextlib.contextmanager
def driver(folder: Path) -> Iterator[BaseProcess]:
    import ray

    process = STARTER.Process(target=drive, args=(ray.get_runtime_context().gcs_address, folder), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def done(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("images-parts/part-*.parquet")}


def check_equal(folder: Path, source: SourceConfig, result: IngestResult) -> None:
    """Rows, labels and quarantine are those of an ingest in one process and one part."""
    whole = folder / "whole"
    assert ingest(source, f"{whole}/images", f"{whole}/labeled.parquet") == result
    here, there = ImageTable(f"{folder}/images"), ImageTable(f"{whole}/images")
    assert len(here) == len(there) == COUNT - COUNT // 10 - 1
    assert here.columns(tables.IMAGES.names).to_pylist() == there.columns(tables.IMAGES.names).to_pylist()
    for name in ("images-copies.parquet", "quarantine-labeled.parquet", "labeled.parquet"):
        assert tables.read(f"{folder}/{name}").to_pylist() == tables.read(f"{whole}/{name}").to_pylist()


@pytest.mark.timeout(300)
def test_a_killed_driver_redoes_what_was_under_way_and_nothing_else(tmp_path: Path) -> None:
    source, parts = frames(tmp_path / "frames"), COUNT // SIZE
    for goal in (4, 12):  # two drivers are killed one after the other
        with driver(tmp_path) as process:
            wait(lambda goal=goal, process=process: len(done(tmp_path)) >= goal or not process.is_alive(), f"{goal} parts")
            assert process.is_alive(), (tmp_path / "driver.txt").read_text()[-3000:]
            process.kill()
            process.join(PATIENCE)
        wait(lambda: settled(tmp_path), "the end of its workers")
        held = done(tmp_path)
        assert goal <= len(held) < parts
        assert len(list(tmp_path.glob("images/data/*"))) - len(held) <= 2 * WORKERS  # those of both drivers
        assert not (tmp_path / "images" / "_versions").exists()

    result = run(tmp_path)
    assert {name: data for name, data in done(tmp_path).items() if name in held} == held
    assert len(done(tmp_path)) == parts
    assert len(list(tmp_path.glob("images/data/*"))) == parts  # what was under way is removed
    check_equal(tmp_path, source, result)


def settled(folder: Path) -> bool:
    """Whether nothing is written any more."""
    import time

    before = len(list(folder.glob("images/data/*"))), len(done(folder))
    time.sleep(1.5)
    return before == (len(list(folder.glob("images/data/*"))), len(done(folder)))


@pytest.mark.timeout(200)
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    source = frames(tmp_path / "frames")
    result = run(tmp_path, kills=7)
    assert (tmp_path / "killed-7").exists()
    check_equal(tmp_path, source, result)


def test_an_error_of_a_part_is_the_error_of_the_ingest(tmp_path: Path) -> None:
    source = frames(tmp_path / "frames")
    (tmp_path / "shards").mkdir()
    for number in range(4):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as archive:
            archive.add(tmp_path / "frames" / f"{number:03d}.png", f"{number}.png")
    torn = tmp_path / "shards" / "2.tar"
    torn.write_bytes(torn.read_bytes()[:700])
    source = SourceConfig(format="webdataset", path=str(tmp_path / "shards"))

    def mapped(reader: PartReader, write: PartWriter) -> Iterator[WrittenPart]:
        return ingest_job.write_parts("ingest", PartReader(source, records=1), write)

    with pytest.raises(DataError, match=rf"^{torn} is not a whole tar archive: .*; copy this shard again or remove it"):
        ingest(source, f"{tmp_path}/images", None, mapped=mapped)
    assert not (tmp_path / "images" / "_versions").exists()
    torn.unlink()
    assert ingest(source, f"{tmp_path}/images", None, mapped=mapped).images == 3


def test_an_error_of_the_listing_is_the_error_of_the_ingest(tmp_path: Path) -> None:
    source = SourceConfig(format="folder", path=f"{tmp_path}/gone")
    write = PartWriter(source, f"{tmp_path}/images", 1, None, True)
    with pytest.raises(DataError, match=f"^{tmp_path}/gone does not exist"):
        list(ingest_job.write_parts("ingest", PartReader(source), write))


def test_a_node_that_has_other_files_at_a_path_is_noticed(tmp_path: Path) -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    (tmp_path / "a.png").touch()
    assert ingest_job.seen_by_all([str(tmp_path), f"{tmp_path}/a.png"], [node])
    assert not ingest_job.seen_by_all([str(tmp_path), "/proc/self"], [node])  # of each process another one


def test_what_not_every_node_has_is_read_by_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = frames(tmp_path / "frames")
    asked: list[list[str]] = []
    monkeypatch.setattr(ingest_job, "start_ray", lambda *_: None)
    monkeypatch.setattr(ingest_job, "seen_by_all", lambda paths: asked.append(paths))
    monkeypatch.setattr(ingest_job, "write_parts", lambda *_: pytest.fail("other nodes were asked"))
    monkeypatch.setattr("leaml.data.parts.PART_RECORDS", SIZE)
    mapped = ingest_job.on_cluster("ingest", ResourcesConfig())
    result = ingest(source, f"{tmp_path}/images", f"{tmp_path}/labeled.parquet", mapped=mapped)
    assert asked == [[source.path, f"{source.path}/000.png"]]
    assert f"not every node has {source.path}" in capsys.readouterr().out
    check_equal(tmp_path, source, result)


def test_a_run_reads_few_images_alone_and_many_on_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = frames(tmp_path / "frames")
    lines = '{"image": "frames/%s.png", "question": "what?", "answer": "red"}'
    for name, image in (("train", "001"), ("test", "002")):
        (tmp_path / f"{name}.jsonl").write_text(lines % image)
    data: dict[str, Any] = {
        "labeled": {"format": "jsonl", "path": f"{tmp_path}/train.jsonl"},
        "unlabeled": {"format": "folder", "path": source.path},
        "evaluation": {"format": "jsonl", "path": f"{tmp_path}/test.jsonl"},
        "exclude_evaluation": True,
    }
    started: list[tuple[ResourcesConfig, bool]] = []
    monkeypatch.setattr(ingest_job, "start_ray", lambda *arguments: started.append(arguments))
    monkeypatch.setattr("leaml.data.parts.PART_RECORDS", COUNT // 2)
    with Run(parse({"name": "alone", "storage": f"{tmp_path}/runs", "data": data})) as run_:
        alone = run_.summary(ingest_module.ingest(run_).training[1])
    assert not started
    monkeypatch.setattr("leaml.data.parts.PART_RECORDS", SIZE)
    with Run(parse({"name": "many", "storage": f"{tmp_path}/runs", "data": data})) as run_:
        step = ingest_module.ingest(run_, verbose=True).training[1]
        assert run_.summary(step) == alone
    assert started == [(run_.config.resources, True)]
    assert not files.exists(step.path("images-parts"))
