"""LLaVA or ShareGPT conversations, as a JSON list or JSON Lines; each user turn and its reply are a question and its answer.

{"image": "a.jpg", "conversations": [
    {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog"}]}

`images` with one image is read as well, and `messages` with role and content. Chats without an image are counted and left out.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from leaml.config import SourceConfig
from leaml.data import files, row_files
from leaml.data.embedded import Embedded
from leaml.data.jsonl import lines
from leaml.data.label_rows import TEXT_ONLY, parse
from leaml.data.records import Keep, LabelRows, Question, Record, RefusedRow, by_image, need_path, refuse_split
from leaml.data.registry import reader
from leaml.data.values import shorten
from leaml.errors import DataError

_USER, _MODEL = {"human", "user"}, {"gpt", "assistant"}


@reader("conversations")
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
            loose.append(image)
            continue
        rows = groups.setdefault(embedded.name(image), LabelRows())
        for row in turns(entry, where):
            rows.add(row)
    folder = source.images or posixpath.dirname(path) or "."
    yield from by_image(groups, folder, "conversations", None, keep, embedded, loose)


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    with files.open_read(path) as stream:
        is_list = stream.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_list:
        yield from lines(path)
        return
    try:
        entries = json.loads(files.read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        raise DataError(msg) from None
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}: not valid JSON ({error.msg} at column {error.colno}); mend the file"
        raise DataError(msg) from None
    for number, entry in enumerate(entries):
        yield f"{path}, entry {number}", entry


def turns(entry: Any, where: str) -> Iterator[Question | RefusedRow | None]:
    """The questions and answers of an entry; behind a turn that does not fit nothing can be told apart any more."""
    asked: str | None = None
    for turn in _list_of_turns(entry):
        role = turn.get("from") or turn.get("role") if isinstance(turn, dict) else None
        if role == "system":
            continue
        due = "human or user" if asked is None else "gpt or assistant"
        text = _text(turn) if isinstance(turn, dict) else ""
        if role not in (_USER if asked is None else _MODEL) or not text:
            yield RefusedRow(where, "turn without its counterpart", f"expected a turn of {due} with text, got {shorten(turn)}")
            return
        if asked is None:
            asked = text
        else:
            yield parse({"question": asked, "answer": text}, where)
            asked = None
    if asked is not None:
        yield RefusedRow(where, "turn without its counterpart", "the last question has no reply; add it or remove the turn")


def _list_of_turns(entry: Any) -> list[Any]:
    turns = (entry.get("conversations") or entry.get("messages")) if isinstance(entry, dict) else None
    return turns if isinstance(turns, list) else []


def _text(turn: dict[str, Any]) -> str:
    """The text of a turn without the placeholders of its image."""
    content = turn.get("value") or turn.get("content")
    if isinstance(content, list):  # parts of text and images, as OpenAI's API has them
        content = "\n".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content.replace("<image>", "").strip() if isinstance(content, str) else ""


def _image(entry: Any, where: str) -> str | RefusedRow:
    """The one image of an entry, from its keys or the parts of its turns, or why it has none."""
    if not isinstance(entry, dict):
        return RefusedRow(where, "no image", f"not an object with the keys image and conversations, but {shorten(entry)}")
    parts = [
        p for turn in _list_of_turns(entry) if isinstance(turn, dict) for p in turn.get("content") or [] if isinstance(p, dict)
    ]
    shown = [part.get("image_url") or part.get("image") for part in parts if part.get("image_url") or part.get("image")]
    image = row_files.image_name(entry, where) or row_files.image_name({"images": shown}, where)
    if image is not None:
        return image
    if parts or "<image>" in str(_list_of_turns(entry)):
        return RefusedRow(
            where, "no image", f"its text shows one, but neither 'image' nor 'images' names it: {shorten(list(entry))}"
        )
    return RefusedRow(where, TEXT_ONLY)
