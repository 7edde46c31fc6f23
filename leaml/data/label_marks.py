"""Labels in front of the options of a list, in whatever style: "A. red", "b) blue", "[C] green", "Ｄ．红", "Option E - pink".

A label says what letter its option has, and so does its place. A list carries labels on all of its texts or on none; what is in
between, or contradicts the places, is refused, since a letter would silently mean another option.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from leaml.data.values import UnusableError, shorten
from leaml.scoring import normalise

UNREADABLE, GAP = "unreadable options", "missing option"
"""Reasons for which a row is refused."""

FIX = 'write the texts without labels, or an object by letter: {"A": ..., "B": ...}'

_WORD = r"(?:(?:option|choice|answer|alternative|opt|ans)s?[\s_.:#-]{})?"
_TOKEN = r"(?P<{}>[^\W\d_]|\d{{1,3}}|[ivx]{{2,5}})"
_KEY = re.compile(rf"^(?!\w{{3,}}s$)[\s(\[<*]*{_WORD.format('*')}[(\[]?([a-z]|\d{{1,3}})[\s)\]>.:*]*$", re.I)
_STRONG = re.compile(
    rf"^[\s*_`]*{_WORD.format('+')}(?:"
    rf"[(\[{{<【〔「『《〈]\s*{_TOKEN.format('inside')}\s*[)\]}}>】〕」』》〉][*_`]*(?:[.:、,](?!\d)|\s+-+(?=\s))?[*_`]*\s*"
    rf"|{_TOKEN.format('before')}[*_`]*(?P<mark>[).:\]}}、。]+|\s+-+(?=\s))[*_`]*\s*"
    r")(?P<text>.*)$",
    re.S | re.I,
)
_WEAK = re.compile(r"^\s*(?P<key>[a-z])(?:\s*,\s+|\s+)(?P<text>\S.*)$", re.S | re.I)
_ANY = re.compile(rf"^\W*(?:{_WORD.format('+')})\W*([a-z])(?![^\W_]|\.\w\.)", re.I)
_HERE = re.compile(
    r"(?:^|(?<=[\s,]))(?:(?P<open>[(\[【])(?P<inside>[A-Za-z])[)\]】][.:]?|(?P<before>[A-Za-z])(?P<mark>[).:\]、]|\s+-(?=\s)))\s*"
)
_ENCLOSED = re.compile(r"(?:CIRCLED|SQUARED) LATIN CAPITAL LETTER (\w)$")
_DASHES = str.maketrans("‐‑‒–—−", "------")
_SOFT = frozenset(".-")
"""Marks that also stand behind the initials of names: "E. coli", "H. pylori"."""


@dataclass(frozen=True)
class Mark:
    """A label and what stands behind it.

    Attributes:
        key: A capital letter, a number, or another sign or numeral.
        text: The rest.
        style: The mark behind the label; "" for one in brackets.
    """

    key: str
    text: str
    style: str

    def is_letter(self) -> bool:
        """Whether the label is one of A to Z."""
        return len(self.key) == 1 and self.key in string.ascii_uppercase


def letter(place: int) -> str:
    """The letter of the option at `place`, for messages."""
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else f"number {place + 1}"


def key_of(key: object) -> str | None:
    """The letter, in capitals, or the number that the key of an object of options stands for; None where it is neither."""
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    match = None if isinstance(key, bool) else _KEY.match(_folded(str(key))[0])
    return match[1].upper() if match else None


def mark(text: str) -> Mark | None:
    """The label in front of a text; None where it has none."""
    folded, places = _folded(text)
    match = _STRONG.match(folded)
    if match is None:
        return None
    key, style = match["inside"] or match["before"], (match["mark"] or "").strip()[:1]
    rest = match["text"]
    tight = rest and folded[match.start("text") - 1] in ".:"
    if tight and (key.isdigit() if rest[0].isdigit() else re.match(r"[^\W\d_]\.", rest)):  # 1.5, 10:30, a.m.
        return None
    if style == "-" and key.isdigit() and rest[:1].isdigit():  # 5 - 10 mm
        return None
    return Mark(key.upper(), text[places[match.start("text")] :].strip(), style)


def pairs(texts: Sequence[str], cut: bool = False) -> list[tuple[str, str]] | None:
    """Label and text of each option of a list; None where the texts carry no labels.

    Args:
        texts: The list.
        cut: Whether it was one text, so that a label on some of its parts shows that it was cut wrongly.

    Raises:
        UnusableError: Some texts carry labels, or all do and these are not A, B, C, ... or 1, 2, 3, ... without a gap.
    """
    marks = [mark(text) for text in texts]
    found = [each for each in marks if each is not None]
    if len(found) == len(texts):
        return _of_all(found, texts)
    named = {each.key for each in found if each.is_letter()}
    if not found:
        return _weak(texts)
    if any(not _is_initial(each, len(texts)) for each in found if each.is_letter()) or (
        cut and any(each.key.isdigit() for each in found)
    ):
        which = ", ".join(sorted(named or {each.key for each in found}))
        raise UnusableError(UNREADABLE, f"only some of the options {shorten(texts)} carry labels ({which}); {FIX}")
    return None


def _of_all(marks: list[Mark], texts: Sequence[str]) -> list[tuple[str, str]] | None:
    keys = [each.key for each in marks]
    if not any(each.text for each in marks):  # letters alone: the options are parts of the image
        return None
    if all(each.is_letter() for each in marks):
        due = [letter(n) for n in range(len(keys))]
        if sorted(keys) != due:
            run = sorted(set(keys)) == [chr(ord(min(keys)) + n) for n in range(len(set(keys)))] and len(set(keys)) > 1
            if not run and all(_is_initial(each, len(keys)) for each in marks):
                return None
            lost = next((key for key in due if key not in keys), due[0])
            raise UnusableError(GAP, f"option {lost} is missing among {shorten(texts)}, labeled {', '.join(keys)}; {FIX}")
        return [(each.key, each.text) for each in marks]
    if all(each.key.isdigit() for each in marks):
        numbers = [int(key) for key in keys]
        if sorted(numbers) not in (list(range(len(keys))), list(range(1, len(keys) + 1))):
            raise UnusableError(GAP, f"the options {shorten(texts)} are numbered {', '.join(keys)}; {FIX}")
        if len({normalise(each.text) for each in marks}) < len(marks) and numbers == sorted(numbers):
            return None  # "1. Bezirk", "2. Bezirk": the number is what the option says
        return [(each.key, each.text) for each in marks]
    raise UnusableError(UNREADABLE, f"the options {shorten(texts)} are labeled {', '.join(keys)}, not A, B, C, ...; {FIX}")


def _is_initial(found: Mark, options: int) -> bool:
    """Whether a label may be the initial of a name: no letter of this list could mean it."""
    return found.style in _SOFT and found.style != "" and found.key not in string.ascii_uppercase[:options]


def _weak(texts: Sequence[str]) -> list[tuple[str, str]] | None:
    """Labels with nothing but a space or comma behind them: only where all texts begin with another letter."""
    matches = [match for match in map(_WEAK.match, texts) if match]
    keys = [match["key"].upper() for match in matches]
    if len(matches) < max(2, len(texts)) or len(set(keys)) < len(keys):
        return None
    due = string.ascii_uppercase[: len(keys)]
    rests = [match["text"].strip() for match in matches]
    if len(set(map(normalise, rests))) < len(rests):
        return None  # "A lines", "B lines": the letter is what the option says
    if "".join(keys) == due:
        return list(zip(keys, rests, strict=True))
    if "".join(keys) in string.ascii_uppercase or any(key in due and due.index(key) != place for place, key in enumerate(keys)):
        raise UnusableError(GAP, f"the options {shorten(texts)} begin with the letters {', '.join(keys)}; {FIX}")
    return None


def initials(texts: Sequence[str]) -> tuple[str, ...]:
    """Letters with which all texts begin, where these are not the letters of their places: no letter is plain then."""
    matches = [match for match in (_ANY.match(_folded(text)[0]) for text in texts) if match]
    keys = [match[1].upper() for match in matches]
    if len(keys) < len(texts) or len(set(keys)) < len(keys) or not keys:
        return ()
    marks = [mark(text) for text in texts]
    due = string.ascii_uppercase[: len(keys)]
    moved = any(key in due and due.index(key) != place for place, key in enumerate(keys))
    gap = "".join(keys) != due and (keys[0] == "A" or all(each and each.text for each in marks))
    return tuple(keys) if moved or gap else ()


def split(text: str) -> list[str] | None:
    """`A. red B. blue` as two labeled texts; None unless the text begins with A and goes on in the same style.

    Raises:
        UnusableError: Its labels are not A, B, C, ..., or some commas separate options and others do not.
    """
    folded, places = _folded(text)
    found = list(_HERE.finditer(folded))
    if not found or found[0].start() != 0 or _letter_of(found[0]).upper() != "A":
        return None
    same = [match for match in found if _style(match) == _style(found[0])]
    if len(same) < 2:
        return None
    keys = [_letter_of(match).upper() for match in same]
    if keys != [letter(n) for n in range(len(keys))]:
        raise UnusableError(GAP, f"options are the text {shorten(text)}, labeled {', '.join(keys)}; {FIX}")
    starts = [match.start() for match in same]
    if all(folded[:start].rstrip().endswith(",") for start in starts[1:]) and folded.rstrip(" ,").count(",") >= len(starts):
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}, where not every comma is before a label; {FIX}")
    ends = [places[start] for start in starts[1:]] + [len(text)]
    return [text[places[start] : end].strip(" \t\n,") for start, end in zip(starts, ends, strict=True)]


def _letter_of(match: re.Match[str]) -> str:
    return match["inside"] or match["before"]


def _style(match: re.Match[str]) -> tuple[str | None, str, bool]:
    return match["open"], (match["mark"] or "").strip(), _letter_of(match).isupper()


def _folded(text: str) -> tuple[str, list[int]]:
    """The text with plain letters, digits, brackets and dashes, and for each of its characters the place in `text`."""
    found: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        form = unicodedata.decomposition(char).partition(" ")[0]
        plain = unicodedata.normalize("NFKC", char)
        if char == "\ufe0f":
            plain = ""
        elif char == "\u20e3":  # the frame of a keycap
            plain = ")"
        elif not char.isascii() and (match := _ENCLOSED.search(unicodedata.name(char, ""))):
            plain = f"({match[1]})"
        elif form == "<circle>" or unicodedata.name(char, "").startswith("DINGBAT"):
            number = unicodedata.numeric(char, None)
            plain = f"({int(number) if number is not None else plain})"
        plain = plain.translate(_DASHES)
        found.append(plain)
        places += [place] * len(plain)
    return "".join(found), [*places, len(text)]
