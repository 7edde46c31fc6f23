"""Captions that come with images in a file: how they are read, matched with the images of a run, and published."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from scripted import images_table, png, published, shard_rows
from teacher_server import completion, serving
from test_caption import actor, dataset

from leaml.data import captions, store, tables
from leaml.data.step_rows import StepRows
from leaml.errors import DataError
from pipelines.caption import caption
from pipelines.context import Context
from pipelines.given import Given
from pipelines.ingest import draw_labels, ingest
from pipelines.run import Run
from pipelines.shard import load, make_shards
from pipelines.shards import _remaining

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
