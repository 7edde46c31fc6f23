"""JSON Lines: `{"image": ..., "question": ..., "answer": ..., "question_type"?: ..., "options"?: [...], "split"?: ...}`.

Several lines may be about one image. The text of the file is held in memory to group them, the images never are. An image may
also stand in its line, as base64 or as a data URL.
"""

from __future__ import annotations

from collections.abc import Iterator

from leaml.config import SourceConfig
from leaml.data import row_files
from leaml.data.json_lines import lines
from leaml.data.records import Keep, Record, need_path


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention. Raises DataError naming file and line."""
    path = need_path("jsonl", source.path)
    yield from row_files.records(path, lines(path), source, keep)
