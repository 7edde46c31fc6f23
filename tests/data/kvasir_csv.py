"""The published rows of Kvasir-VQA as records: a CSV of source, question, answer and img_id, without the images."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from leaml.data.kvasir import parse
from leaml.data.records import Question, Record, hash_split


def records(file: Path) -> Iterator[Record]:
    """One record an image, in the order of first mention; the questions go through the project's own `parse`."""
    groups: dict[str, tuple[str, list[Question]]] = {}
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            questions = groups.setdefault(row["img_id"], (row["source"], []))[1]
            question = parse(row["question"], row["answer"])
            if question is not None:
                questions.append(question)
    for key, (source, questions) in groups.items():
        yield Record(key, source, hash_split(key), None, tuple(questions))
