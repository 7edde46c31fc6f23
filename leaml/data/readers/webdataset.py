"""WebDataset shards: tar files in which adjacent members of the same name up to the first dot of the file are one sample.

`0001.jpg` (or another image) with an optional `0001.json`: an object with question and answer, a list of such objects, an
object with such a list in `qa`, or with the `conversations` of LLaVA. Labels are those of the one image of their sample, which
must have their name but for the ending; others are refused, and so are those that name another image of the shard. `0001.txt`
is a caption, see `leaml.data.captions`. Members of other kinds are counted and not read.
Shards are streamed, not unpacked. Hidden members (`.0001.jpg`) are counted and not read, what macOS adds is left out.
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from leaml import images
from leaml.config import SourceConfig
from leaml.data import json_text
from leaml.data.embedded import holds_image
from leaml.data.label_keys import CHAT_KEYS, COLUMNS, IMAGE_KEYS, near_keys, suggested
from leaml.data.label_rows import DOUBLED
from leaml.data.readers.conversations import labels_of, named_image
from leaml.data.records import (
    HIDDEN,
    NO_QUESTION,
    NOT_READ,
    Keep,
    LabelRows,
    Portion,
    Record,
    RefusedRow,
    counting_costs,
    in_portions,
    need_path,
    refuse_split,
)
from leaml.data.row_files import SEVERAL
from leaml.data.tar_members import Member, members
from leaml.errors import DataError
from leaml.io import files, stored
from leaml.text.values import is_missing, shorten

SHARDS = (".tar", ".tar.gz", ".tgz")
_LABEL, _CAPTION = ".json", ".txt"
_SHOWN = 4
"""Members named in a message."""

Stems = Callable[[], frozenset[str]]
"""The names of a shard's images without their endings, with and without their folders; read when it is called first."""


@dataclass
class _Sample:
    """Members of one name, in their order, and the hidden ones before and between them."""

    name: str
    members: list[Member] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    hidden: list[Member] = field(default_factory=list)

    def add(self, member: Member) -> None:
        """Add a member. Raises DataError if it is there."""
        if member.name in self.names:
            msg = f"{member.where} occurs twice in the shard, and nobody can tell which one counts; write the shard again"
            raise DataError(msg)
        self.names.add(member.name)
        self.members.append(member)

    @property
    def images(self) -> list[Member]:
        return [member for member in self.members if member.is_image]

    def ending_in(self, ending: str) -> list[Member]:
        """The members with this ending."""
        return [member for member in self.members if member.ending == ending]


@counting_costs(whole=True)
@in_portions
def read(source: SourceConfig, keep: Keep) -> Iterator[Portion]:
    """Each shard by itself: one record per image, in the order of members, and the rows of no image.

    Raises:
        DataError: A shard is torn, or the members of a sample are not adjacent or occur twice.
    """
    refuse_split("webdataset", source.split)
    for shard in stored.files_at(need_path("webdataset", source.path), SHARDS):
        yield Portion(shard.uri, shard.size, shard.version, functools.partial(_records, shard.uri))


def _records(shard: str, keep: Keep) -> Iterator[Record | RefusedRow]:
    stems = functools.cache(functools.partial(_stems, shard))
    for sample in _samples(shard, keep, {_LABEL}):
        rows = _label_rows(sample, stems)
        if not sample.images:
            yield from rows.refused
        for image in sample.images:
            if image.content is None and image.error is None:
                continue
            made = Record(image.where, "webdataset", None, image.content, error=image.error, place=image.place)
            yield replace(made, **rows.fields())
            rows = LabelRows()


def captions(path: str, column: str) -> Iterator[tuple[str, dict[str, object]]]:
    """URI and caption of images that have one: by the key `column` of the JSON member, or else the text of the `.txt` member.

    Args:
        path: A shard, or a folder of them.
        column: Key of the caption, and of the rows that are yielded; their key `image` is the URI of the image's record.

    Raises:
        DataError: As `read`, for a text that is not UTF-8, and for a caption of another image.
    """
    for shard in _shards(path):
        stems = functools.cache(functools.partial(_stems, shard))
        for sample in _samples(shard, None, {_LABEL, _CAPTION}):
            if len(sample.images) != 1:
                continue
            image = sample.images[0]
            own = {member.ending: member for member in sample.members if member.stem == image.stem}
            found = _json(own[_LABEL]) if _LABEL in own and own[_LABEL].error is None else None
            entry: dict[str, object] = found if isinstance(found, dict) else {}
            text = entry.get(column)
            if text is not None and (other := _other_image(entry, own[_LABEL], own[_LABEL].where, stems)):
                raise DataError(str(other))
            if text is None and _CAPTION in own:
                text = _text(own[_CAPTION])
            if text is not None:
                yield image.where, {"image": image.where, column: text}


def _shards(path: str) -> list[str]:
    return [path] if files.is_file(path) else files.listing(path, SHARDS)


def _stems(shard: str) -> frozenset[str]:
    stems = {member.stem for member in members(shard, None, set()) if member.is_image}
    return frozenset(stems | {posixpath.basename(stem) for stem in stems})


def _samples(shard: str, keep: Keep | None, wanted: set[str]) -> Iterator[_Sample]:
    """The samples of a shard. Raises DataError where one goes on behind another one, or has a member twice."""
    sample: _Sample | None = None
    ended: set[bytes] = set()
    hidden: list[Member] = []

    for member in members(shard, keep, wanted):
        if member.is_hidden:
            hidden.append(member)
            continue
        folder, base = posixpath.split(member.name)
        found = posixpath.join(folder, base.partition(".")[0])
        if sample is None or found != sample.name:
            if sample is not None:
                yield sample
                ended.add(_digest(sample.name))
            if _digest(found) in ended:
                msg = (
                    f"{shard}: the members of the sample {found!r} are not adjacent ({member.name!r} comes behind another "
                    "sample), so that labels would be lost; write the shard again in the order of names (tar --sort=name)"
                )
                raise DataError(msg)
            sample = _Sample(found)
        sample.add(member)
        sample.hidden += hidden
        hidden = []

    if sample is not None or hidden:
        sample = sample or _Sample("")
        sample.hidden += hidden
        yield sample


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:16]


def _label_rows(sample: _Sample, stems: Stems) -> LabelRows:
    """The label rows of the sample's image, all of them refused where nobody can tell whose they are, and what is not read."""
    others = [RefusedRow(m.where, *_not_read(m)) for m in sample.members if not m.is_image and m.ending != _LABEL]
    others += [RefusedRow(member.where, HIDDEN, "take the dot from the beginning of its name") for member in sample.hidden]
    rows = {member: _rows(member, stems) for member in sample.ending_in(_LABEL)}
    others += [row for found in rows.values() for row in found.refused if row.reason == NO_QUESTION]
    labels = {
        member: LabelRows(found.questions, [row for row in found.refused if row.reason != NO_QUESTION])
        for member, found in rows.items()
        if found.questions or any(row.reason != NO_QUESTION for row in found.refused)
    }
    fault = _fault(sample, list(labels)) if labels else None
    made = LabelRows()
    for member, found in labels.items():
        made.refused += found.refused
        if fault:
            made.refused += [RefusedRow(member.where, *fault)] * len(found.questions)
        else:
            made.questions += found.questions
    made.refused += others
    return made


def _not_read(member: Member) -> tuple[str, str]:
    if member.ending == _CAPTION:
        return NOT_READ, "a caption, which is used if caption.file names the shards"
    return NOT_READ, f"images end in .jpg, .png, ..., labels in {_LABEL}, captions in {_CAPTION}"


def _fault(sample: _Sample, labels: list[Member]) -> tuple[str, str] | None:
    """Reason and detail where nobody can tell which image the label rows of a sample belong to."""
    shown = sample.images
    if not shown:
        return "sample without an image", f"no image is beside it under the name {sample.name!r}"
    ends = "a sample's name ends at the first dot of the file, so take the dots out of the names"
    if len(labels) > 1:
        return "several JSON members in one sample", f"{_names(labels)}; {ends}"
    if len(shown) > 1:
        return "several images in one sample", f"{_names(shown)}; {ends}, or leave one image in each sample"
    if labels[0].stem != shown[0].stem:
        return "label of another name", f"the image of its sample is {_names(shown)}; write {shown[0].stem}{_LABEL}"
    return None


def _names(members: list[Member]) -> str:
    more = f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else ""
    return ", ".join(posixpath.basename(member.name) for member in members[:_SHOWN]) + more


def _rows(member: Member, stems: Stems) -> LabelRows:
    """The label rows of a JSON member; what holds no question is refused as NO_QUESTION."""
    where, rows = member.where, LabelRows()
    if member.error is not None:
        rows.add(RefusedRow(where, "member that cannot be read", member.error))
        return rows

    found = _json(member)
    around: dict[str, object] = {}
    fault: RefusedRow | None = None
    if isinstance(found, dict) and isinstance(found.get("qa"), list):
        fault = _beside_qa(found, where) or _other_image(found, member, where, stems)
        around = {key: value for key, value in found.items() if key not in ("qa", *IMAGE_KEYS)}
        found = found["qa"]

    entries = found if isinstance(found, list) else [found]
    if fault is not None:
        rows.refused += [fault] * max(1, len(entries))
        return rows
    if not any(isinstance(entry, dict) for entry in entries):  # outlines of objects, among others
        rows.add(RefusedRow(where, NO_QUESTION, shorten(found)))
        return rows

    for number, entry in enumerate(entries):
        at = where if len(entries) == 1 else f"{where}, entry {number}"
        if not isinstance(entry, dict):
            rows.add(RefusedRow(at, "not an object", f"{shorten(entry)}; write an object with question and answer"))
            continue
        made = labels_of(around | entry, at)
        if made and (other := _beside_qa(entry, at) or _other_image(entry, member, at, stems)):
            made = [other] * len(made)
        for row in made or [RefusedRow(at, NO_QUESTION, f"an object with the keys {shorten(list(entry))}")]:
            rows.add(row)
    return rows


def _beside_qa(entry: Mapping[str, object], where: str) -> RefusedRow | None:
    """The refusal of labels next to the list `qa`: nobody can tell which of its questions they belong to."""
    names = tuple(str(key) for key, value in entry.items() if not is_missing(value))
    if "qa" not in names:
        return None
    beside = [name for name in names if name in (*COLUMNS, *CHAT_KEYS)]
    beside += [name for name, _ in (*near_keys(names), *suggested(names, CHAT_KEYS)) if name != "qa"]
    if not beside:
        return None
    return RefusedRow(
        where, DOUBLED, f"{beside[0]!r} is given next to 'qa'; write it in the entries of 'qa', or remove one of them"
    )


def _other_image(entry: Mapping[str, object], member: Member, where: str, stems: Stems) -> RefusedRow | None:
    """The refusal of an entry that names several images, or another one of the shard than that of its member's name.

    Other names stay: people number images anew when they write shards.
    """
    named = named_image(entry, where)
    if isinstance(named, RefusedRow):
        return named if named.reason in (SEVERAL, DOUBLED) else None
    if named is None:
        return None
    if holds_image(named):
        return RefusedRow(where, SEVERAL, f"an image in the entry, and one beside it; remove {shorten(named)}")
    stem, ending = posixpath.splitext(posixpath.normpath(named))
    stem = stem if ending.lower() in images.SUFFIXES else stem + ending
    folder, own = posixpath.split(member.stem)
    if member.stem in (stem, posixpath.join(folder, stem)):
        return None
    wanted = {stem, posixpath.join(folder, stem)} | ({posixpath.basename(stem)} - {own})
    if not wanted & stems():
        return None
    detail = f"it names {shorten(named)}, another image of the shard than that of its name; rename the member or correct it"
    return RefusedRow(where, "label of another image", detail)


def _json(member: Member) -> object:
    try:
        return json_text.loads(member.content or b"")
    except (ValueError, RecursionError) as error:
        msg = f"{member.where} is not valid JSON: {error}; fix this member of the shard"
        raise DataError(msg) from None


def _text(member: Member) -> str:
    if member.error is not None:
        msg = f"{member.where}: {member.error}"
        raise DataError(msg)
    try:
        return (member.content or b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{member.where}: not UTF-8 ({error.reason} at byte {error.start}); save the text as UTF-8"
        raise DataError(msg) from None
