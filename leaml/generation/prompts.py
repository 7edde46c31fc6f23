"""Every prompt and reply format of the method, in one place.

The VQA model is asked the plain question. The QA generator is asked one fixed request and replies with a question and its
answer, optionally after describing the image first (`Caption: ... Question: ... Answer: ...`): a caption written before the
question puts the distilled knowledge where the question and answer can attend to it.
"""

from __future__ import annotations

import re

from leaml.text.preambles import without_preamble
from leaml.text.thoughts import without_thoughts

CAPTION = "Describe the image."
GENERATE = "Write a question about the image and answer it."
CHECK = "does this show {word}?"
"""Yes/no question about one word of a caption (`leaml.generation.caption_tasks`)."""
CLOZE = "what is missing? {sentence}"
"""A sentence of a caption with a blank to fill (`leaml.generation.caption_tasks`)."""

_REPLY = re.compile(
    r"^\s*(?:Caption:\s*(?P<caption>.*?)\s+)?Question:\s*(?P<question>.+?)\s+Answer:\s*(?P<answer>.*\S)\s*$", re.S
)


def pair_pattern(question_chars: int | None = None, answer_chars: int | None = None) -> str:
    """Regular expression of a structured generator reply, of limited lengths; `parse_qa` reads every text that it matches.

    Up to two colons are there in a question and in an answer, behind anything but the two words that the format itself uses;
    in a text with colons each part between them has a third of the length, so that the limit holds for the whole.
    """
    return f" ?Question: {_limited(question_chars)} Answer: {_limited(answer_chars)}"


def _limited(most: int | None) -> str:
    """A text of at most `most` characters."""
    plain = r"[^:\s][^:\n]" + ("*" if most is None else f"{{0,{most - 1}}}")
    part = None if most is None else most // 3 - _BEFORE_A_COLON
    if part is not None and part < 1:
        return plain
    some = "*" if part is None else f"{{0,{part}}}"
    return rf"(?:{plain}|(?:[^:\s]|[^:\snr]:)[^:\n]{some}(?:{_OTHER_COLON}[^:\n]{some}){{0,2}})"


def _colon_behind_other_words() -> str:
    """A colon and what shows that neither `Question` nor `Answer` stands before it, without looking back."""
    found = [r"[^:\nnr]"]
    for word in ("Question", "Answer"):
        found += [rf"[^:\n{word[index]}]{word[index + 1 :]}" for index in reversed(range(len(word) - 1))]
    return f"(?:{'|'.join(found)}):"


_BEFORE_A_COLON = 10
"""Characters that a colon's own part of the pattern may hold, and some to spare."""
_OTHER_COLON = _colon_behind_other_words()


def caption_prefix(caption: str) -> str:
    """The beginning of a generator reply up to and including the caption."""
    return f"Caption: {' '.join(caption.split())}"


def qa_reply(question: str, answer: str, caption: str | None = None) -> str:
    """The generator's reply for one pair; `parse_qa` is its inverse.

    Args:
        question: Without the words "Question:" and "Answer:", which `parse_qa` splits at.
        answer: The same holds for it.
        caption: Stands before the pair; None or empty: the pair stands alone.
    """
    pair = f"Question: {question} Answer: {answer}"
    return f"{caption_prefix(caption)} {pair}" if caption else pair


def answer_prefix(question: str, caption: str) -> str:
    """The beginning of a generator reply up to the answer of a given question."""
    return f"{caption_prefix(caption)} Question: {question} Answer:"


def parse_qa(text: str) -> tuple[str, str] | None:
    """`(question, answer)` from a generator reply, or None if the text does not hold exactly one well-formed pair.

    Thoughts before the pair are left out, and what announces the pair or its answer.
    """
    match = _REPLY.match(without_preamble(without_thoughts(text)))
    if match is None or "Question:" in match["question"] + match["answer"] or "Answer:" in match["answer"]:
        return None
    return " ".join(match["question"].split()), " ".join(without_preamble(match["answer"]).split())
