"""Readers of files that hold or name images: order, grouping, errors, limits."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import tables
from leaml.data.label_rows import TEXT_ONLY
from leaml.data.records import Question, Record, hash_split
from leaml.data.registry import read
from leaml.errors import ConfigError, DataError
from leaml.io import files


def png(seed: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (seed % 256, seed // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def records(**source: Any) -> list[Record]:
    return list(read(SourceConfig(**source)))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, some in a subfolder, and things that are not images."""
    (tmp_path / "sub").mkdir()
    for n in range(12):
        (tmp_path / ("sub" if n % 2 else ".") / f"{n:02d}.png").write_bytes(png(n))
    (tmp_path / ".hidden.png").write_bytes(png(99))
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def test_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'jsnol': did you mean 'jsonl'\? known formats: conversations, csv"):
        read(SourceConfig(format="jsnol"))


@pytest.mark.parametrize("name", ["folder", "jsonl", "conversations", "parquet", "sportu", "webdataset", "video"])
def test_missing_path_is_an_error_before_the_first_record(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.* does not exist; check the path"):
        read(SourceConfig(format=name, path=str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match="needs a path"):
        read(SourceConfig(format=name))


def test_a_reader_of_another_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counted_reader.py").write_text(
        "from leaml.data.records import Record\n\n"
        "def read(source, keep):\n"
        "    yield from (Record(str(n), 'counted', None, b'x') for n in range(9) if keep(str(n)))\n"
    )
    installed = tmp_path / "counted_reader-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: counted-reader\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[leaml.readers]\ncounted = counted_reader:read\n")
    with pytest.raises(ConfigError, match=r"unknown format 'counted'.*known formats: conversations, csv, "):
        read(SourceConfig(format="counted"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [r.uri for r in records(format="counted")] == list("012345678")
    assert len(records(format="counted", limit=4)) == 4
    with pytest.raises(ConfigError, match="did you mean 'counted'"):
        read(SourceConfig(format="countd"))


def test_folder_reads_images_recursively_in_order(folder: Path) -> None:
    found = records(format="folder", path=str(folder))
    assert [r.uri for r in found] == sorted(r.uri for r in found)
    assert {r.data for r in found} == {png(n) for n in range(12)}
    assert all(r.questions == () and r.error is None for r in found)
    with pytest.raises(ConfigError, match="has no splits"):
        read(SourceConfig(format="folder", path=str(folder), split="train"))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="found no images"):
        read(SourceConfig(format="folder", path=str(folder / "empty")))


def test_s3_folder_gives_the_same_images_and_the_same_limit(folder: Path, bucket: str) -> None:
    files.upload_tree(str(folder), f"{bucket}/images")
    there, here = f"{bucket}/images", str(folder)
    assert [r.data for r in records(format="folder", path=there)] == [r.data for r in records(format="folder", path=here)]
    chosen = [[r.data for r in records(format="folder", path=p, limit=5)] for p in (there, here)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 5
    files.write_bytes(
        f"{bucket}/a.jsonl", b'{"image": "images/00.png", "question": "q", "answer": "a"}\n{"image": "images/x.png"}\n'
    )
    first, second = records(format="jsonl", path=f"{bucket}/a.jsonl")
    assert first.data == png(0)
    assert second.data is None
    assert "does not exist" in str(second.error)


def test_limit_is_independent_of_order_and_grows_by_inclusion(folder: Path, tmp_path: Path) -> None:
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.png"))]
    one = jsonl(tmp_path / "one.jsonl", [{"image": n} for n in names])
    two = jsonl(tmp_path / "two.jsonl", [{"image": n} for n in reversed(names)])
    chosen = [{r.uri for r in records(format="jsonl", path=p, limit=6)} for p in (one, two)]
    assert chosen[0] == chosen[1]
    assert {r.uri for r in records(format="jsonl", path=one, limit=3)} < chosen[0]
    assert len(records(format="jsonl", path=one, limit=999)) == 13


def test_limit_does_not_load_the_other_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    original = files.read_bytes

    def spy(uri: str, max_bytes: int | None = None) -> bytes:
        loaded.append(uri)
        return original(uri, max_bytes)

    monkeypatch.setattr(files, "read_bytes", spy)
    assert len(records(format="folder", path=str(folder), limit=2)) == len(loaded) == 2


def test_jsonl_groups_lines_by_image_and_keeps_all_fields(folder: Path) -> None:
    path = jsonl(
        folder / "qa.jsonl",
        [
            {"image": "00.png", "question": "Color?", "answer": "red", "question_type": "color"},
            {"image": "sub/01.png", "question": "Which?", "answer": "A", "options": ["cat", "dog"]},
            {"image": "00.png", "question": "How many?", "answer": 3},
            {"image": "missing.png", "question": "q", "answer": "a"},
            {"image": "../../etc/passwd", "question": "q", "answer": "a"},
        ],
    )
    first, second, missing, outside = records(format="jsonl", path=path)
    assert first.data == png(0)
    assert first.questions == (Question("Color?", "red", "color"), Question("How many?", "3"))
    assert second.questions == (Question("Which?", "A", None, ("cat", "dog")),)
    assert missing.data is None and "does not exist" in str(missing.error)
    assert outside.data is None and "outside of the folder" in str(outside.error)


def test_jsonl_images_may_lie_elsewhere_and_lines_may_name_splits(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "text"
    elsewhere.mkdir()
    rows = [{"image": f"{n:02d}.png", "question": "q", "answer": "a", "split": "test" if n else "train"} for n in (0, 2, 4)]
    path = jsonl(elsewhere / "qa.jsonl", rows)
    found = records(format="jsonl", path=path, images=str(folder), split="test")
    assert [(r.data, r.split) for r in found] == [(png(2), "test"), (png(4), "test")]
    with pytest.raises(DataError, match="no line has split 'val', only test, train"):
        records(format="jsonl", path=path, images=str(folder), split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"image": "a.png"}\n{"image": "b.p', r"qa\.jsonl:2: the last line, perhaps torn .*fix or remove this line"),
        (b'{"image": "a.png"}\n\n{oops}\n', r"qa\.jsonl:3: not valid JSON"),
        (b'{"picture": "a.png"}\n', r"qa\.jsonl:1: no image"),
        (b"\xff\xfe\n", r"qa\.jsonl:1: not UTF-8"),
    ],
)
def test_jsonl_faults_name_file_line_and_fix(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "qa.jsonl").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read(SourceConfig(format="jsonl", path=str(tmp_path / "qa.jsonl")))


CHATS = [
    {
        "id": "1",
        "image": "00.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A square."},
            {"from": "human", "value": "Which color?"},
            {"from": "gpt", "value": "Black."},
        ],
    },
    {"image": ["02.png"], "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                                       {"role": "assistant", "content": "a"}]},
    {"id": "text only", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    {"image": "00.png", "conversations": [{"from": "user", "value": "More? <image>"}, {"from": "assistant", "value": "No"}]},
]  # fmt: skip


@pytest.mark.parametrize("form", ["list", "lines"])
def test_conversations(folder: Path, form: str) -> None:
    path = folder / "chat.json"
    path.write_text(json.dumps(CHATS, indent=1) if form == "list" else "\n".join(json.dumps(c) for c in CHATS))
    first, second = records(format="conversations", path=str(path))
    assert [row.reason for row in first.refused] == [TEXT_ONLY]
    assert first.data == png(0)
    assert first.questions == (
        Question("What is it?", "A square."),
        Question("Which color?", "Black."),
        Question("More?", "No"),
    )
    assert second.questions == (Question("q", "a"),)


def test_conversations_out_of_turn_are_refused(folder: Path) -> None:
    path = folder / "chat.json"
    path.write_text(json.dumps([{"image": "00.png", "conversations": [{"from": "gpt", "value": "A"}]}]))
    (found,) = records(format="conversations", path=str(path))
    assert found.questions == ()
    assert re.search(r"chat\.json, entry 0: .*expected a turn of human or user", str(found.refused[0]))
    path.write_text('[{"image": ')
    with pytest.raises(DataError, match=r"chat\.json:1: not valid JSON"):
        read(SourceConfig(format="conversations", path=str(path)))


def test_parquet_contract_tables(tmp_path: Path) -> None:
    rows = [{"image_id": tables.image_id(png(n)), "bytes": png(n), "source": "s", "split": "ab"[n % 2]} for n in range(70)]
    (tmp_path / "images").mkdir()
    pq.write_table(tables.table(rows[:40], tables.IMAGES), tmp_path / "images" / "part-00000.parquet")
    pq.write_table(tables.table(rows[40:], tables.IMAGES), tmp_path / "images" / "part-00001.parquet")
    labels = [{"image_id": rows[69]["image_id"], "question": f"q{n}", "answer": "A", "options": ["x"]} for n in range(2)]
    pq.write_table(tables.table(labels, tables.LABELED), tmp_path / "labeled.parquet")
    found = records(format="parquet", path=str(tmp_path))
    assert [r.data for r in found] == [png(n) for n in range(70)]
    assert found[69].questions == (Question("q0", "A", None, ("x",)), Question("q1", "A", None, ("x",)))
    assert [r.data for r in records(format="parquet", path=str(tmp_path), split="b")] == [png(n) for n in range(1, 70, 2)]
    (tmp_path / "images" / "part-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"part-00001\.parquet is not a whole Parquet file"):
        records(format="parquet", path=str(tmp_path))


def test_single_parquet_groups_rows_of_one_image(folder: Path) -> None:
    questions, answers = ["q0", "q1", "q2"], ["a0", "a1", "a2"]
    binary = {"bytes": [png(1), png(2), png(1)], "question": questions, "answer": answers}
    pq.write_table(pa.table(binary), folder / "binary.parquet")
    first, second = records(format="parquet", path=str(folder / "binary.parquet"))
    assert (first.data, second.data) == (png(1), png(2))
    assert first.questions == (Question("q0", "a0"), Question("q2", "a2"))
    struct = {"image": [{"bytes": png(3), "path": "x.png"}], "question": ["q"], "answer": ["a"]}
    pq.write_table(pa.table(struct), folder / "struct.parquet")
    assert records(format="parquet", path=str(folder / "struct.parquet"))[0].data == png(3)
    paths = {"image": ["00.png", "no.png"], "question": ["q", "q"], "answer": ["a", "a"]}
    pq.write_table(pa.table(paths), folder / "paths.parquet")
    good, bad = records(format="parquet", path=str(folder / "paths.parquet"))
    assert good.data == png(0)
    assert "does not exist" in str(bad.error)
    pq.write_table(pa.table({"x": [1]}), folder / "none.parquet")
    with pytest.raises(DataError, match="no image column"):
        records(format="parquet", path=str(folder / "none.parquet"))


def test_easy_vqa_is_complete_and_typed() -> None:
    test = records(format="easy_vqa", split="test")
    assert len(test) == 1000
    assert sum(len(r.questions) for r in test) == 9673
    assert {q.question_type for r in test for q in r.questions} == {"yes_no", "shape", "color"}
    by_answer = {q.answer: q.question_type for r in test for q in r.questions}
    assert (by_answer["teal"], by_answer["circle"], by_answer["no"]) == ("color", "shape", "yes_no")
    assert test[0].uri == "easy_vqa/test/0.png"
    assert len(records(format="easy_vqa", split="train", limit=7)) == 7
    with pytest.raises(ConfigError, match="train and test, not None"):
        read(SourceConfig(format="easy_vqa"))


def test_hash_split_is_a_fifth_and_fixed() -> None:
    share = sum(hash_split(f"clip_{n}") == "test" for n in range(5000)) / 5000
    assert 0.17 < share < 0.23
    assert [hash_split(k) for k in ("soccer_1", "soccer_2", "hockey_9")] == [
        hash_split(k) for k in ("soccer_1", "soccer_2", "hockey_9")
    ]
