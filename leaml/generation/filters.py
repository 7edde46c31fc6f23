"""Filters of generated question-answer pairs: small functions that each give a reason or None.

`apply` decides about the pairs of one image. A rejected pair stays in the table with the first reason that hit; its scores
(log-probability, votes, re-answer) are the columns beside it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from leaml.config import FilterConfig
from leaml.config.filter import PLUGINS
from leaml.errors import ConfigError
from leaml.generation import prompts
from leaml.generation.candidates import Candidate, winning_reanswer
from leaml.generation.dataset_filters import grams, similarity
from leaml.text import scoring
from leaml.text.broken_text import is_broken, is_unspeakable, says_something
from leaml.text.refusals import REFUSAL
from leaml.text.replies import MARKER

Filter = Callable[[Candidate, FilterConfig], str | None]
FILTERS: list[Filter] = []
"""In the order they are asked; the first reason is kept.

`apply` adds two for the pairs of an image, `dataset_filters` others; those of `filter.plugins` come behind these.
"""


def asked(one: Filter) -> Filter:
    """Register a filter: asked about each candidate, it gives a reason, or None; behind those that stand before it here."""
    FILTERS.append(one)
    return one


@dataclass(frozen=True)
class Decision:
    """What the filters say about one pair.

    Attributes:
        accepted: Whether the pair is used for training.
        reason: The first filter that rejected it; empty when accepted.
        votes: Share of the re-answers that agree with the pair's answer, None without re-answers.
        roundtrip: The most common re-answer, None without re-answers.
    """

    accepted: bool
    reason: str
    votes: float | None
    roundtrip: str | None


@asked
def cut_off(candidate: Candidate, config: FilterConfig) -> str | None:
    """The reply ended at the token limit (`generate.max_tokens`), so its answer may be the beginning of one."""
    return CUT if candidate.cut else None


@asked
def unparsable(candidate: Candidate, config: FilterConfig) -> str | None:
    """The reply does not hold exactly one question and answer."""
    return "unparsable" if candidate.text and prompts.parse_qa(candidate.text) is None else None


@asked
def length(candidate: Candidate, config: FilterConfig) -> str | None:
    """Empty (nothing but spaces and punctuation), or longer than `max_question_chars` / `max_answer_chars`."""
    for name, text, limit in (
        ("question", candidate.question, config.max_question_chars),
        ("answer", candidate.answer, config.max_answer_chars),
    ):
        if not scoring.canonical(text) or not says_something(text):
            return f"empty {name}"
        if limit is not None and len(text) > limit:
            return f"{name} too long"
    return None


@asked
def broken_text(candidate: Candidate, config: FilterConfig) -> str | None:
    """The question or the answer is damaged (leaml.text.broken_text); an answer may well be the letters of a number plate."""
    if not config.broken_text:
        return None
    damaged = is_broken(candidate.question) or is_broken(candidate.answer) or is_unspeakable(candidate.question)
    return "broken text" if damaged else None


@asked
def prompt_echo(candidate: Candidate, config: FilterConfig) -> str | None:
    """The model repeated its instruction or a chat marker instead of answering it."""
    for text in (candidate.question, candidate.answer):
        if scoring.normalise(text) in _PROMPTS or _ECHO.search(" ".join(text.split())):
            return "prompt echo"
    return None


@asked
def refusal(candidate: Candidate, config: FilterConfig) -> str | None:
    """The model refused or talked about itself."""
    plain = (candidate.question + " \n " + candidate.answer).replace("’", "'")
    return "refusal" if REFUSAL.search(plain) else None


@asked
def yes_and_no(candidate: Candidate, config: FilterConfig) -> str | None:
    """The answer gives both yes and no, and not a "no" that belongs to other words ("Yes, no polyps remain")."""
    parts = [set(re.findall(r"\w+", part)) for part in _PARTS.split(candidate.answer.lower())]
    said: set[str] = set().union(*(part for part in parts if part <= {"yes", "no"}))
    return "yes and no" if said == {"yes", "no"} else None


@asked
def low_logprob(candidate: Candidate, config: FilterConfig) -> str | None:
    """The mean log-probability is below `min_mean_logprob`, or not a number."""
    if config.min_mean_logprob is None or candidate.mean_logprob >= config.min_mean_logprob:
        return None
    return "low log-probability"


@asked
def round_trip(candidate: Candidate, config: FilterConfig) -> str | None:
    """The most common re-answer is another one than the pair's."""
    winner = winning_reanswer(candidate.reanswers)
    if not config.round_trip or winner is None or scoring.is_correct(winner, candidate.answer):
        return None
    return "round trip disagrees"


@asked
def few_votes(candidate: Candidate, config: FilterConfig) -> str | None:
    """Fewer than `min_votes` of the re-answers agree with the pair."""
    votes = vote_share(candidate)
    if config.min_votes is None or votes is None or votes >= config.min_votes - 1e-9:
        return None
    return "few votes"


@asked
def easy(candidate: Candidate, config: FilterConfig) -> str | None:
    """The base gives the pair's answer too, so that it teaches nothing; as in MPA (arXiv 2509.16633)."""
    if not config.hardness or candidate.base is None or not scoring.is_correct(candidate.base, candidate.answer):
        return None
    return "base answers it"


CUT, DUPLICATE, SIMILAR = "cut at the token limit", "duplicate question", "similar question"

_PROMPTS = {scoring.normalise(prompt) for prompt in (prompts.CAPTION, prompts.GENERATE)}
_ECHO = re.compile("|".join([re.escape(prompts.CAPTION), re.escape(prompts.GENERATE.rstrip(".")), MARKER.pattern]), re.I | re.M)
_PARTS = re.compile(r"[^\w\s']|\b(?:and|or|but|then|also)\b")
"""What stands between parts of an answer that can be answers of their own."""


def vote_share(candidate: Candidate) -> float | None:
    """Share of the re-answers that `scoring.is_correct` counts as the pair's answer; None without re-answers."""
    if not candidate.reanswers:
        return None
    return sum(scoring.is_correct(again, candidate.answer) for again in candidate.reanswers) / len(candidate.reanswers)


@functools.cache
def _plugin(name: str) -> Filter:
    """A filter of another package. Raises ConfigError where that is not installed, as it may be on another node."""
    if theirs := PLUGINS.function(name):
        return theirs
    msg = f"the filter {name!r} of filter.plugins is not installed on this node; pip install its package on every node"
    raise ConfigError(msg)


def decide(candidate: Candidate, config: FilterConfig) -> Decision:
    """Ask every filter about one pair on its own."""
    every = (*FILTERS, *map(_plugin, config.plugins))
    reason = next((found for one in every if (found := one(candidate, config))), "")
    return Decision(not reason, reason, vote_share(candidate), winning_reanswer(candidate.reanswers))


def apply(candidates: Sequence[Candidate], config: FilterConfig) -> list[dict[str, object]]:
    """Decide about all pairs of *one image*.

    Of accepted pairs with the same normalised question, or with questions that share at least `similar_questions` of their
    3-grams, only the best is kept: most votes, then highest log-probability, then first.

    Returns:
        One dictionary per candidate, in order, with the fields of `leaml.data.tables.PAIR`. The question of an unparsable
        reply is the raw reply, so that a reader sees what was rejected.
    """
    decisions = [decide(candidate, config) for candidate in candidates]
    if config.duplicates:
        decisions = _drop_duplicates(candidates, decisions, config.similar_questions)
    return [
        {
            "question": candidate.question or candidate.text,
            "answer": candidate.answer,
            "mean_logprob": candidate.mean_logprob,
            "votes": decision.votes,
            "roundtrip": decision.roundtrip,
            "accepted": decision.accepted,
            "reason": decision.reason,
        }
        for candidate, decision in zip(candidates, decisions, strict=True)
    ]


def _drop_duplicates(candidates: Sequence[Candidate], decisions: Sequence[Decision], threshold: float | None) -> list[Decision]:
    def rank(index: int) -> tuple[float, float, int]:
        logprob = candidates[index].mean_logprob
        return decisions[index].votes or 0.0, -math.inf if math.isnan(logprob) else logprob, -index

    found = list(decisions)
    kept: dict[str, set[str]] = {}
    for index in sorted((p for p, d in enumerate(decisions) if d.accepted), key=rank, reverse=True):
        text = scoring.normalise(candidates[index].question)
        mine = grams(text)
        if text in kept:
            found[index] = replace(decisions[index], accepted=False, reason=DUPLICATE)
        elif threshold is not None and any(similarity(mine, other) >= threshold for other in kept.values()):
            found[index] = replace(decisions[index], accepted=False, reason=SIMILAR)
        else:
            kept[text] = mine
    return found
