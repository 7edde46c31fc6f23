"""LLaVA or ShareGPT conversations, as a JSON list or JSON Lines; each user turn and its reply are a question and its answer.

{"image": "a.jpg", "conversations": [
    {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog"}]}
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.jsonl import lines
from leaml.data.records import Keep, Question, Record, by_image, need_path, refuse_split
from leaml.data.registry import reader
from leaml.errors import DataError

_USER, _MODEL = {"human", "user"}, {"gpt", "assistant"}


@reader("conversations")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention; entries without an image (text-only chats) are left out."""
    refuse_split("conversations", source.split)
    path = need_path("conversations", source.path)
    groups: dict[str, list[Question]] = {}
    for where, entry in _entries(path):
        if not isinstance(entry, dict):
            msg = f"{where}: must be an object with the keys image and conversations, got {type(entry).__name__}"
            raise DataError(msg)
        image = entry.get("image")
        if isinstance(image, list) and len(image) <= 1:
            image = image[0] if image else None
        if image is None:
            continue
        if not isinstance(image, str):
            msg = f"{where}: image must be one path, got {image!r}; split the entry so that each has one image"
            raise DataError(msg)
        groups.setdefault(image, []).extend(_questions(entry, where))
    yield from by_image(groups, source.images or posixpath.dirname(path) or ".", "conversations", None, keep)


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


def _questions(entry: dict[str, Any], where: str) -> Iterator[Question]:
    asked: str | None = None
    for turn in entry.get("conversations") or entry.get("messages") or []:
        role, text = turn.get("from") or turn.get("role"), turn.get("value") or turn.get("content")
        if role == "system":
            continue
        fits = role in _USER if asked is None else role in _MODEL
        text = text.replace("<image>", "").strip() if isinstance(text, str) else ""
        if not fits or not text:
            due = "human or user" if asked is None else "gpt or assistant"
            msg = f"{where}: expected a turn of {due} with text, got {turn!r}; user and model must take turns, user first"
            raise DataError(msg)
        if asked is None:
            asked = text
        else:
            yield Question(asked, text)
            asked = None
    if asked is not None:
        msg = f"{where}: the last question has no reply; add it or remove the turn"
        raise DataError(msg)
