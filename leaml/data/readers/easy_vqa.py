"""easy-VQA: 5,000 images of one coloured shape with 48,248 questions, from the package `easy-vqa`."""

from __future__ import annotations

from collections.abc import Iterator

import easy_vqa

from leaml.config import SourceConfig
from leaml.data.records import Keep, Question, Record, fetch
from leaml.errors import ConfigError

_SHAPES = {"circle", "rectangle", "triangle"}


def question_type(answer: str) -> str:
    """`yes_no`, `shape` or `color`; the answer tells them apart."""
    if answer in ("yes", "no"):
        return "yes_no"
    return "shape" if answer in _SHAPES else "color"


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """Images of one split, in the order of their numbers. Raises ConfigError unless the split is train or test."""
    if source.split == "train":
        questions, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    elif source.split == "test":
        questions, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    else:
        msg = f"easy_vqa has the splits train and test, not {source.split!r}; set split to one of them"
        raise ConfigError(msg)
    groups: dict[int, list[Question]] = {}
    for text, answer, number in zip(*questions, strict=True):
        groups.setdefault(number, []).append(Question(text, answer, question_type(answer)))

    # The URI leaves out where the package is installed, so that `limit` takes the same images everywhere
    located = {f"easy_vqa/{source.split}/{number}.png": (path, number) for number, path in sorted(paths.items())}
    wanted = (
        Record(uri, "easy_vqa", source.split, None, tuple(groups.get(number, ())))
        for uri, (_, number) in located.items()
        if keep(uri)
    )
    yield from fetch(wanted, lambda uri: located[uri][0])
