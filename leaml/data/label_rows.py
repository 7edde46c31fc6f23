"""The one place where a label row is checked: question, answer, options, letters, placeholders and length.

`parse` makes a question of what a file holds, `checked` looks at the questions of every record, whichever reader made it. A row
that training or scoring could not use as it is meant is refused with its file and line; one that is only odd keeps a doubt,
which ingest counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from leaml.data.label_keys import (
    CHAT_KEYS,
    COLUMNS,
    IMAGE_KEYS,
    chat_keys,
    doubled,
    hint,
    labels_elsewhere,
    near_keys,
    suggested,
)
from leaml.data.label_marks import FIX, UNREADABLE, key_of, labels_inside, mark
from leaml.data.label_options import MOST_OPTIONS, Options, lost_options, parse_options, unknown_options
from leaml.data.option_texts import list_in
from leaml.data.question_options import are_letters, contradiction, gap, options_in
from leaml.data.records import NO_QUESTION, Question, Record, RefusedRow
from leaml.errors import DataError
from leaml.text.broken_text import is_broken, refusal, says_something
from leaml.text.choice import check_options
from leaml.text.scoring import chosen_letters, normalise, option_letters
from leaml.text.special_tokens import found_in, without_ends
from leaml.text.values import UnusableError, is_missing, shorten, text_of

MOST_CHARACTERS = 8000
"""Of a question with its options, and of an answer: about 2,000 tokens, more than most models can be taught in one example."""

AMBIGUOUS, PLACEHOLDER, TOO_LONG = "ambiguous answer", "image placeholder in a text", "too long"
SPECIAL = "special token or thought in a text"
TOO_MANY, EQUAL, NO_TEXT = "too many options", "equal options", "characters that are no text"
DOUBLED, LOST = "two values for one thing", "options under another key"
"""Reasons for which a row is refused, beside those of its options and values."""

OUTSIDE, LETTER_ALONE, MISSPELT = "answer outside its options", "answer is a letter without options", "misspelt key"
ONE_OPTION = "one option, which is no choice"
END_TOKEN = "special token at the end of a text, left out"
DAMAGED = "text that looks damaged: lost letters, another encoding, entities or tags"
MORE_IMAGES = "another image under a key of its own, which is not shown"
WHOLE = "answer that is a whole number written as 3.0, as pandas makes of 3 where a cell of the column is empty"
NO_WORD = "answer without a letter, a digit or a sign that stands for something"
"""Doubts: what is counted about rows that are used."""

TEXT_ONLY = "text only"
"""Reason of rows that show no image and are no fault: chats among others."""

_NO_LABEL = {*IMAGE_KEYS, *COLUMNS, "split", "source", "caption", "image_id", "img_id", "uri", "bytes", "file_name"}
"""Keys of a row that is an image without a label."""
_PLACEHOLDER = re.compile(
    r"<[|/]{0,2}(?:[\w.-]{0,24}[-_.])?(?:image|img|video|audio|vision)(?:[-_. \d][ \w.-]{0,24}|here|s)?(?: ?/|\|)?>"
    r"|<(?:im_(?:start|end|patch)|\|im_patch\||row_\d+_col_\d+)>"
    r"|\[/?(?:image|img|video|audio)(?:[_ ]?(?:break|end|start|pad|\d+))?\]|\ufffc",
    re.I,
)
"""What stands for an image in the texts of the model families: <image>, <|image_pad|>, <image 1>, [IMG], U+FFFC, ..."""
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|font|h\d|i|li|ol|p|pre|s|small|span|strong|sub|sup|td|tr|u|ul)(?:\s[^<>]*)?/?>", re.I
)
"""Of HTML, as web tools export their texts."""
_WHOLE = re.compile(r"[-+]?\d+\.0")
_MORE_IMAGES = re.compile(
    r"(?:second|other|next|after)[_-]?(?:image|img|picture|photo)|(?:image|img|picture|photo)[_-]?(?:[2-9]|b)", re.I
)
_IMAGE = r"<image(?: 1)?>"
_AT_ENDS = re.compile(rf"^(?:\s*{_IMAGE})*\s*|\s*(?:{_IMAGE}\s*)*$")
_NUMBER = re.compile(r"^[+-]?\d+(?:\.\d+)?$")
_JOINED = re.compile("[A-Z]{2,}")
_ALL_LETTERS = option_letters(MOST_OPTIONS)
_WRITE = "write the letter of an option, or its text"
_BY_NUMBER = "write the number of an option, or its text"
_NO_TEXTS = tuple(f"\0{n}" for n in range(MOST_OPTIONS))
"""Options that no answer spells out: of these it can only name letters."""
_LETTER_FIRST = re.compile(r"^\W*[A-Za-z]\W+(?P<text>\w.*)$", re.S)
_LETTER_LAST = re.compile(r"^(?P<text>.*\w)\W+[A-Za-z]\W*$", re.S)


def parse(row: Mapping[str, object], where: str, keys: Iterable[str] | None = None) -> Question | RefusedRow | None:
    """The question in `row`, why it cannot be used, or None if the row has neither question nor answer.

    A value that is missing counts as a key that is: the rows of a table have all its columns.

    Args:
        row: A line of a file, an object, a table row: question, answer and optionally question_type, options.
        where: File and line of the row.
        keys: All keys of the row, where `row` lacks those of bytes.
    """
    every = tuple(row if keys is None else keys)
    names = tuple(str(name) for name in every if name not in row or _is_filled(row[name]))
    if is_missing(row.get("question")) and is_missing(row.get("answer")):
        if elsewhere := labels_elsewhere(names):
            return RefusedRow(where, "no question", elsewhere)
        if lost := [pair for pair in near_keys(names) if pair[1] in ("question", "answer")]:
            return RefusedRow(where, f"no {lost[0][1]}", hint(lost))
        if row.get("question") is None and row.get("answer") is None:
            other = [name for name in names if name not in _NO_LABEL]
            return RefusedRow(where, NO_QUESTION, f"only the keys {shorten(other)}") if other else None
    try:
        if pair := doubled(names, COLUMNS):
            raise UnusableError(DOUBLED, f"keys {pair[0]!r} and {pair[1]!r}; remove one")
        if chat := chat_keys(row):
            raise UnusableError(DOUBLED, f"question and answer beside {chat[0]!r}; write an entry for each of them")
        return _question(row, where, names, tuple(map(str, every)))
    except UnusableError as error:
        meant = hint(pair for pair in suggested(names) if error.reason == f"no {pair[1]}")
        return RefusedRow(where, error.reason, "; ".join(part for part in (error.detail, meant) if part))


def _is_filled(value: object) -> bool:
    return isinstance(value, list | tuple | Mapping) or not is_missing(value)


def without_image(question: str) -> str:
    """A question without `<image>` or `<image 1>` at its ends. Raises UnusableError for more than one, or one between words."""
    if (shown := len(re.findall(_IMAGE, question))) > 1:
        raise UnusableError(PLACEHOLDER, f"{shorten(question)} shows {shown} images; the row has one")
    rest = _AT_ENDS.sub("", question)
    if match := re.search(_IMAGE, rest):
        detail = (
            f"{shorten(question)} has {match[0]!r} between words; write it in front of them or behind them, or leave it out"
        )
        raise UnusableError(PLACEHOLDER, detail)
    return rest


def shows_image(text: str) -> bool:
    """Whether a text has what stands for an image in the texts of a model family: <image>, <img>, [IMG], ..."""
    return _PLACEHOLDER.search(text) is not None


def fault_of(text: str) -> tuple[str, str] | None:
    """Why neither a question nor an option or an answer can hold what a text does; None: it can.

    Returns:
        The reason, and what follows the name of the text in a message.
    """
    if unseen := refusal(text):
        return NO_TEXT, unseen
    if match := _PLACEHOLDER.search(text):
        return PLACEHOLDER, f"holds {shorten(match[0])}, which stands for an image; remove it"
    if token := found_in(text):
        return SPECIAL, f"holds {shorten(token)}, a mark of a model's messages or thoughts; remove it"
    return None


def checked(record: Record) -> Record:
    """The record without those of its questions that cannot be used; they are among its `refused` rows."""
    found = [check(replace(question, where=question.where or record.uri)) for question in record.questions]
    refused = tuple(row for row in found if isinstance(row, RefusedRow))
    questions = tuple(row for row in found if isinstance(row, Question))
    return replace(record, questions=questions, refused=record.refused + refused)


def _question(row: Mapping[str, object], where: str, names: tuple[str, ...], every: tuple[str, ...]) -> Question:
    """`names`: of the keys that hold something; `every`: of all keys."""
    misspelt = near_keys(names)
    said = {key: text_of(row.get(key), f"the {key}") for key in ("question", "answer")}
    question = text_of(without_image(without_ends(said["question"])), "the question")

    if is_missing(without_ends(said["answer"])):
        reason = "no answer"
        raise UnusableError(reason, f"the answer is {shorten(said['answer'])}, a special token and no text")
    answer = text_of(without_ends(said["answer"]), "the answer")
    answer = text_of(list_in(answer) or answer, "the answer")

    kind = row.get("question_type")
    options = parse_options(row.get("options"))
    doubts = tuple(f"{MISSPELT} {name!r} (for {known!r})" for name, known in misspelt)
    doubts += tuple(f"{MORE_IMAGES}: {name!r}" for name in names if _MORE_IMAGES.fullmatch(name))
    doubts += (END_TOKEN,) if any(without_ends(text) != text for text in said.values()) else ()

    if options is not None:
        answer = _named(answer, options)
    elif lost := lost_options(row, every, misspelt=[name for name, known in misspelt if known == "options"]):
        raise UnusableError(LOST, f"no 'options', but {options_elsewhere(lost)}")
    elif _is_letter(answer.upper()) and not _shows_letter(question, answer):
        if lost := unknown_options(row, every, (*_NO_LABEL, *CHAT_KEYS), answer.strip("().: ")):
            raise UnusableError(
                LETTER_ALONE, f"the answer is {answer!r} and there are no 'options', but {options_elsewhere(lost)}"
            )
        if "options" in row and _is_letter(answer):
            raise UnusableError(LETTER_ALONE, f"the answer is {answer!r}, and there are no options; write them, or its text")

    texts = None if options is None else options.texts
    return Question(question, answer, None if is_missing(kind) else text_of(kind, "the question_type"), texts, where, doubts)


def options_elsewhere(columns: tuple[str, ...]) -> str:
    """The columns in which a row seems to have its options, and how to write them."""
    shown = ", ".join(map(repr, columns))
    one, several = "name it 'options'", """write 'options': {"A": ..., "B": ...}, or red|blue in a table"""
    return f"{shown}; {one if len(columns) == 1 else several}, or remove {shown}"


def _named(answer: str, options: Options) -> str:
    """The answer, its option's letter where the file names that by a number or a name of its own."""
    by_key, said = answer in options.keys, chosen_letters(answer, _NO_TEXTS)
    as_text = [n for n, text in enumerate(options.texts) if normalise(text) == normalise(answer)]

    if by_key:
        index = options.keys.index(answer)
        if as_text and as_text != [index]:
            detail = f"the answer {answer!r} is the number of one option and the text of another; write the letter"
            raise UnusableError(AMBIGUOUS, detail)
        if index < MOST_OPTIONS:
            return string.ascii_uppercase[index]

    if answer in options.names and not as_text and (index := options.names.index(answer)) < MOST_OPTIONS:
        return string.ascii_uppercase[index]
    if options.keys and said and not as_text and (options.moved or not _in_sequence(options.keys)):
        order = ", in another order" if options.moved else ""
        detail = (
            f"the answer is {shorten(answer)}, and the options are the numbers {shorten(options.keys)}{order}; {_BY_NUMBER}"
        )
        raise UnusableError(AMBIGUOUS, detail)

    if options.unclear and not as_text and not (said and said.isdisjoint(options.unclear)):
        shown = f"the answer is {shorten(answer)}, and options of {shorten(options.texts)} begin or end with letters themselves"
        raise UnusableError(AMBIGUOUS, f"{shown}: {FIX}, or answer with the text of one")

    numbered = mark(answer) if options.keys and not as_text else None
    if numbered and numbered.key in options.keys:
        index = options.keys.index(numbered.key)
        if normalise(numbered.text) not in ("", normalise(options.texts[index])):
            raise UnusableError(OUTSIDE, f"the answer {shorten(answer)} names a number that has another text; {_WRITE}")
        if index < MOST_OPTIONS:
            return string.ascii_uppercase[index]

    if options.split and len(options.texts) <= MOST_OPTIONS and chosen_letters(answer, options.texts) is None:
        detail = f"the options are one text, and the answer {shorten(answer)} is none of {shorten(options.texts)}; {_WRITE}"
        raise UnusableError(UNREADABLE, detail)
    return answer


def _in_sequence(keys: tuple[str, ...]) -> bool:
    return keys in (tuple(str(n) for n in range(len(keys))), tuple(str(n + 1) for n in range(len(keys))))


def check(question: Question | RefusedRow | None) -> Question | RefusedRow | None:
    """The question as training and scoring take it, or why they cannot; what is no question stays as it is."""
    if not isinstance(question, Question):
        return question
    try:
        asked, answer = text_of(question.question, "the question"), text_of(question.answer, "the answer")
        options = None if question.options is None else tuple(text_of(option, "an option") for option in question.options)
        kind = None if is_missing(question.question_type) else text_of(question.question_type, "the question_type")
        _check_texts(asked, answer, options or (), kind)
        doubts = {*question.doubts, *_damage(asked, answer, options or ())}
        options = _with_shown(asked, answer, options)
        if options:
            answer = _letters(answer, options)
            doubts |= set() if chosen_letters(answer, options) else {OUTSIDE}
            doubts |= {ONE_OPTION} if len(options) == 1 else set()
        elif _is_letter(answer) and not _shows_letter(asked, answer):
            doubts.add(LETTER_ALONE)
    except UnusableError as error:
        return RefusedRow(question.where or "", error.reason, error.detail)
    made = replace(question, question=asked, answer=answer, question_type=kind, options=options or None)
    return replace(made, doubts=tuple(sorted(doubts)))


def _damage(question: str, answer: str, options: tuple[str, ...]) -> Iterator[str]:
    if any(is_broken(text) or _TAG.search(text) for text in (question, answer, *options)):
        yield DAMAGED
    if not says_something(answer):
        yield NO_WORD
    if _WHOLE.fullmatch(answer):
        yield WHOLE


def _with_shown(question: str, answer: str, options: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The options of a question, which may stand in its text: then they count if they end it, or the answer is one of them.

    Raises:
        UnusableError: A letter is missing among those in the text, or they are not the options that are given beside.
    """
    if (shown := options_in(question)) is None:
        return options
    by_letter = key_of(answer) in _ALL_LETTERS
    if shown.lost:
        if options is None and by_letter:
            raise gap(question, shown)
        return options
    if options is None or (are_letters(options) and len(options) == len(shown.texts)):
        if not (shown.last or by_letter or chosen_letters(answer, shown.texts)):
            return options
        check_choices(shown.texts)
        return shown.texts
    if not shown.contradicts(options):
        return options
    said = normalise(answer)
    if sorted(map(normalise, shown.texts)) == sorted(map(normalise, options)) and said in map(normalise, options):
        return shown.texts  # the letters differ, and the answer needs none
    raise contradiction(question, options)


def _shows_letter(question: str, answer: str) -> bool:
    """Whether a letter stands in a question as that of an option or of a part of the image."""
    keys = {label.key for label in labels_inside(question)}
    return {"A", "B", answer.strip("().: ").upper()} <= keys or options_in(question) is not None


def _check_texts(question: str, answer: str, options: tuple[str, ...], kind: str | None) -> None:
    texts = (("question", question), ("answer", answer), *(("option", option) for option in options))
    for what, text in texts:
        if fault := fault_of(text):
            raise UnusableError(fault[0], f"the {what} {shorten(text)} {fault[1]}")
    if unseen := refusal(kind or ""):
        raise UnusableError(NO_TEXT, f"the question_type {shorten(kind)} {unseen}")
    asked = len(question) + sum(map(len, options))
    for what, length in (("question with its options", asked), ("answer", len(answer))):
        if length > MOST_CHARACTERS:
            raise UnusableError(TOO_LONG, f"the {what} has {length:,} characters, over the limit of {MOST_CHARACTERS:,}")
    check_choices(options)


def check_choices(options: tuple[str, ...]) -> None:
    """Raise UnusableError for more options than there are letters, and for two that are one answer."""
    if len(options) > MOST_OPTIONS:
        detail = f"{len(options)} options, and A to Z name {MOST_OPTIONS}; leave some out, or ask without options"
        raise UnusableError(TOO_MANY, detail)
    try:
        check_options(options)
    except DataError as error:
        raise UnusableError(EQUAL, str(error)) from None


def _letters(answer: str, options: tuple[str, ...]) -> str:
    """The answer, in capitals where it is the letter of an option. Raises UnusableError where it contradicts the options."""
    letters = option_letters(len(options))
    as_text = [letters[n] for n, text in enumerate(options) if normalise(text) == normalise(answer)]
    found, bare = mark(answer), key_of(answer)

    if bare in letters and as_text not in ([], [bare]):
        detail = f"the answer {answer!r} is the letter of one option and the text of another; write the letter and other texts"
        raise UnusableError(AMBIGUOUS, detail)
    if bare in letters:
        return bare
    if as_text or chosen_letters(answer, options):
        return answer

    joined = _JOINED.fullmatch(answer)
    named = (None if joined else chosen_letters(answer, _NO_TEXTS)) or frozenset({found.key} if found else ())
    if lost := sorted(key for key in named if key in _ALL_LETTERS and key not in letters):
        raise UnusableError(OUTSIDE, f"{lost[0]!r} names none of the {len(options)} options {shorten(options)}; {_WRITE}")
    if named and named <= set(letters):
        detail = f"the answer {shorten(answer)} begins with a letter that has another text in {shorten(options)}; {_WRITE}"
        raise UnusableError(OUTSIDE, detail)
    if joined and "".join(sorted(set(answer))) == answer and set(answer) & set(letters):
        raise UnusableError(OUTSIDE, f"{answer!r} names more than the {len(options)} options {shorten(options)}; {_WRITE}")

    for match in (_LETTER_FIRST.match(answer), _LETTER_LAST.match(answer)):
        if match and any(normalise(match["text"]) == normalise(text) for text in options):
            raise UnusableError(OUTSIDE, f"letter and text of the answer {shorten(answer)} are not of one option; {_WRITE}")

    if _NUMBER.match(answer):
        detail = f"the answer {answer!r} is a number: neither a letter nor a text of {shorten(options)}; {_WRITE}"
        raise UnusableError(OUTSIDE, detail)
    return answer


def _is_letter(answer: str) -> bool:
    return len(answer.strip("().: ")) == 1 and answer.strip("().: ") in string.ascii_uppercase
