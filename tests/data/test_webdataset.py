"""WebDataset: which label belongs to which image of a shard, and that nothing in it is lost uncounted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.label_counts import LabelCounts
from leaml.data.readers import webdataset
from leaml.data.readers.webdataset import captions
from leaml.data.records import HIDDEN, NO_QUESTION, NOT_READ, Question, Record, RefusedRow
from leaml.data.registry import read
from leaml.errors import DataError


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def records(**source: Any) -> list[Record]:
    return list(read(SourceConfig(**source)))


def shard(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    one = json.dumps({"question": "q", "answer": "a"}).encode()
    many = json.dumps({"qa": [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]}).encode()
    shard(
        tmp_path / "0.tar", [("a/1.png", png(1)), ("a/1.json", one), ("a/2.json", many), ("a/2.PNG", png(2)), ("a/2.cls", b"7")]
    )
    shard(tmp_path / "1.tar.gz", [("3.jpg", png(3))], "w:gz")
    found = records(format="webdataset", path=str(tmp_path))
    assert [r.data for r in found] == [png(1), png(2), png(3)]
    assert [r.questions for r in found] == [
        (Question("q", "a"),),
        (Question("q1", "a1"), Question("q2", "a2")),
        (),
    ]
    assert found[0].uri == f"{tmp_path}/0.tar#a/1.png"
    assert len(records(format="webdataset", path=str(tmp_path), limit=2)) == 2
    (tmp_path / "2.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:900])
    with pytest.raises(DataError, match=r"2\.tar is not a whole tar archive"):
        records(format="webdataset", path=str(tmp_path))


def answered(colour: str) -> bytes:
    return json.dumps({"question": "colour?", "answer": colour}).encode()


def test_7_names_with_several_dots_are_one_sample_whose_labels_nobody_can_tell_apart(tmp_path: Path) -> None:
    """`img.1` and `img.2` are the sample `img` to WebDataset: the last label was given to both images."""
    members = [("v1.0/img.1.png", png(1)), ("v1.0/img.1.json", answered("red"))]
    shard(tmp_path / "0.tar", [*members, ("v1.0/img.2.png", png(2)), ("v1.0/img.2.json", answered("blue"))])
    found = records(format="webdataset", path=str(tmp_path))
    assert [r.questions for r in found] == [(), ()]
    refused = [row for r in found for row in r.refused]
    assert [(row.where.rpartition("/")[2], row.reason) for row in refused] == [
        ("img.1.json", "several JSON members in one sample"),
        ("img.2.json", "several JSON members in one sample"),
    ]
    assert "first dot" in refused[0].detail


def test_7_members_of_a_sample_that_are_apart_are_an_error(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", [("1.png", png(1)), ("2.png", png(2)), ("1.json", answered("red")), ("2.json", answered("blue"))])
    with pytest.raises(DataError, match=r"0\.tar: the members of the sample '1' are not adjacent .*tar --sort=name"):
        records(format="webdataset", path=str(tmp_path))


def test_7_labels_without_an_image_are_refused_and_counted(tmp_path: Path) -> None:
    shard(
        tmp_path / "0.tar",
        [("1.json", answered("red")), ("2.png", png(2)), ("2.json", answered("blue")), ("3.json", answered("x"))],
    )
    (found,) = records(format="webdataset", path=str(tmp_path))
    assert found.questions == (Question("colour?", "blue"),)
    assert [(row.where.rpartition("#")[2], row.reason) for row in found.refused] == [
        ("1.json", "sample without an image"),
        ("3.json", "sample without an image"),
    ]
    shard(tmp_path / "0.tar", [("1.json", answered("red"))])
    with pytest.raises(DataError, match="holds no image, but 1 label rows or other members"):
        records(format="webdataset", path=str(tmp_path))


def test_7_conversations_are_read_and_files_of_macos_are_not(tmp_path: Path) -> None:
    chat = [{"from": "human", "value": "<image>\ncolour?"}, {"from": "gpt", "value": "red"}]
    members = [
        ("._1.png", b"junk"),
        ("1.png", png(1)),
        ("._1.json", b"junk"),
        ("1.json", json.dumps({"conversations": chat}).encode()),
    ]
    shard(tmp_path / "0.tar", [*members, ("__MACOSX/2.png", b"junk"), ("a/.DS_Store", b"junk")])
    (found,) = records(format="webdataset", path=str(tmp_path))
    assert (found.data, found.questions, found.refused) == (png(1), (Question("colour?", "red"),), ())


def web(path: Path, *members: tuple[str, bytes], **source: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Of a shard with these members: `image: answers` of each record, and member and reason of each refused row."""
    shard(path / "0.tar", list(members))
    found = records(format="webdataset", path=str(path), **source)
    answers = [f"{r.uri.rpartition('#')[2]}: {' '.join(q.answer for q in r.questions)}".strip() for r in found]
    return answers, [(row.where.rpartition("#")[2], row.reason) for r in found for row in r.refused]


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["v1.0_red.png", "v1.5_blue.png", "v1.5_blue.json"], ("v1.5_blue.json", "several images in one sample")),
        (["1.jpg", "1.seg.png", "1.json"], ("1.json", "several images in one sample")),
        (["1.json", "1.jpg", "1.png"], ("1.json", "several images in one sample")),
        (["1.left.jpg", "1.qa.json", "1.right.jpg"], ("1.qa.json", "several images in one sample")),
        (["v1.0_red.png", "v1.5_blue.json"], ("v1.5_blue.json", "label of another name")),
        (["v1.png", "v1.5_blue.json"], ("v1.5_blue.json", "label of another name")),
        (["v1.0_red.png", "v1.json"], ("v1.json", "label of another name")),
    ],
)
def test_7_labels_are_never_those_of_an_image_that_may_be_another_one(
    tmp_path: Path, names: list[str], refused: tuple[str, str]
) -> None:
    members = [(name, answered("blue") if name.endswith("json") else png(n)) for n, name in enumerate(names)]
    for folder in ("", "v2.0/", "./"):
        inside = [(folder + name, data) for name, data in members]
        found, rows = web(tmp_path, *inside, ("z.png", png(9)), ("z.json", answered("z")))
        images = [name for name in names if not name.endswith("json")]
        folder = folder.removeprefix("./")
        assert found == [*(f"{folder}{name}:" for name in images), "z.png: z"]
        assert rows == [(folder + refused[0], refused[1])]


def test_7_a_shard_that_is_torn_anywhere_is_an_error(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", [("1.png", png(1)), ("1.json", answered("red")), ("2.png", png(2)), ("2.json", answered("blue"))])
    whole = (tmp_path / "0.tar").read_bytes()
    assert len(whole.rstrip(b"\0")) > 7 * 512
    for size in range(0, 8 * 512 + 1, 128):
        (tmp_path / "0.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"0\.tar is not a whole tar archive"):
            records(format="webdataset", path=str(tmp_path))
    for damaged in (whole[:2048] + b"x" * 512 + whole[2560:], whole[:1024] + b"x" + whole[1025:]):
        (tmp_path / "0.tar").write_bytes(damaged)
        with pytest.raises(DataError, match=r"0\.tar is not a whole tar archive"):
            records(format="webdataset", path=str(tmp_path))
    (tmp_path / "0.tar").write_bytes(whole[: 8 * 512 + 512])  # one block of the two that end it
    assert len(records(format="webdataset", path=str(tmp_path))) == 2


def test_7_names_of_members_have_one_form(tmp_path: Path) -> None:
    members = [("./1.png", png(1)), ("1.json", answered("red")), ("a//2.PNG", png(2)), ("./a/2.JSON", answered("blue"))]
    assert web(tmp_path, *members) == (["1.png: red", "a/2.PNG: blue"], [])
    long = f"{'d' * 90}/{'é' * 90}/3"
    assert web(tmp_path, (f"{long}.png", png(3)), (f"{long}.json", answered("green"))) == ([f"{long}.png: green"], [])
    shard(tmp_path / "0.tar", members)
    (tmp_path / "0.tar").rename(tmp_path / "1.TAR")
    assert [r.questions[0].answer for r in records(format="webdataset", path=str(tmp_path))] == ["red", "blue"]


@pytest.mark.parametrize("again", ["1.png", "./1.png", "1.json", "1.txt"])
def test_7_a_member_that_occurs_twice_is_an_error(tmp_path: Path, again: str) -> None:
    members = {"1.png": png(1), "1.json": answered("red"), "1.txt": b"red"}
    with pytest.raises(DataError, match=r"0\.tar#1\.\w+ occurs twice in the shard"):
        web(tmp_path, *members.items(), (again, members[again.removeprefix("./")]))
    with pytest.raises(DataError, match=r"the members of the sample '1' are not adjacent"):
        web(tmp_path, *members.items(), ("2.png", png(2)), (again, members[again.removeprefix("./")]))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("1.json", b"[]"), NO_QUESTION),
        (("1.json", b"{}"), NO_QUESTION),
        (("1.json", b"[[1, 2], [3, 4]]"), NO_QUESTION),
        (("1.json", b'"text"'), NO_QUESTION),
        (("1.json", b'{"caption": "a red square", "url": "x"}'), NO_QUESTION),
        (("1.txt", b"a red square"), NOT_READ),
        (("1.TXT", b"a red square"), NOT_READ),
        (("1.cls", b"7"), NOT_READ),
        (("1.jsonl", answered("red")), NOT_READ),
        (("README", b"see elsewhere"), NOT_READ),
    ],
)
def test_7_members_without_a_label_are_counted_and_no_fault(tmp_path: Path, member: tuple[str, bytes], reason: str) -> None:
    assert web(tmp_path, ("1.png", png(1)), member) == (["1.png:"], [(member[0], reason)])
    counts = LabelCounts()
    counts.refuse(RefusedRow(member[0], reason))
    assert (counts.rows, dict(counts.refused), counts.too_many(0.0)) == (1, {reason: 1}, False)


def test_7_what_stands_behind_the_end_of_an_archive_is_not_lost_in_silence(tmp_path: Path) -> None:
    for name in "ab":
        shard(tmp_path / f"{name}.tar", [(f"{name}.png", png(1)), (f"{name}.json", answered("red"))])
    first, second = ((tmp_path / f"{name}.tar").read_bytes() for name in "ab")
    header = second[: second.index(b"a.json") if b"a.json" in second else second.index(b"b.json")]
    (tmp_path / "two").mkdir()
    for content in (
        first + second,
        gzip.compress(first + second),
        gzip.compress(first) + gzip.compress(second),
        bytes(512) + first,
        header + bytes(512) + second[len(header) + 512 :],  # a header that was overwritten
        first + b"more",
    ):
        (tmp_path / "two" / "0.tar").write_bytes(content)
        for limit in (None, lambda uri: True):
            with pytest.raises(DataError, match="there is more behind its end"):
                list(webdataset.read(SourceConfig(format="webdataset", path=f"{tmp_path}/two"), limit or (lambda uri: False)))


def test_7_a_gzip_whose_sum_is_another_one_is_an_error(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", [("1.png", png(1)), ("1.json", answered("red"))])
    packed = gzip.compress((tmp_path / "0.tar").read_bytes(), 0)
    (tmp_path / "0.tar").write_bytes(packed)
    assert [q.answer for r in records(format="webdataset", path=str(tmp_path)) for q in r.questions] == ["red"]
    for damaged in (packed.replace(b'"red"', b'"rot"'), packed[:-8] + bytes(8), packed[:-4]):
        (tmp_path / "0.tar").write_bytes(damaged)
        with pytest.raises(DataError, match="not a whole tar archive"):
            records(format="webdataset", path=str(tmp_path))


@pytest.mark.parametrize("at", range(4))
def test_7_hidden_members_are_counted_and_not_read(tmp_path: Path, at: int) -> None:
    members = [("1.png", png(1)), ("1.json", answered("red")), ("2.png", png(2))]
    hidden = [(".1.json", answered("blue")), (".1.png", png(3)), ("old/.kept/1.png", png(4)), ("._1.png", b"junk")]
    found, rows = web(tmp_path, *members[:at], *hidden, *members[at:])
    assert found == ["1.png: red", "2.png:"]
    assert sorted(rows) == sorted((name, HIDDEN) for name, _ in hidden[:3])
    images, rows = web(tmp_path, *members[:at], *hidden, *members[at:], limit=1)
    assert (images, len(rows)) == (["1.png: red"], 3 if at < 2 else 0)


def test_7_a_shard_of_hidden_members_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no image, but 2 label rows or other members; the first is .*hidden member"):
        web(tmp_path, (".1.png", png(1)), (".1.json", answered("red")))


def test_7_each_entry_of_a_member_is_counted(tmp_path: Path) -> None:
    entries = json.dumps([{"question": "q", "answer": "a"}, {}, "x", {"question": "q"}]).encode()
    found, rows = web(tmp_path, ("1.png", png(1)), ("1.json", entries), ("1.cls", b"7"))
    assert found == ["1.png: a"]
    assert rows == [
        ("1.json, entry 2", "not an object"),
        ("1.json, entry 3", "no answer"),
        ("1.cls", NOT_READ),
        ("1.json, entry 1", NO_QUESTION),
    ]


def test_7_a_message_names_a_few_of_many_members(tmp_path: Path) -> None:
    members = [(f"clip.{n:03d}.{end}", answered("x") if end == "json" else png(n)) for n in range(9) for end in ("json", "png")]
    shard(tmp_path / "0.tar", members)
    details = {row.detail for record in records(format="webdataset", path=str(tmp_path)) for row in record.refused}
    assert [detail.partition(";")[0] for detail in details] == [
        "clip.000.json, clip.001.json, clip.002.json, clip.003.json and 5 more"
    ]


def test_7_links_in_a_shard_are_no_images_and_no_labels(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, link in (("1.png", None), ("2.json", "1.json"), ("2.png", "1.png")):
            info = tarfile.TarInfo(name)
            info.size = 0 if link else len(png(1))
            info.type, info.linkname = (tarfile.LNKTYPE, link) if link else (tarfile.REGTYPE, "")
            archive.addfile(info, io.BytesIO(b"" if link else png(1)))
    first, second = records(format="webdataset", path=str(tmp_path))
    assert first.data == png(1)
    assert second.data is None and "a link to '1.png'; write the shard again" in str(second.error)
    assert [(row.where[-6:], row.reason) for row in second.refused] == [("2.json", "member that cannot be read")]


def test_7_a_limit_looks_at_shards_whose_labels_have_no_image(tmp_path: Path) -> None:
    members = [("1.json", answered("red")), ("2.png", png(2)), ("2.json", answered("blue")), ("3.png", png(3))]
    found, _ = web(tmp_path, *members, limit=1)
    assert len(found) == 1


CHAT = [{"from": "human", "value": "<image>\ncolour?"}, {"from": "gpt", "value": "blue"}]
QA = [{"question": "colour?", "answer": "red"}]


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"conversations": CHAT}, "conversations"),
        ({"messages": CHAT}, "messages"),
        ({"Conversation": CHAT}, "Conversation"),
        ({"chat": CHAT}, "chat"),
        ({"question": "shape?", "answer": "circle"}, "question"),
        ({"Question": "shape?", "Answer": "circle"}, "Question"),
        ({"answer": "circle"}, "answer"),
        ({"options": ["red", "blue"]}, "options"),
        ({"option": ["red", "blue"]}, "option"),
        ({"question_type": "colour"}, "question_type"),
    ],
)
def test_9_labels_beside_qa_are_refused_and_each_question_is_counted(
    tmp_path: Path, beside: dict[str, Any], named: str
) -> None:
    for qa in (QA, QA * 3):
        found, rows = web(tmp_path, ("1.png", png(1)), ("1.json", json.dumps({"qa": qa, **beside}).encode()))
        assert (found, rows) == (["1.png:"], [("1.json", "two values for one thing")] * len(qa))
    (record,) = records(format="webdataset", path=str(tmp_path))
    assert record.refused[0].detail.startswith(f"{named!r} is given next to 'qa'")
    found, rows = web(tmp_path, ("1.png", png(1)), ("1.json", json.dumps([{"qa": QA, **beside}, *QA]).encode()))
    assert (found, len(rows)) == (["1.png: red"], 1)


@pytest.mark.parametrize(
    "beside", [{"id": 7}, {"question": None}, {"source": "x", "options": []}, {"width": 8, "image": "1.png"}]
)
def test_9_other_keys_beside_qa_are_no_fault(tmp_path: Path, beside: dict[str, Any]) -> None:
    assert web(tmp_path, ("1.png", png(1)), ("1.json", json.dumps({"qa": QA, **beside}).encode())) == (["1.png: red"], [])


def test_6_options_beside_qa_under_another_key_are_seen(tmp_path: Path) -> None:
    entry = {"qa": [{"question": "colour?", "answer": "B"}], "choices": ["red", "blue"]}
    found, rows = web(tmp_path, ("1.png", png(1)), ("1.json", json.dumps(entry).encode()))
    assert (found, rows) == (["1.png:"], [("1.json", "options under another key")])


@pytest.mark.parametrize("labels", [QA[0], {"conversations": CHAT}, {"qa": QA}])
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"image": "2.png"}, "label of another image"),
        ({"image": "./2.png"}, "label of another image"),
        ({"image": "frames/2.jpg"}, "label of another image"),
        ({"images": ["2.png"]}, "label of another image"),
        ({"image": {"path": "2.PNG"}}, "label of another image"),
        ({"image": ["1.png", "2.png"]}, "several images"),
        ({"image": "1.png", "images": ["2.png"]}, "several images"),
        ({"image": "data:image/png;base64,iVBORw0KGgo="}, "several images"),
        ({"image": "1.png", "Image": "2.png"}, "two values for one thing"),
        ({"image": "1.png"}, None),
        ({"image": "train/1.jpg"}, None),
        ({"images": ["elsewhere/000123.jpg"]}, None),
        ({"image": 17}, None),
    ],
)
def test_7_labels_that_name_another_image_of_the_shard_are_refused(
    tmp_path: Path, labels: dict[str, Any], image: dict[str, Any], reason: str | None
) -> None:
    member = json.dumps(labels | image).encode()
    for order in (1, -1):
        pairs = [[("1.png", png(1)), ("1.json", member)], [("2.png", png(2)), ("2.json", answered("x"))]][::order]
        found, rows = web(tmp_path, *pairs[0], *pairs[1])
        assert rows == ([] if reason is None else [("1.json", reason)])
        assert sorted(found) == [
            f"1.png: {labels.get('answer') or ('blue' if 'conversations' in labels else 'red')}"
            if reason is None
            else "1.png:",
            "2.png: x",
        ]


def test_7_labels_of_the_image_of_another_folder_or_turn_are_refused(tmp_path: Path) -> None:
    of_folder = json.dumps(QA[0] | {"image": "b/1.png"}).encode()
    members = [("a/1.png", png(1)), ("a/1.json", of_folder), ("b/1.png", png(2)), ("b/1.json", of_folder)]
    assert web(tmp_path, *members) == (["a/1.png:", "b/1.png: red"], [("a/1.json", "label of another image")])
    parts = [{"type": "image", "image": "2.png"}, {"type": "text", "text": "colour?"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "blue"}]
    members = [("1.png", png(1)), ("1.json", json.dumps({"messages": chat}).encode()), ("2.png", png(2))]
    assert web(tmp_path, *members) == (["1.png:", "2.png:"], [("1.json", "label of another image")])
    entries = json.dumps({"qa": [QA[0] | {"image": "1.png"}, QA[0] | {"image": "2.png"}]}).encode()
    members = [("1.png", png(1)), ("1.json", entries), ("2.png", png(2))]
    assert web(tmp_path, *members) == (["1.png: red", "2.png:"], [("1.json, entry 1", "label of another image")])


def test_7_a_caption_that_names_another_image_of_the_shard_is_an_error(tmp_path: Path) -> None:
    shard(
        tmp_path / "0.tar", [("1.png", png(1)), ("1.json", b'{"image": "2.png", "caption": "a blue disc"}'), ("2.png", png(2))]
    )
    with pytest.raises(DataError, match=r"1\.json: label of another image"):
        list(captions(str(tmp_path), "caption"))
