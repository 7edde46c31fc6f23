"""Conversations: what is plain becomes questions, all else is refused and counted; nothing is left out without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaml.config import SourceConfig
from leaml.data.ingest import LabelCounts
from leaml.data.label_rows import AMBIGUOUS, DOUBLED, PLACEHOLDER, TEXT_ONLY
from leaml.data.records import Question, RefusedRow
from leaml.data.registry import read


def pair(question: Any, answer: Any = "red", **more: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question} | more, {"from": "gpt", "value": answer}]


GOOD = {"image": "good.png", "conversations": pair("fine?")}


def found(folder: Path, *entries: Any) -> tuple[list[Question], list[RefusedRow]]:
    """Questions and refused rows of the entries; a good one stands in front."""
    (folder / "chat.json").write_text(json.dumps([GOOD, *entries]))
    records = list(read(SourceConfig(format="conversations", path=str(folder / "chat.json"))))
    return [q for r in records for q in r.questions][1:], [row for r in records for row in r.refused]


@pytest.mark.parametrize(
    ("entry", "reason", "detail"),
    [
        ({"conversations": pair(5)}, "turn that is no text", "content is 5"),
        ({"conversations": pair("q", 5)}, "turn that is no text", "content is 5"),
        ({"conversations": pair({"a": "b"})}, "turn that is no text", "write a text"),
        ({"conversations": pair(["q"])}, "turn that is no text", "neither text nor an image"),
        ({"conversations": pair([{"type": "audio", "audio": "x"}])}, "turn that is no text", "neither text nor an image"),
        ({"conversations": pair([{"type": "text", "text": 5}])}, "turn that is no text", "neither text nor an image"),
        ({"conversations": "x"}, "no turns", "'x', not a list of turns"),
        ({"messages": {"role": "user"}}, "no turns", "not a list of turns"),
        ({"turns": pair("q")}, "no turns", "key 'turns': did you mean 'conversations'?"),
        ({"conversation": pair("q")}, "no turns", "key 'conversation': did you mean 'conversations'?"),
        ({"conversations": []}, "no turns", "needs turns"),
        ({"conversations": None}, "no turns", "needs turns"),
        ({"conversations": [{"from": "system", "value": "s"}]}, "no turns", "no question"),
        ({"question": "q", "answer": "a"}, "no turns", "format: jsonl"),
        ({"qas": []}, "no turns", "key 'qas'"),
        ({}, "no turns", "needs turns"),
        ({"conversations": pair("q"), "messages": pair("q")}, DOUBLED, "'conversations' and 'messages'"),
        ({"conversations": pair("q"), "answer": "a"}, DOUBLED, "'answer' is given next to"),
        ({"conversations": pair("q", content="other")}, DOUBLED, "'value' and 'content'"),
        ({"conversations": pair("q", role="assistant")}, DOUBLED, "'from' and 'role' of the turn"),
        ({"conversations": pair("q", role="system")}, DOUBLED, "'from' and 'role' of the turn"),
        ({"image": {"path": "x.png", "url": "y.png"}, "conversations": pair("q")}, "several images", "2 images"),
        (
            {"image": None, "messages": pair([{"image": "x.png", "image_url": "y.png"}, {"text": "q"}])},
            "several images",
            "2 images",
        ),
        ({"conversations": [5]}, "turn without its counterpart", "got 5"),
        ({"conversations": [{"from": 5, "value": "q"}]}, "turn without its counterpart", "expected a turn"),
        ({"conversations": pair("")}, "turn without its counterpart", "no text"),
        ({"conversations": pair("<image>")}, "turn without its counterpart", "no text"),
        ({"conversations": pair("q")[:1]}, "turn without its counterpart", "no reply"),
        ({"conversations": pair("is <image> red?")}, PLACEHOLDER, "between words"),
        ({"conversations": pair("<image><image> which?")}, PLACEHOLDER, "2 images"),
        ({"conversations": pair("q", "a <image> b")}, PLACEHOLDER, "stands for an image"),
        ({"conversations": pair("q", "<image>")}, PLACEHOLDER, "stands for an image"),
        ({"conversations": pair("<|image_pad|>q")}, PLACEHOLDER, "stands for an image"),
        ({"images": ["b.png"], "conversations": pair("q")}, "several images", "'images' 'b.png'"),
        ({"conversations": pair([{"type": "image", "image": "b.png"}, {"text": "q"}])}, "several images", "b.png"),
        ({"conversations": pair("q", options=["x", "y"]), "options": ["y", "x"]}, DOUBLED, "'options' stands in the turn"),
    ],
)  # fmt: skip
def test_9_10_what_is_not_plain_is_refused_with_the_reason(
    tmp_path: Path, entry: dict[str, Any], reason: str, detail: str
) -> None:
    questions, refused = found(tmp_path, {"image": "a.png"} | entry)
    assert questions == []
    assert [(row.reason, row.where.rpartition(", ")[2]) for row in refused] == [(reason, "entry 1")]
    assert detail in refused[0].detail


@pytest.mark.parametrize(
    "entry",
    [5, None, "x", [], {"conversations": pair("hi <image>")}, {"picture": "a.png", "conversations": pair("hi")}],
)
def test_9_entries_without_an_image_are_counted(tmp_path: Path, entry: Any) -> None:
    questions, refused = found(tmp_path, entry)
    assert (questions, [row.reason for row in refused]) == ([], ["no image"])
    counts = LabelCounts()
    counts.refuse(refused[0])
    assert counts.too_many(0.0)


def test_9_chats_without_an_image_are_no_fault_and_those_without_turns_are(tmp_path: Path) -> None:
    assert [row.reason for row in found(tmp_path, {"conversations": pair("hi")})[1]] == [TEXT_ONLY]
    for shown in ("Picture 1: <img>a.png</img>\nhi", "<|image_pad|>hi", "[IMG]hi"):  # an image that is not read is a fault
        assert [row.reason for row in found(tmp_path, {"conversations": pair(shown)})[1]] == ["no image"]
    assert [row.reason for row in found(tmp_path, {"turns": pair("hi")})[1]] == ["no turns"]


@pytest.mark.parametrize("text", ["<image>\nq", "q\n<image>", " <image> q ", "q<image>", "q"])
def test_10_the_placeholder_is_left_out_at_the_ends_of_a_question(tmp_path: Path, text: str) -> None:
    questions, refused = found(tmp_path, {"image": "a.png", "conversations": pair(text)})
    assert ([q.question for q in questions], refused) == (["q"], [])


def test_9_options_and_types_are_kept(tmp_path: Path) -> None:
    options = {"options": ["red", "blue"]}
    one = {"image": "a.png", "question_type": "colour", "conversations": pair("q", "B"), **options}
    turn = {"image": "b.png", "question_type": "t", "conversations": pair("q1", "A", **options) + pair("q2", "x")}
    both = {"image": "c.png", "conversations": pair("q1", "A") + pair("q2", "B"), **options}
    lost = {"image": "d.png", "conversations": pair("q1", "A", options=["A", None, "B"])}
    questions, refused = found(tmp_path, one, turn, both, lost)
    assert questions == [
        Question("q", "B", "colour", ("red", "blue")),
        Question("q1", "A", "t", ("red", "blue")),
        Question("q2", "x", "t"),
    ]
    assert [row.reason for row in refused] == ["options of no one question"] * 2 + ["missing option"]
    assert AMBIGUOUS not in {row.reason for row in refused}


def test_9_parts_of_texts_and_their_image(tmp_path: Path) -> None:
    def parts(*content: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "red"}]}

    image, text = {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "colour?"}
    questions, refused = found(
        tmp_path,
        parts(image, text),
        parts(text, image) | {"image": "a.png"},
        parts(image, text) | {"image": "b.png"},
        parts(text, image, text),
    )
    assert [q.question for q in questions] == ["colour?"] * 2
    assert sorted(row.reason for row in refused) == sorted(["several images", PLACEHOLDER])


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "x.png", "conversations": pair("q", role="user")},
        {"image": {"path": "x.png", "url": "x.png", "bytes": None}, "conversations": pair("q")},
        {"messages": pair([{"image": "x.png", "image_url": "x.png"}, {"text": "q"}])},
    ],
)
def test_what_is_said_twice_alike_is_read(entry: dict[str, Any], tmp_path: Path) -> None:
    asked, refused = found(tmp_path, entry)
    assert ([(q.question, q.answer) for q in asked], refused) == ([("q", "red")], [])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (pair("is <image> a b?"), PLACEHOLDER),
        (pair("<image><image> which?"), PLACEHOLDER),
        (pair(""), "turn without its counterpart"),
        (pair("q", ""), "turn without its counterpart"),
        (pair(5), "turn that is no text"),
        (pair("q", [{"type": "audio"}]), "turn that is no text"),
        (pair("q", content="other"), DOUBLED),
        (pair("q", "<image>"), PLACEHOLDER),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_refused_round_is_left_out_alone(tmp_path: Path, fault: list[Any], reason: str, place: int) -> None:
    good = [pair(f"r{number}?") for number in range(3)]
    chat = [turn for each in (*good[:place], fault, *good[place:]) for turn in each]
    questions, refused = found(tmp_path, {"image": "a.png", "conversations": chat})
    assert [q.question for q in questions] == ["r0?", "r1?", "r2?"]
    assert [row.reason for row in refused] == [reason]


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (pair("q")[:1], 4),
        (pair("q")[1:], 4),
        ([5], 4),
        (pair("q", role="assistant"), 4),
        ([pair("q")[0], {"from": "tool", "value": "t"}], 4),
    ],
)
def test_each_question_behind_a_turn_out_of_its_turn_is_counted(tmp_path: Path, fault: list[Any], lost: int) -> None:
    chat = [*pair("r0?"), *fault, *(turn for number in range(3) for turn in pair(f"s{number}?"))]
    questions, refused = found(tmp_path, {"image": "a.png", "conversations": chat})
    assert [q.question for q in questions] == ["r0?"]
    assert len(refused) == lost
    assert {row.reason for row in refused[1:]} == {"behind a turn without its counterpart"}
    assert "not read" in refused[0].detail


def test_each_question_of_an_entry_without_its_image_is_counted(tmp_path: Path) -> None:
    chat = [turn for number in range(5) for turn in pair(f"s{number}?")]
    questions, refused = found(tmp_path, {"images": ["a.png", "b.png"], "conversations": chat}, {"conversations": chat})
    assert (questions, [row.reason for row in refused]) == ([], ["several images"] * 5 + [TEXT_ONLY] * 5)
