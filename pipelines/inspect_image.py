"""`leaml inspect`: the story of one image in a run: where it came from, what was asked, written, accepted and answered."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.table import Table

from leaml.data import store, tables
from leaml.data.image_table import ImageTable
from leaml.data.ingest import quarantine_file
from leaml.data.step_rows import StepRows
from leaml.data.tables import QuarantineRow
from leaml.errors import InputError
from leaml.generation import prompts
from leaml.io import files, lance_tables
from leaml.plugins import function_of
from leaml.run.records import CONFIG, StepRecord, read_done, read_run
from leaml.text import replies
from pipelines.generate import sampling_seed
from pipelines.ingest import EXCLUDED
from pipelines.progress import console
from pipelines.steps import STEPS


def show(run: str, image: str) -> None:
    """Print everything the tables of a run say about one image. Raises DataError, InputError."""
    steps = _steps(run)
    image_id, origin = _find(steps, image)
    console.print(f"[bold]image {image_id or 'without content'}[/bold]")
    for key in ("uri", "copy", "width", "height", "source", "split"):
        if origin.get(key) is not None:
            console.print(f"  {key}: {origin[key]}")
    for step in steps:
        for row in _unused(step):
            if row["image_id"] == image_id or (row["image_id"] is None and row["uri"] == origin.get("uri")):
                console.print(f"  {step.label}: not used, {row['reason']}", markup=False)
        if step.name in STEPS and (shows := STEPS[step.name].inspect):  # exclude and contamination are parts of ingest
            function_of(shows)(step, image_id)
        for row in _of_image(_quarantined(step), tables.QUARANTINE, image_id).to_pylist():
            console.print(f"  {step.label}: quarantined, {row['reason']}")


@dataclass(frozen=True)
class InspectedStep(StepRecord):
    """A step of the run, with where it is."""

    path: str = ""


def _steps(run: str) -> list[InspectedStep]:
    steps = [step for step in read_run(run).steps if step.finished or step.name == "ingest"]  # a refused one has a quarantine
    return [InspectedStep(**vars(step), path=files.join(run, step.folder)) for step in steps]


def _find(steps: list[InspectedStep], image: str) -> tuple[str, dict[str, object]]:
    """The image whose id begins with `image`, or whose uri is `image` or ends with /`image`."""
    found: dict[str, dict[str, object]] = {}
    columns = ["image_id", "uri", "width", "height", "source", "split"]

    for step in steps:
        if step.name == "ingest" and lance_tables.is_table(f"{step.path}/images"):
            further = [
                row for part in store.copies(f"{step.path}/images") for row in part.filter(_hit(part, image)).to_pylist()
            ]
            copied = pa.array({row["image_id"] for row in further}, pa.string())
            table = ImageTable(f"{step.path}/images").columns(columns)
            hit = pc.or_(_hit(table, image), pc.is_in(table["image_id"], value_set=copied))
            found |= {row["image_id"]: row for row in table.filter(hit).to_pylist()}
            for row in further:
                found[row["image_id"]]["copy"] = row["uri"]
    for step in steps if not found else []:
        found |= {str(row["image_id"] or row["uri"]): {**row} for row in _unused(step) if _fits(row, image)}

    if len(found) == 1:
        name, row = next(iter(found.items()))
        return (name if row["image_id"] else ""), row
    if not found:
        msg = f"no image {image!r} in this run; give an image_id, its beginning, or a file name"
        raise InputError(msg)
    some = ", ".join(sorted(found)[:5])
    msg = f"{image!r} fits {len(found)} images ({some}{', ...' if len(found) > 5 else ''}); give a longer part"
    raise InputError(msg)


def _hit(table: pa.Table, image: str) -> pa.Array:
    """Which rows are of an image whose id begins with `image`, or whose uri is `image` or ends with /`image`."""
    uri = pc.fill_null(table["uri"], "")
    return pc.or_(pc.starts_with(table["image_id"], image), pc.or_(pc.equal(uri, image), pc.ends_with(uri, f"/{image}")))


def _unused(step: InspectedStep) -> list[QuarantineRow]:
    """What a step has found in the sources and not taken: unreadable images, and those that are in the evaluation too."""
    refused = quarantine_file(f"{step.path}/images", f"{step.path}/labeled.parquet")
    found = [file for file in (refused, f"{step.path}/{EXCLUDED}") if files.exists(file)]
    return [row for file in found for row in tables.read(file, tables.QUARANTINE).to_pylist()]


def _fits(row: QuarantineRow, image: str) -> bool:
    uri = row["uri"] or ""
    return (row["image_id"] or "").startswith(image) or uri == image or uri.endswith(f"/{image}")


def _of_image(parts: list[str], schema: pa.Schema, image_id: str) -> pa.Table:
    """The rows of one image in the tables `parts`."""
    read = (tables.read(file, schema) for file in parts)
    return pa.concat_tables([schema.empty_table(), *(part.filter(pc.equal(part["image_id"], image_id)) for part in read)])


def _quarantined(step: InspectedStep) -> list[str]:
    path = files.join(step.path, "quarantine")
    return files.listing(path, suffixes=(".parquet",)) if files.exists(path) else []


def labels(step: InspectedStep, image_id: str) -> None:
    file = files.join(step.path, "labeled.parquet")
    for row in _of_image([file] if files.exists(file) else [], tables.LABELED, image_id).to_pylist():
        console.print(f"  {step.variant}: {row['question']} -> {row['answer']}")


def caption(step: InspectedStep, image_id: str) -> None:
    for row in StepRows(step.path).of([image_id]):
        sure = "" if row["mean_logprob"] is None else f" (log-probability {row['mean_logprob']:.2f})"
        cut = ", cut back to whole sentences" if row["finish_reason"] == replies.LENGTH else ""
        console.print(f"  caption by {row['model']}{sure}{cut}: {row['caption']}")


def pairs(step: InspectedStep, image_id: str) -> None:
    config = yaml.safe_load(files.read_bytes(files.join(step.path, CONFIG)))
    generator, base = _generator(step.path), config["model"]
    for row in StepRows(step.path).of([image_id]):
        table = Table(title=f"{step.label} ({step.folder})", title_justify="left")
        for column in ("question", "answer", "log-prob.", "votes", "asked again", "verdict"):
            table.add_column(column)
        for pair in row["pairs"]:
            votes = "" if pair["votes"] is None else f"{pair['votes']:.2f}"
            verdict = "accepted" if pair["accepted"] else pair["reason"]
            cells = [pair["question"], pair["answer"], f"{pair['mean_logprob']:.2f}", votes, pair["roundtrip"] or "", verdict]
            table.add_row(*cells)
        console.print(table)
        console.print(f"  made by {generator} of {base['name']}, revision {base['revision'] or 'as found'}")
        console.print(
            f"  prompt: {prompts.GENERATE!r}{' after caption ' + repr(row['caption']) if row['caption'] else ''}, "
            f"temperature {config['generate']['temperature']}, seed {sampling_seed(config['generate']['seed'], image_id)}"
        )


def _generator(filtered: str) -> str:
    """The folder of the step that trained the generator of a filter step's pairs: the first input of generate."""
    run, name, folder = filtered.rsplit("/", 1)[0], "", filtered
    while name != "generate":
        record = read_done(folder)
        name, folder = record.name, files.join(run, record.inputs[0])
    return folder.rsplit("/", 1)[-1]


def answers(step: InspectedStep, image_id: str) -> None:
    for row in _of_image([files.join(step.path, "predictions.parquet")], tables.PREDICTIONS, image_id).to_pylist():
        verdict = "right" if row["correct"] else f"wrong, {row['answer']}"
        console.print(f"  {step.variant}: {row['question']} -> {row['prediction']} ({verdict})")
