"""SPORTU-video (arXiv 2410.08474): multiple-choice questions about sports clips; one image per clip, its middle frame.

    {"id": "soccer_12_3", "question": ..., "options": {"A": ..., "D": ...}, "answer": "D", "difficulty level": "hard"}

The right answer of the hard questions is D in half of the cases, so a model can score by the letter alone; options are
therefore shuffled, by a hash of the question's id and thus alike in every run. The split is made from the clip's id.
"""

from __future__ import annotations

import posixpath
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from leaml.config import SourceConfig
from leaml.data import json_text
from leaml.data.label_rows import OUTSIDE, check, parse
from leaml.data.readers import video
from leaml.data.records import Keep, LabelRows, Question, Record, RefusedRow, counting_costs, hash_split, need_path
from leaml.errors import DataError
from leaml.io import files
from leaml.text.scoring import chosen_letters, option_letters
from leaml.text.values import shorten

_CLIP = re.compile(r"^(.+?_\d+)(?:_\d+)?$")


@dataclass
class _Clip:
    video: str | None = None
    rows: LabelRows = field(default_factory=LabelRows)


@counting_costs(sample=20)  # frames have to be decoded
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per clip; videos are found by name anywhere below `images` (default: the file's folder).

    `path` is the JSON file, or a folder of them. `split` may be train or test. Raises DataError for a malformed entry; a
    missing or broken video is a record with `error`.
    """
    path = need_path("sportu", source.path)
    if source.split not in (None, "train", "test"):
        msg = f"{path}: sportu has the splits train and test, not {source.split!r}; set split to one of them"
        raise DataError(msg)
    annotations = [path] if files.is_file(path) else files.listing(path, [".json"])
    clips = _clips(annotations)
    folder = source.images or (posixpath.dirname(path) or "." if annotations == [path] else path)
    videos: dict[str, list[str]] = {}
    for uri in files.listing(folder, video.SUFFIXES):
        videos.setdefault(posixpath.splitext(posixpath.basename(uri))[0], []).append(uri)
    for name, clip in clips.items():
        split = hash_split(name)
        if source.split in (None, split):
            yield from _record(name, clip, split, folder, videos, keep)


def shuffled(key: str, options: Mapping[str, str], answer: str) -> tuple[tuple[str, ...], str]:
    """Options in an order given by a hash of `key`, and the letters of the right ones in that order.

    Args:
        key: Identity of the question.
        options: Letter to text, in the order of the file.
        answer: One or several letters ("D", "A, C").

    Raises:
        KeyError: an answer letter that is not among the options.
    """
    right = {options[letter] for letter in re.findall(r"[A-Z]", answer.upper())}
    order = sorted(options)
    random.Random(f"sportu:{key}").shuffle(order)
    texts = tuple(options[letter] for letter in order)
    return texts, "".join(letter for letter, text in zip(option_letters(len(texts)), texts, strict=True) if text in right)


def _clips(annotations: list[str]) -> dict[str, _Clip]:
    clips: dict[str, _Clip] = {}
    for path in annotations:
        try:
            entries = json_text.loads(files.read_bytes(path))
        except ValueError as error:
            msg = f"{path} is not valid JSON: {error}; fix or download it again"
            raise DataError(msg) from None

        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            where = f"{path}, entry {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                msg = f"{where}: needs the text id, got {shorten(entry)}; correct or remove this entry"
                raise DataError(msg)

            match = _CLIP.match(entry["id"])
            clip = clips.setdefault(match[1] if match else entry["id"], _Clip())
            named = str(entry["video"]) if entry.get("video") else clip.video
            clip.video = clip.video or named
            if named != clip.video:
                detail = f"{shorten(named)}, and an entry of the same clip before it names {shorten(clip.video)}"
                clip.rows.add(RefusedRow(where, "another video of one clip", detail))
                continue
            clip.rows.add(_question(entry, where) or RefusedRow(where, "no question", shorten(entry)))
    return clips


def _question(entry: dict[str, object], where: str) -> Question | RefusedRow | None:
    level = entry.get("difficulty level") or entry.get("difficulty_level")
    found = check(parse(entry | {"question_type": level}, where))
    if not isinstance(found, Question) or not found.options:  # the open-ended questions have none
        return found
    letters = chosen_letters(found.answer, found.options)
    if letters is None:
        return RefusedRow(where, OUTSIDE, f"the answer {shorten(found.answer)} is none of {shorten(found.options)}")
    lettered = dict(zip(option_letters(len(found.options)), found.options, strict=True))
    texts, answer = shuffled(f"{entry['id']}:{entry['question']}", lettered, ", ".join(sorted(letters)))
    return replace(found, answer=answer, options=texts)


def _record(name: str, clip: _Clip, split: str, folder: str, videos: dict[str, list[str]], keep: Keep) -> Iterator[Record]:
    uri = name
    try:
        named = [files.resolve(folder, clip.video)] if clip.video else videos.get(name) or [files.join(folder, name + ".mp4")]
        uri = f"{named[0]}#t=middle"
        if not keep(uri):
            return
        if len(named) > 1:
            msg = f"{named[0]} and {named[1]} have the same name; say which one is meant in the key video"
            raise DataError(msg)
        with files.local_copy(uri.removesuffix("#t=middle")) as local:
            data = video.png(video.middle_frame(local))
        yield Record(uri, "sportu", split, data, **clip.rows.fields())
    except DataError as error:
        if uri != name or keep(uri):
            yield Record(uri, "sportu", split, None, error=str(error), **clip.rows.fields())
