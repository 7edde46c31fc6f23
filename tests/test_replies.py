"""What is a caption and what only looks like one."""

import pytest

from leaml import replies

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
        ("A sign says: I'm sorry. Cars wait.", "stop", None),  # a refusal in its first sentence, better lost than learned
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
            "It measures 3.5 cm. Beside it lies Dr. Smith, approx. 4.",
        ),
        ("A ball. It measures 3.", "length", "A ball."),  # perhaps 3.5
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
    ],
)
def test_captions(reply: str, finished: str, caption: str | None) -> None:
    found, reason = replies.caption(reply, finished, PROMPT)
    assert (found or None) == caption
    assert bool(reason) == (caption is None)


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
        (None, None, "stop"),
        ("eos", 3, "eos"),
        (7, 3, "stop"),
    ],
)
def test_finish_reasons(said: object, tokens: int | None, reason: str) -> None:
    assert replies.finish_reason(said, tokens, 48) == reason
