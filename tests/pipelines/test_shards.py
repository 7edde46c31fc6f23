"""Map steps on a real Ray: every image once, whatever is broken or changed in between; test_kills has what is killed."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import (
    DEATH,
    MAX_PIXELS,
    RESOURCES,
    Broken,
    CaptionLike,
    Refusing,
    ScriptedSpec,
    calls,
    images_table,
    png,
    published,
    shard_rows,
)

from leaml.data import image_table, step_rows, store, tables
from leaml.data.step_rows import StepRows
from leaml.data.store import ImageIndex
from leaml.errors import DataError, ModelError, StepError
from pipelines import gather
from pipelines.runtime import quiet_data
from pipelines.shard import load, make_shards
from pipelines.shards import EngineActor, run_shards

COUNT, SIZE = 20, 4


@pytest.fixture(scope="module", autouse=True)
def workers(ray_local: None) -> None:
    """Workers get the scripted module by value: the tests' folder is on no path of theirs."""
    import ray

    ray.cloudpickle.register_pickle_by_value(scripted)
    quiet_data(False)


class Step:
    """A folder with images, an output and an engine log, and the way to run a step in it."""

    def __init__(self, folder: Path, corrupt: tuple[int, ...] = ()) -> None:
        self.images, self.output, self.log = folder / "images", folder / "out", folder / "log"
        self.log.mkdir()
        self.refs: ImageIndex = images_table(self.images, COUNT, corrupt)
        self.ids = [r.image_id for r in self.refs]

    def run(
        self,
        work: Any = None,
        size: int = SIZE,
        shards: slice = slice(None),
        plan: dict[str, int] | None = None,
        max_quarantined: float = 1.0,
        **faults: Any,
    ) -> Any:
        extras = {i: n for n, i in enumerate(self.ids)}
        todo = make_shards("caption", self.refs, extras, size)[shards]
        spec = ScriptedSpec("x", log=str(self.log), **faults)
        resources = RESOURCES.model_copy(update=plan or {})
        work = work or CaptionLike()
        return run_shards("caption", todo, spec, work, str(self.output), resources, MAX_PIXELS, max_quarantined)

    def captions(self) -> dict[str, str]:
        rows = StepRows(str(self.output)).columns(None).to_pylist()
        assert len({r["image_id"] for r in rows}) == len(rows)
        return {r["image_id"]: r["caption"] for r in rows}

    def expected(self) -> dict[str, str]:
        return {i: f"image {n},0 sample 0 extra {n}" for n, i in enumerate(self.ids)}


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


@pytest.mark.parametrize("plan", [{"engines": 2}, {"engines": 1, "max_engines": 2}, {"engines": 1, "engine_shards": 3}])
def test_every_image_once_with_its_own_data(step: Step, plan: dict[str, int]) -> None:
    summary = step.run(plan=plan)
    assert summary["engine_free_share"] == 1  # as this engine says
    assert step.captions() == step.expected()
    assert list(step.captions()) == step.ids  # in the order of the table
    assert calls(step.log) == Counter(step.ids)
    assert (summary["images"], summary["quarantined"], summary["tokens"]) == (COUNT, 0, 3 * COUNT)
    assert summary["engine_hours_per_million_images"] * 3.6 == pytest.approx(1e3 / summary["images_per_engine_s"], rel=0.05)
    again = step.run()
    kept = ("images", "quarantined", "tokens", "engine_seconds", "images_per_engine_s", "engine_hours_per_million_images")
    assert [again[k] for k in kept] == [summary[k] for k in kept]  # nothing was done, and the rate is what it was
    assert calls(step.log) == Counter(step.ids)  # nothing is asked again


@pytest.mark.parametrize("size", [3, COUNT])
def test_shard_size_changed_before_the_resume(tmp_path: Path, size: int) -> None:
    step = Step(tmp_path, corrupt=(1, 13))
    step.run(shards=slice(1, None, 2))  # shards 1 and 3 of five
    committed, before = published(step.output), calls(step.log)
    assert sum(committed.values()) == 2 * SIZE
    spent = json.loads(Path(step.output, "engines.json").read_text())
    summary = step.run(size=size)
    assert spent["images"] == 2 * SIZE - 1
    in_all = json.loads(Path(step.output, "engines.json").read_text())  # of both attempts
    assert (in_all["images"], in_all["engine_seconds"] > spent["engine_seconds"]) == (COUNT - 2, True)
    assert summary["engine_seconds"] == round(in_all["engine_seconds"], 1)
    assert published(step.output) == Counter(step.ids)
    assert all(calls(step.log)[i] == before[i] for i in committed)
    good = {i: c for i, c in step.expected().items() if i not in (step.ids[1], step.ids[13])}
    assert step.captions() == good
    assert (summary["images"], summary["quarantined"], summary["tokens"]) == (COUNT - 2, 2, 3 * (COUNT - 2))
    step.run(size=SIZE)
    assert published(step.output) == Counter(step.ids)


def test_counts_without_rows_are_not_counted(step: Step) -> None:
    """A shard that was killed between its counts and its rows, and never came back because the shard size changed."""
    (step.output / "counts").mkdir(parents=True)
    (step.output / "counts" / "shard-000000-of-another-size.json").write_text(json.dumps({"images": 1000}))
    assert step.run(size=COUNT)["images"] == COUNT


def test_corrupt_images_are_quarantined_and_the_rest_is_done(tmp_path: Path) -> None:
    corrupt = (0, 1, 2, 3, 10)  # a whole shard and one of another
    step = Step(tmp_path, corrupt)
    summary = step.run()
    rows = StepRows(f"{step.output}").columns(None).to_pylist()
    assert [r["image_id"] for r in rows] == [i for n, i in enumerate(step.ids) if n not in corrupt]
    files = sorted((step.output / "quarantine").glob("*.parquet"))
    found = [row for f in files for row in tables.read(str(f), tables.QUARANTINE).to_pylist()]
    assert [r["image_id"] for r in found] == [step.ids[n] for n in corrupt]
    assert {r["step"] for r in found} == {"caption"}
    assert all(r["reason"].startswith(("truncated", "damaged", "not an image")) for r in found)
    assert (summary["images"], summary["quarantined"]) == (COUNT - 5, 5)
    by_reason = Counter(f"quarantined: {r['reason'].partition(':')[0]}" for r in found)
    assert {k: n for k, n in summary.items() if k.startswith("quarantined: ")} == by_reason
    asked = calls(step.log)
    step.run()
    assert calls(step.log) == asked
    assert len(list((step.output / "quarantine").glob("*.parquet"))) == len(files)


def test_an_image_that_is_gone_from_its_source_is_quarantined(tmp_path: Path) -> None:
    """Of images that were not copied; without Ray, as a task and an actor of it do."""
    (tmp_path / "frames").mkdir()
    data = [png(n) for n in range(4)]
    for number, image in enumerate(data):
        (tmp_path / "frames" / f"{number}.png").write_bytes(image)
    rows = [{"image_id": tables.image_id(d), "uri": f"{tmp_path}/frames/{n}.png"} for n, d in enumerate(data)]
    image_table.write(f"{tmp_path}/images", rows)
    (tmp_path / "frames" / "1.png").unlink()
    (tmp_path / "frames" / "2.png").write_bytes(png(99))
    (shard,) = make_shards("caption", store.index(f"{tmp_path}/images"), {}, 4)
    (tmp_path / "log").mkdir()
    actor = EngineActor(ScriptedSpec("x", log=f"{tmp_path}/log"), CaptionLike(), f"{tmp_path}/out", MAX_PIXELS)
    assert actor(load(shard))["error"] == []
    assert [row["image_id"] for row in shard_rows(tmp_path / "out")] == [rows[n]["image_id"] for n in (0, 3)]
    (file,) = (tmp_path / "out" / "quarantine").iterdir()
    assert [(row["image_id"], row["reason"]) for row in tables.read(str(file), tables.QUARANTINE).to_pylist()] == [
        (rows[1]["image_id"], f"gone since ingest: {tmp_path}/frames/1.png"),
        (rows[2]["image_id"], f"changed since ingest: {tmp_path}/frames/2.png"),
    ]


def test_too_many_images_that_cannot_be_decoded_end_the_step_and_the_finished_shards_stay(tmp_path: Path) -> None:
    step = Step(tmp_path, corrupt=(0, 9, 18))
    words = rf"^caption: 2 of {COUNT} images got no result, more than 5% \(data.max_quarantined\): .*/quarantine"
    with pytest.raises(StepError, match=words):
        step.run(max_quarantined=0.05)
    done = published(step.output)
    assert done  # and its shards are not made again
    with pytest.raises(StepError, match=rf"3 of {COUNT} images"):
        step.run(max_quarantined=0.14)
    assert step.run(max_quarantined=0.15)["quarantined"] == 3
    assert calls(step.log) == Counter(i for n, i in enumerate(step.ids) if n not in (0, 9, 18))


def test_images_without_a_result_are_asked_for_again_once_the_model_is_put_right(step: Step) -> None:
    marker, bad = step.output.parent / "right", {step.ids[n] for n in (0, 9, 18)}
    with pytest.raises(StepError, match=rf"of {COUNT} images got no result, .*: \d empty reply; .*tries these images again"):
        step.run(Refusing(bad, marker), max_quarantined=0.05)
    with pytest.raises(StepError, match=rf"^caption: 3 of {COUNT} images got no result"):
        step.run(Refusing(bad, marker), max_quarantined=0.14)
    before = calls(step.log)
    marker.touch()
    summary = step.run(Refusing(bad, marker), max_quarantined=0.05)
    assert (summary["images"], summary["quarantined"]) == (COUNT, 0)
    assert step.captions() == step.expected()
    assert calls(step.log) - before == Counter(bad)  # the others were not asked for again


@pytest.mark.parametrize("how", ["exit_once", "dies_once"])
def test_engine_that_dies_once_is_started_again(step: Step, how: str) -> None:
    step.run(**{how: step.ids[9]})
    assert Path(f"{step.log}-died").exists()
    assert step.captions() == step.expected()
    assert published(step.output) == Counter(step.ids)


@pytest.mark.parametrize(
    ("how", "reason"), [("exit_always", "none of them could say why"), ("dies_always", f"that said why: {DEATH}; an image may")]
)
def test_image_that_kills_every_engine_ends_the_step_and_a_rerun_goes_on(step: Step, how: str, reason: str) -> None:
    began = time.time()
    with pytest.raises(StepError, match=rf"^3 engines died at work on shard-000002-.*{reason}.*run the same command again"):
        step.run(**{how: step.ids[9]})
    assert time.time() - began < 60
    before, committed = calls(step.log), published(step.output)
    assert before[step.ids[9]] == 3  # tried, and tried again twice
    assert step.ids[9] not in committed
    step.run()
    assert step.captions() == step.expected()
    assert all(calls(step.log)[i] == before[i] for i in committed)


def test_an_engine_that_dies_in_every_start_ends_the_step(step: Step) -> None:
    with pytest.raises(StepError, match=r"^an engine died 3 times while it started; none of them could say why.*run the same"):
        step.run(exits_at_start=True)
    assert len(list(step.log.iterdir())) == 3
    step.run()
    assert step.captions() == step.expected()


def test_engine_that_cannot_be_built_says_why(step: Step) -> None:
    with pytest.raises(ModelError, match=r"^no such architecture$"):
        step.run(build_error="no such architecture")
    assert not published(step.output)


@pytest.mark.parametrize("how", ["fewer", "more", "order", "none", "column"])
def test_rows_that_do_not_fit_the_images_are_an_error_and_not_published(step: Step, how: str) -> None:
    """Without Ray: what the actor returns."""
    actor = EngineActor(ScriptedSpec("x", log=str(step.log)), Broken(how, step.ids[5]), str(step.output), MAX_PIXELS)
    shards = [load(shard) for shard in make_shards("caption", step.refs, {}, SIZE)[:2]]
    good, bad = (actor(shard) for shard in shards)
    assert (good["shard"], good["error"]) == (shards[0]["shard"], [])
    kind, message = bad["error"]
    if how == "column":
        assert (kind, "unknown columns ['colour']" in message) == ("DataError", True)
    else:
        assert (kind, f"{shards[1]['shard']}: 4 images went in" in message) == ("StepError", True)
    assert published(step.output) == Counter(step.ids[:SIZE])


@pytest.mark.parametrize(
    ("how", "message"),
    [("fewer", "shard-000002-.*: 4 images went in, rows of 3"), ("raises", "ValueError: no colour for you; finished shards")],
)
def test_work_that_fails_says_why_and_a_rerun_finishes(step: Step, how: str, message: str) -> None:
    with pytest.raises(StepError, match=message):
        step.run(Broken(how, step.ids[9]))
    assert not set(step.ids[2 * SIZE : 3 * SIZE]) & set(published(step.output))
    step.run()
    assert step.captions() == step.expected()


def test_a_driver_killed_before_the_table_is_committed_leaves_none_and_the_next_run_makes_it(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step_rows, "commit", killed)
        patch.setattr(gather, "PART_IMAGES", 2 * SIZE)  # three parts, made in tasks
        step.run()
    table = step.output / "table"
    assert published(step.output) == calls(step.log) == Counter(step.ids)
    assert len(list(table.glob("data/*"))) == 3
    with pytest.raises(DataError, match="holds no table"):
        StepRows(str(step.output))

    summary = step.run()
    assert step.captions() == step.expected()
    assert (summary["images"], summary["tokens"]) == (COUNT, 3 * COUNT)
    assert StepRows(str(step.output)).counts["images"] == COUNT
    assert len(list(table.glob("data/*"))) == 1  # nothing is left of the first attempt
    assert calls(step.log) == Counter(step.ids)
    written = {file: file.stat().st_mtime_ns for file in table.rglob("*")}
    assert step.run()["images"] == COUNT
    assert {file: file.stat().st_mtime_ns for file in table.rglob("*")} == written  # it is not made again


def test_a_table_that_lacks_shards_is_gone_before_they_are_made(step: Step) -> None:
    step.run(shards=slice(0, 2))
    assert len(StepRows(str(step.output))) == 2 * SIZE
    with pytest.raises(StepError):
        step.run(fails_at=step.ids[9])
    assert not step_rows.exists(str(step.output))
    step.run()
    assert step.captions() == step.expected()


def test_no_images_at_all(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    summary = run_shards("caption", [], ScriptedSpec("x"), CaptionLike(), output, RESOURCES, MAX_PIXELS)
    assert (summary["wall_seconds"], StepRows(output).columns(None).num_rows) == (0.0, 0)
