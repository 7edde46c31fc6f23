"""`leaml inspect`: the story of one image in a run: where it came from, what was asked, written, accepted and answered."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.table import Table

from leaml import prompts, replies, tables
from leaml.data import files
from leaml.errors import DataError, InputError
from pipelines.generate import sampling_seed
from pipelines.progress import console
from pipelines.run import DONE


def show(run: str, image: str) -> None:
    """Print everything the tables of a run say about one image. Raises DataError, InputError."""
    steps = _steps(run)
    image_id, origin = _find(steps, image)
    console.print(f"[bold]image {image_id}[/bold]")
    for key in ("uri", "width", "height", "source", "split"):
        if origin.get(key) is not None:
            console.print(f"  {key}: {origin[key]}")
    for step in steps:
        if step["name"] in SHOW:
            SHOW[step["name"]](step, image_id)
            for row in _rows(_published(step, "quarantine"), tables.QUARANTINE, image_id):
                console.print(f"  {step['label']}: quarantined, {row['reason']}")


def _steps(run: str) -> list[dict[str, Any]]:
    file = files.join(run, "status.json")
    if not files.exists(file):
        msg = f"{run} is not a run folder: it has no status.json; give storage/name of a run"
        raise DataError(msg)
    steps = json.loads(files.read_bytes(file))["steps"]
    return [{**s, "path": files.join(run, s["folder"])} for s in steps if s["state"] in ("done", "reused")]


def _find(steps: list[dict[str, Any]], image: str) -> tuple[str, dict[str, Any]]:
    """The image whose id begins with `image`, or whose uri is `image` or ends with /`image`."""
    found: dict[str, dict[str, Any]] = {}
    columns = ["image_id", "uri", "width", "height", "source", "split"]
    for step in steps:
        if step["name"] == "ingest":
            for file in files.listing(f"{step['path']}/images", suffixes=(".parquet",)):
                table = tables.read(file, columns=columns)
                uri = pc.fill_null(table["uri"], "")
                hit = pc.or_(
                    pc.starts_with(table["image_id"], image), pc.or_(pc.equal(uri, image), pc.ends_with(uri, f"/{image}"))
                )
                found |= {row["image_id"]: row for row in table.filter(hit).to_pylist()}
    if len(found) == 1:
        return next(iter(found.items()))
    if not found:
        msg = f"no image {image!r} in this run; give an image_id, its beginning, or a file name"
        raise InputError(msg)
    some = ", ".join(sorted(found)[:5])
    msg = f"{image!r} fits {len(found)} images ({some}{', ...' if len(found) > 5 else ''}); give a longer part"
    raise InputError(msg)


def _rows(parts: list[str], schema: pa.Schema, image_id: str) -> list[dict[str, Any]]:
    """Rows of one image in the tables `parts`."""
    rows = []
    for file in parts:
        table = tables.read(file, schema)
        rows += table.filter(pc.equal(table["image_id"], image_id)).to_pylist()
    return rows


def _published(step: dict[str, Any], folder: str = "rows") -> list[str]:
    path = files.join(step["path"], folder)
    return files.listing(path, suffixes=(".parquet",)) if files.exists(path) else []


def _labels(step: dict[str, Any], image_id: str) -> None:
    file = files.join(step["path"], "labeled.parquet")
    rows = _rows([file], tables.LABELED, image_id) if files.exists(file) else []
    for row in rows:
        console.print(f"  {step['label'].removeprefix('ingest ')}: {row['question']} -> {row['answer']}")


def _caption(step: dict[str, Any], image_id: str) -> None:
    for row in _rows(_published(step), tables.CAPTIONS, image_id):
        sure = "" if row["mean_logprob"] is None else f" (log-probability {row['mean_logprob']:.2f})"
        cut = ", cut back to whole sentences" if row["finish_reason"] == replies.LENGTH else ""
        console.print(f"  caption by {row['model']}{sure}{cut}: {row['caption']}")


def _pairs(step: dict[str, Any], image_id: str) -> None:
    config = yaml.safe_load(files.read_bytes(files.join(step["path"], "config.yaml")))
    made_from = json.loads(files.read_bytes(files.join(step["path"], DONE)))["inputs"]
    base = config["model"]
    for row in _rows(_published(step), tables.PSEUDO_QA, image_id):
        table = Table(title=f"{step['label']} ({step['folder']})", title_justify="left")
        for column in ("question", "answer", "log-prob.", "votes", "asked again", "verdict"):
            table.add_column(column)
        for pair in row["pairs"]:
            votes = "" if pair["votes"] is None else f"{pair['votes']:.2f}"
            verdict = "accepted" if pair["accepted"] else pair["reason"]
            cells = [pair["question"], pair["answer"], f"{pair['mean_logprob']:.2f}", votes, pair["roundtrip"] or "", verdict]
            table.add_row(*cells)
        console.print(table)
        console.print(f"  made by {made_from[0]} of {base['name']}, revision {base['revision'] or 'as found'}")
        console.print(
            f"  prompt: {prompts.GENERATE!r}{' after caption ' + repr(row['caption']) if row['caption'] else ''}, "
            f"temperature {config['generate']['temperature']}, seed {sampling_seed(config['generate']['seed'], image_id)}"
        )


def _answers(step: dict[str, Any], image_id: str) -> None:
    for row in _rows([files.join(step["path"], "predictions.parquet")], tables.PREDICTIONS, image_id):
        verdict = "right" if row["correct"] else f"wrong, {row['answer']}"
        console.print(f"  {step['label'].removeprefix('evaluate ')}: {row['question']} -> {row['prediction']} ({verdict})")


SHOW = {"ingest": _labels, "caption": _caption, "generate": _pairs, "hardness": _pairs, "evaluate": _answers}
