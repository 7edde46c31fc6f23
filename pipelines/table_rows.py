"""Rows of the tables (leaml/data/tables.py) as the steps read and write them; each is named after its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

OutputRow = Mapping[str, object]
"""A row that a step makes; `tables.table` checks it against the step's schema."""


class LabeledRow(TypedDict):
    """A row of `LABELED`."""

    image_id: str
    question: str
    answer: str
    question_type: str | None
    options: list[str] | None
    where: str | None


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


class PairRow(TypedDict):
    """A `PAIR` in a row of `PSEUDO_QA`; `reason` is empty where it was accepted."""

    question: str
    answer: str
    mean_logprob: float
    votes: float | None
    roundtrip: str | None
    accepted: bool
    reason: str


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


class QuarantineRow(TypedDict):
    """A row of `QUARANTINE`; an image that could not be read has no id."""

    image_id: str | None
    uri: str | None
    step: str
    reason: str
