"""The pseudo pairs of a run, for people who want to look at them."""

from __future__ import annotations

import pyarrow as pa

from leaml.data import tables
from leaml.data.step_rows import StepRows
from leaml.errors import InputError
from leaml.io import files
from leaml.run.records import LEAML, read_run


def read_pairs(run: str, row: str = LEAML) -> pa.Table:
    """Every pair of a run, accepted or rejected.

    Args:
        run: Run folder, local or s3://.
        row: The row of the table whose pairs they are.

    Returns:
        One row a pair: `image_id`, `question`, `answer`, `mean_logprob` (natural, per token), `votes` (share of the re-answers
        that agree), `roundtrip` (the most common of these), `accepted`, `reason`.

    Raises:
        DataError: There is no run.
        InputError: Its filter step has not been run for this row.
    """
    made = read_run(run).finished("filter", row)
    if made is None:
        msg = f"{run} has no pairs of the row {row!r} yet; run `leaml filter` on its config first"
        raise InputError(msg)
    rows = StepRows(files.join(run, made.folder)).columns(["image_id", "pairs"]).to_pylist()
    flat = [{"image_id": row["image_id"], **pair} for row in rows for pair in row["pairs"]]
    return pa.Table.from_pylist(flat, schema=pa.schema([pa.field("image_id", pa.string()), *tables.PAIR]))
