"""LLaVA or ShareGPT conversations, as a JSON list or JSON Lines; each user turn and its reply are a question and its answer.

{"image": "a.jpg", "conversations": [
    {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog"}]}

`images` with one image is read as well, `messages` with role and content, and rounds as in The Cauldron, `texts` with user and
assistant. `question_type` and `options` may stand in the
user's turn, or in an entry with one question. `<image>` is left out at the ends of what the user says; an entry with one
elsewhere is refused. Chats without an image are counted and left out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping

from leaml.config import SourceConfig
from leaml.data import json_text, row_files
from leaml.data.embedded import Embedded
from leaml.data.json_lines import lines
from leaml.data.label_keys import (
    CHAT_KEYS,
    COLUMNS,
    IMAGE_KEYS,
    ROUNDS_KEY,
    chat_keys,
    hint,
    is_round,
    labels_elsewhere,
    suggested,
)
from leaml.data.label_options import entries_of
from leaml.data.label_rows import DOUBLED, TEXT_ONLY, parse, shows_image, without_image
from leaml.data.records import Keep, LabelRows, Question, Record, RefusedRow, by_image, need_path, refuse_split
from leaml.errors import DataError
from leaml.io import files
from leaml.text.values import UnusableError, is_missing, shorten

_USER, _MODEL = {"human", "user"}, {"gpt", "assistant"}
_TURN_KEYS = ("from", "role", "value", "content")
_LISTS = (*CHAT_KEYS, ROUNDS_KEY)
_IMAGE = "<image>"
_OUT_OF_TURN, _NO_TURNS, _NO_TEXT = "turn without its counterpart", "no turns", "turn that is no text"
_BEHIND = "behind a turn without its counterpart"


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention; entries without exactly one image are refused rows."""
    refuse_split("conversations", source.split)
    path = need_path("conversations", source.path)
    groups: dict[str, LabelRows] = {}
    loose: list[RefusedRow] = []
    embedded = Embedded(path)
    for where, entry in _entries(path):
        image = _image(entry, where)
        if isinstance(image, RefusedRow):
            loose += [image] * max(1, _count(entry))
            continue
        rows = groups.setdefault(embedded.name(image), LabelRows(where=where))
        for row in turns(entry, where):
            rows.add(row)
    if not groups and not loose:
        msg = f"{path} holds no conversation; write one entry for each image"
        raise DataError(msg)
    folder = source.images or posixpath.dirname(path) or "."
    yield from by_image(groups, folder, "conversations", None, keep, embedded, loose)


def _count(entry: object) -> int:
    """How many questions the turns of an entry hold: as many rows are lost with its image."""
    try:
        return sum(map(_asks, _list_of_turns(entry)))
    except UnusableError:
        return 1


def _entries(path: str) -> Iterator[tuple[str, object]]:
    with files.open_read(path) as stream:
        is_list = stream.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_list:
        yield from lines(path)
        return
    try:
        entries = json_text.loads(files.read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        raise DataError(msg) from None
    except ValueError as error:
        line = getattr(error, "lineno", None)
        msg = f"{path}{f':{line}' if line else ''}: not valid JSON ({error}); fix the file"
        raise DataError(msg) from None
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        yield f"{path}, entry {number}", entry


def labels_of(row: Mapping[str, object], where: str, keys: Iterable[str] | None = None) -> list[Question | RefusedRow]:
    """The labels of a row, which is a question and its answer or a chat.

    Args:
        row: An object or a table row, with question and answer, or with a list of turns.
        where: File and line of the row.
        keys: All keys of the row, where `row` lacks those of bytes; not looked at for a chat.

    Returns:
        A label or a refusal for each question; empty where the row has none.
    """
    is_chat = chat_keys(row) and is_missing(row.get("question")) and is_missing(row.get("answer"))
    made = turns(row, where) if is_chat else [parse(row, where, keys)]
    return [each for each in made if each is not None]


def turns(entry: object, where: str) -> Iterator[Question | RefusedRow]:
    """The questions and answers of an entry; one that cannot be used is left out alone.

    After a turn out of order questions and answers cannot be matched any more: each later question is a refused row.

    Args:
        entry: An object with `conversations`, `messages` or `texts`.
        where: File and line, or entry, of it.
    """
    try:
        found = _list_of_turns(entry)
    except UnusableError as error:
        yield RefusedRow(where, error.reason, error.detail)
        return
    held = entry.items() if isinstance(entry, Mapping) else ()
    of_entry = {key: value for key, value in held if key not in (*_LISTS, *IMAGE_KEYS)}
    rounds = list(_rounds(found, where))
    if not rounds:
        yield RefusedRow(where, _NO_TURNS, f"its turns hold no question; the entry is {shorten(entry)}")
    for each in rounds:
        yield each if isinstance(each, RefusedRow) else _parsed(each, of_entry, len(rounds) == 1, where)


def _rounds(found: list[object], where: str) -> Iterator[dict[str, object] | RefusedRow]:
    """Each question with its answer, or why it is none; a refusal for each question that is not read."""
    asked: dict[str, object] | UnusableError | None = None

    for number, turn in enumerate(found):
        try:
            role = _role(turn)
            due, known = ("human or user", _USER) if asked is None else ("gpt or assistant", _MODEL)
            if not isinstance(turn, Mapping) or role not in known | {"system"}:
                raise UnusableError(_OUT_OF_TURN, f"expected a turn of {due} with text, got {shorten(turn)}")
        except UnusableError as error:
            yield RefusedRow(where, error.reason, f"{error.detail}; later turns are not read")
            behind = found[number if asked is not None else number + 1 :]
            yield from (RefusedRow(where, _BEHIND, f"{shorten(lost)} is not read") for lost in behind if _asks(lost))
            return

        if role == "system":
            continue
        if asked is None:
            asked = _question(turn)
        else:
            yield _answered(asked, turn, where)
            asked = None

    if isinstance(asked, UnusableError):
        yield RefusedRow(where, asked.reason, asked.detail)
    elif asked is not None:
        yield RefusedRow(where, _OUT_OF_TURN, "the last question has no reply; add it or remove the turn")


def _question(turn: Mapping[str, object]) -> dict[str, object] | UnusableError:
    """What a turn asks, or what is wrong with it: its reply still belongs to it."""
    try:
        text = _text(turn)
        question = without_image(text)
    except UnusableError as error:
        return error
    if not question:
        return UnusableError(_OUT_OF_TURN, f"the question {shorten(text)} has no text")
    return {key: value for key, value in turn.items() if key not in _TURN_KEYS} | {"question": question}


def _answered(
    asked: dict[str, object] | UnusableError, turn: Mapping[str, object], where: str
) -> dict[str, object] | RefusedRow:
    """A question with its reply, or why one of them cannot be used."""
    try:
        if isinstance(asked, UnusableError):
            raise asked
        return asked | {"answer": _text(turn)}
    except UnusableError as error:
        return RefusedRow(where, error.reason, error.detail)


def _asks(turn: object) -> bool:
    """Whether a turn is, or may be, one that asks."""
    try:
        return _role(turn) in _USER
    except UnusableError:
        return True


def _parsed(pair: dict[str, object], of_entry: dict[str, object], alone: bool, where: str) -> Question | RefusedRow:
    """The row of a pair, with what the entry says of it."""
    if twice := [key for key in COLUMNS if key in pair and not is_missing(of_entry.get(key))]:
        return RefusedRow(where, DOUBLED, f"{twice[0]!r} stands in the turn and beside the turns; remove one")
    made = parse(of_entry | pair, where)
    if made is None:
        return RefusedRow(where, _NO_TURNS, "a question and its answer are both missing")
    if isinstance(made, Question) and not alone and made.options:
        own = parse(pair, where)
        if not isinstance(own, Question) or own.options != made.options:
            detail = "options beside several questions; write them in the user's turn that they belong to"
            return RefusedRow(where, "options of no one question", detail)
    return made


def _role(turn: object) -> str | None:
    """Who speaks. Raises UnusableError where 'from' and 'role' say different things."""
    said = [turn[key] for key in ("from", "role") if turn.get(key)] if isinstance(turn, Mapping) else []
    if len(said) > 1 and said[0] != said[1] and not any({*map(str, said)} <= of_one for of_one in (_USER, _MODEL)):
        raise UnusableError(DOUBLED, f"'from' and 'role' of the turn {shorten(turn)}; remove one")
    return said[0] if said and isinstance(said[0], str) else None


def _list_of_turns(entry: object) -> list[object]:
    """The turns of an entry. Raises UnusableError if it has none, several lists of them, or something else there."""
    if not isinstance(entry, Mapping):
        raise UnusableError(_NO_TURNS, f"not an object with the key 'conversations', but {shorten(entry)}")
    present = chat_keys(entry)
    if len(present) > 1:
        raise UnusableError(DOUBLED, f"keys {present[0]!r} and {present[1]!r}; remove one")

    names = tuple(map(str, entry))
    if not present:
        if {"question", "answer"} & entry.keys():
            detail = "question and answer stand in the entry itself; such rows are read by format: jsonl, one a line"
        else:
            meant = hint(suggested(names, CHAT_KEYS)[:1]) or labels_elsewhere(names)
            detail = f"an entry needs turns in 'conversations' or 'messages'{'; ' + meant if meant else ''}"
        raise UnusableError(_NO_TURNS, detail)

    found = entry[present[0]]
    if isinstance(found, Mapping):
        found = entries_of(found)
    if not isinstance(found, list):
        raise UnusableError(_NO_TURNS, f"{present[0]!r} is {shorten(found)}, not a list of turns")

    if beside := [key for key in ("question", "answer") if not is_missing(entry.get(key))]:
        raise UnusableError(DOUBLED, f"{beside[0]!r} is given next to {present[0]!r}; remove one")
    return [turn for each in found for turn in (_of_round(each) if is_round(each) else [each])]


def _of_round(said: Mapping[str, object]) -> list[dict[str, object]]:
    """The two turns of a round; what else it holds belongs to the question. The name of its data set says nothing of it."""
    more = {key: value for key, value in said.items() if key not in ("user", "assistant", "source")}
    return [more | {"role": "user", "content": said["user"]}, {"role": "assistant", "content": said["assistant"]}]


def _text(turn: Mapping[str, object]) -> str:
    """The text of a turn, `<image>` where parts of it show one. Raises UnusableError if it has none, or something else."""
    held = [turn[key] for key in ("value", "content") if not is_missing(turn.get(key))]
    if not held:
        raise UnusableError(_OUT_OF_TURN, f"the turn {shorten(turn)} has no text")
    if len(held) > 1 and held[0] != held[1]:
        raise UnusableError(DOUBLED, f"'value' and 'content' of the turn {shorten(turn)}; remove one")
    content = held[0]
    if isinstance(content, list):  # parts of text and images, as OpenAI's API has them
        content = "\n".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise UnusableError(_NO_TEXT, f"its content is {shorten(content)}; write a text, or parts of type text and image")
    return content


def _part(part: object) -> str:
    if isinstance(part, Mapping):
        if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            return str(part["text"])
        if part.get("type", "image") in ("image", "image_url"):
            return _IMAGE
    raise UnusableError(_NO_TEXT, f"the part {shorten(part)} is neither text nor an image")


def _shown_by(part: Mapping[str, object]) -> list[str]:
    """The keys of a part that name its image: one, unless they name different ones."""
    keys = [key for key in ("image_url", "image") if part.get(key)]
    return keys[:1] if len(keys) == 2 and part[keys[0]] == part[keys[1]] else keys


def named_image(entry: Mapping[str, object], where: str) -> str | RefusedRow | None:
    """The image that an entry names in its keys or in the parts of its turns, why it is not one, or None."""
    parts = _parts(entry)
    shown = [part[key] for part in parts for key in _shown_by(part)]
    named = row_files.image_name(entry, where)
    in_parts = row_files.image_name({"images": shown}, where)
    if named is not None and in_parts is not None and not isinstance(named, RefusedRow) and named != in_parts:
        detail = f"the entry names {shorten(named)} and its turns {shorten(shown)}; remove one"
        return RefusedRow(where, row_files.SEVERAL, detail)
    return named or in_parts


def _parts(entry: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Those of texts and images in the turns of an entry, whatever key holds the turns."""
    listed = [found for key in _LISTS if isinstance(found := entry.get(key), list)]
    said = [turn for found in listed for turn in found if isinstance(turn, Mapping)]
    contents = [turn.get(key) for turn in said for key in ("value", "content")]
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)]


def _image(entry: object, where: str) -> str | RefusedRow:
    """The one image of an entry, from its keys or the parts of its turns, or why it has none."""
    if not isinstance(entry, Mapping):
        return RefusedRow(where, "no image", f"not an object with the keys image and conversations, but {shorten(entry)}")
    if found := named_image(entry, where):
        return found
    listed = [entry[key] for key in _LISTS if isinstance(entry.get(key), list)]
    if _parts(entry) or shows_image(str(listed)) or suggested(tuple(map(str, entry)), IMAGE_KEYS[:1]):
        return row_files.imageless(entry, where)
    try:
        _list_of_turns(entry)
    except UnusableError as error:
        return RefusedRow(where, error.reason, error.detail)
    return RefusedRow(where, TEXT_ONLY)
