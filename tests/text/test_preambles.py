"""What chat models write before a description or a pair is no part of it."""

from __future__ import annotations

import time

import pytest

from leaml.generation import prompts
from leaml.text import replies
from leaml.text.preambles import without_preamble

PREAMBLES = [
    "Sure, here is the description: ",
    "Sure! Here's a detailed description of the image:\n\n",
    "Certainly! Here is a caption for your image: ",
    "Of course. Here’s what I can see: ",
    "Okay, here are the details: ",
    "OK - here is what the image shows: ",
    "Here is a description of the image:\n",
    "Here's the caption you requested:\n\n",
    "**Here is a detailed analysis of the image:**\n\n",
    "Here is a description of the image. ",
    "Below is a concise summary of the picture: ",
    "The following is a description of the endoscopic image: ",
    "Sure! ",
    "Certainly, ",
    "Of course! ",
    "Okay. ",
    "Absolutely! Sure, ",
]


@pytest.mark.parametrize("preamble", PREAMBLES)
@pytest.mark.parametrize("caption", ["A polyp lies in the colon. It is red.", "A polyp: red, 5 mm.", "**Polyp** in the colon."])
def test_a_preamble_is_no_part_of_a_caption(preamble: str, caption: str) -> None:
    assert replies.caption(preamble + caption, "stop", prompts.CAPTION) == (caption, "")
    assert replies.caption(f"<think>hm</think>{preamble}{caption}", "stop") == (caption, "")


@pytest.mark.parametrize(
    "text",
    [
        "Here is a polyp.",
        "Here is a polyp: red and round.",
        "Here are three polyps: one is red, two are pink.",
        "Here is a polyp. It is red.",
        "Sure-footed goats climb a cliff.",
        "Certainly the polyp is red.",
        "Great white sharks swim.",
        "Okay is written on a sign.",
        "This is a red polyp: it bleeds.",
        "This is the answer sheet of a test. It is blank.",
        "A sign says: Sure, here is the description: A polyp.",
        "The following polyps are visible: one in the colon.",
        "A clock shows 10:30. Here is the description.",
        "Here is the time on the clock: 10:30.",
    ],
)
def test_sound_captions_keep_their_first_words(text: str) -> None:
    assert replies.caption(text, "stop", prompts.CAPTION) == (text, "")


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here is the description:",
        "Here is a caption for the image:",
        "Sure! I'd be happy to help.",
        "Okay, here is the description: I'm sorry, I cannot see the image.",
        "Certainly! Here's the description: None",
        "Sure, here is the caption: [insert caption here]",
        "Okay, let me look at the image.",
        "Okay, the user wants a caption.",
    ],
)
def test_nothing_behind_a_preamble_is_no_caption(text: str) -> None:
    found, reason = replies.caption(text, "stop", prompts.CAPTION)
    assert found == "" and reason


def test_a_cut_reply_keeps_whole_sentences_behind_its_preamble() -> None:
    assert replies.caption("Sure, here is the description: A polyp lies there. It", "length") == ("A polyp lies there.", "")
    assert replies.caption("Sure, here is the description: A polyp lies", "length")[0] == ""


@pytest.mark.parametrize(
    "preamble",
    ["Sure! Here is a question and its answer:\n\n", "Here's a question-answer pair: ", "Certainly, here are the two: ", "",
     "<think>hm</think>Of course! Here is the pair:\n"],
)  # fmt: skip
def test_a_preamble_is_no_part_of_a_pair(preamble: str) -> None:
    assert prompts.parse_qa(f"{preamble}Question: which colour? Answer: red") == ("which colour?", "red")
    assert prompts.parse_qa(f"{preamble}Caption: A polyp. Question: which? Answer: red") == ("which?", "red")
    announced = f"{preamble}Question: which? Answer: Sure, here is the answer: red"
    assert prompts.parse_qa(announced) == ("which?", "red")


@pytest.mark.parametrize("answer", ["Certainly, it is.", "Sure.", "Here is a polyp: red.", "ok", "of course"])
def test_answers_that_announce_nothing_stay(answer: str) -> None:
    assert prompts.parse_qa(prompts.qa_reply("is it red?", answer)) == ("is it red?", answer)


def test_long_texts_are_looked_at_in_no_time() -> None:
    start = time.perf_counter()
    for part in ("sure, ", "here is ", "Sure! Here is the description of the image ", "here is a a-a-a ", "*", " ", "okay - "):
        without_preamble(part * 20_000)
    assert time.perf_counter() - start < 2
