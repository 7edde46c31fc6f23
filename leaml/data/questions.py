"""Questions for predictions in batches: JSON Lines, CSV or TSV with the columns image?, question and options?.

    {"image": "frame_0001.jpg", "question": "is there a polyp?"}
    {"image": "frame_0002.jpg", "question": "what colour is it?", "options": ["red", "pink"]}

Options may also stand at the end of the question. Without the column `image` every question is asked about every image.
A file of labels is one of questions too: its rows are read by the same rules, and what else they hold, such as the
answer, is kept beside the question and not shown to a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from leaml.data import delimited
from leaml.data.embedded import holds_image
from leaml.data.json_lines import lines
from leaml.data.label_keys import COLUMNS as LABEL_COLUMNS
from leaml.data.label_keys import IMAGE_KEYS, doubled, hint, labels_elsewhere, near_keys, suggested
from leaml.data.label_options import MOST_OPTIONS, lost_options, parse_options
from leaml.data.label_rows import check_choices, fault_of, options_elsewhere, without_image
from leaml.data.question_options import known_options
from leaml.data.records import RefusedRow
from leaml.data.row_files import image_name
from leaml.errors import DataError
from leaml.images import SUFFIXES
from leaml.io import files
from leaml.text.broken_text import is_blank, stripped
from leaml.text.choice import check_options
from leaml.text.special_tokens import without_ends
from leaml.text.values import UnusableError, is_missing, shorten, text_of

COLUMNS = ("image", "question", "options")
_OTHER_COLUMNS = {*IMAGE_KEYS, *LABEL_COLUMNS}
"""Of which none holds the image under another name."""
_IMAGE_ID = re.compile(
    r"(?:image|img|pic|picture|photo|frame)s?[\W_]*(?:id|nr|no|num|number|index|idx|key|hash|sha256|ur[il])s?|ur[il]", re.I
)
"""Names of columns that tell of which image a row is, but not by its file name."""


@dataclass(frozen=True)
class Asked:
    """One question; `image` is a file name relative to the folder of images, or None: about every image.

    `others` is what else its row holds.
    """

    image: str | None
    question: str
    options: tuple[str, ...] | None = None
    others: Mapping[str, object] = field(default_factory=dict, compare=False)


def read(uri: str, folder: str = ".") -> list[Asked]:
    """The questions of a file, in its order; CSV or TSV if its name ends so, else JSON Lines; `folder` is that of the images.

    Raises:
        DataError: The file cannot be read, holds no question, a line is wrong (file and line are named), or only some lines
            name an image.
    """
    rows = _table(uri) if uri.lower().endswith((".csv", ".tsv")) else lines(uri)
    found = [_parse(row, where, folder) for where, row in rows]
    if not found:
        msg = f"{uri} holds no question; write one a line"
        raise DataError(msg)
    named = sum(asked.image is not None for asked in found)
    if named not in (0, len(found)):
        msg = f"{uri}: {named} of {len(found)} questions name an image; all must, or none, which asks about every image"
        raise DataError(msg)
    return found


def _parse(row: object, where: str, folder: str) -> Asked:
    if not isinstance(row, Mapping):
        msg = f'{where}: not an object; write {{"image": ..., "question": ...}}'
        raise DataError(msg)
    names = tuple(str(key) for key, value in row.items() if value is not None)
    if pair := doubled(names, COLUMNS):
        msg = f"{where}: keys {pair[0]!r} and {pair[1]!r}; remove one"
        raise DataError(msg)

    question = row.get("question")
    if not isinstance(question, str) or is_blank(question):
        meant = labels_elsewhere(names) or hint(suggested(names, ("question",)))
        msg = f"{where}: 'question' must be text that is not empty, got {shorten(question)}{meant and f'; {meant}'}"
        raise DataError(msg)

    image, options = _image(row, names, where, folder), _options(row.get("options"), where)
    misspelt = [name for name, known in near_keys(names, ("options",)) if known == "options"]
    if options is None and (lost := lost_options(row, tuple(map(str, row)), misspelt)):
        msg = f"{where}: no 'options', but {options_elsewhere(lost)}"
        raise DataError(msg)

    try:
        question, options = as_asked(question, options)
    except UnaskableError as error:
        msg = f"{where}: {error}"
        raise DataError(msg) from None

    others = {str(key): row[key] for key in row if row[key] is not None and key not in (*COLUMNS, *IMAGE_KEYS)}
    return Asked(image, question, options, others)


class UnaskableError(DataError):
    """No model is asked this question with these options; `column`, question or options, is at fault."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


def as_asked(question: str, options: tuple[str, ...] | None) -> tuple[str, tuple[str, ...] | None]:
    """A question and its options as a model is asked them, whether a file or a request has them: by the rules of label rows.

    The options may be those that the question ends in; then the answer is one of these.

    Raises:
        UnaskableError: A text is empty or marks a missing value, holds what no text holds, what stands for an image, a special
            token or a thought; or the question shows options with a gap, that are one answer, or other ones than are given.
    """
    column = "question"
    try:
        question = _text(without_image(without_ends(stripped(question))), column, "the question")
        column = "options"
        options = None if options is None else tuple(_text(option, column, "an option") for option in options)
        column = "question" if options is None else "options"  # those in the question, or the given ones beside them
        found = known_options(question, options)
        check_choices(found or ())
    except UnusableError as error:
        msg = f"{column!r}: {error.detail}"
        raise UnaskableError(msg, column) from None
    return question, found


def _text(text: str, column: str, what: str) -> str:
    text = text_of(text, what)
    if fault := fault_of(text):
        msg = f"{column!r} {fault[1]}"
        raise UnaskableError(msg, column)
    return text


def _image(row: Mapping[str, object], names: tuple[str, ...], where: str, folder: str) -> str | None:
    image = image_name(row, where)
    if isinstance(image, RefusedRow):
        msg = f"{where}: {image.detail}"
        raise DataError(msg)
    if image is not None and holds_image(image):
        held = "an image in base64, which questions are not asked about"
        msg = f"{where}: 'image' is {shorten(image)}, {held}; write it to a file in the folder of images and name that"
        raise DataError(msg)
    if image is not None and (fault := files.no_name(folder, image)):
        msg = f"{where}: the image {shorten(image)} {fault}; names of images are relative to the folder of images"
        raise DataError(msg)
    if image is None and (blank := [row[key] for key in IMAGE_KEYS if row.get(key) is not None]):
        msg = f"{where}: 'image' must be a file name, got {shorten(blank[0])}"
        raise DataError(msg)
    if image is None and (said := _image_elsewhere(row, names)):
        # to ask about every image is another thing, and may be a million times the work
        msg = f"{where}: no 'image', but {said}, or remove it, which asks about every image"
        raise DataError(msg)
    return image


def _image_elsewhere(row: Mapping[str, object], names: tuple[str, ...]) -> str:
    """The column of a row without an image that seems to hold its file name or its id, and what to do; "": none does."""
    filled = [name for name in names if name not in _OTHER_COLUMNS and not is_missing(row.get(name))]
    files = [name for name in filled if str(row.get(name)).strip().lower().endswith(SUFFIXES)]
    ids = [name for name in filled if _IMAGE_ID.fullmatch(name.strip())]
    if ids and not files:
        return f"{shorten(ids[0])}; write the file name of the image, relative to --images, in 'image'"
    meant = files or [name for name, _ in suggested(names, ("image",)) if name in filled]
    return f"{shorten(meant[0])}; name it 'image'" if meant else ""


def _options(value: object, where: str) -> tuple[str, ...] | None:
    try:
        texts = options_of(value)
    except DataError as error:
        msg = f"{where}: {error}"
        raise DataError(msg) from None
    if texts is not None and (not 2 <= len(texts) <= MOST_OPTIONS or any(map(is_blank, texts))):
        got = f"{len(texts)}: {shorten(value)}"
        msg = f"{where}: 'options' must be 2 to {MOST_OPTIONS} texts that are not empty, got {got}"
        raise DataError(msg)
    return texts


def options_of(value: object) -> tuple[str, ...] | None:
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


def _table(uri: str) -> Iterator[tuple[str, dict[str, object]]]:
    for where, row in delimited.rows(uri, "question"):
        yield where, {key: value if value or key in ("image", "question") else None for key, value in row.items()}
