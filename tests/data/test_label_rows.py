"""Label rows: what is plain is read as it is meant, what is not is refused with its file and line, and all of it is counted.

A number in a test name, here and in the files beside, is the case in shared/cases/README.md whose right value it asserts.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rows import made, words

from leaml.config import SourceConfig
from leaml.data import label_counts, label_rows, tables
from leaml.data.ingest import IngestResult, ingest
from leaml.data.label_rows import parse
from leaml.data.records import Question, Record, RefusedRow
from leaml.data.registry import read
from leaml.errors import DataError
from leaml.text.scoring import answer_text

NAN = float("nan")


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 256, seed // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(6):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    return tmp_path


def jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "labels.jsonl") -> SourceConfig:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(format="jsonl", path=str(folder / name))


def questions(source: SourceConfig) -> list[Question]:
    return [question for record in read(source) for question in record.questions]


def refused(source: SourceConfig) -> list[RefusedRow]:
    return [row for record in read(source) for row in record.refused]


def taken(source: SourceConfig, out: Path, **options: Any) -> IngestResult:
    return ingest(source, str(out / "images"), str(out / "labeled.parquet"), **options)


def test_warnings_show_the_answer_and_its_options(folder: Path) -> None:
    good = {"image": "0.png", "question": "which?"}
    rows = [good | {"answer": "purple", "options": ["red", "blue"]}, good | {"answer": "A", "options": ["red"]}]
    found = taken(jsonl(folder, rows), folder / "out").labels
    where = f"{folder}/labels.jsonl"
    assert found.examples[label_rows.OUTSIDE] == [f"{where}:1: answer 'purple', options ['red', 'blue']"]
    assert found.examples[label_rows.ONE_OPTION] == [f"{where}:2: answer 'A', options ['red']"]


def test_a_letter_and_its_text_are_no_conflict(folder: Path) -> None:
    rows = [{"image": "0.png", "question": "q", "options": ["x", "y"], "answer": answer} for answer in ("A", "x", "A. x", "y")]
    found = taken(jsonl(folder, rows), folder / "out").labels
    assert found.warnings == {label_counts.CONFLICT: 1}
    assert found.examples[label_counts.CONFLICT] == [f"{folder}/labels.jsonl:4: answer 'y' to 'q'"]


def test_6_sportu_takes_lists_and_small_letters(tmp_path: Path) -> None:
    options = {"A": "w", "B": "x", "C": "y", "D": "z"}
    entries = [
        {"id": "soccer_1_1", "question": "q1", "options": options, "answer": "d"},
        {"id": "soccer_1_2", "question": "q2", "options": ["w", "x"], "answer": "B"},
        {"id": "soccer_1_3", "question": "q3", "options": options | {"B": None}, "answer": "C"},
    ]
    (tmp_path / "ann.json").write_text(json.dumps(entries))
    source = SourceConfig(format="sportu", path=str(tmp_path / "ann.json"))
    found = [answer_text({"answer": q.answer, "options": list(q.options or ())}) for q in questions(source)]
    assert found == ["z", "x"]
    assert [(r.where, r.reason) for r in refused(source)] == [(f"{tmp_path}/ann.json, entry 2", "missing option")]


@pytest.mark.parametrize("key", ["question", "answer", "question_type", "options"])
@pytest.mark.parametrize("bad", ["\ud83d", "\0", "\x1b[0m", "\ue000", "\uffff", "\u200b", "\xad", "\u202e", "\ufeff", "\u2060"])
def test_what_is_no_text_or_hidden_in_it_is_refused_with_file_and_line(key: str, bad: str, folder: Path) -> None:
    text = f"re{bad}d"
    row = {"image": "0.png", "question": "which?", "answer": "blue"} | {key: [text, "blue"] if key == "options" else text}
    with pytest.raises(
        DataError, match=r"(?s)1 of 2 label rows .*characters that are no text: .*labels\.jsonl:2: the "
    ) as stopped:
        taken(
            jsonl(folder, [row | {key: None if key == "question_type" else ["blue", "x"] if key == "options" else "q"}, row]),
            folder / "out",
        )
    str(stopped.value).encode()  # the message itself is text


def test_8_columns_of_tables_keep_their_meaning(folder: Path) -> None:
    columns = {"bytes": [png(n) for n in range(3)], "question": ["how many?"] * 3, "answer": [NAN, 2.0, 3.0]}
    pq.write_table(pa.table(columns), folder / "float.parquet")
    source = SourceConfig(format="parquet", path=str(folder / "float.parquet"))
    assert [q.answer for q in questions(source)] == ["2", "3"]
    assert [(r.where, r.reason) for r in refused(source)] == [(f"{folder}/float.parquet, row 0", "no answer")]
    images = [{"bytes": png(n), "path": None} for n in range(2)]
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"image": images, "question": ["is it red?"] * 2, "answer": [1, 0]}, features=features)
    data.save_to_disk(str(folder / "classes"))
    data.to_parquet(str(folder / "classes.parquet"))
    for form, name in (("huggingface", "classes"), ("parquet", "classes.parquet")):
        assert [q.answer for q in questions(SourceConfig(format=form, path=str(folder / name)))] == ["yes", "no"]


def conversation(image: dict[str, Any], text: str = "<image>what colour?") -> dict[str, Any]:
    return {**image, "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "red"}]}


def test_9_images_of_conversations_are_read_or_counted(folder: Path) -> None:
    entries = [
        conversation({"images": ["0.png"]}),
        conversation({"image": "1.png"}),
        conversation({"images": ["2.png", "3.png"]}),
        conversation({"picture": "4.png"}),
        conversation({}, "hello"),
    ]
    (folder / "chat.json").write_text(json.dumps(entries))
    source = SourceConfig(format="conversations", path=str(folder / "chat.json"))
    assert [Path(r.uri).name for r in read(source)] == ["0.png", "1.png"]
    assert [q.question for q in questions(source)] == ["what colour?"] * 2
    found = taken(source, folder / "out", max_quarantined=0.5).labels
    assert (found.rows, found.used) == (5, 2)
    assert found.refused == {"several images": 1, "no image": 1, label_rows.TEXT_ONLY: 1}
    with pytest.raises(DataError, match=r"(?s)2 of 4 label rows of .*chat\.json, entry 2: 2 images"):
        taken(source, folder / "again")


def test_9_ones_own_columns_are_not_kvasir_vqa(folder: Path) -> None:
    images = [{"bytes": png(n), "path": None} for n in range(2)]
    columns = {"image": images, "source": ["a", "b"], "img_id": [1, 2], "question": ["which colour?"] * 2}
    more = {"answer": ["A", "B"], "options": [["red", "blue"]] * 2, "question_type": ["single_choice"] * 2}
    data = datasets.Dataset.from_dict(columns | more).cast_column("image", datasets.Image())
    data.save_to_disk(str(folder / "own"))
    with pytest.raises(DataError, match="split is 'test'"):  # of Kvasir-VQA, which has one, a test part is made
        read(SourceConfig(format="huggingface", path=str(folder / "own"), split="test"))
    found = questions(SourceConfig(format="huggingface", path=str(folder / "own")))
    assert [(q.answer, q.options, q.question_type) for q in found] == [(a, ("red", "blue"), "single_choice") for a in "AB"]


def test_9_every_null_image_counts(folder: Path) -> None:
    images = [png(n) if n < 20 else None for n in range(100)]
    columns = {"image": pa.array(images, pa.binary()), "question": ["q"] * 100, "answer": ["a"] * 100}
    pq.write_table(pa.table(columns), folder / "null.parquet")
    source = SourceConfig(format="parquet", path=str(folder / "null.parquet"))
    with pytest.raises(DataError, match=r"80 of 100 images .* 80 not read"):
        taken(source, folder / "out")
    found = taken(source, folder / "out", max_quarantined=0.8)
    assert (len(found.quarantined), found.labels.used) == (80, 20)
    assert found.labels.refused == {label_counts.NO_IMAGE: 80}


@pytest.mark.parametrize(
    "row",
    [
        *({"question": "what <image> colour?"}, {"answer": "an <IMAGE>"}, {"options": ["<video>", "x"]}),
        *({"question": "w " * 5000}, {"answer": "w " * 5000}, {"options": ["x" * 9000, "y"]}),
    ],
)
def test_10_rows_that_training_cannot_use_are_refused_at_ingest(row: dict[str, Any], folder: Path) -> None:
    good = {"image": "0.png", "question": "which?", "answer": "A"}
    source = jsonl(folder, [good | {"question": f"q{n}"} for n in range(3)] + [good | row])
    with pytest.raises(DataError, match=r"1 of 4 label rows .*\n.*labels\.jsonl:4: ") as stopped:
        taken(source, folder / "out")
    assert len(str(stopped.value)) < 700
    assert taken(source, folder / "out", max_quarantined=0.25).rows == 3
    with (folder / "out" / "refused-labeled.csv").open(newline="") as stream:
        assert [line["where"] for line in csv.DictReader(stream)] == [f"{folder}/labels.jsonl:4"]
    assert taken(source, folder / "unlabeled", labels_matter=False).rows == 3


@pytest.mark.parametrize("mark", ["<image>", "<image 1>"])
def test_10_the_placeholder_of_the_one_image_is_left_out_at_the_ends_of_a_question(mark: str) -> None:
    for text in (f"{mark}\nwhich?", f"which? {mark}", f" {mark} which?", f"{mark}which?"):
        found = made(question=text, answer="red")
        assert isinstance(found, Question) and found.question == "which?"
    for text in (f"is {mark} red?", f"{mark}{mark} which?", f"{mark} which? {mark}", "<image 2> which?", "<image 12> which?"):
        found = made(question=text, answer="red")
        assert isinstance(found, RefusedRow) and found.reason == label_rows.PLACEHOLDER
    for row in ({"question": mark}, {"answer": f"{mark} red"}, {"options": [f"{mark} red", "blue"]}):
        assert words(**row) is None


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"texts": [{"user": "q", "assistant": "a"}]}, "key 'texts': format: conversations reads it"),
        ({"question": "q", "choices": ["x", "y"], "correct_choice_idx": 1}, "'correct_choice_idx': did you mean 'answer'"),
        ({"question": "q", "direct_answers": ["x", "y"]}, "'direct_answers': did you mean 'answer'"),
    ],
)
def test_labels_of_other_data_sets_are_named(row: dict[str, Any], shown: str) -> None:
    for found in (
        parse({"image": "a.png"} | row, "f:1"),
        parse({key: row.get(key) for key in ("question",)}, "f:1", ["image", *row]),
    ):
        assert isinstance(found, RefusedRow) and found.reason not in label_counts._NO_FAULT
        assert shown in found.detail


@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_14_images_in_base64_are_read_and_never_shown(before: str, folder: Path) -> None:
    noise = Image.effect_noise((300, 300), 90)
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    text = before + base64.b64encode(buffer.getvalue()).decode()
    rows = [{"image": text, "question": "q", "answer": "a"}, {"image": text, "question": "r", "answer": "b"}]
    (record,) = read(jsonl(folder, rows))
    assert record.data == buffer.getvalue()
    assert [q.question for q in record.questions] == ["q", "r"]
    assert len(record.uri) < 300
    for broken in (text[:-3] + "!", "x" * 100_000, "../" + "y" * 100_000):
        with pytest.raises(DataError, match="1 of 1 images") as stopped:
            taken(jsonl(folder, [{"image": broken, "question": "q", "answer": "a"}]), folder / "out")
        assert len(str(stopped.value)) < 1500
    with pytest.raises(DataError) as stopped:
        taken(jsonl(folder, [{"picture": text, "question": "q", "answer": "a"}]), folder / "out")
    assert len(str(stopped.value)) < 1500


def test_15_words_of_a_metadata_file_are_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    datasets.disable_progress_bars()
    (folder / "set" / "train").mkdir(parents=True)
    answers = ["2", "None", "NA", "null", ""]
    for n in range(5):
        (folder / "set" / "train" / f"{n}.png").write_bytes(png(n))
    lines = [f"{n}.png,how many?,{answer}" for n, answer in enumerate(answers)]
    (folder / "set" / "train" / "metadata.csv").write_text("\n".join(["file_name,question,answer", *lines]))
    source = SourceConfig(format="huggingface", path=str(folder / "set"))
    assert sorted(q.answer for q in questions(source)) == sorted(answers[:4])
    assert [(Path(r.where).name, r.reason) for r in refused(source)] == [("metadata.csv:6", "no answer")]


@pytest.mark.parametrize(("name", "separator"), [("labels.csv", ","), ("labels.tsv", "\t"), ("labels.csv", ";")])
def test_csv_says_what_json_lines_say(name: str, separator: str, folder: Path) -> None:
    rows = [
        {"image": "0.png", "question": "Red, or; blue?", "answer": "B", "question_type": "choice", "options": "red|blue"},
        {"image": "0.png", "question": 'two\nlines of "text"', "answer": "None"},
        {"image": "1.png", "question": "", "answer": ""},
        {"image": "2.png", "question": "q", "answer": ""},
        {"image": "3.png", "question": "q", "answer": "NA"},
    ]
    with (folder / name).open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), restval="", delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    found: list[Record] = list(read(SourceConfig(format="csv", path=str(folder / name))))
    assert [r.data for r in found] == [png(n) for n in range(4)]
    assert found[0].questions == (
        Question("Red, or; blue?", "B", "choice", ("red", "blue")),
        Question('two\nlines of "text"', "None"),
    )
    assert [r.questions for r in found[1:3]] == [(), ()]
    assert [str(r) for r in found[2].refused] == [f"{folder / name}:6: no answer: the answer is missing"]
    assert found[3].questions == (Question("q", "NA"),)


def test_every_row_is_counted_and_odd_ones_are_warned_of(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        *({"image": "0.png", "question": "one?", "answer": "yes"} for _ in range(2)),
        {"image": "0.png", "question": "One ?", "answer": "no"},
        {"image": "0.png", "question": "one?", "answer": "Yes."},
        {"image": "1.png", "question": "two?", "answer": "purple", "options": ["red", "blue"]},
        {"image": "1.png", "question": "three?", "answer": "A"},
        {"image": "1.png", "question": "four?", "answer": "x", "qestion_type": "t"},
        {"image": "1.png", "question": "five?", "anwser": "x"},
        {"image": "1.png", "question": "six?", "answer": "x", "anwser": "y"},
        {"image": "2.png"},
        {"image": "gone.png", "question": "six?", "answer": "x"},
    ]
    found = taken(jsonl(folder, rows), folder / "out", max_quarantined=0.3).labels
    assert (found.rows, found.used) == (10, 7)
    assert found.refused == {"no answer": 1, label_counts.NO_IMAGE: 1}
    assert found.warnings == {
        label_counts.DUPLICATE: 1,
        label_counts.CONFLICT: 1,
        label_rows.OUTSIDE: 1,
        label_rows.LETTER_ALONE: 1,
        f"{label_rows.MISSPELT} 'qestion_type' (for 'question_type')": 1,
        f"{label_rows.MISSPELT} 'anwser' (for 'answer')": 1,
    }
    assert found.examples[label_counts.CONFLICT] == [f"{folder}/labels.jsonl:3: answer 'no' to 'One ?'"]
    assert found.examples["no answer"] == [
        f"{folder}/labels.jsonl:8: the answer is missing; key 'anwser': did you mean 'answer'?"
    ]
    assert found.lines()[0] == "10 label rows, 7 used, 2 refused, 1 equal to others"
    assert json.loads(json.dumps(found.summary()))["refused"] == found.refused
    where = pq.read_table(folder / "out" / "labeled.parquet", schema=tables.LABELED)["where"].to_pylist()
    assert where[0] == f"{folder}/labels.jsonl:1"
