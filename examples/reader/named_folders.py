"""A reader: a folder of images for each answer, `cat/1.jpg`."""

from collections.abc import Iterator
from pathlib import Path

from leaml.config import SourceConfig
from leaml.data.records import Keep, Question, Record, need_path


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image: the folder of `cat/1.jpg` is the answer to the one question that there is."""
    for file in sorted(Path(need_path("named_folders", source.path)).glob("*/*.jpg")):
        if keep(str(file)):
            yield Record(str(file), "named_folders", None, None, (Question("what is it?", file.parent.name),))
