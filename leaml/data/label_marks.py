"""Labels in front of the options of a list, in whatever style: "A. red", "b) blue", "[C] green", "Ｄ．红", "Option E - pink".

A label says what letter its option has, and so does its position. A list carries labels on all of its texts or on none; what
is in between, or contradicts the positions, is refused, since a letter would silently mean another option.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from leaml.text.scoring import normalise
from leaml.text.values import UnusableError, shorten

UNREADABLE, GAP = "unreadable options", "missing option"
"""Reasons for which a row is refused."""

FIX = 'write the texts without labels, or an object by letter: {"A": ..., "B": ...}'

_WORD = (
    r"(?:(?:(?:option|choice|answer|alternative|opt|ans|opci[oó]n|respuesta|op[cç][aã]o|resposta|alternativa|opzione|risposta|choix|"
    r"r[ée]ponse|antwort|auswahl|möglichkeit|optie|keuze|antwoord|opcja|odpowiedź|możnost|вариант|ответ|варіант|seçenek|şık|pilihan|"
    r"jawaban|विकल्प|उत्तर|الخيار|خيار)s?[\s_.:#-]{}|(?:选项|選項|答案|選択肢|回答|보기|선택지|답)[\s_.:#-]*))?"
)
"""What stands in front of the letter, in the languages of many data sets; those without spaces need none behind it."""
_TOKEN = r"(?P<{}>[^\W\d_]|\d{{1,3}}|[ivx]{{2,5}})"
_KEY = re.compile(rf"^(?!\w{{3,}}s$)[\s(\[<*]*{_WORD.format('*')}[(\[]?([a-z]|\d{{1,3}})[\s)\]>.:*]*$", re.I)
_STRONG = re.compile(
    rf"^[\s*_`]*{_WORD.format('+')}(?:"
    rf"[(\[{{<【〔「『《〈]\s*{_TOKEN.format('inside')}\s*[)\]}}>】〕」』》〉][*_`]*(?:[.:、,](?!\d)|\s+-+(?=\s))?[*_`]*\s*"
    rf"|{_TOKEN.format('before')}[*_`]*(?P<mark>[).:\]}}、。]+|\s+-+(?=\s)|\s+:(?=\s))[*_`]*\s*"
    r")(?P<text>.*)$",
    re.S | re.I,
)
_BEHIND = re.compile(r"\w\s*(?:[(\[{]\s*(?P<inside>[a-z])\s*[)\]}]|(?:\s-+|[:=,])\s*(?P<bare>[a-z]))[.\s]*$", re.I)
"""A letter behind a text: "red (B)", "red - B"."""
_WEAK = re.compile(r"^\s*(?P<key>[a-z])(?:\s*,\s+|\s+)(?P<text>\S.*)$", re.S | re.I)
_ANY = re.compile(rf"^\W*(?:{_WORD.format('+')})\W*([a-z])(?![^\W_]|\.\w\.)", re.I)
_HERE = re.compile(
    r"(?:^|(?<=[\s,]))(?:(?P<open>[(\[【])(?P<inside>[A-Za-z])[)\]】][.:]?|(?P<before>[A-Za-z])(?P<mark>[).:\]、]|\s+-(?=\s)))\s*"
)
_NUMBER_HERE = re.compile(
    r"(?:^|(?<=[\s,]))(?:(?P<open>[(\[【])(?P<inside>\d{1,2})[)\]】][.:]?|(?P<before>\d{1,2})(?P<mark>[).:\]、](?!\d)))\s*"
)
_ENCLOSED = re.compile(r"(?:CIRCLED|SQUARED) LATIN CAPITAL LETTER (\w)$")
_DASHES = str.maketrans("‐‑‒–—−", "------")
_SOFT = frozenset(".-")
"""Marks that also stand behind the initials of names: "E. coli", "H. pylori"."""
_MOST_LOST = 3
"""Options that a list may have lost: letters further behind are initials, as in "B-mode", "M-mode"."""


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

    def is_label(self) -> bool:
        """Whether it can only be the label of an option, and not the initial of a name."""
        return self.is_letter() and self.style not in _SOFT


def letter(position: int) -> str:
    """The letter of the option at `position`, for messages."""
    return string.ascii_uppercase[position] if position < len(string.ascii_uppercase) else f"number {position + 1}"


def key_of(key: object) -> str | None:
    """The letter, in capitals, or the number that the key of an object of options stands for; None where it is neither."""
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    match = None if isinstance(key, bool) else _KEY.match(_folded(str(key))[0])
    return match[1].upper() if match else None


def mark(text: str) -> Mark | None:
    """The label in front of a text; None where it has none."""
    folded, positions = _folded(text)
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
    return Mark(key.upper(), text[positions[match.start("text")] :].strip(), style)


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
    if any(each.is_label() or (cut and each.is_letter() and not _is_initial(each, len(texts))) for each in found) or (
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
            begun = (
                keys == sorted(set(keys)) and keys[0] == "A" and keys[-1] in string.ascii_uppercase[: len(keys) + _MOST_LOST]
            )
            if not begun and not any(each.is_label() for each in marks):
                return None  # "C. elegans", "E. coli": `unclear_letters` says that a letter names none of them
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
    return found.style in _SOFT and found.key not in string.ascii_uppercase[:options]


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
    if "".join(keys) in string.ascii_uppercase or any(
        key in due and due.index(key) != position for position, key in enumerate(keys)
    ):
        raise UnusableError(GAP, f"the options {shorten(texts)} begin with the letters {', '.join(keys)}; {FIX}")
    return None


def unclear_letters(texts: Sequence[str], keyed: bool = False) -> tuple[str, ...]:
    """Letters that alone name none of the options, as texts begin or end with letters that are not those of their positions.

    Args:
        texts: What the options say.
        keyed: Whether the file gives each a letter of its own: "B. cereus" under A is a name then, but two such texts may be
            labels.
    """
    due = tuple(string.ascii_uppercase[: len(texts)])
    behind = [(found["inside"] or found["bare"]).upper() if (found := _BEHIND.search(_folded(t)[0])) else None for t in texts]
    if any(key in due and key != due[position] for position, key in enumerate(behind[: len(due)])):
        return due

    begins = [_ANY.match(_folded(text)[0]) for text in texts]
    marks = [found if found is not None and found.is_letter() else None for found in map(mark, texts)]
    in_front = [found[1].upper() if found else None for found in begins]
    keys = in_front if all(in_front) else [found.key if found else None for found in marks]
    named = [key for key in keys if key is not None]
    of_place = all(key in (None, due[position]) for position, key in enumerate(keys[: len(due)]))

    if not named or (of_place and (keyed or None not in keys)):
        return ()
    if None in keys and not keyed:  # labels on some
        return due if set(named) & set(due) else ()
    if any(found is None for found in marks) and len(set(named)) < len(named):  # "A dog", "A cat"
        return ()

    near = all(key in string.ascii_uppercase[: len(texts) + _MOST_LOST] for key in named)
    rests = {
        normalise(text if found is None else _folded(text)[0][found.end() :]) for text, found in zip(texts, begins, strict=True)
    }

    if keyed:
        return due if len(named) > 1 and (set(named) <= set(due) or (near and len(rests) == len(texts))) else ()
    if all(found and found.text for found in marks) or (near and len(rests) == len(texts)):
        return due
    return tuple(key for position, key in enumerate(named) if key in due and due[position] != key)


def split(text: str) -> list[str] | None:
    """`A. red B. blue` or `1. red 2. blue` as two labeled texts; None unless it begins with A, 1 or 0 and goes on in one style.

    Raises:
        UnusableError: Its letters are not A, B, C, ..., or some commas separate options and others do not.
    """
    folded, positions = _folded(text)
    found = _labels_in(folded, _HERE, ("A",)) or _labels_in(folded, _NUMBER_HERE, ("0", "1"))
    if not found:
        return None
    same = [match for match in found if _style(match) == _style(found[0])]
    if len(same) < 2:
        return None
    keys = [_letter_of(match).upper() for match in same]
    if keys[0].isdigit():
        if keys != [str(int(keys[0]) + n) for n in range(len(keys))]:
            return None
    elif keys != [letter(n) for n in range(len(keys))]:
        raise UnusableError(GAP, f"options are the text {shorten(text)}, labeled {', '.join(keys)}; {FIX}")
    starts = [match.start() for match in same]
    if all(folded[:start].rstrip().endswith(",") for start in starts[1:]) and folded.rstrip(" ,").count(",") >= len(starts):
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}, where not every comma is before a label; {FIX}")
    ends = [positions[start] for start in starts[1:]] + [len(text)]
    return [text[positions[start] : end].strip(" \t\n,") for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Label:
    """A letter with its mark anywhere in a text, as in "which? A. red B. blue".

    Attributes:
        key: A capital letter.
        style: What tells it from labels of another style.
        start: Where the label begins.
        end: Where the text behind it begins.
    """

    key: str
    style: tuple[str | None, str, bool]
    start: int
    end: int


def labels_inside(text: str) -> list[Label]:
    """All letters that may be labels of options in a text, also those that are initials."""
    folded, positions = _folded(text)
    found = _HERE.finditer(folded)
    return [Label(_letter_of(m).upper(), _style(m), positions[m.start()], positions[m.end()]) for m in found]


def _labels_in(text: str, label: re.Pattern[str], first: tuple[str, ...]) -> list[re.Match[str]]:
    """The labels in a text that begins with one of `first`; none where it does not."""
    found = list(label.finditer(text))
    return found if found and found[0].start() == 0 and _letter_of(found[0]).upper() in first else []


def _letter_of(match: re.Match[str]) -> str:
    return match["inside"] or match["before"]


def _style(match: re.Match[str]) -> tuple[str | None, str, bool]:
    return match["open"], (match["mark"] or "").strip(), _letter_of(match).isupper()


def _folded(text: str) -> tuple[str, list[int]]:
    """The text with plain letters, digits, brackets and dashes, and for each of its characters the position in `text`."""
    found: list[str] = []
    positions: list[int] = []
    for position, char in enumerate(text):
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
        positions += [position] * len(plain)
    return "".join(found), [*positions, len(text)]
