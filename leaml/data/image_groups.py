"""Rows of tables that hold their images, put together by image; the images themselves are not kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from leaml.data.records import LabelRows
from leaml.data.row_files import SEVERAL
from leaml.data.tables import image_id
from leaml.text.values import UnusableError, is_missing


@dataclass
class ImageRows:
    """The label rows of one image.

    Attributes:
        number: Row that holds the image, or the first of the rows if none does.
        where: File and row of it.
        key: What the rows have in common: their id, else the content of the image; None: neither is there.
        content: Hash or name of the image, None without one.
        rows: Their labels.
        error: Why the image cannot be used: another one has the same id, or it is not plain which image the row means.
    """

    number: int
    where: str
    key: str | None
    content: str | None
    rows: LabelRows = field(default_factory=LabelRows)
    error: str | None = None


class ImageGroups:
    """Rows by image. Rows of one id whose images differ are kept separate, and only the first image of them can be used."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str | int | None, ...], ImageRows] = {}

    def __iter__(self) -> Iterator[ImageRows]:
        """The images in the order of their first rows."""
        return iter(self._groups.values())

    def of(self, number: int, where: str, identity: str | None, name: str | None, content: str | None) -> LabelRows:
        """Where the labels of a row belong.

        Args:
            number: Number of the row, different for each.
            where: File and row.
            identity: Id of the row's image in the file; None: it has none, and its content tells it from others.
            name: What the id is called.
            content: Hash of the image or its name, see `content_of`; None: the row has no image.
        """
        if identity is None:
            group: tuple[str | int | None, ...] = ("row", number) if content is None else ("content", content)
            return self._groups.setdefault(group, ImageRows(number, where, content, content)).rows
        first = self._groups.setdefault((name, identity), ImageRows(number, where, identity, content))
        if content is None or content == first.content:
            return first.rows
        if first.content is None:
            first.number, first.where, first.content = number, where, content
            return first.rows
        error = f"{where} and {first.where} have different images under the {name} {identity!r}; give each image its own"
        other = ImageRows(number, where, f"{identity}, row {number}", content, error=error)
        return self._groups.setdefault((name, identity, content), other).rows

    def unusable(self, number: int, where: str, error: str) -> LabelRows:
        """Where the labels of a row belong whose image cannot be told.

        Args:
            number: Number of the row, different for each.
            where: File and row.
            error: Why it cannot be told; becomes `ImageRows.error`.
        """
        return self._groups.setdefault(("row", number), ImageRows(number, where, None, None, error=error)).rows


def content_of(data: bytes | None, name: str | None) -> str | None:
    """What tells an image from others: the hash of its bytes, or else its name; None without both."""
    return image_id(data) if data else name or None


def single_image(value: object, column: str) -> object:
    """What a list of one image holds. Raises UnusableError for more."""
    while isinstance(value, list):
        held = [one for one in value if not is_missing(one)]
        if len(held) > 1:
            raise UnusableError(SEVERAL, f"{len(held)} in the column {column!r}; write a row for each of them")
        value = held[0] if held else None
    return value
