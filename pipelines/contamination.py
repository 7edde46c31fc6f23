"""Refuses a run whose training images nearly repeat evaluation images, as neighbouring frames of one video do.

Exact copies are refused at ingest. This finds changed ones by perceptual hash, when `data.near_duplicate_bits` asks for it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from leaml import duplicates, images, tables
from leaml.data import files
from leaml.errors import DataError
from pipelines.ingest import Sources
from pipelines.progress import Bar
from pipelines.run import Run, Step

EXAMPLES = 5


def refuse_near_duplicates(run: Run, sources: Sources) -> None:
    """Hash all images on the cluster and compare. Raises DataError with examples and what to do."""
    bits = run.config.data.near_duplicate_bits
    if bits is None:
        return
    everything = [sources.evaluation, *sources.training]
    step = run.step("contamination", {"bits": bits, "max_pixels": run.config.data.max_pixels}, everything)

    def work() -> dict[str, Any]:
        tested, *others = [_hashes(s, run.config.data.max_pixels) for s in everything]
        for source, (names, hashes) in zip(sources.training, others, strict=True):
            if pairs := duplicates.near_pairs(tested[1], hashes, bits):
                raise DataError(_message(source, bits, pairs, tested[0], names))
        return {"evaluation_images": len(tested[0]), "training_images": sum(len(names) for names, _ in others)}

    run.execute(step, work)


def _message(source: Step, bits: int, pairs: list[tuple[int, int, int]], tested: list[str], names: list[str]) -> str:
    role = source.label.split()[-1]
    some = "; ".join(f"{names[b]} is like {tested[a]} ({d} bits)" for a, b, d in pairs[:EXAMPLES])
    return (
        f"{len({b for _, b, _ in pairs})} images of the {role} source are near duplicates of evaluation images, so the "
        f"evaluation would be worthless: {some}{'; ...' if len(pairs) > EXAMPLES else ''}. Remove them from one side, split "
        f"by video or patient, or lower data.near_duplicate_bits (now {bits})"
    )


def _hashes(source: Step, max_pixels: int) -> tuple[list[str], np.ndarray]:
    """Names (uri, else id) and uint64 hashes of all images of a source; one Ray Data task per file."""
    import ray

    parts = files.listing(source.path("images"), suffixes=(".parquet",))
    names: list[str] = []
    hashes: list[int] = []
    stream = ray.data.from_items([{"file": f} for f in parts], override_num_blocks=len(parts))
    with Bar(f"hashes of {source.label.split()[-1]}", len(parts), "files") as bar:
        for number, row in enumerate(stream.map(partial(_hash_file, max_pixels=max_pixels), num_cpus=1).iter_rows()):
            names += list(row["names"])
            hashes += [int(h, 16) for h in row["hashes"]]
            bar.update(number + 1)
    return names, np.array(hashes, dtype=np.uint64)


def _hash_file(row: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    """Hexadecimal hashes, since Arrow has no 64-bit numbers that survive NumPy's signed default."""
    names, hashes = [], []
    for record in tables.read(row["file"], columns=["image_id", "uri", "bytes"]).to_pylist():
        data = record["bytes"] if record["bytes"] is not None else files.read_bytes(record["uri"])
        names.append(record["uri"] or record["image_id"])
        hashes.append(f"{duplicates.perceptual_hash(images.decode(data, max_pixels)):016x}")
    return {"names": names, "hashes": hashes}
