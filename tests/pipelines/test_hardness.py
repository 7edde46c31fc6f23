"""The base answers the questions of all candidates once, whatever becomes of them; the worker reads them where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import MAX_PIXELS, RESOURCES, ScriptedSpec, calls, images_table

from leaml.config import FilterConfig
from leaml.data import step_rows, tables
from leaml.data.step_rows import StepRows
from pipelines.filter import decided
from pipelines.hardness import HardnessWork, with_candidates
from pipelines.shard import make_shards
from pipelines.shards import run_shards


def reply(question: str, answer: str) -> dict[str, Any]:
    return {"text": f"Question: {question} Answer: {answer}", "mean_logprob": -0.5, "cut": False}


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_local")
def test_answers_of_the_base_stand_beside_the_candidates_also_with_other_shards(tmp_path: Path) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(scripted)  # the tests' folder is on no path of the workers
    refs = images_table(tmp_path / "images", 40)
    rows = [
        {
            "image_id": ref.image_id,
            "caption": None,
            # the scripted base answers with the colour of the image, which is its number
            "replies": [reply("known?", f"image {n},0 sample 0"), reply("new?", f"{n}"), reply("new?", "x")],
            "answers": [],
            "base": None,
        }
        for n, ref in enumerate(refs)
        if n != 7  # an image without pairs, for example quarantined
    ]
    step_rows.write(f"{tmp_path}/generate", rows, tables.CANDIDATES)
    log = tmp_path / "log"
    log.mkdir()
    asked, rows_asked = with_candidates(f"{tmp_path}/generate", refs)
    assert len(asked) == 39
    output = str(tmp_path / "hardness")
    for shards in (make_shards("hardness", asked, rows_asked, 7)[:2], make_shards("hardness", asked, rows_asked, 10)):
        summary = run_shards(
            "hardness", shards, ScriptedSpec("x", log=str(log)), HardnessWork(8), output, RESOURCES, MAX_PIXELS
        )
    assert (summary["images"], summary["questions"]) == (39, 2 * 39)
    assert set(calls(log).values()) == {2}  # each image once, with its two distinct questions

    found = {row["image_id"]: row for row in StepRows(output).columns(None).to_pylist()}
    assert {i: row["replies"] for i, row in found.items()} == {row["image_id"]: row["replies"] for row in rows}
    config = FilterConfig(hardness=True, round_trip=False, min_votes=None, duplicates=False)
    reasons = [[pair["reason"] for pair in decided(row, config)["pairs"]] for row in found.values()]
    assert reasons == [["base answers it", "", ""]] * 39
