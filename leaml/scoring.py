"""Whether a predicted answer is right: normalised exact match, order-insensitive for lists, by letter for options.

The rules follow the VQA evaluation (articles, number words, punctuation) with the deviations named at `normalise`. Half of
Kvasir-VQA's list answers differ only in their order ("pink; red" and "red; pink"), hence the comparison as sets.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaml.errors import DataError

SET_TYPES = frozenset({"multiple_choice", "color", "colour", "location"})
"""Question types whose answers are lists, also when separated by commas."""

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split(" "))}
_LEAD = re.compile(
    r"^\s*(?:(?:so|therefore)[\s,]+)?(?:(?:the\s+)?(?:final\s+|correct\s+|right\s+)?"
    r"(?:answers?|options?|choices?|letters?)\s*(?:(?:is|are)\b|[:=])?\s*[:=]?\s*)+",
    re.I,
)
_LETTER_WITH_TEXT = re.compile(r"^\(?([A-Za-z])(?:\)[.:]?|[.:])\s+(\S.*)$", re.S)


@functools.lru_cache(maxsize=1 << 16)  # a data set has many more rows than different questions and answers
def normalise(text: str) -> str:
    """Canonical form of a short answer or question.

    Unicode NFKC, lower case, punctuation stripped at both ends, spaces collapsed, articles dropped, `zero`..`twenty` as
    digits. Three deviations from the VQA evaluation keep different answers apart: an article in last place stays
    ("hepatitis A", option "A"), as do "%" and the minus of a number; a text of punctuation alone stays as it is.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    start, end = 0, len(folded)
    while start < end and _strippable(folded[start]) and not _is_minus(folded, start):
        start += 1
    while end > start and _strippable(folded[end - 1]):
        end -= 1
    words = (folded[start:end] or folded).split()
    kept = [word for place, word in enumerate(words) if word not in _ARTICLES or place == len(words) - 1]
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def canonical(text: str, question_type: str | None = None) -> frozenset[str]:
    """The set of normalised items of an answer; two answers agree when their sets are equal.

    Items are separated by ";", and by "," too where `question_type` is one of `SET_TYPES`. A plain answer is a set of one,
    an empty answer the empty set.
    """
    kind = re.sub(r"[\s-]+", "_", (question_type or "").strip().lower())
    items = re.split(r"[;,]" if kind in SET_TYPES else ";", text)
    return frozenset(item for item in map(normalise, items) if item)


def option_letters(n: int) -> list[str]:
    """The letters of `n` options: A, B, C, ... Raises DataError outside 0..26."""
    if not 0 <= n <= len(string.ascii_uppercase):
        msg = f"{n} options cannot be lettered A to Z; give 0 to 26"
        raise DataError(msg)
    return list(string.ascii_uppercase[:n])


def ask(row: Mapping[str, Any]) -> str:
    """The request for a labeled row: its question, and its options, where it has some, on lettered lines."""
    options = row.get("options")
    if not options:
        return str(row["question"])
    lines = [f"{letter}. {option}" for letter, option in zip(option_letters(len(options)), options, strict=True)]
    return "\n".join([str(row["question"]), *lines])


def chosen_letters(text: str, options: Sequence[str]) -> frozenset[str] | None:
    """Letters of the options a reply names, or None when it names none of them or contradicts itself.

    Accepts "B", "b.", "(B)", "answer: B", "B. offside", the option's text, and several of them: "A, C", "A and C", "AC".
    """
    reply = text.strip()
    for candidate in dict.fromkeys((reply, _LEAD.sub("", reply))):
        found = _read_letters(candidate, options)
        if found:
            return found
    return None


def texts_of(letters: Iterable[str], options: Sequence[str]) -> list[str]:
    """The texts behind the letters of options, in the order of the letters."""
    return [options[string.ascii_uppercase.index(letter)] for letter in sorted(letters)]


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer of a labeled row in words: where it has options, the texts of the right ones instead of their letters."""
    options = row.get("options")
    letters = chosen_letters(row["answer"], options) if options else None
    return "; ".join(texts_of(letters, options)) if options and letters else str(row["answer"])


def is_correct(prediction: str, answer: str, question_type: str | None = None, options: Sequence[str] | None = None) -> bool:
    """Whether `prediction` gives the `answer`.

    Args:
        prediction: The model's reply; an empty one is always wrong.
        answer: The reference. With `options`, a letter, several letters or the option's text.
        question_type: One of `SET_TYPES` makes "," a separator of items beside ";".
        options: The texts behind the letters A, B, ...; both sides are then compared by letter. If the answer is none of the
            options (a fault of the data), the texts are compared instead.
    """
    if options:
        wanted = chosen_letters(answer, options)
        if wanted is not None:
            return chosen_letters(prediction, options) == wanted
    given = canonical(prediction, question_type)
    return bool(given) and given == canonical(answer, question_type)


def _strippable(char: str) -> bool:
    return char.isspace() or char == "`" or (unicodedata.category(char).startswith("P") and char != "%")


def _is_minus(text: str, place: int) -> bool:
    following = text[place + 1 : place + 2]
    return text[place] in "-−" and following.isdigit()


def _read_letters(reply: str, options: Sequence[str]) -> frozenset[str] | None:
    letters = option_letters(len(options))
    by_text = {normalise(option): letter for letter, option in reversed(list(zip(letters, options, strict=True)))}
    if one := _read_one(reply, letters, by_text):
        return frozenset({one})
    if several := _read_several(reply, letters, by_text):
        return several
    match = _LETTER_WITH_TEXT.match(reply)  # a letter with an explanation, unless the text is that of another option
    if match and match[1].upper() in letters and normalise(match[2]) not in by_text:
        return frozenset({match[1].upper()})
    return None


def _read_one(item: str, letters: list[str], by_text: dict[str, str]) -> str | None:
    bare = item.strip(" \t\n.,;:()[]{}'\"*`").upper()
    if bare in letters:
        return bare
    if letter := by_text.get(normalise(item)):
        return letter
    match = _LETTER_WITH_TEXT.match(item.strip())
    return match[1].upper() if match and by_text.get(normalise(match[2])) == match[1].upper() else None


def _read_several(reply: str, letters: list[str], by_text: dict[str, str]) -> frozenset[str] | None:
    joined = reply.strip(" .()")
    if re.fullmatch(r"[A-Z]{2,}", joined) and set(joined) <= set(letters):
        return frozenset(joined)
    items = [item for item in re.split(r"[;,&/\n]|\band\b|\)\s*\(", reply) if item.strip(" .()[]'\"")]
    if len(items) == 1:
        items = reply.split()
    found = {_read_one(item, letters, by_text) for item in items}
    return None if None in found or not found else frozenset(letter for letter in found if letter)
