"""What a run over many images takes of its driver, of a training worker and of the storage.

    python -m benchmarks.scale --images 1000000 --json FILE

Two runs, one with `--images` images and one with a fifth of them: what one takes more than the other is what an image takes,
and constants fall out. Images are a few bytes, engines and trainings are null; everything else is what `leaml adapt` runs, on
an S3 server of its own (SeaweedFS) behind a proxy that counts requests.

`--parts faults` runs the method over a thousand images again and again, each time with one fault (see
benchmarks/scale_faults.py), and counts the rows that are lost or made twice.

Memory is the driver's anonymous memory and mapped files, without the object store, which Ray bounds and spills. Seconds of a
phase that streams through workers (caption, generate, filter, the draws) are CPU seconds of the driver; of the others, which
nobody works beside, they are wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.counting_proxy import CountingProxy
from benchmarks.generation_scale import THREADS
from benchmarks.hardware import hardware
from benchmarks.image_store import server
from benchmarks.scale_faults import faults
from benchmarks.scale_run import run


def in_own_process(storage: str, images: int, steps: int, proxy: CountingProxy) -> dict[str, Any]:
    """`run` in a new process, which asks here for the number of requests."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=run, args=(storage, images, steps, there))
    process.start()
    there.close()
    try:
        while (said := here.recv()) == "requests":
            here.send(proxy.requests)
    except EOFError:
        msg = f"the run over {images} images has failed, see above"
        raise RuntimeError(msg) from None
    process.join()
    return dict(said)


def slopes(images: int, steps: int) -> dict[str, Any]:
    """What an image more takes of everything."""
    sizes = (images // 5, images)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as place:
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        with CountingProxy(endpoint) as proxy, mock.patch.dict(os.environ, AWS_ENDPOINT_URL=proxy.endpoint):
            small, large = (in_own_process(f"{place.folder}/{size}", size, steps, proxy) for size in sizes)
    more = sizes[1] - sizes[0]

    def each(key: str, per: int, digits: int) -> dict[str, float]:
        return {
            name: round((phase[key] - small["phases"][name][key]) / more * per, digits)
            for name, phase in large["phases"].items()
        }

    highest = [max(phase["bytes"] for phase in found["phases"].values()) for found in (small, large)]
    seconds = each("seconds", 10**6, 1)
    return {
        "images": images,
        "steps": steps,
        "driver_bytes_per_image": round((highest[1] - highest[0]) / more, 1),
        "worker_bytes_per_image": round((large["worker"] - small["worker"]) / more, 1),
        "driver_seconds_per_million": seconds,
        "driver_seconds_per_million_in_all": round(sum(seconds.values()), 1),
        "s3_requests_per_million": each("requests", 10**6, 0),
        "driver_bytes_per_image_by_phase": each("bytes", 1, 1),
        "wall_seconds_per_million": each("wall", 10**6, 1),
        "driver_bytes": dict(zip(map(str, sizes), highest, strict=True)),
        "worker_bytes": {str(sizes[0]): small["worker"], str(sizes[1]): large["worker"]},
        "requests": {
            str(size): {n: p["requests"] for n, p in f["phases"].items()} for size, f in zip(sizes, (small, large), strict=True)
        },
    }


PARTS: Mapping[str, Callable[[int, int], dict[str, Any]]] = {"slopes": slopes, "faults": lambda *_: faults()}
"""What can be measured, each of the number of images and of the steps of the trainings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=100, help="of each training, which reads 64 examples a step")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for part in given.parts:
        found |= PARTS[part](given.images, given.steps)
    found |= {"hardware": hardware("cpu"), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
