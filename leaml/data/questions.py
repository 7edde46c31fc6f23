"""Questions without answers, for predictions in batches: JSON Lines, CSV or TSV with the columns image?, question and options?.

    {"image": "frame_0001.jpg", "question": "is there a polyp?"}
    {"image": "frame_0002.jpg", "question": "what colour is it?", "options": ["red", "pink"]}

Without the column `image` every question is asked about every image. Options are read as those of label rows; in CSV they are
separated by "|".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leaml.broken_text import is_blank, refusal, stripped
from leaml.choice import check_options
from leaml.data import delimited, files
from leaml.data.jsonl import lines
from leaml.data.label_options import MOST_OPTIONS, parse_options
from leaml.data.values import UnusableError
from leaml.errors import DataError

COLUMNS = ("image", "question", "options")


@dataclass(frozen=True)
class Asked:
    """One question; `image` is a file name relative to the folder of images, or None: about every image."""

    image: str | None
    question: str
    options: tuple[str, ...] | None = None


def read(uri: str) -> list[Asked]:
    """The questions of a file, in its order; CSV or TSV if its name ends so, else JSON Lines.

    Raises:
        DataError: The file cannot be read, holds no question, a line is wrong (file and line are named), or only some lines
            name an image.
    """
    rows = _table(uri) if uri.lower().endswith((".csv", ".tsv")) else lines(uri)
    found = [_parse(row, where) for where, row in rows]
    if not found:
        msg = f"{uri} holds no question; write one a line"
        raise DataError(msg)
    named = sum(asked.image is not None for asked in found)
    if named not in (0, len(found)):
        msg = f"{uri}: {named} of {len(found)} questions name an image; all must, or none, which asks about every image"
        raise DataError(msg)
    return found


def _parse(row: Any, where: str) -> Asked:
    if not isinstance(row, Mapping):
        msg = f'{where}: not an object; write {{"image": ..., "question": ...}}'
        raise DataError(msg)
    if unknown := [str(key) for key in row if key not in COLUMNS]:
        msg = f"{where}: unknown column {unknown[0]!r}; a question has {', '.join(COLUMNS)}"
        raise DataError(msg)
    question, image, options = row.get("question"), row.get("image"), row.get("options")
    if not isinstance(question, str) or is_blank(question):
        msg = f"{where}: 'question' must be text that is not empty, got {question!r}"
        raise DataError(msg)
    if image is not None and (not isinstance(image, str) or not image.strip()):
        msg = f"{where}: 'image' must be a file name, got {image!r}"
        raise DataError(msg)
    if image is not None and (fault := files.no_path(image)):
        msg = f"{where}: 'image' {fault}"
        raise DataError(msg)
    question, options = stripped(question), _options(options, where)
    for what, text in (("question", question), *(("options", option) for option in options or ())):
        if fault := refusal(text):
            msg = f"{where}: {what!r} {fault}"
            raise DataError(msg)
    return Asked(image, question, options)


def _options(value: Any, where: str) -> tuple[str, ...] | None:
    try:
        texts = options_of(value)
    except DataError as error:
        msg = f"{where}: {error}"
        raise DataError(msg) from None
    if texts is not None and (not 2 <= len(texts) <= MOST_OPTIONS or any(map(is_blank, texts))):
        msg = f"{where}: 'options' must be 2 to {MOST_OPTIONS} texts that are not empty, got {value!r}"
        raise DataError(msg)
    return texts


def options_of(value: Any) -> tuple[str, ...] | None:
    """Options to ask with, as those of a label row: labels in front of the texts are no part of them, here as in training.

    Raises:
        DataError: Their form cannot be read, or several are one answer.
    """
    try:
        found = parse_options(value)
    except UnusableError as error:
        raise DataError(str(error)) from None
    texts = () if found is None else tuple(map(stripped, found.texts))
    check_options(texts)
    return None if found is None else texts


def _table(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in delimited.rows(uri, "question"):
        yield where, {key: value for key, value in row.items() if value or key in ("image", "question")}
