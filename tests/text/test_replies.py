"""Replies of servers: what of them becomes a caption, why there is none, and how they ended."""

import time

import pytest

from leaml.text import replies

PROMPT = "Describe the image."


@pytest.mark.parametrize(
    ("reply", "finished", "caption"),
    [
        ("A red ball.", "stop", "A red ball."),
        ("a red ball", "stop", "a red ball"),  # ended by itself, without a dot
        ("A red ball. It lies on", "stop", "A red ball. It lies on"),
        ("<think>The user wants a caption.</think>\n\nA red ball.", "stop", "A red ball."),
        ("Okay, the user wants.\n</think>\nA red ball.", "stop", "A red ball."),  # the template opened the thought
        ("[THINK]hm[/THINK]A red ball.", "stop", "A red ball."),
        ("◁think▷hm◁/think▷A red ball.", "stop", "A red ball."),
        ("<think>hm</think><answer>A red ball.</answer>", "stop", "A red ball."),
        ("<|begin_of_box|>A red ball.<|end_of_box|>", "stop", "A red ball."),
        ("<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>A red ball.", "stop", "A red ball."),
        ("图中有一个红球。", "stop", "图中有一个红球。"),
        ("There is none.", "stop", "There is none."),
        ("A sign says: I'm sorry. Cars wait.", "stop", "A sign says: I'm sorry. Cars wait."),  # words on a sign
        ("A wall. A sign on it says I'm sorry.", "stop", "A wall. A sign on it says I'm sorry."),
        # cut at the limit
        ("A red ball. It lies on the", "length", "A red ball."),
        ("The image shows a close-up of the colon wall with a small", "length", None),
        ("A red ball.", "length", "A red ball."),
        ('A sign says "Stop!" Behind it a', "length", 'A sign says "Stop!"'),
        ("A ball.\n\n1. It is red.\n2. It", "length", "A ball.\n\n1. It is red."),
        (
            "It measures 3.5 cm. Beside it lies Dr. Smith, approx. 4. Then",
            "length",
            "It measures 3.5 cm.",  # "4." may begin the next item of a list
        ),
        ("A ball. It measures 3.", "length", "A ball."),  # perhaps 3.5
        ("The image shows:\n\n1. A polyp\n2. A tube\n3. Red", "length", None),
        ("The image shows:\n\n1. A polyp\n2. A tube\n3.", "length", None),
        ("It shows a tube.\n\n1. A polyp\n2. Red\n\n10. A", "length", "It shows a tube."),
        ("It shows: 1. A polyp 2. A tube 3. Red", "length", None),
        ("A polyp. **Size:** 5 mm\n3.", "length", "A polyp."),
        ("A ball.\n\n- **2. Size", "length", "A ball."),
        ("A ball.\n\na. Red\nii. Round\niii. Big", "length", "A ball."),
        ("A ball. See the wall (Fig. 2.", "length", "A ball."),
        ("A ball. See the wall (Fig. 2.) Then", "length", "A ball."),
        ("See the wall (Fig. 2.", "length", None),
        ("A ball. It is number 7! Then", "length", "A ball. It is number 7!"),
        ("It measures 4.", "stop", "It measures 4."),
        ("A ball, e.g. a red", "length", None),
        ("A ball held by Mr.", "length", None),
        ("Two balls are red! Are they? The", "length", "Two balls are red! Are they?"),
        ("图中有一个红球。旁边", "length", "图中有一个红球。"),
        ("<think>Okay. The user wants. It", "length", None),
        ("<think>Okay.</think>A ball. It", "length", "A ball."),
        # no captions
        ("", "stop", None),
        (" \n", "stop", None),
        ("None", "stop", None),
        ("null", "stop", None),
        ("N/A.", "stop", None),
        ("...", "stop", None),
        ("42", "stop", None),
        ("<think>Okay, a ball.</think>", "stop", None),
        ("I'm sorry, I can't help with that.", "stop", None),
        ("I’m unable to view images. Please describe it.", "stop", None),
        ("As an AI language model, I have no eyes.", "stop", None),
        ("Sorry, no.", "stop", None),
        ("describe  the image.", "stop", None),
        ("A red ball<|im_end|>", "stop", None),
        ("A red ball<end_of_turn>", "stop", None),
        ("A red ball.", "content_filter", None),
        ("A red ball.", "abort", None),
        ("A red ball.", "tool_calls", None),
        ("A red ball.", "eos_token", "A red ball."),
        ("A red ball. It lies", "eos_token", "A red ball. It lies"),
        ("A red ball. It lies", "model_length", "A red ball."),  # no known end
        ("a red ball", "incomplete", None),
        ("<thought>hm</thought>A red ball.", "stop", "A red ball."),
        ("<seed:think>hm</seed:think>A red ball.", "stop", "A red ball."),
        ("<unused94>thought\nhm<unused95>A red ball.", "stop", "A red ball."),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>A red ball.<|END_RESPONSE|>", "stop", "A red ball."),
        ("hm</reasoning>A red ball.", "stop", "A red ball."),
        ("<|begin_of_thought|>hm", "stop", None),
        ("Describe the image. A red ball.", "stop", None),
        ("A red ball.<turn|>", "stop", None),
        ("N.A.", "stop", None),
        ("image/png;base64,iVBORw0", "stop", None),
        ("Model is loading, please retry in 20 s", "stop", None),
        ("queue position 5", "stop", None),
        ("Image description unavailable due to safety settings.", "stop", None),
        ("Please sign in to continue.", "stop", None),
        ("Your free trial has expired.", "stop", None),
        ("Oops! Something broke.", "stop", None),
        ("Oops written on a cake.", "stop", "Oops written on a cake."),
        ("The model is loading boxes into a van.", "stop", "The model is loading boxes into a van."),
    ],
)
def test_captions(reply: str, finished: str, caption: str | None) -> None:
    found, reason = replies.caption(reply, finished, PROMPT)
    assert (found or None) == caption
    assert bool(reason) == (caption is None)


@pytest.mark.parametrize(
    "reply",
    [
        "The polyp is red. " * 60,
        "It shows the colon. " + "The polyp is red. " * 3,
        "The polyp is red. The wall is pink. " * 9,
        "The polyp is red, the polyp is red, the polyp is red, the polyp is red, and",
        "a red ball and a blue ball and " * 20,
        "red " * 200,
        "red, " * 8,
        "The image shows " + "a polyp with a smooth surface near the fold, " * 3,
        "".join(f"{number}. The polyp is red.\n" for number in range(1, 9)),
        "".join(f"{number}. a small polyp\n" for number in range(1, 9)),
        "图中有一个红球。" * 5,
        "红色的球，" * 9,
        "The POLYP is red! the polyp is red. The polyp: is red. So",
    ],
)
@pytest.mark.parametrize("finished", ["length", "stop"])
def test_a_reply_that_goes_round_in_circles_is_no_caption(reply: str, finished: str) -> None:
    found, reason = replies.caption(reply, finished, PROMPT)
    assert (found, reason.partition(":")[0]) == ("", "repeats itself")


@pytest.mark.parametrize(
    "reply",
    [
        "A row of balls: red, red, red, blue, red, red, red.",
        "The first ball is red. The second ball is red. The third ball is blue. The fourth ball is green.",
        "Player 1 wears red. Player 2 wears red. Player 3 wears red.",
        "A sign says no, no, no.",
        "A red ball. A blue ball. A red ball.",
        "red red red red red red red",
        "哈哈哈，图中有一个红球。",
    ],
)
def test_a_caption_may_say_a_thing_twice(reply: str) -> None:
    assert replies.caption(reply, "stop", PROMPT) == (reply, "")


@pytest.mark.parametrize("text", ["half a pair \ud83d", "\udc80", "\ude00\ud83d"])
def test_a_text_that_cannot_be_stored_is_no_caption_and_its_reason_can_be(text: str) -> None:
    for message in ({"content": text}, {"content": None, "refusal": text}, {"content": [{"type": "refusal", "refusal": text}]}):
        found, reason = replies.message_text(message)
        if found:
            found, reason = replies.caption(found, "stop", PROMPT)
        assert (found, bool(reason.encode())) == ("", True)


def test_reasons_begin_with_what_is_counted() -> None:
    reasons = [
        replies.caption(*each, PROMPT)[1].partition(":")[0]
        for each in (("", "stop"), ("<think>a", "length"), ("None", "stop"), ("I cannot.", "stop"), ("A ball and", "length"))
    ]
    assert reasons == [
        "empty reply",
        "a thought without an answer",
        "no description",
        "refusal",
        "cut at the token limit before the end of its first sentence",
    ]


@pytest.mark.parametrize(
    ("said", "tokens", "reason"),
    [
        ("stop", 48, "stop"),
        ("LENGTH", 3, "length"),
        ("max_tokens", 3, "length"),
        (None, 48, "length"),
        (None, 3, "stop"),
        (None, None, "length"),  # nothing is known
        ("", 3, "stop"),
        ("eos", 3, "eos"),
        (7, 3, "length"),
        ({"type": "stop"}, 3, "length"),
        (False, 3, "length"),
        ("STOP", 3, "stop"),
        ("FINISH_REASON_STOP", 3, "stop"),
        ("end-turn", 3, "end_turn"),
        ("stop_sequence", 3, "stop_sequence"),
        ("model_length", 3, "length"),
        ("incomplete", 3, "length"),
        ("timeout", 3, "length"),
        ("repetition", 3, "length"),
        ("FINISH_REASON_MAX_TOKENS", 3, "length"),
        ("SAFETY", 3, "safety"),
        ("canceled", 3, "canceled"),
        ("ContentFilter", 3, "content_filter"),
        ("contentFiltered", 3, "content_filtered"),
        ("FinishReason.SAFETY", 3, "safety"),
        ("FinishReason.STOP", 3, "stop"),
        ("EndTurn", 3, "end_turn"),
        ("ToolCalls", 3, "tool_calls"),
        ("MaxTokens", 3, "length"),
    ],
)
def test_finish_reasons(said: object, tokens: int | None, reason: str) -> None:
    assert replies.finish_reason(said, tokens, 48) == reason


@pytest.mark.parametrize(
    "text",
    [
        "a" * 40_000,
        "a" + " " * 20_000 + "b",
        "A. b " * 8_000,
        "." * 40_000 + "a",
        "A ball" + "\n" * 4_000 + "x",
        "as a " * 8_000,
        "a?" * 20_000,
        "(Fig. " * 6_000,
    ],
    ids=["one word", "spaces", "initials", "dots", "line breaks", "as a", "question marks", "abbreviations"],
)
def test_a_long_reply_is_read_in_time(text: str) -> None:
    start = time.process_time()
    replies.caption(text, "length", PROMPT)
    replies.caption(text, "stop", PROMPT)
    assert time.process_time() - start < 10  # a square of its length takes minutes
