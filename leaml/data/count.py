"""How many images and questions a source has, as far as that is cheap to find out: for plans, before anything is ingested."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

from leaml.config import HUB, SourceConfig
from leaml.data import registry
from leaml.data.tables import image_id
from leaml.errors import LeamlError
from leaml.io import files


@dataclass(frozen=True)
class Count:
    """Images and questions of a source; `about`: extrapolated from its beginning. No numbers: `why` says why."""

    images: int | None = None
    questions: int | None = None
    about: bool = False
    why: str = ""


def count(source: SourceConfig) -> Count:
    """Count a local source without loading more than the beginning of it; equal images count once, as in ingest."""
    if source.path is not None and files.is_remote(source.path):
        return Count(why="on S3")
    if source.path is not None and not Path(source.path).exists():
        return Count(why="not on this machine; a hub id?" if source.format == HUB else f"no {source.path} yet")
    try:
        cost = registry.counting(source.format)
        if cost.whole:
            return Count(why=f"counting {source.format} would read all of it")
        return _counted(source, cost.sample)
    except LeamlError as error:
        return Count(why=str(error))


def names(source: SourceConfig) -> int | None:
    """Images of a local source, equal ones counted separately, where no image has to be read to tell; else None."""
    if source.path is None or files.is_remote(source.path) or not Path(source.path).exists():
        return None
    with contextlib.suppress(LeamlError):
        return None if registry.counting(source.format).whole else registry.count(source)
    return None


def _counted(source: SourceConfig, limit: int) -> Count:
    names = registry.count(source)
    seen: set[str] = set()
    questions = 0
    for record in itertools.islice(registry.read(source), limit):
        questions += len(record.questions)
        if record.data is not None:
            seen.add(image_id(record.data))
    if names <= limit:
        return Count(len(seen), questions)
    return Count(names, round(names * questions / limit), about=True)
