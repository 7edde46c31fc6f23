"""Rows that ask the same of one image, with their options in any order; and special tokens in the texts of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rows import made

from leaml.config import SourceConfig
from leaml.data.ingest import ingest
from leaml.data.label_counts import CONFLICT, DUPLICATE
from leaml.data.label_rows import DAMAGED, END_TOKEN, PLACEHOLDER, SPECIAL
from leaml.data.records import Question, RefusedRow

FIRST = {"answer": "A", "options": ["red", "blue", "green"]}


def warned(folder: Path, *rows: dict[str, Any]) -> dict[str, int]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    lines = [json.dumps({"image": "a.png", "question": "which?"} | row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    source = SourceConfig(format="jsonl", path=f"{folder}/rows.jsonl")
    return dict(ingest(source, f"{folder}/images", f"{folder}/labeled.parquet").labels.warnings)


@pytest.mark.parametrize(
    ("row", "warnings"),
    [
        (FIRST | {"options": ["green", "red", "blue"], "answer": "B"}, {}),
        (FIRST | {"options": ["green", "red", "blue"], "answer": "red"}, {}),
        (FIRST | {"options": ["Green", "Blue", "Red."], "answer": "C. red."}, {}),
        (FIRST | {"options": ["green", "red", "blue"], "answer": "A"}, {CONFLICT: 1}),
        (FIRST | {"options": ["green", "red", "blue"], "answer": "blue"}, {CONFLICT: 1}),
        (FIRST | {"options": ["green", "red", "blue"], "answer": "A, B"}, {CONFLICT: 1}),
        (FIRST | {"answer": "B"}, {CONFLICT: 1}),
        (FIRST | {"answer": "red"}, {}),
        (FIRST, {DUPLICATE: 1}),
        (FIRST | {"options": ["red", "blue"], "answer": "B"}, {}),  # other options: another question
        ({"answer": "blue"}, {}),
    ],
)
def test_answers_to_options_in_another_order_conflict_by_what_they_say(
    tmp_path: Path, row: dict[str, Any], warnings: dict[str, int]
) -> None:
    assert warned(tmp_path, FIRST, row) == warnings
    assert warned(tmp_path, row, FIRST) == warnings


def test_several_right_options_are_compared_as_a_set(tmp_path: Path) -> None:
    first = FIRST | {"answer": "A, C"}
    same = {"options": ["blue", "green", "red"], "answer": "B, C"}
    assert warned(tmp_path, first, same) == {}
    assert warned(tmp_path, first, same | {"answer": "A, C"}) == {CONFLICT: 1}


ENDS = ["</s>", "<|im_end|>", "<|im_end|>\n", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>\n", "<eos>", "<end_of_utterance>",
        "<｜end▁of▁sentence｜>", "<|end|>", " </s></s>", "<|im_end|>\n<|endoftext|>", "[EOS]", "<pad><pad>"]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_what_a_model_writes_at_the_end_is_no_part_of_a_text(end: str) -> None:
    for row in ({"question": f"which?{end}", "answer": "red"}, {"answer": f"red{end}"}):
        found = made(**row)
        assert isinstance(found, Question), found
        assert (found.question, found.answer, found.doubts) == ("which?", "red", (END_TOKEN,))
    found = made(answer=f"B{end}", options=["red", "blue"])
    assert isinstance(found, Question) and found.answer == "B"
    found = made(answer=end)
    assert isinstance(found, RefusedRow) and found.reason == "no answer"


@pytest.mark.parametrize("begin", ["<s>", "<bos>", "<|begin_of_text|>", "<s> "])
def test_what_a_model_reads_at_the_beginning_is_no_part_of_a_text(begin: str) -> None:
    found = made(question=f"{begin}which?", answer=f"{begin}red</s>")
    assert isinstance(found, Question) and (found.question, found.answer) == ("which?", "red")


@pytest.mark.parametrize(
    "text",
    [
        "red</s>blue", "red<|im_end|>\n<|im_start|>user\nand?", "<|im_start|>assistant\nred", "<think>a dog</think>red",
        "<think>", "red</think>", "◁think▷so◁/think▷red", "[INST] which? [/INST]", "<start_of_turn>model\nred",
        "<|assistant|>red", "<｜User｜>which?", "<<SYS>> you", "<reasoning>it is</reasoning> red", "red <unk> blue",
        "[UNK] red", "<loc0001><loc0512> dog", "<unused5>red", "<slice>red</slice>", "<extra_id_0>",
    ],
)  # fmt: skip
def test_special_tokens_and_thoughts_inside_of_a_text_are_refused(text: str) -> None:
    for row in ({"question": text, "answer": "x"}, {"answer": text}, {"answer": "x", "options": [text, "x"]}):
        found = made(**row)
        assert isinstance(found, RefusedRow) and found.reason == SPECIAL, found
        assert "remove it" in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "<b>red</b>",
        "a < b and c > d",
        "is |x| < |y|?",
        "I think it is red",
        "[1] red",
        "the <s-curve> sign",
        "s>",
        "a|b",
        "<loc>",
    ],
)
def test_marks_of_other_kinds_are_text(text: str) -> None:
    found = made(question=text, answer=text)
    assert isinstance(found, Question) and (found.question, found.answer) == (text, text)
    assert found.doubts == ((DAMAGED,) if text.startswith("<b>") else ())


def test_placeholders_of_images_keep_their_reason() -> None:
    for token in ("<|image_pad|>", "<im_start>", "<|im_patch|>"):
        found = made(question=f"is {token} red?", answer="yes")
        assert isinstance(found, RefusedRow) and found.reason == PLACEHOLDER
