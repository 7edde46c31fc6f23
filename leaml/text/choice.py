"""The answer to a question with options: the option whose reply the model is most likely to give.

Labels teach a model to reply with an option's letter or with its text, and a model may write that text in its own way: for the
option "Red." it says "B", "Red.", "red" or "B. Red.". Such replies, each with the end of the reply behind it, exclude one
another: an option's probability is the sum over its replies, and the probabilities of all options sum to at most 1. What the
model says by itself, its greedy reply, counts for the option that it names, and the others are looked for in the same form. A
greedy reply that names one option and has more than half of the probability settles the choice, and nothing else needs to be
scored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaml.errors import DataError
from leaml.text.scoring import chosen_letters, normalise, option_letters
from leaml.text.values import shorten

_MAJORITY = math.log(0.5)
_ALWAYS = 3
"""Of the spellings of an option's text, those that are always scored."""
_ARTICLE = re.compile(r"^(?:an?|the)\s+")


@dataclass(frozen=True)
class Said:
    """A reply of the model.

    Attributes:
        text: What it says.
        logprob: Natural log of its probability, its end included.
        tokens: Ids of its tokens; empty where they are not known. A tokenizer may make the same ones of two texts.
        ended: Whether it ends here. One that was cut is the beginning of many.
    """

    text: str
    logprob: float
    tokens: tuple[int, ...] = ()
    ended: bool = True


@dataclass(frozen=True)
class Choice:
    """An option that was chosen.

    Attributes:
        index: Its position among the options.
        logprob: Natural log of its probability: of the model's own greedy reply where that settles the choice, else of the
            option among the options.
        own: Whether the model's greedy reply settles it. What was learned about how sure such replies are holds then only.
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


def replies(options: Sequence[str], greedy: Said) -> list[list[str]]:
    """The replies to score for each option, which name it and no other one.

    They are its letter, its text (as it is written, in small letters, and so without an article and a full stop), both, and
    what the greedy reply would be if it named this option: 3 where the text is in small letters, 6 at most.
    """
    alike = _alike(greedy, options)
    found = []
    for index, (letter, option) in enumerate(zip(option_letters(len(options)), options, strict=True)):
        texts = _spellings(option)
        candidates = dict.fromkeys((letter, *texts[:_ALWAYS], f"{letter}. {texts[0]}", alike[index]))
        found.append([reply for reply in candidates if reply and named(reply, options) == index])
    return found


def named(reply: str, options: Sequence[str]) -> int | None:
    """Index of the one option that a reply names, None where it names none or several."""
    letters = chosen_letters(reply, options)
    return option_letters(len(options)).index(next(iter(letters))) if letters and len(letters) == 1 else None


def settled(greedy: Said, options: Sequence[str]) -> Choice | None:
    """The choice, where the greedy reply alone shows it."""
    index = _meant(greedy, options)
    return Choice(index, greedy.logprob, own=True) if index is not None and greedy.logprob > _MAJORITY else None


def choose(greedy: Said, options: Sequence[str], scored: Sequence[Sequence[Said]]) -> Choice:
    """The most probable option; of equally probable ones the first.

    Args:
        greedy: The model's greedy reply.
        options: The options.
        scored: Per option, its `replies`.
    """
    sums = np.array([np.logaddexp.reduce(np.array(each)) for each in _logprobs(greedy, options, scored)])
    among = sums - np.logaddexp.reduce(sums)
    if (found := settled(greedy, options)) is None:
        # not the greedy reply's own probability, beside which that of an alternative's several replies may be the larger one
        index = int(among.argmax())
        found = Choice(index, float(among[index]), own=False)
    return Choice(found.index, found.logprob, found.own, tuple(among.tolist()))


def _logprobs(greedy: Said, options: Sequence[str], scored: Sequence[Sequence[Said]]) -> list[list[float]]:
    """Per option, the log-probabilities of replies that exclude one another: no sequence of tokens counts twice."""
    meant, said = _meant(greedy, options), greedy.text.strip()
    seen: set[tuple[int, ...] | str] = set()
    found: list[list[float]] = []
    for index, group in enumerate(scored):
        logprobs: list[float] = []
        own = greedy.logprob if index == meant else -math.inf
        for reply in group:
            key = reply.tokens or reply.text
            if index == meant and (reply.text == said or (not greedy.ended and reply.text.startswith(said))):
                own = max(own, reply.logprob)  # the same reply, or one of those that begin as the cut one does
            elif key not in seen:
                logprobs.append(reply.logprob)
            seen.add(key)
        found.append([*logprobs, own])
    return found


def _meant(greedy: Said, options: Sequence[str]) -> int | None:
    """Index of the option that the greedy reply names. A cut one names none where it may become a reply of another option."""
    said = greedy.text.strip()
    index = named(said, options)
    if index is None or greedy.ended:
        return index
    texts = [text for n, option in enumerate(options) if n != index for text in _spellings(option)]
    return None if any(text.startswith(said) for text in texts) else index


def _spellings(option: str) -> tuple[str, ...]:
    """Ways to write an option's text, in an order that is the same for all options."""
    text = option.strip()
    small = text.lower()
    bare = _ARTICLE.sub("", small).rstrip(" .")
    return text, small, bare, text.rstrip(" ."), _capitalised(small), _capitalised(bare), text.upper()


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _alike(greedy: Said, options: Sequence[str]) -> list[str]:
    """For each option, the greedy reply with this option in place of the one that it names; "" where that cannot be said.

    Else the one form in which the model speaks would count for one option only: of "Red" and "Blue" for red and blue.
    """
    said = greedy.text.strip()
    letters = option_letters(len(options))
    index = named(said, options)
    if index is None or not greedy.ended:
        return [""] * len(options)

    def beside(text: str, other: str) -> str:
        return re.sub(rf"(?<![^\W_]){letters[index]}(?=\s*[).:\]*-])", other, text)

    for kind, spelling in enumerate(_spellings(options[index])):
        if spelling and (match := re.search(rf"(?<!\w){re.escape(spelling)}(?!\w)", said)):
            before, after = said[: match.start()], said[match.end() :]
            texts = [_spellings(option)[kind] for option in options]
            return [f"{beside(before, other)}{text}{after}" for other, text in zip(letters, texts, strict=True)]
    if (match := re.search(rf"(?<![^\W_]){letters[index]}(?![^\W_])", said, re.I)) is None:
        return [said if n == index else "" for n in range(len(options))]
    cased = [other.lower() if match[0].islower() else other for other in letters]
    return [said[: match.start()] + other + said[match.end() :] for other in cased]
