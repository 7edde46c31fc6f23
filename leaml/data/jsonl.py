"""JSON Lines: `{"image": ..., "question": ..., "answer": ..., "question_type"?: ..., "options"?: [...], "split"?: ...}`.

Several lines may be about one image. The text of the file is held in memory to group them, the images never are. An image may
also stand in its line, as base64 or as a data URL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from leaml.config import SourceConfig
from leaml.data import files, row_files
from leaml.data.records import Keep, Record, need_path
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
    """One record per image, in the order of first mention. Raises DataError naming file and line."""
    path = need_path("jsonl", source.path)
    yield from row_files.records(path, lines(path), source, keep)
