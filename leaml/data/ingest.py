"""Reads a source once and writes the contract tables: images, labeled rows, and the quarantine of what cannot be used."""

from __future__ import annotations

import posixpath
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from leaml.config import SourceConfig
from leaml.config.limits import MAX_PIXELS
from leaml.data import part_files, registry, store, tables
from leaml.data.label_counts import LabelCounts
from leaml.data.part_files import PartWriter, WrittenPart
from leaml.data.parts import PartReader
from leaml.data.united import United
from leaml.errors import DataError
from leaml.io import files, lance_tables


@dataclass(frozen=True)
class IngestResult:
    """What an ingest wrote: distinct images, labeled rows, the rows of the quarantine table, and counts of the label rows."""

    images: int
    rows: int
    quarantined: list[tables.QuarantineRow]
    labels: LabelCounts
    seen: int = 0
    """Images of the source that were looked at, equal ones and unusable ones included."""
    complete: bool = True
    """False where only the beginning of the source was read."""
    copies: int = 0
    """Images that have the bytes of another one and another name; see `store.copies_file`."""
    largest: tuple[tuple[int, int], ...] = ()
    """Width and height of the largest images, one of each shape; see `LargestSizes`."""


class QuarantineError(DataError):
    """Too many images cannot be used; `result` says what was found."""

    def __init__(self, message: str, result: IngestResult) -> None:
        super().__init__(message)
        self.result = result


def in_this_process(parts: PartReader, write: PartWriter) -> Iterator[WrittenPart]:
    """Writes the parts of a source one after the other."""
    yield from map(write, parts)


MapParts = Callable[[PartReader, PartWriter], Iterator[WrittenPart]]
"""Writes the parts of a source, maybe many at once; yields them in their order."""


def ingest(
    source: SourceConfig,
    images_out: str,
    labeled_out: str | None,
    max_pixels: int = MAX_PIXELS,
    max_quarantined: float = 0.05,
    split: str | None = None,
    progress: Callable[[int], None] | None = None,
    labels_matter: bool = True,
    first: int | None = None,
    copy: bool = True,
    keep_refused: bool = False,
    mapped: MapParts = in_this_process,
) -> IngestResult:
    """Write a source as contract tables, a part at a time, see `leaml.data.parts`.

    The same bytes met twice are one image; its questions are united: an equal row is kept once, an equal question with
    another answer stays beside the first, and its further names stand in `store.copies_file`. Parts that an ingest of before
    has written are not read again unless their files were changed; `forget_parts` removes what tells of them.

    Args:
        source: What to read.
        images_out: Folder of the images table; one of an earlier attempt is removed.
        labeled_out: File for the labeled rows; None: do not write them.
        max_pixels: Larger images are quarantined.
        max_quarantined: Largest share of the images that may be unreadable, and of the label rows that may be unusable.
        split: Value of the column `split`; None: what the source says.
        progress: Called with the number of images seen so far.
        labels_matter: Whether unusable label rows can stop the ingest; of an unlabeled source nobody needs them.
        first: Read no more than so many images, to find out what would be refused; None: all.
        copy: Write the bytes of all images; False: only of those that are no file, nor a range of one, that can be read again.
        keep_refused: Write the labeled rows also where too many images or rows cannot be used, for a higher limit.
        mapped: Who writes the parts.

    Returns:
        Counts, and the rows of the quarantine table (see `quarantine_file`).

    Raises:
        DataError: The source cannot be read, or was changed while it was.
        QuarantineError: Too many of its images or label rows cannot be used; images, quarantine and `refused_rows_file` are
            written before that.
    """
    written = mapped(PartReader(source, copy, first), PartWriter(source, images_out, max_pixels, split, copy))
    _withdraw(images_out)

    with tempfile.TemporaryDirectory() as folder:
        out = United(folder)
        for part, fragments, rows in part_files.read_ahead(written):
            out.add(part, fragments, rows, progress)
        if not out.seen:
            raise registry.nothing_found(source, out.loose)
        out.close()
        _commit(images_out, out)
        _publish(images_out, labeled_out, out)
        result = _result(out, first)
        if labeled_out is not None and keep_refused:
            files.publish_file(out.labeled, labeled_out)
        if result.complete:  # of a part of the images nobody knows the share
            check_limits(result, max_quarantined, source, labels_matter)
        if labeled_out is not None and not keep_refused:
            files.publish_file(out.labeled, labeled_out)
    return result


def forget_parts(images_out: str) -> None:
    """Remove what tells of the parts of an ingest that is finished."""
    files.delete_tree(part_files.folder_of(images_out))


def _withdraw(images_out: str) -> None:
    """Take away the tables of an earlier attempt, but for the images of parts that were written: there may be none now."""
    if files.exists(part_files.folder_of(images_out)):
        lance_tables.withdraw(images_out)
    else:
        lance_tables.remove(images_out)
    files.delete_tree(store.copies_file(images_out))


def _result(out: United, first: int | None) -> IngestResult:
    counts = (out.images, out.rows, out.quarantined, out.counts, out.seen)
    return IngestResult(*counts, out.seen != first, out.copies, tuple(out.largest.sizes()))


def _publish(images_out: str, labeled_out: str | None, out: United) -> None:
    """Write what was not used, and further names."""
    tables.write(quarantine_file(images_out, labeled_out), tables.table(out.quarantined, tables.QUARANTINE))
    if out.refused.rows:
        files.publish_file(out.refused.path, refused_rows_file(images_out, labeled_out))
    if out.copies:
        files.publish_file(out.named, store.copies_file(images_out))


def _commit(images_out: str, out: United) -> None:
    """Make the parts' fragments the images table, without the images of earlier parts, and remove what belongs to neither."""
    lance_tables.commit(images_out, tables.IMAGES, out.fragments)
    lance_tables.drop_rows(images_out, "image_id", out.repeated)
    known = {part.file for part in out.parts}
    for file in files.listing(part_files.folder_of(images_out)):
        if file not in known:  # first, since it may name what is removed next
            files.delete_tree(file)
    lance_tables.sweep(images_out, out.fragments)


def quarantine_file(images_out: str, labeled_out: str | None) -> str:
    """Path of the quarantine table: beside the labeled file, or else beside the folder of images."""
    beside = labeled_out or images_out.rstrip("/") + ".parquet"
    return files.join(posixpath.dirname(beside), f"quarantine-{posixpath.basename(beside)}")


def refused_rows_file(images_out: str, labeled_out: str | None) -> str:
    """Path of the list of label rows that were refused, a CSV file beside the quarantine table; there only if some were."""
    return quarantine_file(images_out, labeled_out).replace("quarantine-", "refused-").removesuffix(".parquet") + ".csv"


def check_limits(result: IngestResult, max_quarantined: float, source: SourceConfig, labels_matter: bool) -> None:
    """Refuse a source of which too much cannot be used.

    Args:
        result: What the ingest has found.
        max_quarantined: Share, from 0 to 1, of images and of label rows that may be unusable.
        source: Named in the message.
        labels_matter: Whether label rows are looked at too.

    Raises:
        QuarantineError: More than that share is unusable, or all of them are.
    """
    _check_images(result, max_quarantined, source)
    if labels_matter:
        try:
            result.labels.check(max_quarantined, source.path or source.format)
        except DataError as error:
            raise QuarantineError(str(error), result) from None


def _check_images(result: IngestResult, max_quarantined: float, source: SourceConfig) -> None:
    bad, total = len(result.quarantined), result.seen
    if bad <= max_quarantined * total and bad < total:
        return
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons(result.quarantined).items())
    first = result.quarantined[0]
    msg = (
        f"{bad} of {total} images of {source.path or source.format} cannot be used, over the limit of "
        f"{max_quarantined:.0%} (data.max_quarantined): {summary}; the first is {first['uri']}: "
        f"{first['reason']}; fix the data or raise the limit"
    )
    raise QuarantineError(msg, result)


def reasons(quarantined: list[tables.QuarantineRow]) -> dict[str, int]:
    """How many rows of a quarantine table have each kind of reason (what stands before the colon), most first."""
    return dict(Counter(row["reason"].partition(":")[0] for row in quarantined).most_common())
