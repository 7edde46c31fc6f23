"""A small source of each kind, with images that it holds twice, ones that cannot be used, and label rows of all sorts."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.ingest import ingest


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + seed % 3, 8), (seed, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


SEEDS = (1, 2, 1, 3, 4, 2, 5, 1, 6, 6, 7)
"""What the images of a source hold: the third is the first, and so on."""
TORN = 4
"""Of these the one that cannot be decoded."""


def content(number: int) -> bytes:
    """The image with this number."""
    return png(SEEDS[number])[: 40 if number == TORN else None]


def rows() -> list[dict[str, Any]]:
    """Label rows: two for each image, equal ones, contradictions, refused ones, and one without an image."""
    made: list[dict[str, Any]] = []
    for number, seed in enumerate(SEEDS):
        made.append({"image": f"{number:02d}.png", "question": "which seed?", "answer": f"no. {seed}"})
        made.append({"image": f"{number:02d}.png", "question": "what number?", "answer": f"no. {number // 6}"})
    made.append({"image": "05.png", "question": "left or right?", "answer": "A", "options": ["left", "right"]})
    made.append({"image": "07.png", "question": "what?", "answer": None})
    made.append({"image": "gone.png", "question": "what?", "answer": "nothing"})
    return made


def frames(folder: Path) -> str:
    """The images as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(SEEDS)):
        (folder / f"{number:02d}.png").write_bytes(content(number))
    return str(folder)


def _jsonl(folder: Path) -> str:
    frames(folder)
    lines = [*rows(), {"question": "whose?", "answer": "nobody's"}]
    lines += [
        {"image": base64.b64encode(png(seed)).decode(), "question": "in the line?", "answer": "yes"} for seed in (7, 30, 30)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "rows.jsonl")


def _csv(folder: Path) -> str:
    frames(folder)
    lines = [f"{row['image']},{row['question']},{row['answer'] or ''}" for row in rows() if "options" not in row]
    (folder / "rows.csv").write_text("\n".join(["image,question,answer", *lines]))
    return str(folder / "rows.csv")


def _conversations(folder: Path) -> str:
    frames(folder)
    chats = [
        {
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['question']}"},
                {"from": "gpt", "value": row["answer"] or ""},
            ],
        }
        for row in rows()
        if "options" not in row
    ]
    (folder / "chats.json").write_text(json.dumps(chats))
    return str(folder / "chats.json")


def _webdataset(folder: Path) -> str:
    """Shards of three samples, one of them without an image and one with nothing but labels."""
    folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, len(SEEDS), 3)):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(start, min(start + 3, len(SEEDS))):
                _member(archive, f"{number:02d}.png", content(number))
                asked = [
                    {k: v for k, v in row.items() if k != "image"} for row in rows() if row["image"] == f"{number:02d}.png"
                ]
                _member(archive, f"{number:02d}.json", json.dumps(asked).encode())
            _member(archive, f"lonely-{shard}.json", b'{"question": "where?", "answer": "nowhere"}')
    with tarfile.open(folder / "labels.tar", "w") as archive:
        _member(archive, "a.json", b'{"question": "where?", "answer": "nowhere"}')
    return str(folder)


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _parquet(folder: Path) -> str:
    folder.mkdir(parents=True)
    held = [{"bytes": content(number), "question": "which?", "answer": f"no. {number % 2}"} for number in range(len(SEEDS))]
    pq.write_table(pa.Table.from_pylist(held), folder / "one.parquet", row_group_size=2)
    return str(folder / "one.parquet")


def _parquet_names(folder: Path) -> str:
    frames(folder)
    named = [{"uri": row["image"], "question": row["question"], "answer": row["answer"]} for row in rows()]
    pq.write_table(pa.Table.from_pylist(named), folder / "names.parquet", row_group_size=5)
    return str(folder / "names.parquet")


def _tables(folder: Path) -> str:
    source = SourceConfig(format="jsonl", path=_jsonl(folder / "source"))
    ingest(source, str(folder / "images"), str(folder / "labeled.parquet"), max_quarantined=0.9)
    return str(folder)


def _files_of_tables(folder: Path) -> str:
    """Two files of images with two row groups each, labels of some, and of an image that there is not."""
    frames(folder / "frames")
    held = [
        {"image_id": f"i{n}", "uri": f"frames/{n:02d}.png", "bytes": None if n % 4 == 3 else content(n)}
        for n in range(len(SEEDS))
    ]
    for file, start in (("images-0", 0), ("images-1", 6)):
        pq.write_table(pa.Table.from_pylist(held[start : start + 6]), folder / f"{file}.parquet", row_group_size=3)
    asked = [
        {"image_id": f"i{row['image'][:2].lstrip('0') or 0}", "question": row["question"], "answer": row["answer"] or "x"}
        for row in rows()
    ]
    pq.write_table(pa.Table.from_pylist(asked), folder / "labeled.parquet")
    return str(folder)


def _video(folder: Path) -> str:
    folder.mkdir(parents=True)
    for name, levels in {"a": (10, 20, 10), "b": (20, 30), "c": (40,)}.items():
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=1)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for level in levels:
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, dtype=np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (folder / "broken.mp4").write_bytes(b"no video")
    return str(folder)


def _sportu(folder: Path) -> str:
    _video(folder / "videos")
    asked = [
        {"id": f"{name}_1_{n}", "question": f"q{n}?", "options": {"A": "x", "B": "y"}, "answer": "B"}
        for name in "ab"
        for n in (0, 1)
    ]
    asked += [{"id": "broken_1", "question": "q?", "options": {"A": "x", "B": "y"}, "answer": "A"}]
    for entry in asked:
        entry["video"] = (
            f"{str(entry['id'])[:-4] if str(entry['id'])[0] in 'ab' and entry['id'] != 'broken_1' else 'broken'}.mp4"
        )
    (folder / "rows.json").write_text(json.dumps(asked))
    return str(folder / "rows.json")


def _huggingface(folder: Path) -> str:
    held = {
        "image": [{"bytes": content(number), "path": None} for number in range(len(SEEDS))],
        "question": ["which?"] * len(SEEDS),
        "answer": [f"no. {number % 2}" for number in range(len(SEEDS))],
    }
    datasets.Dataset.from_dict(held).cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return str(folder)


MAKERS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "folder": ("folder", frames),
    "jsonl": ("jsonl", _jsonl),
    "csv": ("csv", _csv),
    "conversations": ("conversations", _conversations),
    "webdataset": ("webdataset", _webdataset),
    "parquet": ("parquet", _parquet),
    "parquet of names": ("parquet", _parquet_names),
    "tables": ("parquet", _tables),
    "files of tables": ("parquet", _files_of_tables),
    "video": ("video", _video),
    "sportu": ("sportu", _sportu),
    "huggingface": ("huggingface", _huggingface),
}
"""By kind: the format and what makes a source of it in an empty folder."""


def make(kind: str, folder: Path) -> SourceConfig:
    """A source of a kind, and of images in files the folder of them."""
    name, maker = MAKERS[kind]
    path = maker(folder)
    images = str(folder / "videos") if kind == "sportu" else None
    return SourceConfig(format=name, path=path, images=images)
