"""A folder as README and docs describe a reader's: images, labels, captions, questions, configurations, a finished run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import av
import datasets
import numpy as np
import yaml
from doc_pages import OWN_DATA, RECIPES, ROOT, one
from finished_runs import write_run
from PIL import Image
from typer.testing import CliRunner

from leaml import config as tree
from pipelines import cli

ANSWERS = ("yes", "no")
KVASIR = "SimulaMet-HOST/Kvasir-VQA"
SERVED_KEY = "sk-docs-0123456789abcdef"

CAPTIONS = "data/test_captions.py"
SHARDS = f"{CAPTIONS}::test_a_caption_in_a_shard_is_that_of_its_name_and_of_one_image"
READ_ELSEWHERE = {
    "`jsonl`, `csv`, `conversations`": "data/test_formats_alike.py::test_a_row_is_the_same_in_every_format",
    "`parquet`, one file": "data/test_readers.py::test_single_parquet_groups_rows_of_one_image",
    "`parquet`, `images*` and `labeled*`, or an ingest step's folder": "data/test_readers.py::test_parquet_contract_tables",
    "`huggingface`": "data/test_huggingface.py::test_generic_columns_group_equal_images",
    "`webdataset`": "data/test_webdataset.py::test_webdataset",
    "`sportu`": "data/test_video_readers.py::test_sportu_joins_questions_of_a_clip_and_takes_its_middle_frame",
    "Parquet, a folder of Parquet files": f"{CAPTIONS}::test_captions_are_those_of_the_images_of_their_source",
    "a shard or a folder of shards of WebDataset": SHARDS,
    "a folder of `datasets.save_to_disk`": f"{CAPTIONS}::test_captions_are_those_of_the_images_of_their_source",
}
"""What the tables of docs/data.md name and test_docs.py does not read, and the test that does."""


def own_models(text: str) -> str:
    """A configuration with shipped models in place of the hub's, and a folder in place of the hub's data set."""
    return re.sub(r"(name: )[A-Za-z0-9]+/[\w.-]+", r"\1leaml-tiny", text).replace(KVASIR, "data/kvasir")


def base_config() -> str:
    """The configuration of the reader's own data."""
    return one(OWN_DATA, "config").text


def paint(file: Path, seed: int) -> str:
    """An image that is like that of no other seed; returns the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(file)
    return file.name


def make_data(folder: Path) -> None:
    """The files that the quickstart's configuration and the recipes name, with the quickstart's row first."""
    first = one(OWN_DATA, "rows").text.strip()
    data = folder / "data"
    names = [str(json.loads(first)["image"]), *(f"frame_{n:04d}.jpg" for n in range(2, 9))]
    rows = {"train": [first], "test": []}
    for number, name in enumerate(names):
        role = "train" if number < 5 else "test"
        paint(data / name, 10 * number)
        if number:
            row = {"image": name, "question": "is there a polyp?", "answer": ANSWERS[number % 2]}
            rows[role].append(json.dumps(row))
    for role, lines in rows.items():
        (data / f"{role}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    frames = [paint(data / "frames" / f"more_{n}.jpg", 100 + 10 * n) for n in range(3)]
    captions = [{"image": name, "caption": "A red polyp on a fold."} for name in frames[:2]]
    (data / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    paint(folder / "frame.png", 200)


def make_questions(folder: Path) -> None:
    """The questions of docs/serving.md and their images."""
    table = one("serving.md", "rows").text.split("\n\n")[0]
    for name in ("q.csv", "questions.csv"):
        (folder / name).write_text(table.strip() + "\n")
    for number, name in enumerate(("a.png", "sub/b.png")):
        paint(folder / "frames" / name, 210 + 10 * number)


def make_kvasir(folder: Path) -> None:
    """A folder of `save_to_disk` with Kvasir-VQA's columns."""
    kinds = [("Is there text?", "yes"), ("How many instrumnets are in the image?", "0")]
    images = [folder / "painted" / paint(folder / "painted" / f"{n}.png", 300 + n) for n in range(40)]
    rows = [(image, question, answer) for image in images for question, answer in kinds]
    columns = {
        "image": [{"bytes": image.read_bytes(), "path": None} for image, _, _ in rows],
        "source": ["Polyps"] * len(rows),
        "question": [question for _, question, _ in rows],
        "answer": [answer for _, _, answer in rows],
        "img_id": [image.stem for image, _, _ in rows],
    }
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    datasets.disable_progress_bars()
    datasets.DatasetDict({"raw": made}).save_to_disk(str(folder / "data" / "kvasir"))


def make_sportu(folder: Path) -> None:
    """Clips of three frames, and frames of a match, where the recipe looks for them."""
    clips = [folder / "data" / "sportu" / "videos" / f"soccer_{n}.mp4" for n in range(12)]
    for number, file in enumerate([*clips, folder / "data" / "matches" / "match.mp4"]):
        file.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for _ in range(3):
                level = np.full((32, 32, 3), 16 * number, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
            container.mux(stream.encode())
    options = {"A": "foul", "B": "offside", "C": "handball", "D": "none of the above"}
    asked = {"question": "What kind of violation?", "options": options, "answer": "D", "difficulty level": "hard"}
    (folder / "data" / "sportu" / "questions").mkdir()
    rows = [{"id": f"{clip.stem}_1"} | asked for clip in clips]
    (folder / "data" / "sportu" / "questions" / "mcq.json").write_text(json.dumps(rows))


def make_folder(folder: Path) -> None:
    """Everything, with `runs/mine` ingested by the command and finished as `finished_runs` says it. The current folder must be
    this one."""
    make_data(folder)
    make_questions(folder)
    make_kvasir(folder)
    make_sportu(folder)
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    for recipe in RECIPES:
        (folder / recipe.name).write_text(own_models(recipe.read_text()))
    shutil.copy(folder / "folder.yaml", folder / "my.yaml")
    (folder / "mine.yaml").write_text(own_models(base_config()))
    for name in ("keys", "my-keys.txt"):
        (folder / name).write_text(f"{SERVED_KEY}\n")
    (folder / "runs" / "demo" / "tune").mkdir(parents=True)
    shutil.copy(RECIPES[0].with_name("demo.yaml"), folder / "runs" / "demo" / "tune" / "best.yaml")

    done = CliRunner().invoke(cli.app, ["ingest", "mine.yaml"])
    assert done.exit_code == 0, (done.output, done.exception)
    run = folder / "runs" / "mine"
    ingested = json.loads((run / "status.json").read_text())["steps"]
    write_run(run, weights=True)
    state = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(state | {"steps": ingested + state["steps"]}))


def with_defaults(text: str) -> tree.Config:
    """A part of a configuration as that of the quickstart's run. Raises ConfigError."""
    read = yaml.safe_load(own_models(text))
    assert isinstance(read, dict), text
    whole = yaml.safe_load(own_models(base_config()))
    return tree.parse((whole if "data" not in read else {}) | read)
