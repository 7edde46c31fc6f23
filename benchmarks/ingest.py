"""Ingest of a folder of small photographs: one process beside a Ray Data job with one worker, two, ...

    python -m benchmarks.ingest [--images 3000] [--side 480] [--workers 1 2] [--rounds 3] [--json FILE]

Images a second from the listing to the committed table, with and without copies of the images; each round runs all arms in
turn, medians are reported, and the ratios to one process. Ray is started before, and each arm writes one table before that is
not measured. A worker is a task of one CPU that decodes in up to four threads, as the one process does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.hardware import hardware
from leaml.config import ResourcesConfig, SourceConfig
from leaml.data.ingest import MapParts, in_this_process, ingest
from leaml.data.part_files import PartWriter, WrittenPart
from leaml.data.parts import PartReader
from pipelines.ingest_job import write_parts
from pipelines.runtime import start_ray

PARTS = 12
"""Parts of the source for the workers: many enough that none waits long for the last one."""


def photographs(folder: Path, count: int, side: int) -> None:
    """JPEG files of noise on a ramp, about 40 kB at a side of 480 pixels."""
    folder.mkdir()
    ramp = np.linspace(0, 200, side)[:, None, None] + np.zeros((1, side, 3))
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 12, (side // 2, side // 2, 3)).repeat(2, 0).repeat(2, 1)
        pixels = np.clip(ramp[: side // 2 * 2, : side // 2 * 2] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:07d}.jpg", quality=80)


def _on_ray(parts: PartReader, write: PartWriter, workers: int, records: int) -> Iterator[WrittenPart]:
    return write_parts("ingest", replace(parts, records=records), write, workers)


def measure(folder: Path, count: int, workers: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of each arm, and how many times those of one process that is.

    Args:
        folder: Holds the images in `frames`.
        count: How many they are.
        workers: Of the arms on Ray, which runs.
        rounds: Of which the median is taken.
    """
    source = SourceConfig(format="folder", path=str(folder / "frames"))
    arms: dict[str, MapParts] = {"one process": in_this_process}
    arms |= {f"{n} worker{'s' * (n > 1)}": partial(_on_ray, workers=n, records=max(1, count // PARTS)) for n in workers}
    found: dict[str, dict[str, float]] = {}
    for copy in (True, False):
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(rounds + 1):
            for name, mapped in arms.items():
                out = folder / "out"
                began = time.perf_counter()
                result = ingest(source, f"{out}/images", None, copy=copy, mapped=mapped)
                seconds = time.perf_counter() - began
                assert result.images == count, result
                shutil.rmtree(out)
                rates[name] += [count / seconds] * (number > 0)
        for name, values in rates.items():
            ratios = [mine / alone for mine, alone in zip(values, rates["one process"], strict=True)]
            found[f"{name}, copy: {str(copy).lower()}"] = {
                "images_per_s": round(statistics.median(values), 1),
                "times_one_process": round(statistics.median(ratios), 2),
            }
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--side", type=int, default=480, help="pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder, "frames"), given.images, given.side)
        start_ray(ResourcesConfig())
        found = measure(Path(folder), given.images, given.workers, given.rounds)
    for name, figures in found.items():
        print(f"{name:<28} {figures['images_per_s']:>8} images/s  {figures['times_one_process']:>5} of one process")
    if given.json:
        arms = {"arms": found, "hardware": hardware("cpu"), "load": os.getloadavg()[0]}
        Path(given.json).write_text(json.dumps(arms, indent=1))


if __name__ == "__main__":
    main()
