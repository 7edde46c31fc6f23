"""Images of a map step that got no row: why, how many may be, and how they are done again.

A step that would stop for them asks for them again on its next run, so that whatever was wrong (files, a teacher) can be put
right without redoing the images that are finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from leaml.data import tables
from leaml.errors import StepError
from leaml.io import files, s3
from leaml.run.records import QUARANTINED, by_reason
from pipelines.gather import published
from pipelines.shard import shard_name
from pipelines.table_rows import OutputRow

FOLDER = "quarantine"
REASON = "quarantined_because"
"""Key of a row that a step's work returns for an image without a result."""
EARLY = 64
"""Quarantined images from which on the step ends as soon as they are most of the images so far."""
_RELEASED = "released"


def refused(image_id: str, reason: str) -> dict[str, str]:
    """What a step's work returns for an image without a result; the text before the first ":" is what is counted."""
    return {"image_id": image_id, REASON: reason}


def counts_of(rows: Sequence[OutputRow]) -> Counter[str]:
    """How many rows a quarantine has, and by reason."""
    counts = Counter(f"{QUARANTINED}{str(row['reason']).partition(':')[0]}" for row in rows)
    counts["quarantined"] = len(rows)
    return counts


def check(label: str, counts: Mapping[str, float], seen: int, total: int, most: float, output: str) -> None:
    """End a step of whose images too many have no result.

    Args:
        label: Of the step, for the message.
        counts: `quarantined`, and how many for each reason.
        seen: Images that are done or quarantined so far.
        total: Images of the step.
        most: Share of `total`, from 0 to 1, that may be quarantined.
        output: Folder of the step, for the message.

    Raises:
        StepError: More than that share is quarantined; or of those seen more than half, `EARLY` or
            more of them, where `most` is less than half.
    """
    bad = counts.get("quarantined", 0)
    hopeless = bad >= EARLY and 2 * bad > seen and 2 * most < 1
    if bad <= most * total and not hopeless:
        return
    reasons = ", ".join(f"{n} {reason}" for reason, n in by_reason(counts, QUARANTINED).items())
    of, share = (total, f"{most:.0%}") if bad > most * total else (seen, "half of those so far")
    msg = (
        f"{label}: {bad} of {of} images got no result, more than {share} (data.max_quarantined): {reasons}; see "
        f"{output}/{FOLDER}. Restore files that have changed since they were read in, put the model or server right whose "
        "replies are of no use, or raise the limit; finished shards are kept, and the same command tries these images again"
    )
    raise StepError(msg)


def settle(output: str, most: float) -> Counter[str]:
    """Before a step goes on: counts of the published quarantine, emptied first if it holds more than `most` images.

    Published shards give their quarantined images up and keep their rows, as shards of those images alone.
    """
    if files.exists(f"{output}/{_RELEASED}"):  # a release that was killed is finished
        for marker in files.listing(f"{output}/{_RELEASED}"):
            _release(output, marker.rsplit("/", 1)[-1])
    if not files.exists(f"{output}/{FOLDER}"):
        return Counter()
    done = published(output)
    names = [file.rsplit("/", 1)[-1].removesuffix(".parquet") for file in files.listing(f"{output}/{FOLDER}")]
    names = [name for name in names if name in done]
    found = Counter[str]()
    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        for rows in pool.map(lambda name: tables.read(f"{output}/{FOLDER}/{name}.parquet", tables.QUARANTINE), names):
            found.update(counts_of(rows.to_pylist()))
    if found["quarantined"] <= most:
        return found
    for name in names:
        files.write_bytes(f"{output}/{_RELEASED}/{name}", b"")
        _release(output, name)
    return Counter()


def _release(output: str, name: str) -> None:
    """Replace a shard by one that has its rows only; done again from the start when it was killed in between."""
    rows_file, counts_file = f"{output}/rows/{name}.parquet", f"{output}/counts/{name}.json"
    if files.exists(rows_file):
        rows = tables.read(rows_file)
        if rows.num_rows:
            kept = shard_name(int(name.split("-")[1]), rows["image_id"].to_pylist())
            counts = json.loads(files.read_bytes(counts_file))
            counts = {k: n for k, n in counts.items() if k != "quarantined" and not k.startswith(QUARANTINED)}
            files.write_bytes(f"{output}/counts/{kept}.json", json.dumps(counts).encode())
            tables.write(f"{output}/rows/{kept}.parquet", rows)
        files.delete_tree(rows_file)
    for file in (f"{output}/{FOLDER}/{name}.parquet", counts_file, f"{output}/{_RELEASED}/{name}"):
        files.delete_tree(file)
