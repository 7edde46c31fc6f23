"""When sources are read anew: another content of the file makes other steps, the same one none."""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import Image

from leaml import tables
from leaml.config import Config, parse
from pipelines.ingest import ingest
from pipelines.run import Run


def write(folder: Path, answers: dict[str, str]) -> str:
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(answers):
        Image.new("RGB", (40, 40), (60 * place, len(folder.name), 90)).save(folder / f"{name}.png")
    lines = [json.dumps({"image": f"{n}.png", "question": "what?", "answer": a}) for n, a in answers.items()]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return str(folder / "rows.jsonl")


def ingested(config: Config) -> tuple[list[str], dict[str, str]]:
    """The answers that the labeled source gives, and the state of each ingest."""
    with Run(config) as run:
        sources = ingest(run)
        rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED)
        return sorted(rows["answer"].to_pylist()), {s["label"]: s["state"] for s in run.steps()}


def test_a_labels_file_with_other_content_is_read_again(tmp_path: Path) -> None:
    data = {
        "labeled": {"format": "jsonl", "path": write(tmp_path / "train", {"a": "polyp", "b": "none"})},
        "evaluation": {"format": "jsonl", "path": write(tmp_path / "testing", {"c": "none"})},
    }
    config = parse({"storage": str(tmp_path / "runs"), "data": data})
    assert ingested(config) == (["none", "polyp"], {"ingest labeled": "done", "ingest evaluation": "done"})
    os.utime(tmp_path / "train" / "rows.jsonl", (0, 0))  # another time of change is no other content
    assert ingested(config)[1] == {"ingest labeled": "reused", "ingest evaluation": "reused"}
    write(tmp_path / "train", {"a": "ulcer", "b": "none"})
    assert ingested(config) == (["none", "ulcer"], {"ingest labeled": "done", "ingest evaluation": "reused"})
