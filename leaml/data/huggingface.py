"""Hugging Face data sets: a hub id, a folder written by `save_to_disk`, or a folder that `load_dataset` understands.

Columns `image`, `question`, `answer` and optionally `question_type`, `options`, `source`, `img_id` or `image_id`; rows with
the same image id (else path, else bytes) are one image. Kvasir-VQA is recognised by its columns, see `kvasir`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow as pa

from leaml.config import SourceConfig
from leaml.data import files, kvasir
from leaml.data.records import Keep, Question, Record, hash_split, need_path, parse_question
from leaml.data.registry import reader
from leaml.errors import DataError
from leaml.tables import image_id

_IDS = ("img_id", "image_id")
_TEXT = ("question", "answer", "question_type", "options")
_BATCH = 32  # rows with images held at a time
_MADE_SPLITS = ("train", "test")


@reader("huggingface")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of the rows. Raises DataError naming the data set and what it lacks."""
    path = need_path("huggingface", source.path)
    with _local(path) as where:
        data, split = _open(path, where, source.split)
        if "image" not in data.column_names:
            msg = f"{path}: no column 'image'; it has {data.column_names}"
            raise DataError(msg)
        try:
            data = data.cast_column("image", datasets.Image(decode=False))
        except (TypeError, ValueError, pa.ArrowException) as error:
            msg = f"{path}: column 'image' is {data.features['image']}, not images: {error}; cast it to datasets.Image"
            raise DataError(msg) from None
        is_kvasir = set(data.column_names) >= kvasir.COLUMNS
        for key, (first, questions) in _grouped(path, data, is_kvasir).items():
            made = hash_split(key) if is_kvasir else split
            if is_kvasir and source.split in _MADE_SPLITS and split is None and made != source.split:
                continue
            uri = f"{path}#{key}"
            if keep(uri):
                yield _record(data[first], uri, made, tuple(questions))


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    if not files.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:  # datasets maps its files into memory, so they must be local
        files.download_tree(path, folder)
        yield folder


def _open(path: str, where: str, split: str | None) -> tuple[datasets.Dataset, str | None]:
    """The wanted split and its name; no name if it has to be made from the only one (Kvasir-VQA)."""
    saved = files.exists(where) and any(
        files.exists(files.join(where, name)) for name in ("dataset_dict.json", "dataset_info.json", "state.json")
    )
    try:
        found = datasets.load_from_disk(where) if saved else datasets.load_dataset(where)
    except Exception as error:  # hub, network, builder and Arrow errors have no common base
        text = " ".join(str(error).split())[:300]
        msg = f"cannot load the data set {path!r}: {text}; give a hub id (and be online) or a folder of save_to_disk"
        raise DataError(msg) from None
    splits = found if isinstance(found, dict) else {str(found.split or "all"): found}
    names = list(splits)
    if split in splits:
        return splits[split], split
    if len(names) == 1:
        only = splits[names[0]]
        if split is None:
            return only, names[0]
        if split in _MADE_SPLITS and set(only.column_names) >= kvasir.COLUMNS:
            return only, None
    msg = f"{path}: split is {split!r}; it has {', '.join(names)}: set split to one of them"
    raise DataError(msg)


def _grouped(path: str, data: datasets.Dataset, is_kvasir: bool) -> dict[str, tuple[int, list[Question]]]:
    """Image key -> first row and questions. Reads images only where nothing else tells them apart."""
    identity = next((name for name in _IDS if name in data.column_names), "image")
    columns = [identity, *(name for name in _TEXT if name in data.column_names)]
    groups: dict[str, tuple[int, list[Question]]] = {}
    batches = data.select_columns(columns).iter(_BATCH if identity == "image" else 1000)
    rows = (dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True))
    for number, row in enumerate(rows):
        questions = groups.setdefault(_key(row[identity], number), (number, []))[1]
        where = f"{path}, row {number}"
        question = kvasir.parse(row["question"], row["answer"]) if is_kvasir else parse_question(row, where)
        if question is not None:
            questions.append(question)
    return groups


def _key(identity: Any, number: int) -> str:
    if isinstance(identity, dict):
        identity = image_id(identity["bytes"]) if identity.get("bytes") else identity.get("path")
    return f"row-{number}" if identity is None else str(identity)


def _record(row: dict[str, Any], uri: str, split: str | None, questions: tuple[Question, ...]) -> Record:
    name = row.get("source") or "huggingface"
    image = row["image"] or {}
    data = image.get("bytes")
    if data is None and image.get("path"):
        try:
            data = files.read_bytes(image["path"])
        except DataError as error:
            return Record(uri, name, split, None, questions, str(error))
    return Record(uri, name, split, data, questions, None if data is not None else "the row has no image")
