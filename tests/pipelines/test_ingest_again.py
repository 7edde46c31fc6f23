"""Ingest of a run: when sources are read anew, and what it says about the label rows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer

from leaml.config import Config, parse, resolve_model
from leaml.data import tables
from leaml.errors import DataError
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
        return sorted(rows["answer"].to_pylist()), {s.label: s.state for s in run.steps()}


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


def test_label_rows_are_counted_in_log_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write(tmp_path / "train", dict.fromkeys("abcd", "none"))
    with Path(train).open("a") as stream:
        stream.write('\n{"image": "a.png", "question": "what [else]?", "answer": null}')
    evaluation = {"format": "jsonl", "path": write(tmp_path / "testing", {"e": "none"})}
    data = {"labeled": {"format": "jsonl", "path": train}, "evaluation": evaluation, "max_quarantined": 0.2}
    with Run(parse({"storage": str(tmp_path / "runs"), "data": data})) as run:
        summary = run.summary(ingest(run).labeled)["labels"]
    assert (summary["rows"], summary["used"], summary["refused"]) == (5, 4, {"no answer": 1})
    shown = capsys.readouterr().out
    assert "ingest labeled: 5 label rows, 4 used, 1 refused" in shown
    assert f"refused: 1 no answer: {train}:5" in shown


@pytest.mark.parametrize("side", ["train", "testing"])
def test_special_tokens_of_the_model_are_refused_with_their_line_before_anything_starts(tmp_path: Path, side: str) -> None:
    paths = {name: write(tmp_path / name, {f"{name[0]}{n}": "none" for n in range(2)}) for name in ("train", "testing")}
    model = tmp_path / "model"
    shutil.copytree(resolve_model("leaml-tiny"), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<region_1>"]})  # no text of other models has it
    tokenizer.save_pretrained(model)
    with Path(paths[side]).open("a") as stream:
        row = {"image": f"{side[0]}0.png", "question": "why?", "answer": "A", "options": ["x <region_1>", "y"]}
        stream.write("\n" + json.dumps(row))
    data = {name: {"format": "jsonl", "path": paths[s]} for name, s in (("labeled", "train"), ("evaluation", "testing"))}
    message = r"1 label rows hold a special token of the model '.*', for example '<region_1>': .*rows\.jsonl:3; remove it"
    config = parse({"storage": str(tmp_path / "runs"), "data": data, "model": {"name": str(model)}})
    with Run(config) as run, pytest.raises(DataError, match=message):
        ingest(run)
