"""Candidates: the pairs that the replies of a generator about one image make, before any filter decides about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leaml.generation import prompts
from leaml.text import scoring
from leaml.text.preambles import without_preamble


@dataclass(frozen=True)
class Candidate:
    """One generated pair before filtering.

    Attributes:
        question: Empty when the reply could not be parsed.
        answer: Empty when the reply could not be parsed.
        mean_logprob: Mean log-probability of the reply's tokens, in nats.
        reanswers: Answers of further readings of the image to this question; empty when none were made.
        text: The generator's raw reply; empty when the pair did not come from one.
        cut: Whether the reply, or the answer that made the pair, ended at the token limit.
        base: The base's own answer to the question; None where it was not asked.
    """

    question: str
    answer: str
    mean_logprob: float
    reanswers: list[str] = field(default_factory=list)
    text: str = ""
    cut: bool = False
    base: str | None = None

    @classmethod
    def from_reply(cls, text: str, mean_logprob: float, cut: bool = False) -> Candidate:
        """Parse a generator's reply; one without a pair is a candidate that `unparsable` rejects.

        Args:
            text: The raw reply.
            mean_logprob: Mean log-probability of its tokens, in nats.
            cut: Whether the reply ended at the token limit.
        """
        question, answer = prompts.parse_qa(text) or ("", "")
        return cls(question, answer, mean_logprob, [], text, cut)


def questions(row: Mapping[str, Any]) -> list[str]:
    """Every distinct question in a row of the CANDIDATES table, given ones first.

    Args:
        row: Of that table; it may lack `answers`.
    """
    found = [each["question"] for each in row.get("answers") or [] if each["given"]]
    parsed = (prompts.parse_qa(reply["text"]) for reply in row["replies"])
    return list(dict.fromkeys([*found, *(pair[0] for pair in parsed if pair and pair[0])]))


def of_row(row: Mapping[str, Any], correct_above: float | None) -> list[Candidate]:
    """The candidates in a row of the CANDIDATES table: sampled pairs in order, then those that plain answers make.

    Args:
        row: Of that table.
        correct_above: What an answer to a generated question takes to become a pair, see `from_answers`; None: none does.
    """
    found = [Candidate.from_reply(reply["text"], reply["mean_logprob"], cut=reply["cut"]) for reply in row["replies"]]
    made: list[Candidate] = []
    for asked in row["answers"] or []:
        same = [candidate for candidate in found if candidate.question == asked["question"]]
        texts = [without_preamble(reply["text"]) for reply in asked["replies"]]
        for candidate in same:
            candidate.reanswers.extend(texts)
        above = 0.0 if asked["given"] else correct_above
        if above is not None:
            logprobs, cut = ([reply[key] for reply in asked["replies"]] for key in ("mean_logprob", "cut"))
            made += from_answers(asked["question"], same, texts, logprobs, above, cut)
    base = {each["question"]: each["answer"] for each in row["base"] or []}
    return [replace(candidate, base=base.get(candidate.question)) for candidate in (*found, *made)]


def winning_reanswer(reanswers: Sequence[str]) -> str | None:
    """First spelling of the most common re-answer (compared as `scoring.canonical`); ties go to the one given first."""
    groups: dict[frozenset[str], list[str]] = {}
    for again in reanswers:
        groups.setdefault(scoring.canonical(again), []).append(again)
    return max(groups.values(), key=len)[0] if groups else None


def from_answers(
    question: str,
    same: Sequence[Candidate],
    reanswers: Sequence[str],
    logprobs: Sequence[float],
    above: float = 0.0,
    cut: Sequence[bool] = (),
) -> list[Candidate]:
    """The pair that plain answers to a question make, unless a sampled pair has that answer or they are not sure enough of it.

    For questions that are given it is how a pair is made. For generated ones it corrects: a generator that writes a pair may
    repeat the label's habits (mostly no) where the plainly asked model looks at the image.

    Args:
        question: Put to the model plainly.
        same: Sampled candidates with this question about this image.
        reanswers: The model's answers.
        logprobs: Mean log-probability per token of each answer, in nats.
        above: Smallest share of the answers that agree, times their mean probability per token.
        cut: Which of the answers ended at the token limit; empty: none.

    Returns:
        No or one candidate, with an empty answer where the model said nothing (`length` rejects it); sampled pairs that it
        contradicts stay candidates, which `round_trip` rejects.
    """
    winner = winning_reanswer(reanswers)
    if winner is None or any(scoring.is_correct(winner, c.answer) for c in same):
        return []
    said = scoring.canonical(winner)
    agreeing = [p for again, p in zip(reanswers, logprobs, strict=True) if scoring.canonical(again) == said]
    if sum(math.exp(p) for p in agreeing) / len(reanswers) < above:
        return []
    ended = any(again == winner and not ends for again, ends in zip(reanswers, cut or [False] * len(reanswers), strict=True))
    return [Candidate(question, winner, sum(agreeing) / len(agreeing), list(reanswers), cut=not ended)]
