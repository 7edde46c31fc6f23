"""JSON Lines: `{"image": ..., "question": ..., "answer": ..., "question_type"?: ..., "options"?: [...], "split"?: ...}`.

Several lines may be about one image. The text of the file is held in memory to group them, the images never are.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.records import Keep, Question, Record, by_image, need_path, parse_question
from leaml.data.registry import reader
from leaml.errors import DataError


def lines(uri: str) -> Iterator[tuple[str, Any]]:
    """`(file:line, value)` of every line that is not blank. Raises DataError for one that is not whole, valid JSON."""
    with files.open_read(uri) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{uri}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield where, json.loads(text)
            except UnicodeDecodeError as error:
                msg = f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
                raise DataError(msg) from None
            except json.JSONDecodeError as error:
                torn = "" if line.endswith(b"\n") else "the last line, perhaps torn when the file was written: "
                msg = f"{where}: {torn}not valid JSON ({error.msg} at column {error.colno}); mend or remove this line"
                raise DataError(msg) from None


@reader("jsonl")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention; image paths are relative to `images` or the file's folder."""
    path = need_path("jsonl", source.path)
    groups: dict[str, list[Question]] = {}
    splits: set[str] = set()
    for where, row in lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not row["image"]:
            msg = f"{where}: no image; each line must be an object with the path of an image in the key 'image'"
            raise DataError(msg)
        split = row.get("split")
        splits.add(str(split))
        if source.split is not None and split != source.split:
            continue
        questions = groups.setdefault(row["image"], [])
        question = parse_question(row, where)
        if question is not None:
            questions.append(question)
    if source.split is not None and source.split not in splits:
        msg = f"{path}: no line has split {source.split!r}, only {', '.join(sorted(splits))}; mend or remove split"
        raise DataError(msg)
    yield from by_image(groups, source.images or posixpath.dirname(path) or ".", "jsonl", source.split, keep)
