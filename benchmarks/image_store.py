"""Images at random: LEAML's tables beside the Parquet row groups they replace, and blobs with an index of offsets.

    python -m benchmarks.image_store [--images 1600] [--bytes 200000] [--ids 1000000] [--rounds 5] [--json FILE]

On a disk (without the system's cache of its files) and in S3 (SeaweedFS on this machine): milliseconds a row for 64 random rows
at once and for one, seconds from nothing to all ids of a million images, and bytes read for a byte of image. Every round
asks all arms for the same rows, one arm after another; medians are reported. Bytes are counted in a pass of their own: on the
disk by the kernel, in S3 by a proxy. Tables of ids have as many files as a million images of that size make, with 16 bytes for
each image; the Parquet arm has a tenth of them, and its seconds are times ten.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.counting_proxy import CountingProxy
from benchmarks.hardware import hardware
from leaml.data import image_table, store, tables
from leaml.data.image_table import ImageTable
from leaml.data.store import ImageRef
from leaml.io import files, s3

TAKEN = 64
SMALL = 16
"""Bytes in place of an image in tables of which only the ids are read."""


def pixels(number: int, size: int) -> bytes:
    """About `size` bytes that do not compress, as those of an encoded image."""
    if size == SMALL:
        return bytes(SMALL)
    return np.random.default_rng(number).bytes(size + number * 7919 % (size // 5) - size // 10)


def rows(count: int, size: int) -> Iterator[dict[str, object]]:
    """Rows of an images table."""
    for number in range(count):
        data = pixels(number, size)
        shape = {"width": 1280, "height": 720, "source": "folder", "split": "train"}
        yield {"image_id": f"{number:032x}", "uri": f"s3://bucket/frames/{number:08d}.jpg", "bytes": data} | shape


Read = Callable[[Sequence[int]], list[bytes]]
"""Images by their numbers."""


# --- arms: how a table is written, and how it is opened ---------------------------------------------------------------------


def write_lance(folder: str, count: int, size: int, part_rows: int) -> None:
    """LEAML's table, in fragments of at most `part_rows`."""
    with mock.patch.object(image_table, "PART_IMAGES", part_rows):
        image_table.write(folder, rows(count, size))


def open_lance(folder: str) -> Read:
    """All ids, and the table."""
    index = store.index(folder)
    table = ImageTable(folder)
    return lambda numbers: [image["bytes"] for image in table.read([index[n].row for n in numbers])]


def write_parquet(folder: str, count: int, size: int, part_rows: int) -> None:
    """As ingest wrote until now: groups of 64 rows in files of 64 MiB."""
    found = rows(count, size)
    for part, start in enumerate(range(0, count, part_rows)):
        chunk = [next(found) for _ in range(start, min(count, start + part_rows))]
        buffer = io.BytesIO()
        compression = {name: "NONE" if name == "bytes" else "SNAPPY" for name in tables.IMAGES.names}
        pq.write_table(tables.table(chunk, tables.IMAGES), buffer, row_group_size=64, compression=compression)
        files.write_bytes(f"{folder}/part-{part:05d}.parquet", buffer.getvalue())


def open_parquet(folder: str) -> Read:
    """All ids, one file after another, as they were read until now."""
    index = [
        ImageRef(image_id, file, row)
        for file in files.listing(folder)
        for row, image_id in enumerate(tables.read(file, columns=["image_id"])["image_id"].to_pylist())
    ]

    def read(numbers: Sequence[int]) -> list[bytes]:
        by_file: dict[str, list[int]] = {}
        for number in numbers:
            by_file.setdefault(index[number].file, []).append(index[number].row)
        found = {(file, row): data for file, places in by_file.items() for row, data in parquet_rows(file, places).items()}
        return [found[index[n].file, index[n].row] for n in numbers]

    return read


def parquet_rows(file: str, wanted: Sequence[int]) -> dict[int, bytes]:
    """Images of a file by row, reading only the row groups that hold them."""
    found: dict[int, bytes] = {}
    first = 0
    with files.open_native(file) as source:
        parquet = pq.ParquetFile(source)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            inside = [row for row in wanted if first <= row < first + size]
            if inside:
                table = parquet.read_row_group(group, columns=["image_id", "uri", "bytes"])
                found |= dict(zip(inside, table["bytes"].take([row - first for row in inside]).to_pylist(), strict=True))
            first += size
    return found


def write_blobs(folder: str, count: int, size: int, part_rows: int) -> None:
    """What Lance has to be better than: images behind one another in files, and one table of where each of them is."""
    found, index = rows(count, size), []
    for part, start in enumerate(range(0, count, part_rows)):
        chunk = [next(found) for _ in range(start, min(count, start + part_rows))]
        data, at = [bytes(row.pop("bytes")) for row in chunk], 0  # type: ignore[call-overload]
        files.write_bytes(f"{folder}/part-{part:05d}.bin", b"".join(data))
        for row, image in zip(chunk, data, strict=True):
            index.append(row | {"file": f"{folder}/part-{part:05d}.bin", "offset": at, "length": len(image)})
            at += len(image)
    tables.write(f"{folder}/index.parquet", pa.Table.from_pylist(index))


def open_blobs(folder: str) -> Read:
    """All ids, and ranges of the files, several at once."""
    index = tables.read(f"{folder}/index.parquet", columns=["image_id", "file", "offset", "length"])
    pool = ThreadPoolExecutor(s3.PARALLEL)

    def one(number: int) -> bytes:
        row = index.slice(number, 1).to_pylist()[0]
        return files.read_bytes(row["file"], offset=row["offset"], length=row["length"])

    return lambda numbers: list(pool.map(one, numbers))


@dataclass(frozen=True)
class Arm:
    """A layout: how it is written and opened, and the bytes of images in a file of it."""

    write: Callable[[str, int, int, int], None]
    open: Callable[[str], Read]
    part_bytes: int
    share_of_ids: float = 1.0

    def part_rows(self, size: int) -> int:
        """Images of this size in a file."""
        return max(1, self.part_bytes // size)


ARMS = {
    "lance": Arm(write_lance, open_lance, image_table.PART_BYTES),
    "blobs": Arm(write_blobs, open_blobs, image_table.PART_BYTES),
    "parquet": Arm(write_parquet, open_parquet, 64 << 20, share_of_ids=0.1),
}


# --- places -----------------------------------------------------------------------------------------------------------------


def read_by_process() -> int:
    """Bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def forget(folder: str) -> None:
    """Take the files of a folder out of the system's cache."""
    os.sync()
    for file in files.listing(folder):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


@dataclass(frozen=True)
class Place:
    """A disk or a server: where tables lie, what is done before each reading, and how bytes are counted."""

    folder: str
    before: Callable[[str], None]
    counted: Callable[[], contextlib.AbstractContextManager[Callable[[], int]]]


@contextlib.contextmanager
def kernel() -> Iterator[Callable[[], int]]:
    yield read_by_process


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Place]:
    """A bucket in an S3 server of its own."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from s3_server import KEY, SECRET, seaweed

    @contextlib.contextmanager
    def proxied() -> Iterator[Callable[[], int]]:
        with CountingProxy(endpoint) as proxy, mock.patch.dict(os.environ, AWS_ENDPOINT_URL=proxy.endpoint):
            yield lambda: proxy.received

    with seaweed(folder) as endpoint:
        given = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        with mock.patch.dict(os.environ, given | {"AWS_REGION": "us-east-1"}):
            client = s3._current_client()
            for _ in range(60):  # it listens before it is ready
                with contextlib.suppress(*s3.ERRORS):
                    client.create_bucket(Bucket="images")
                    break
                time.sleep(0.5)
            yield Place("s3://images", lambda _: None, proxied)


# --- measurements -----------------------------------------------------------------------------------------------------------


def measure(place: Place, count: int, size: int, ids: int, rounds: int) -> dict[str, dict[str, float]]:
    """Every arm's figures in one place."""
    found: dict[str, dict[str, float]] = {}
    for name, arm in ARMS.items():
        began = time.perf_counter()
        arm.write(f"{place.folder}/{name}", count, size, arm.part_rows(size))
        found[name] = {"write_s": round(time.perf_counter() - began, 2)}
        arm.write(f"{place.folder}/{name}-ids", int(ids * arm.share_of_ids), SMALL, arm.part_rows(size))
    draw, times = random.Random(0), {name: ([], [], []) for name in ARMS}  # type: ignore[var-annotated]
    for _ in range(rounds):
        many, one = draw.sample(range(count), min(TAKEN, count)), [draw.randrange(count)]
        for name, arm in ARMS.items():
            place.before(f"{place.folder}/{name}")
            read = arm.open(f"{place.folder}/{name}")
            for numbers, into in zip((many, one), times[name][:2], strict=True):
                began = time.perf_counter()
                data = read(numbers)
                into.append(1e3 * (time.perf_counter() - began) / len(numbers))
                assert data == [pixels(n, size) for n in numbers], name
            place.before(f"{place.folder}/{name}-ids")
            began = time.perf_counter()
            arm.open(f"{place.folder}/{name}-ids")
            times[name][2].append((time.perf_counter() - began) * 1e6 / (ids * arm.share_of_ids))
    for name, arm in ARMS.items():
        keys = (f"ms_per_row_{TAKEN}", "ms_one_row", "open_s_per_million")
        found[name] |= {key: round(statistics.median(t), 3) for key, t in zip(keys, times[name], strict=True)}
        found[name] |= {f"{key}_most": round(max(t), 3) for key, t in zip(keys, times[name], strict=True)}
        found[name]["bytes_read_per_byte"] = amplification(place, arm, f"{place.folder}/{name}", many)
    return found


def amplification(place: Place, arm: Arm, folder: str, numbers: Sequence[int]) -> float:
    """Bytes read for a byte of image, once the table is open."""
    with place.counted() as counter:
        read = arm.open(folder)
        read(numbers[:1])
        before = counter()
        wanted = sum(map(len, read(numbers)))
        return round((counter() - before) / wanted, 3)


def markdown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table of docs/benchmarks.md."""
    keys = [f"ms_per_row_{TAKEN}", "ms_one_row", "open_s_per_million", "bytes_read_per_byte", "write_s"]
    lines = [f"| where | layout | {' | '.join(keys)} |", "|---|---|" + "---|" * len(keys)]
    for place, arms in found.items():
        lines += [f"| {place} | {arm} | {' | '.join(f'{numbers[key]:.2f}' for key in keys)} |" for arm, numbers in arms.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--bytes", type=int, default=200_000)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = (given.images, given.bytes, given.ids, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "server").mkdir()
        places = {"disk": measure(Place(f"{folder}/disk", forget, kernel), *sizes)}
        print(markdown(places), flush=True)
        with server(Path(folder) / "server") as bucket:
            places["s3"] = measure(bucket, *sizes)
    print(markdown(places))
    ours = places["s3"]["lance"]
    found: dict[str, Any] = {key: ours[key] for key in (f"ms_per_row_{TAKEN}", "open_s_per_million", "bytes_read_per_byte")}
    found |= {"places": places, "images": given.images, "bytes": given.bytes, "ids": given.ids, "rounds": given.rounds}
    found |= {"hardware": hardware("cpu"), "date": time.strftime("%Y-%m-%d")}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
