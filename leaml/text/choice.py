"""The answer to a question with options: the option whose reply the model is most likely to give.

Labels teach a model to reply with an option's letter or with its text, so an option has several replies: "B", "blue" and
"B. blue", each with the end of the reply behind it. Such replies exclude one another: an option's probability is the sum over
its replies, and the probabilities of all options sum to at most 1. A greedy reply that names one option and has more than half
of the probability settles the choice, and nothing else needs to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaml.errors import DataError
from leaml.text.scoring import chosen_letters, normalise, option_letters
from leaml.text.values import shorten

_MAJORITY = math.log(0.5)


@dataclass(frozen=True)
class Choice:
    """An option that was chosen.

    Attributes:
        index: Its position among the options.
        logprob: Natural log of its probability: of the model's own greedy reply where that names the option, else of the option
            among the options.
        own: Whether the model's greedy reply names it. What was learned about how sure the model's replies are holds then only.
        others: Natural log of each option's probability among the options, in their order; empty where they were not scored.
    """

    index: int
    logprob: float
    own: bool
    others: tuple[float, ...] = ()


def check_options(options: Sequence[str]) -> None:
    """Raise DataError for two options that are one answer, written alike but for case, spaces and punctuation at the ends."""
    seen: dict[str, str] = {}
    for option in options:
        meaning = normalise(option)
        if meaning in seen:
            msg = f"the options {shorten(seen[meaning])} and {shorten(option)} are the same answer; give each option once"
            raise DataError(msg)
        seen[meaning] = option


def replies(options: Sequence[str]) -> list[list[str]]:
    """The replies that name each option and no other one: its letter, its text, and both."""
    letters = option_letters(len(options))
    return [
        [
            reply
            for reply in dict.fromkeys((letter, option.strip(), f"{letter}. {option.strip()}"))
            if chosen_letters(reply, options) == {letter}
        ]
        for letter, option in zip(letters, options, strict=True)
    ]


def named(reply: str, options: Sequence[str]) -> int | None:
    """Index of the one option that a reply names, None where it names none or several."""
    letters = chosen_letters(reply, options)
    return option_letters(len(options)).index(next(iter(letters))) if letters and len(letters) == 1 else None


def settled(reply: str, logprob: float, options: Sequence[str]) -> Choice | None:
    """The choice, where the greedy reply alone shows it.

    Args:
        reply: The model's greedy reply.
        logprob: Natural log of its probability, the end of the reply included.
        options: The options.
    """
    index = named(reply, options)
    return Choice(index, logprob, own=True) if index is not None and logprob > _MAJORITY else None


def choose(reply: str, logprob: float, options: Sequence[str], scored: Sequence[Sequence[float]]) -> Choice:
    """The most probable option; of equally probable ones the first.

    Args:
        reply: The model's greedy reply.
        logprob: Natural log of its probability.
        options: The options.
        scored: Per option, the natural log of the probability of each of its `replies`.
    """
    sums = np.array([np.logaddexp.reduce(np.array(each, dtype=np.float64)) for each in scored])
    among = sums - np.logaddexp.reduce(sums)
    if (found := settled(reply, logprob, options)) is None:
        # not the greedy reply's own probability, beside which that of an alternative's several replies may be the larger one
        index = int(among.argmax())
        found = Choice(index, float(among[index]), own=False)
    return Choice(found.index, found.logprob, found.own, tuple(among.tolist()))
