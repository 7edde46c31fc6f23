"""Rows of the tables that only steps read and write; leaml/data/tables.py has the others and every schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from leaml.data.tables import PairRow

OutputRow = Mapping[str, object]
"""A row that a step makes; `tables.table` checks it against the step's schema."""


class WrittenReply(TypedDict):
    """A reply in a row of `CANDIDATES`."""

    text: str
    mean_logprob: float
    cut: bool


class AnsweredAgain(TypedDict):
    """A question that was put to the generator, in a row of `CANDIDATES`."""

    question: str
    given: bool
    replies: list[WrittenReply]


class BaseAnswer(TypedDict):
    """What the base answers to a question, in a row of `CANDIDATES`."""

    question: str
    answer: str


class CandidateRow(TypedDict):
    """A row of `CANDIDATES`."""

    image_id: str
    caption: str | None
    replies: list[WrittenReply]
    answers: list[AnsweredAgain]
    base: list[BaseAnswer] | None


class PseudoQaRow(TypedDict):
    """A row of `PSEUDO_QA`."""

    image_id: str
    caption: str | None
    pairs: list[PairRow]


class PredictionRow(TypedDict):
    """A row of `PREDICTIONS`."""

    image_id: str
    question: str
    answer: str
    prediction: str
    correct: bool
    question_type: str | None
    logprob: float | None


class AskedRow(TypedDict):
    """A question without a known answer, as `leaml predict` asks it."""

    question: str
    options: list[str] | None


class ReplyRow(AskedRow, total=False):
    """The reply to it, in a row of `REPLIES`: either `error` or the others."""

    prediction: str | None
    logprob: float | None
    own: bool | None
    error: str | None
