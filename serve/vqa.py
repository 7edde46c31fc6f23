"""POST /v1/vqa: checks a request, asks the service, and turns log-probabilities into confidences."""

from __future__ import annotations

import math
import time
from typing import TypedDict

from leaml.data.questions import UnaskableError, as_asked, options_of
from leaml.errors import DataError
from leaml.evaluation.calibration import confidence
from leaml.text.broken_text import is_blank, stripped
from leaml.text.scoring import ask
from leaml.text.values import shorten
from serve.chat import check_chars
from serve.errors import refuse
from serve.schemas import (
    VqaAlternative,
    VqaAnswer,
    VqaBatchAnswer,
    VqaBatchReply,
    VqaQuestions,
    VqaReply,
)
from serve.service import Answer, ImageQuestion, Model, Reply
from serve.settings import LimitSettings


def questions_of(request: VqaQuestions, limits: LimitSettings) -> list[ImageQuestion]:
    """The questions of a request, checked. Raises ApiError (422)."""
    if (request.question is None) == (request.questions is None):
        refuse("give either `question` or `questions`", "inconsistent", "question")
    if request.questions is not None and request.options is not None:
        refuse("options of a batch stand beside each question", "inconsistent", "options")
    if request.alternatives > limits.alternatives:
        msg = f"alternatives is {shorten(request.alternatives)}, more than the limit of {limits.alternatives}"
        refuse(msg, "alternatives", "alternatives")
    asked = (
        [(request.question or "", request.options)]
        if request.questions is None
        else [(each.question, each.options) for each in request.questions]
    )
    if len(asked) > limits.questions:
        refuse(f"{len(asked)} questions are more than the limit of {limits.questions}", "questions", "questions")
    check_chars(sum(len(text) + sum(map(len, options or [])) for text, options in asked), limits)
    return [_question(text, options, limits) for text, options in asked]


def _question(text: str, options: list[str] | None, limits: LimitSettings) -> ImageQuestion:
    if is_blank(text):
        refuse("the question is empty", "empty", "question")
    given = None if options is None else _texts(options, limits)
    try:
        asked, found = as_asked(text, given)
    except UnaskableError as error:
        refuse(str(error), error.column, error.column)
    if len(found or ()) > limits.options:
        refuse(f"the question shows {len(found or ())} options, more than the limit of {limits.options}", "options", "question")
    return ImageQuestion(asked, tuple(options) if options is not None and found == given else found or ())


def _texts(options: list[str], limits: LimitSettings) -> tuple[str, ...]:
    """Options without blanks at their ends."""
    if not 2 <= len(options) <= limits.options:
        refuse(f"options must be 2 to {limits.options} texts, got {len(options)}", "options", "options")
    if empty := [number for number, option in enumerate(options, 1) if is_blank(option)]:
        refuse(f"option {empty[0]} of {len(options)} is empty; write its text, or leave it out", "options", "options")
    try:
        texts = options_of(options)
    except DataError as error:
        refuse(str(error), "options", "options")
    if texts is None or texts != tuple(map(stripped, options)):
        refuse("options carry labels of their own; send the texts alone, they are shown as A, B, C, ...", "options", "options")
    return texts


def request_text(question: ImageQuestion) -> str:
    """What the model is asked: the same text as in training and evaluation."""
    try:
        return ask({"question": question.text, "options": list(map(stripped, question.options))})
    except DataError as error:
        refuse(str(error), "options", "options")


class _Common(TypedDict):
    id: str
    model: str
    run: str
    latency_ms: float


def reply_of(
    request: VqaQuestions, answers: list[Answer], model: Model, request_id: str, began: float
) -> VqaReply | VqaBatchReply:
    """The reply to one question or to many.

    Args:
        request: What was sent; its questions are repeated in a reply to many.
        answers: One for each question, in order.
        model: That gave them; its calibration makes their confidences.
        request_id: Becomes the reply's id.
        began: `time.perf_counter()` at the request's headers, for the latency.
    """
    common: _Common = {
        "id": request_id,
        "model": model.id,
        "run": model.run,
        "latency_ms": round(1000 * (time.perf_counter() - began), 2),
    }
    found = [_answer(answer, model) for answer in answers]
    if request.questions is None:
        return VqaReply(**common, **dict(found[0]))
    texts = [asked.question for asked in request.questions]  # as they were sent, so that a client finds its own
    batch = [VqaBatchAnswer(question=text, **dict(each)) for text, each in zip(texts, found, strict=True)]
    return VqaBatchReply(**common, answers=batch)


def _answer(answer: Answer, model: Model) -> VqaAnswer:
    """An answer as it is sent. Its confidences are of answers that exclude one another and sum to at most 1."""
    calibrated = model.temperature is not None and answer.own
    temperature = model.temperature if model.temperature is not None and calibrated else 1.0
    sure = _confidence(answer.reply, temperature)
    others = [_confidence(other, temperature) for other in answer.alternatives]
    share = min(1.0, (1 - sure) / total) if (total := sum(others)) else 1.0
    return VqaAnswer(
        answer=answer.reply.text,
        confidence=sure,
        calibrated=calibrated,
        alternatives=[
            VqaAlternative(answer=other.text, confidence=_rounded_down(share * each))
            for other, each in zip(answer.alternatives, others, strict=True)
        ],
    )


def _confidence(reply: Reply, temperature: float) -> float:
    # a sum of float32 log-probabilities can lie just above 0
    return _rounded_down(confidence(min(0.0, reply.logprob), temperature))


def _rounded_down(value: float) -> float:
    return math.floor(value * 1e6) / 1e6
