"""Pairs that the base answers right are rejected and stay in the table; the worker reads them where they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import MAX_PIXELS, RESOURCES, ScriptedSpec, calls, images_table

from leaml import tables
from leaml.data import store
from pipelines.generate import read_accepted
from pipelines.hardness import REASON, HardnessWork
from pipelines.run import Step
from pipelines.unit import make_units
from pipelines.units import read_output, run_units


def pair(question: str, answer: str, reason: str = "") -> dict[str, Any]:
    return {"question": question, "answer": answer, "mean_logprob": -0.5, "accepted": not reason, "reason": reason}


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_local")
def test_easy_pairs_are_rejected_image_by_image_also_with_other_units(tmp_path: Path) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(scripted)  # the tests' folder is on no path of the workers
    refs = images_table(tmp_path / "images", 40)
    rows = [
        {
            "image_id": ref.image_id,
            "caption": None,
            # the scripted base answers with the colour of the image, which is its number
            "pairs": [pair("known?", f"image {n},0 sample 0"), pair("new?", f"{n}")]
            + [pair("bad?", "x", "few votes")] * (n % 2),
        }
        for n, ref in enumerate(refs)
        if n != 7  # an image without pairs, for example quarantined
    ]
    for start in (0, 20):
        part = tables.table(rows[start : start + 20], tables.PSEUDO_QA)
        tables.write(f"{tmp_path}/generate/rows/unit-{start:02d}.parquet", part)
    log = tmp_path / "log"
    log.mkdir()
    generated = store.index(f"{tmp_path}/generate/rows")
    asked = refs.only(generated.ids)
    places = generated.places_of(asked.ids)
    output = str(tmp_path / "hardness")
    for units in (make_units("hardness", asked, {}, 7, places)[:2], make_units("hardness", asked, {}, 10, places)):
        summary = run_units("hardness", units, ScriptedSpec("x", log=str(log)), HardnessWork(8), output, RESOURCES, MAX_PIXELS)
    assert (summary["images"], summary["pairs"], summary["accepted"]) == (39, 78 + 19, 39)
    assert (summary[f"rejected: {REASON}"], summary["rejected: few votes"]) == (39, 19)
    found = {r["image_id"]: r["pairs"] for r in read_output(output, tables.PSEUDO_QA).to_pylist()}
    assert {i: [p["answer"] for p in pairs] for i, pairs in found.items()} == {
        r["image_id"]: [p["answer"] for p in r["pairs"]] for r in rows
    }
    assert all([p["reason"] for p in pairs][:2] == [REASON, ""] for pairs in found.values())
    trained = read_accepted(Step("hardness", "hardness", "0", output))
    assert sorted(trained) == sorted((r["image_id"], "new?", r["pairs"][1]["answer"]) for r in rows)
    assert set(calls(log).values()) == {2}  # each image once, with its two accepted questions
