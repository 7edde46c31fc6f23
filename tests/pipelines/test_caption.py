"""The caption step without Ray: replies that are none, kills while a URL is asked, captions that images come with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from scripted import MAX_PIXELS, images_table, png, published, shard_rows
from teacher_server import completion, refusal, serving

from leaml.config import CaptionConfig, ClientConfig, Config, parse
from leaml.data import captions, store, tables
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Completion, Request
from leaml.engine.spec import EngineSpec
from leaml.errors import DataError, StepError
from leaml.io import files
from pipelines import kept, quarantine
from pipelines.caption import CaptionWork, caption
from pipelines.context import Context
from pipelines.given import Given
from pipelines.ingest import draw_labels, ingest
from pipelines.rehearsal import rehearse
from pipelines.run import Run
from pipelines.shard import load, make_shards
from pipelines.shards import EngineActor, Item, _remaining, describe

PICTURE = Image.new("RGB", (8, 8))


class Says:
    """A teacher in this process."""

    def __init__(self, *completions: Completion) -> None:
        self.completions = completions

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return [[c] for c in self.completions]


def test_only_captions_become_rows_and_the_others_say_why() -> None:
    teacher = Says(
        Completion("A red ball.", -0.1, "stop", 4),
        Completion("A red ball. It lies on the", -0.2, "length", 7),
        Completion("A red ball on the", -0.2, "length", 5),
        Completion("<think>Okay, the user wants", float("nan"), "length", 6),
        Completion("None", float("nan"), "stop", 1),
        Completion("", float("nan"), "error", 0, "server: 503: overloaded"),
        Completion("A blue ball.", float("nan"), "stop", 4),
    )
    items = [Item(name, PICTURE, None) for name in "abcdefg"]
    rows, counts = CaptionWork(CaptionConfig())(teacher, items)
    assert [r["image_id"] for r in rows] == list("abcdefg")
    made = {r["image_id"]: (r["caption"], r["finish_reason"], r["mean_logprob"]) for r in rows if "caption" in r}
    assert made == {
        "a": ("A red ball.", "stop", -0.1),
        "b": ("A red ball.", "length", -0.2),
        "g": ("A blue ball.", "stop", None),
    }
    assert {r["image_id"]: r[quarantine.REASON].partition(":")[0] for r in rows if "caption" not in r} == {
        "c": "cut at the token limit before the end of its first sentence",
        "d": "a thought without an answer",
        "e": "no description",
        "f": "server",
    }
    assert counts == {"tokens": 27, "replies cut at the token limit": 3, "captions cut back to whole sentences": 1}
    assert "1 captions cut back to whole sentences" in describe(dict(counts))
    assert "3 replies cut at the token limit" in describe(dict(counts))


@pytest.mark.parametrize(("same", "others", "counted"), [(8, 24, True), (7, 3, False), (8, 40, False), (40, 0, True)])
def test_3_a_caption_that_many_images_of_a_shard_have_is_counted(same: int, others: int, counted: bool) -> None:
    """It may be a refusal in words that nobody has thought of."""
    texts = ["Nope, not today, friend."] * same + [f"A ball with the number {n}." for n in range(others)]
    items = [Item(f"i{n}", PICTURE, None) for n in range(len(texts))]
    rows, counts = CaptionWork(CaptionConfig())(Says(*(Completion(text, -0.1, "stop", 4) for text in texts)), items)
    assert len(rows) == len(texts)
    key = "images of a shard with the one caption 'Nope, not today, friend.'"
    assert {name: n for name, n in counts.items() if "one caption" in name} == ({key: same} if counted else {})


def actor(url: str, output: Path, known: Any = None, **client: Any) -> EngineActor:
    spec = EngineSpec("teacher", url=url, client=ClientConfig(**{"retries": 0, "concurrency": 4} | client))
    return EngineActor(spec, CaptionWork(CaptionConfig()), str(output), MAX_PIXELS, known)


def test_null_replies_behind_a_url_are_quarantined_and_the_step_stops_above_the_share(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 12)
    (shard,) = make_shards("caption", refs, {}, 12)
    null = completion(None, "length", reasoning="Okay, the user wants")
    with serving(lambda body, tries: null if len(teacher.tries) <= 3 else completion("A square.")) as teacher:
        result = actor(teacher.url, tmp_path / "out", concurrency=1)(load(shard))
    assert not result["error"]
    counts = json.loads(result["counts"])
    assert (counts["images"], counts["quarantined"], counts["quarantined: a thought without an answer"]) == (9, 3, 3)
    rows = shard_rows(tmp_path / "out")
    assert {r["caption"] for r in rows} == {"A square."}
    assert published(tmp_path / "out") == Counter(refs.ids.to_pylist())
    quarantine.check("caption", counts, 12, 12, 0.25, "out")
    with pytest.raises(StepError, match=r"3 of 12 images got no result, more than 5% \(data.max_quarantined\): 3 a thought"):
        quarantine.check("caption", counts, 12, 12, 0.05, "out")


def test_a_teacher_that_gives_nothing_ends_the_step_long_before_the_share_of_all_images() -> None:
    quarantine.check("caption", {"quarantined": 63}, 63, 10**6, 0.05, "out")
    quarantine.check("caption", {"quarantined": 100}, 10_000, 10**6, 0.05, "out")
    with pytest.raises(StepError, match="64 of 100 images got no result, more than half of those so far"):
        quarantine.check("caption", {"quarantined": 64}, 100, 10**6, 0.05, "out")
    quarantine.check("caption", {"quarantined": 64}, 100, 10**6, 1.0, "out")  # it is allowed


def test_a_wrong_key_ends_the_step_and_keeps_what_was_answered(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 6)
    (shard,) = make_shards("caption", refs, {}, 6)
    with serving(
        lambda body, tries: completion("A square.") if len(teacher.tries) <= 2 else refusal(401, "expired")
    ) as teacher:
        kind, message = actor(teacher.url, tmp_path / "out", concurrency=1)(load(shard))["error"]
    assert (kind, "answered 401" in message, "OPENAI_API_KEY" in message) == ("StepError", True, True)
    assert not published(tmp_path / "out")  # no image is to blame
    assert len(kept.read(str(tmp_path / "out"))) == 2


DRIVER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from leaml.data import store
from pipelines.shard import load, make_shards
from test_caption import actor
for shard in make_shards("caption", store.index({images!r}), {{}}, 40):
    actor({url!r}, Path({out!r}))(load(shard))
"""


@pytest.mark.parametrize("size", [40, 15])
def test_replies_that_were_paid_for_survive_a_kill(tmp_path: Path, size: int) -> None:
    """Killed in its only shard; the next run, perhaps with smaller shards, asks for what had not come."""
    count, concurrency, killed_after = 40, 4, 21
    images, out = tmp_path / "images", tmp_path / "out"
    refs = images_table(images, count)
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    with serving(lambda body, tries: completion("A square."), 0.2) as teacher:
        code = DRIVER.format(path=path, images=str(images), out=str(out), url=teacher.url)
        process = subprocess.Popen([sys.executable, "-c", code])
        while len(teacher.bodies) < killed_after:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not published(out)
        before = len(teacher.bodies)
        assert before < count
        known = kept.read(str(out))
        assert len(known) >= before - 2 * concurrency  # all but those under way, and those just come
        for shard in make_shards("caption", refs, {}, size):
            assert not actor(teacher.url, out, known)(load(shard))["error"]
        assert len(teacher.bodies) == before + count - len(known)
    assert published(out) == Counter(refs.ids.to_pylist())
    assert len(shard_rows(out)) == count


def test_a_server_that_failed_is_asked_again_and_replies_are_removed_with_their_shard(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 4)
    (shard,) = make_shards("caption", refs, {}, 4)
    with serving(lambda body, tries: refusal(500, "oh") if len(teacher.tries) == 1 else completion("A square.")) as teacher:
        engine = actor(teacher.url, tmp_path / "out", concurrency=1).engine
        asked = [Request(Image.new("RGB", (8, 8), (n, 0, 0)), f"id{n}", "?") for n in range(4)]
        first = kept.KeptReplies(engine, str(tmp_path / "out" / kept.FOLDER / "u"), {}).generate(asked)  # type: ignore[arg-type]
        assert sum(c.failed for (c,) in first) == 1
        known = kept.read(str(tmp_path / "out"))
        assert len(known) == 3
        again = kept.KeptReplies(engine, str(tmp_path / "out" / kept.FOLDER / "v"), known).generate(asked)  # type: ignore[arg-type]
        assert [c.text for (c,) in again] == ["A square."] * 4
        assert len(teacher.bodies) == 5
        assert not actor(teacher.url, tmp_path / "out")(load(shard))["error"]
    assert not files.exists(str(tmp_path / "out" / kept.FOLDER / shard["shard"]))


@pytest.mark.parametrize("killed", [None, "rows", "counts"])
def test_quarantined_images_are_done_again_by_a_step_that_would_stop_for_them(
    tmp_path: Path, killed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, refs = tmp_path / "out", images_table(tmp_path / "images", 9)
    shards = make_shards("caption", refs, {}, 3)
    ids = refs.ids.to_pylist()

    def work(good: bool) -> None:
        def generate(requests: list[Request]) -> list[list[Completion]]:
            bad = {ids[0], *ids[3:6]}
            return [[Completion("A square." if good or r.image_id not in bad else "", 0.0, "stop", 3)] for r in requests]

        for shard in _remaining(shards, str(output)):
            one = actor("http://127.0.0.1:9/v1", output)
            one.engine, one.known = type("Scripted", (), {"generate": staticmethod(generate)})(), None
            assert not one(load(shard))["error"]

    work(good=False)
    assert quarantine.settle(str(output), 4)["quarantined"] == 4
    work(good=True)  # within the limit they stay
    assert len(shard_rows(output)) == 5
    if killed:
        delete = files.delete_tree

        def dies(uri: str) -> None:
            if f"/{killed}/" in uri:
                raise KeyboardInterrupt
            delete(uri)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, "delete_tree", dies)
            quarantine.settle(str(output), 3)
    limit = 100 if killed else 3  # what was begun is finished, whatever the limit is now
    quarantine.settle(str(output), limit)
    assert max(published(output).values()) == 1
    quarantine.settle(str(output), 0)
    assert len(published(output)) == 5
    assert max(published(output).values()) == 1
    work(good=True)
    assert published(output) == Counter(ids)
    assert sorted(row["image_id"] for row in shard_rows(output)) == sorted(ids)


GIVEN = {
    "given.jsonl": '{"image": "a/0.png", "caption": "Zero."}\n{"image": "1.png", "caption": " One. "}\n{"image": "2.png"}\n',
    "given.csv": 'image,caption\na/0.png,Zero.\n1.png,"One."\n2.png,\n',
    "list.json": '[{"file_name": "a/0.png", "caption": "Zero."}, {"file_name": "1.png", "caption": "One."}]',
    "map.json": '{"./a/0.png": "Zero.", "1.png": "One.", "2.png": null}',
}


@pytest.mark.parametrize("name", [*GIVEN, "given.parquet"])
def test_captions_are_read_from_files(tmp_path: Path, name: str) -> None:
    file = str(tmp_path / name)
    if name in GIVEN:
        Path(file).write_text(GIVEN[name])
    else:
        tables.write(file, pa.table({"uri": ["a/0.png", "1.png", "2.png"], "caption": ["Zero.", "One.", None]}))
    found = captions.read(file)
    assert [found.of(f"id{n}", f"data/frames/{uri}") for n, uri in enumerate(("a/0.png", "a/1.png", "2.png"))] == [
        "Zero.",
        "One.",
        None,
    ]
    assert found.unused == 0


@pytest.mark.parametrize("column", ["bytes", "image", "struct"])
def test_captions_beside_the_image_itself(tmp_path: Path, column: str) -> None:
    data = png(7)
    value = {"bytes": data, "path": None} if column == "struct" else data
    table = pa.table({"image" if column == "struct" else column: [value], "caption": ["Seven."]})
    tables.write(str(tmp_path / "given.parquet"), table)
    assert captions.read(str(tmp_path / "given.parquet")).of(tables.image_id(data), "x.png") == "Seven."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"image": "0.png", "caption": 3}',
            r"given.jsonl:1: needs the image's name in 'image' and text in 'caption', got '0.png' and '3'",
        ),
        ('{"picture": "0.png", "caption": "x"}', "given.jsonl:1: needs the image's name"),
        ('["0.png"]', "given.jsonl:1: not an object"),
        ('{"image": "0.png", "text": "x"}', "holds no caption in 'caption'; set caption.column"),
        ("image,caption", "given.jsonl:1: .*not valid JSON"),
    ],
)
def test_a_file_of_captions_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "given.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        captions.read(str(tmp_path / "given.jsonl"))


def test_a_name_of_several_images_is_refused_and_further_captions_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "given.jsonl"
    file.write_text('{"image": "0.png", "caption": "Zero."}\n{"image": "0.png", "caption": "Other."}\n')
    found = captions.read(str(file))
    assert (found.of("x", "a/0.png"), found.of("x", "a/0.png"), found.twice) == ("Zero.", "Zero.", 1)
    with pytest.raises(DataError, match=r"'0.png' is the name of several images, one of them b/0.png; write more of the path"):
        found.of("y", "b/0.png")


def dataset(folder: Path, **section: Any) -> Config:
    for n in range(6):
        path = folder / "frames" / ("a" if n < 3 else "b") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (40 * n, 9, 90)).save(path)
    Image.new("RGB", (40, 40), (3, 3, 3)).save(folder / "test.png")
    for name, image in (("train", "frames/a/0.png"), ("test", "test.png")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"image": image, "question": "what?", "answer": "red"}))
    data = {
        "labeled": {"format": "jsonl", "path": str(folder / "train.jsonl")},
        "unlabeled": {"format": "folder", "path": str(folder / "frames")},
        "evaluation": {"format": "jsonl", "path": str(folder / "test.jsonl")},
    }
    return parse({"storage": str(folder / "runs"), "data": data, "caption": section})


def test_given_captions_are_used_and_the_rest_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "given.jsonl"
    rows = [{"image": f"{n}.png", "caption": f"Number {n}."} for n in (0, 1, 4, 9)]
    file.write_text("\n".join(map(json.dumps, rows)))
    config = dataset(tmp_path, file=str(file), complete=False)
    with Run(config) as run:
        sources = ingest(run)
        step = caption(Context(run, sources, draw_labels(run, sources)))
        summary = run.summary(step)
        again = caption(Context(run, sources, draw_labels(run, sources)))
    assert sorted(StepRows(step.folder).columns(None)["caption"].to_pylist()) == ["Number 0.", "Number 1.", "Number 4."]
    assert (summary["images"], summary["captions given"], summary["images left out without a caption"]) == (3, 3, 3)
    assert again.hash == step.hash
    file.write_text(file.read_text().replace("Number 1.", "One."))
    with Run(config) as run:
        sources = ingest(run)
        changed = caption(Context(run, sources, draw_labels(run, sources)))
    assert "One." in StepRows(changed.folder).columns(None)["caption"].to_pylist()


def test_the_teacher_is_asked_for_the_images_without_a_caption_only(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 6)
    (tmp_path / "given.json").write_text(json.dumps({"1.png": "One.", refs[4].image_id: "Four.", "77.png": "None of these."}))
    given = captions.read(str(tmp_path / "given.json"))
    matched = Given(given, [str(tmp_path / "images")], refs)
    matched.publish(str(tmp_path / "out"))
    assert matched.described.ids.to_pylist() == [refs[1].image_id, refs[4].image_id]
    assert (given.unused, given.first_unused(3)) == (1, ["77.png"])
    with serving(lambda body, tries: completion("A square.")) as teacher:
        for shard in _remaining(make_shards("caption", refs, {}, 4), str(tmp_path / "out")):
            assert not actor(teacher.url, tmp_path / "out")(load(shard))["error"]
    assert len(teacher.bodies) == 4
    assert published(tmp_path / "out") == Counter(refs.ids.to_pylist())
    rows = shard_rows(tmp_path / "out")
    made = Counter((r["caption"], r["model"]) for r in rows)
    assert made == {("A square.", "leaml-tiny-teacher"): 4, ("One.", "given"): 1, ("Four.", "given"): 1}


@pytest.mark.parametrize("bad", ["a red <image> shape", "a \ufffd shape", "None", "I'm sorry, I cannot help with that."])
def test_a_given_text_that_is_no_caption_is_left_out_and_said(
    tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refs = images_table(tmp_path / "images", 2)
    file = tmp_path / "given.jsonl"
    names = [ref.image_id for ref in refs]
    file.write_text(
        "\n".join(json.dumps({"image_id": i, "caption": c}) for i, c in zip(names, (bad, "A red square."), strict=True))
    )
    given = captions.read(str(file))
    matched = Given(given, [str(tmp_path / "images")], refs)
    matched.publish(str(tmp_path / "out"))
    assert matched.described.ids.to_pylist() == names[1:]
    assert "1 of its texts are no captions and are left out" in " ".join(capsys.readouterr().out.split())
    file.write_text(json.dumps({"image_id": names[0], "caption": bad}))
    with pytest.raises(DataError, match="none of its texts is a caption"):
        Given(captions.read(str(file)), [str(tmp_path / "images")], refs).publish(str(tmp_path / "other"))


def test_names_that_fit_no_image_are_refused_with_both(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 2)
    (tmp_path / "given.json").write_text('{"frame.png": "A ball."}')
    with pytest.raises(DataError, match=r"none of its 1 names, such as \['frame.png'\], is that of an image, such as 0.png"):
        Given(captions.read(str(tmp_path / "given.json")), [str(tmp_path / "images")], refs).publish(str(tmp_path / "out"))


def test_patience_is_no_setting_of_the_captions_and_the_image_format_is(tmp_path: Path) -> None:
    def address(**client: Any) -> str:
        rehearsal, _, _ = rehearse(dataset(tmp_path, url="http://127.0.0.1:9/v1", client=client))
        return next(p.step.hash for p in rehearsal.planned.values() if p.step.name == "caption")

    same = {address(), address(concurrency=3), address(timeout=9), address(retries=0)}
    assert len(same) == 1
    assert address(image_format="jpeg") not in same


def test_a_caption_may_name_a_copy_of_an_image(tmp_path: Path) -> None:
    refs = images_table(tmp_path / "images", 2)
    first, second = (ref.image_id for ref in refs)
    further = [{"image_id": first, "uri": "a/copy.png"}, {"image_id": second, "uri": "a/cut.png"}]
    tables.write(store.copies_file(str(tmp_path / "images")), tables.table(further, tables.COPIES))
    (tmp_path / "given.json").write_text('{"copy.png": "A ball.", "1.png": "A box.", "cut.png": "A cube."}')
    found = captions.read(str(tmp_path / "given.json"))
    matched = Given(found, [str(tmp_path / "images")], refs)
    assert {row["image_id"]: row["caption"] for row in matched.rows()} == {
        first: "A ball.",
        second: "A box.",
    }  # its own name is first
    assert (matched.unusable, found.unused) == (0, 0)


def test_given_captions_are_published_in_files_of_some_and_none_is_lost_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.given._PART", 2)
    refs = images_table(tmp_path / "images", 7)
    (tmp_path / "given.json").write_text(json.dumps({f"{n}.png": f"Number {n}." for n in range(7) if n != 3}))
    matched = Given(captions.read(str(tmp_path / "given.json")), [str(tmp_path / "images")], refs)
    matched.publish(str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out" / "rows").iterdir()) == [f"given-{n:06d}.parquet" for n in range(3)]
    assert sorted(row["caption"] for row in shard_rows(tmp_path / "out")) == [f"Number {n}." for n in range(7) if n != 3]
    assert matched.described.ids.to_pylist() == [ref.image_id for n, ref in enumerate(refs) if n != 3]
