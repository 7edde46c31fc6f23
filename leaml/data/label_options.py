"""The options of a labeled row, in whatever form a file has them: lettered texts in order, or why they cannot be read.

A letter names its option by position, so a lost option shifts the letters behind it: whatever is not plain is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leaml.data.label_marks import FIX, GAP, UNREADABLE, key_of, letter, mark, pairs, unclear_letters
from leaml.data.option_texts import from_text
from leaml.text.values import UnusableError, is_missing, shorten, text_of

MOST_OPTIONS = 26
"""One letter each."""

_LABELS = ("label", "letter", "key", "id", "name", "option", "index", "number", "value", "choice")
_TEXTS = ("text", "value", "content", "answer", "choice", "option", "label")
_OTHER_NAMES = re.compile(
    r"^((answer|mcq?|multiple)?(options?|choices?)(list)?|opts|candidates|candidateanswers|alternatives|possibleanswers|distractors)$"
)
_LETTER_COLUMN = re.compile(r"^(|options?|choices?|opt|alternatives?|answer)[\s_.-]*([a-z]|\d)$", re.I)


@dataclass(frozen=True)
class Options:
    """Texts in the order of their letters A, B, C, ...

    Attributes:
        texts: What the options say.
        keys: Numbers by which the row's answer may name them, where the file numbers them.
        moved: Whether the file has them in another order than that of their numbers: then no letter is plain.
        split: Whether they were one text, cut at separators: then the answer has to be among them.
        unclear: Letters that alone name none of them, as the texts themselves begin with letters ("C. elegans", "B-mode").
        names: Names of another kind by which the answer may name them, as in {"id": "a2", "text": "red"}.
    """

    texts: tuple[str, ...]
    keys: tuple[str, ...] = ()
    moved: bool = False
    split: bool = False
    unclear: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def parse_options(value: object) -> Options | None:
    """The options in `value`; None if there are none (absent, NaN, empty).

    Read are lists of texts, of labeled texts ("A. red", "b) blue") and of objects ({"label": "A", "text": "red"}); objects by
    letter or by number; Arrow's {"label": [...], "text": [...]}; and texts that hold JSON, a Python list, labeled options
    ("A. red B. blue", "1) red 2) blue"), or options separated by "|", line ends, ";" or ",".

    Raises:
        UnusableError: An option is missing in between, a key occurs twice, labels contradict positions, or the form is none of
            these.
    """
    split = False
    if isinstance(value, list) and value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
        found = _keyed(value, dict(value))  # a column of Arrow's kind `map`: pairs of key and text
        return found if found is not None and found.texts else None
    while isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if isinstance(value, str):
        value, split = from_text(value.strip())
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        columns = entries_of(value)
        found = _keyed(list(value.items()), value) if columns is None else _entries(columns)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        found = _listed(list(value), split)
    else:
        raise UnusableError(UNREADABLE, f"options are {shorten(value)}, not a list; {FIX}")
    return replace(found, split=split) if found is not None and found.texts else None


def lost_options(row: Mapping[str, object], names: Sequence[str], misspelt: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns in which a row without `options` seems to have them: "choices", or "A" and "B", or "option_1" and "option_2".

    Args:
        row: The row.
        names: All its columns; of those that `row` lacks nothing is known, so they count as filled.
        misspelt: Those that are like "options".
    """
    given = [name for name in names if name != "options"]
    filled = _filled(row, given)
    for name in filled:
        if _OTHER_NAMES.match(re.sub(r"[\W_]", "", name.lower())):
            return (name,)
    groups: dict[str, dict[str, str]] = {}
    for name in given:
        match = _LETTER_COLUMN.match(name.strip())
        if match and (match[1].lower() not in ("", "answer") or not match[2].isdigit()):  # answer1 is one of several answers
            groups.setdefault(match[1].lower(), {})[match[2].upper()] = name
    for group in groups.values():
        if lost := _columns_of_options(group, filled):
            return lost
    return tuple(name for name in misspelt if name in filled)


def unknown_options(row: Mapping[str, object], names: Sequence[str], known: Sequence[str], answer: str) -> tuple[str, ...]:
    """Columns of any name in which a row that a letter alone answers may have its options: a list, or columns "opa" and "opb".

    Args:
        row: The row.
        names: All its columns.
        known: Columns that hold something else.
        answer: The letter. A list that holds it as a text has no options for it: several people's answers, say.
    """
    given = [name for name in names if name not in known]
    filled = _filled(row, given)
    for name in filled:
        texts = _texts_in(row.get(name))
        if len(texts) > 1 and answer.casefold() not in (text.strip().casefold() for text in texts):
            return (name,)
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in given:
        for position, char in enumerate(name.lower()):
            if char.isalnum():
                groups.setdefault((name.lower()[:position], name.lower()[position + 1 :]), {})[char.upper()] = name
    return next((lost for group in groups.values() if (lost := _columns_of_options(group, filled))), ())


def _filled(row: Mapping[str, object], names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in row or not is_missing(row[name])]


def _columns_of_options(group: Mapping[str, str], filled: Sequence[str]) -> tuple[str, ...]:
    """The filled of columns by letter or number, where A and B or 1 and 2 or 0 and 1 are among them; a row may have a gap."""
    is_run = any(set(run) <= set(group) for run in ("AB", "12", "01"))
    return tuple(name for name in group.values() if name in filled) if is_run else ()


def _texts_in(value: object) -> list[str]:
    """The texts in a list or an object, however deep, also where that is written as a text."""
    if isinstance(value, str) and (value.lstrip()[:1] in ("[", "{") or "|" in value or "\n" in value):
        try:
            value, _ = from_text(value.strip())
        except UnusableError:
            return []
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    return [text for each in value for text in ([each] if isinstance(each, str) else _texts_in(each))]


def _listed(values: list[object], split: bool = False) -> Options | None:
    values = _without_tail(values)
    entries = [value for value in values if isinstance(value, Mapping)]
    if entries and len(entries) == len(values):
        return _entries(entries)
    if any(is_missing(value) for value in values):
        position = next(n for n, value in enumerate(values) if is_missing(value))
        raise UnusableError(GAP, f"option {letter(position)} is missing among {shorten(values)}; write it, or leave it out")
    texts = [text_of(value, "an option") for value in values]
    labeled = pairs(texts, split)
    if labeled is not None:
        return _keyed(labeled, texts)
    return Options(tuple(texts), unclear=unclear_letters(texts))


def _entries(entries: Sequence[Mapping[str, object]]) -> Options | None:
    """Options as objects with a label and a text, or as objects of one key each."""
    if all(len(entry) == 1 and key_of(next(iter(entry))) for entry in entries):
        return _keyed([(key, value) for entry in entries for key, value in entry.items()], entries)

    names = list(dict.fromkeys(key for entry in entries for key in entry))
    columns = {name: [entry.get(name) for entry in entries] for name in names}
    known = [name for name in _LABELS if name in columns and any(name != text for text in _TEXTS if text in columns)]
    label = next((name for name in known if all(key_of(value) for value in columns[name])), None)
    texts = [name for name in _TEXTS if name in columns and name != label and _is_text(columns[name])]

    if not texts:
        raise UnusableError(UNREADABLE, f"options are {shorten(entries)}; write texts, or label and text of each")
    if any(columns[name] != columns[texts[0]] for name in texts[1:]):
        which = " and ".join(repr(name) for name in texts)
        raise UnusableError(UNREADABLE, f"options are {shorten(entries)}: which of {which} is the text? keep one of them")

    values = columns[texts[0]]
    if label is not None:
        return _keyed(list(zip(columns[label], values, strict=True)), entries)
    for name in names:
        if name not in texts and _contradicts(columns[name], name in _LABELS):
            detail = (
                f"options are {shorten(entries)}: the labels {name!r} are not those of their positions; name the key 'label'"
            )
            raise UnusableError(UNREADABLE, detail)

    found, own = _listed(values), next((name for name in _LABELS if name in names and _are_names(columns[name])), None)
    if found is None or own is None or len(columns[own]) != len(found.texts) or own in texts:
        return found
    return replace(found, names=tuple(map(str, columns[own])))


def _are_names(column: list[object]) -> bool:
    return all(isinstance(value, str) and not is_missing(value) for value in column) and len(set(column)) == len(column)


def _is_text(column: list[object]) -> bool:
    return any(not is_missing(value) for value in column) and all(
        is_missing(value) or (isinstance(value, str | int | float) and not isinstance(value, bool)) for value in column
    )


def _contradicts(column: list[object], is_label: bool) -> bool:
    """Whether a column of a name of its own may hold labels of an order that is not that of the list."""
    keys = [key_of(value) for value in column]
    if None in keys:
        return is_label and any(keys)
    if all(key.isdigit() for key in keys if key):
        numbers = [int(key) for key in keys if key]
        run = list(range(min(numbers), min(numbers) + len(numbers)))
        return numbers != run and sorted(numbers) == run and run[0] in (0, 1)
    return len(set(keys)) == len(keys) and keys != [letter(position) for position in range(len(keys))]


def entries_of(value: Mapping[str, object]) -> list[dict[str, object]] | None:
    """The entries of an object of equally long lists, as `datasets` stores a list of objects; None if it is not one."""
    lists = [column for column in value.values() if isinstance(column, list)]
    if len(value) < 2 or len(lists) != len(value) or len({len(column) for column in lists}) != 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]


def _keyed(named: Sequence[tuple[object, object]], shown: object) -> Options | None:
    """Options by letter or by number, in the order of these."""
    keys: list[str] = []
    for key, _ in named:
        if (found := key_of(key)) is None:
            detail = f"key {shorten(key)} of the options is neither a letter nor a number; name them A, B, C, ..."
            raise UnusableError(UNREADABLE, detail)
        keys.append(found)
    if len({int(key) if key.isdigit() else key for key in keys}) != len(keys):
        raise UnusableError(UNREADABLE, f"a key occurs twice in the options {shorten(shown)}; give each a letter of its own")
    values = [value for _, value in named]
    if all(key.isdigit() for key in keys):
        return _by_number([(int(key), value) for key, value in zip(keys, values, strict=True)], shown)
    if any(key.isdigit() for key in keys):
        raise UnusableError(UNREADABLE, f"the options {shorten(shown)} are named by letters and by numbers; use letters")
    return _by_letter([(key, value) for key, value in zip(keys, values, strict=True) if not is_missing(value)], shown)


def _by_number(named: list[tuple[int, object]], shown: object) -> Options:
    ordered = sorted(named, key=lambda pair: pair[0])
    kept = ordered[: len(_without_tail([value for _, value in ordered]))]
    if lost := [number for number, value in kept if is_missing(value)]:
        raise UnusableError(GAP, f"option {lost[0]} is missing among {shorten(shown)}; write it, or remove its key")
    numbers, texts = [number for number, _ in kept], [text_of(value, "an option") for _, value in kept]
    if (labeled := pairs(texts)) is not None:
        labels = [label for label, _ in labeled]
        if labels not in ([letter(position) for position in range(len(texts))], [str(number) for number in numbers]):
            raise UnusableError(UNREADABLE, _contradiction(shown))
        texts = [text for _, text in labeled]
    return Options(tuple(texts), tuple(map(str, numbers)), ordered != named, unclear=unclear_letters(texts))


def _by_letter(named: list[tuple[str, object]], shown: object) -> Options:
    named = sorted(named, key=lambda pair: pair[0])
    for position, (key, _) in enumerate(named):
        if key != letter(position):
            raise UnusableError(GAP, f"option {letter(position)} is missing among {shorten(shown)}; write all from A on")
    texts = [text_of(value, "an option") for _, value in named]
    marks = [mark(text) for text in texts]
    if all(found and found.text and found.key == key for found, (key, _) in zip(marks, named, strict=True)):
        texts = [found.text for found in marks if found is not None]
    elif any(found and found.is_label() and found.key != key for found, (key, _) in zip(marks, named, strict=True)):
        raise UnusableError(UNREADABLE, _contradiction(shown))
    return Options(tuple(texts), unclear=unclear_letters(texts, keyed=True))


def _contradiction(shown: object) -> str:
    return f"keys and labels of the options {shorten(shown)} contradict each other; keep one"


def _without_tail(values: list[object]) -> list[object]:
    """Without missing values at the end: a table pads lists of unequal length with them."""
    end = len(values)
    while end and is_missing(values[end - 1]):
        end -= 1
    return values[:end]
