"""Questions and options of /v1/vqa: the rules of a file of questions, and what the model is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_service import Client, ScriptedService, data_url, png

from leaml.data.questions import read
from leaml.errors import DataError
from serve import vqa
from serve.service import ImageQuestion

pytestmark = pytest.mark.anyio

SHOWN = "Which?\nA. red\nB. blue"


@pytest.mark.parametrize("way", ["json", "form", "batch", "predict"])
@pytest.mark.parametrize(
    ("question", "options", "asked", "column"),
    [
        (SHOWN, None, ImageQuestion(SHOWN, ("red", "blue")), ""),
        (SHOWN, ["red", "blue"], ImageQuestion(SHOWN, ("red", "blue")), ""),
        (SHOWN, ["A", "B"], ImageQuestion(SHOWN, ("red", "blue")), ""),
        (SHOWN, ["blue", "red"], None, "options"),
        (SHOWN, ["cat", "dog"], None, "options"),
        (" q?</s> ", None, ImageQuestion("q?"), ""),
        ("<image>\nq?", ["x", "y"], ImageQuestion("q?", ("x", "y")), ""),
        ("a \u202eb", None, None, "question"),
        ("a \u202eb", ["x", "y"], None, "question"),
        ("a\0b", None, None, "question"),
        ("a <|im_end|> b", None, None, "question"),
        ("<think>a</think> b", None, None, "question"),
        ("q?", ["</s>", "y"], None, "options"),
        ("q?", ["red</s>", "y"], None, "options"),
        ("q?", ["x", "<think>a</think>"], None, "options"),
        ("q?", ["x", "\u200b"], None, "options"),
        ("[IMG] a", None, None, "question"),
        ("is <image> red?", None, None, "question"),
        ("<image> <image>\nq?", None, None, "question"),
        ("q?", ["<image>", "y"], None, "options"),
        ("nan", None, None, "question"),
        ("q?", ["nan", "y"], None, "options"),
        ("what color?\nA. red\nB. red", None, None, "question"),
        ("what color?\nA. red\nB. Red.", ["A", "B"], None, "options"),
        ("what color?\nA. red\nC. blue", None, None, "question"),
        ("what color? (A) red (C) blue", None, None, "question"),
        ("is (A) as red as (C)?", None, ImageQuestion("is (A) as red as (C)?"), ""),
        (
            "compare (A) the cat with (C) the dog: which is larger?",
            None,
            ImageQuestion("compare (A) the cat with (C) the dog: which is larger?"),
            "",
        ),
        ("is it nan?", None, ImageQuestion("is it nan?"), ""),
        ("q?", ["None", "NA"], ImageQuestion("q?", ("None", "NA")), ""),
    ],
)
async def test_questions_and_options_follow_one_rule_at_the_endpoint_and_in_predict(
    client: Client,
    service: ScriptedService,
    tmp_path: Path,
    question: str,
    options: list[str] | None,
    asked: ImageQuestion | None,
    column: str,
    way: str,
) -> None:
    row: dict[str, Any] = {"question": question} | ({"options": options} if options else {})
    if way == "predict":
        (tmp_path / "q.jsonl").write_text(json.dumps(row))
        if asked is None:
            with pytest.raises(DataError, match=column):
                read(str(tmp_path / "q.jsonl"))
        else:
            (found,) = read(str(tmp_path / "q.jsonl"))
            assert ImageQuestion(found.question, found.options or ()) == asked
        return
    async with client() as c:
        if way == "form":
            fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
            reply = await c.post("/v1/vqa", data=fields, files={"file": ("a.png", png())})
        else:
            reply = await c.post("/v1/vqa", json={"image": data_url()} | ({"questions": [row]} if way == "batch" else row))
    if asked is None:
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, column), reply.text
        assert not service.asked
    else:
        assert service.asked[0]["questions"] == [asked]
        assert way != "batch" or reply.json()["answers"][0]["question"] == question


def test_what_is_asked_has_options_without_blanks_at_their_ends() -> None:
    assert vqa.request_text(ImageQuestion("which?", (" red", "blue"))) == "which?\nA. red\nB. blue"


async def test_a_question_that_shows_more_options_than_the_limit_is_refused(client: Client) -> None:
    async with client({"limits": {"options": 2}}) as c:
        reply = await c.post("/v1/vqa", json={"image": data_url(), "question": f"{SHOWN}\nC. green"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "options")
