"""`leaml predict` on a real Ray with a scripted engine: every question answered once and in order, killed or not."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
import scripted
from finished_runs import write_run
from scripted import ScriptedSpec, calls, png
from typer.testing import CliRunner

from leaml.data import step_rows, tables
from leaml.errors import InputError, StepError
from leaml.evaluation import calibration
from pipelines import cli
from pipelines import predict as module
from pipelines.predict import predict
from pipelines.run import Lock
from pipelines.runtime import quiet_data

PLAN = ["resources.images_per_shard=2", "resources.engine_shards=1"]


@pytest.fixture(scope="module")
def workers(ray_local: None) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(scripted)
    quiet_data(False)


class Job:
    """A folder of images, numbered by their first pixel, a file of questions, and the command with a scripted engine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images, self.log, self.output = folder / "images", folder / "log", folder / "out" / "answers.parquet"
        self.folder, self.monkeypatch = folder, monkeypatch
        self.log.mkdir()
        (self.images / "sub").mkdir(parents=True)
        for number in range(6):
            (self.images / f"{number}.png").write_bytes(png(number))

    def ask(self, *rows: dict[str, Any]) -> Path:
        file = self.folder / "questions.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def run(
        self, questions: Path, source: str = "leaml-tiny", output: Path | None = None, **faults: str
    ) -> list[dict[str, Any]]:
        self.monkeypatch.setattr(module, "engine_spec", lambda *_: ScriptedSpec("x", log=str(self.log), **faults))
        made = predict(source, str(self.images), str(questions), str(output or self.output), PLAN)
        return tables.read(made, tables.ANSWERED).to_pylist()

    def id_of(self, number: int) -> str:
        return tables.image_id(png(number))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: None) -> Job:
    return Job(tmp_path, monkeypatch)


def test_every_question_about_every_image_in_order(job: Job) -> None:
    rows = job.run(job.ask({"question": "what?"}, {"question": "where?"}))
    assert [(r["file"], r["question"]) for r in rows] == [(f"{n}.png", q) for n in range(6) for q in ("what?", "where?")]
    assert [r["prediction"] for r in rows[::2]] == [f"image {n},0 sample 0" for n in range(6)]
    assert [r["image_id"] for r in rows[::2]] == [job.id_of(n) for n in range(6)]
    assert {round(r["confidence"], 6) for r in rows} == {round(math.exp(-1.5), 6)}  # three tokens of -0.5, not calibrated
    assert {r["error"] for r in rows} == {None}
    assert list(job.output.parent.iterdir()) == [job.output]  # nothing of the work is left


def test_named_images_options_repeats_and_copies(job: Job) -> None:
    shutil.copy(job.images / "1.png", job.images / "sub" / "copy of 1.png")
    asked = [
        {"image": "4.png", "question": "which?", "options": ["red", "blue"]},
        {"image": "sub/copy of 1.png", "question": "what?"},
        {"image": "1.png", "question": "what?"},
        {"image": "4.png", "question": "which?"},
        {"image": "4.png", "question": "which?", "options": ["red", "blue"]},
    ]
    rows = job.run(job.ask(*asked))
    assert [(r["file"], r["question"]) for r in rows] == [(a["image"], a["question"]) for a in asked]
    assert [r["prediction"] for r in rows] == ["red", *(f"image {n},0 sample 0" for n in (1, 1, 4)), "red"]
    scored = 2 * 3  # each option's letter, text, and both
    assert calls(job.log) == {job.id_of(4): 2 + scored, job.id_of(1): 1}  # equal questions about equal images are asked once


def test_confidence_is_the_runs_calibrated_one_and_csv_is_written(job: Job) -> None:
    run = write_run(job.folder / "run", weights=True)
    output = job.folder / "answers.csv"
    job.monkeypatch.setattr(module, "engine_spec", lambda *_: ScriptedSpec("x", log=str(job.log)))
    predict(str(run), str(job.images), str(job.ask({"image": "3.png", "question": 'a "b", c?'})), str(output), PLAN)
    found = pa.csv.read_csv(output).to_pylist()
    assert [(r["file"], r["question"], r["prediction"]) for r in found] == [("3.png", 'a "b", c?', "image 3,0 sample 0")]
    assert found[0]["confidence"] == pytest.approx(calibration.confidence(-1.5, 1.7), rel=1e-5)


def test_images_that_cannot_be_used_are_told_and_the_others_answered(job: Job) -> None:
    (job.images / "2.png").write_bytes(b"no image")
    (job.images / "5.png").unlink()
    (job.images / "5.png").symlink_to("nowhere.png")
    rows = {r["file"]: r for r in job.run(job.ask({"question": "what?"}))}
    assert len(rows) == 6
    assert rows["2.png"]["error"].startswith("not an image")
    assert rows["5.png"]["error"].startswith("not read: 5.png does not exist")
    assert [rows[f"{n}.png"]["prediction"] is None for n in range(6)] == [False, False, True, False, False, True]
    assert [rows[f"{n}.png"]["confidence"] is None for n in (1, 2)] == [False, True]


def test_questions_that_the_model_cannot_be_asked_are_told_and_the_others_answered(job: Job) -> None:
    asked = [{"question": "what?"}, {"question": "is <seen> red?"}, {"question": "which?", "options": ["<seen>", "blue"]}]
    rows = job.run(job.ask(*asked), refuses="<seen>")
    assert [r["prediction"] for r in rows[::3]] == [f"image {n},0 sample 0" for n in range(6)]
    assert {r["error"] for r in rows[::3]} == {None}
    refused = [r for n, r in enumerate(rows) if n % 3]
    assert len(refused) == 12
    assert {(r["prediction"], r["confidence"], r["logprob"], r["error"]) for r in refused} == {
        (None, None, None, "holds <seen>")
    }


def test_with_options_the_answer_is_one_of_them_by_the_probability_of_its_replies(job: Job) -> None:
    asked = [{"question": "colour?", "options": ["red", "blue"]}, {"question": "what?"}]
    rows = job.run(job.ask(*asked), likely="B")
    assert {r["prediction"] for r in rows[::2]} == {"blue"}
    assert {r["calibrated"] for r in rows} == {False}  # the shipped model has no evaluation
    # exp(-1) for "B", exp(-4) for "blue" and "B. blue", three of exp(-4) for red
    share = (math.exp(-1) + 2 * math.exp(-4)) / (math.exp(-1) + 5 * math.exp(-4))
    assert [r["confidence"] for r in rows[::2]] == pytest.approx([share] * 6, abs=1e-5)
    assert [r["prediction"] for r in rows[1::2]] == [f"image {n},0 sample 0" for n in range(6)]


def test_a_job_that_died_goes_on_and_asks_nothing_twice(job: Job) -> None:
    questions = job.ask({"question": "what?"})
    order = sorted(range(6), key=lambda n: f"{n}.png")
    with pytest.raises(StepError, match="run the same command again"):
        job.run(questions, exit_always=job.id_of(order[4]))
    assert not job.output.exists()
    before = calls(job.log)
    committed = [job.id_of(n) for n in order[:4]]
    assert [before[i] for i in committed] == [1] * 4
    rows = job.run(questions)
    assert [r["prediction"] for r in rows] == [f"image {n},0 sample 0" for n in range(6)]
    assert [calls(job.log)[i] for i in committed] == [1] * 4
    assert list(job.output.parent.iterdir()) == [job.output]


def test_other_questions_do_not_go_on_from_these(job: Job) -> None:
    with pytest.raises(StepError, match="no reply"):
        job.run(job.ask({"question": "what?"}), fails_at=job.id_of(5))
    rows = job.run(job.ask({"question": "where?"}))
    assert {r["question"] for r in rows} == {"where?"}
    assert calls(job.log)[job.id_of(0)] == 2
    assert list(job.output.parent.iterdir()) == [job.output]


def test_an_output_that_is_there_and_a_job_that_runs_are_left_alone(job: Job) -> None:
    questions = job.ask({"question": "what?"})
    job.output.parent.mkdir()
    with Lock(f"{job.output}.work/lock.json"), pytest.raises(InputError, match="another process"):
        job.run(questions)
    job.output.write_text("mine")
    with pytest.raises(InputError, match=r"answers\.parquet already exists; remove it or give another --output"):
        job.run(questions)
    assert job.output.read_text() == "mine"
    assert not list(job.log.iterdir())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": "7.png", "question": "a"}, {"image": "1.png", "question": "a"}],
            r"1 of 2 images are not in .*images: 7\.png;",
        ),
        ([{"image": "../log", "question": "a"}], "outside of the folder"),
    ],
)
def test_missing_images_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], message: str
) -> None:
    job = Job(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(InputError, match=message):
        job.run(job.ask(*rows))


def test_a_folder_without_images_an_unfinished_run_and_a_wrong_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "start_ray", lambda *_: pytest.fail("Ray was started"))
    questions = job.ask({"question": "what?"})
    run = write_run(tmp_path / "run", state="running", metrics=None, calibration=None)
    with pytest.raises(InputError, match="has no finished adapted model"):
        job.run(questions, source=str(run))
    for override, message in (("finetune.lr=1", "only resources.key=value"), ("resources.engine=2", "did you mean 'engines'")):
        with pytest.raises(InputError, match=message):
            predict("leaml-tiny", str(job.images), str(questions), str(job.output), [override])
    for file in job.images.glob("*.png"):
        file.unlink()
    with pytest.raises(InputError, match="holds no image"):
        job.run(questions)


@pytest.mark.parametrize(
    ("output", "overrides", "message"),
    [
        ("images/0.png", [], r"0\.png already exists; remove it or give another --output"),
        ("answers.jsonl", [], r"--output .*answers\.jsonl: the table is written as Parquet or CSV"),
        ("q.csv/answers.csv", [], r"--output: .*q\.csv is a file, so the table cannot be kept in .*--output FOLDER"),
        ("/proc/answers/a.csv", [], r"--output: nothing can be written to /proc: .*--output FOLDER/NAME\.parquet"),
        ("a.csv", ["resources.engine_gpus=64"], r"resources\.engines needs 64 GPU, .*give less behind the command, such as"),
        ("a.csv", ["resources.engines=5000"], r"resources\.engines needs 5001 CPU, .*what is not given is the run's"),
        ("a.csv", ["resources.images_per_shard=0"], r"resources\.images_per_shard"),
        ("a.csv", ["resources.engine_shards=many"], r"resources\.engine_shards"),
    ],
)
def test_a_bad_output_and_resources_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, overrides: list[str], message: str
) -> None:
    job = Job(tmp_path, monkeypatch)
    for name in ("start_ray", "Lock"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("something was started"))
    monkeypatch.setattr(module.load, "check", lambda *_: pytest.fail("a model was looked at"))
    (tmp_path / "q.csv").write_text("question\nwhat?\n")
    with pytest.raises(InputError, match=message) as refused:
        predict("leaml-tiny", str(job.images), str(tmp_path / "q.csv"), str(tmp_path / output), overrides)
    assert "config" not in str(refused.value).replace("leaml config --explain", "")


@pytest.mark.parametrize(
    ("images", "asked", "message"),
    [
        ("images", "no.csv", r"^--questions: .*no\.csv does not exist; check the path$"),
        ("nowhere", "q.csv", r"^--images: .*nowhere does not exist; check the path$"),
        ("q.csv", "q.csv", r"^--images: .*q\.csv is a file; give the folder"),
        ("images", "far.csv", r"^--images: \.\./q\.csv is outside of the folder .*; names in the column 'image' are relative"),
    ],
)
def test_messages_speak_of_the_options_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, asked: str, message: str
) -> None:
    job = Job(tmp_path, monkeypatch)
    (tmp_path / "q.csv").write_text("question\nwhat?\n")
    (tmp_path / "far.csv").write_text("image,question\n../q.csv,what?\n")
    with pytest.raises(InputError, match=message):
        predict("leaml-tiny", str(tmp_path / images), str(tmp_path / asked), str(job.output))


@pytest.mark.parametrize("name", ["answers.parquet", "answers.csv"])
def test_a_file_of_labels_is_asked_and_its_other_columns_stand_beside_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    job = Job(tmp_path, monkeypatch)

    def run_shards(label: str, shards: list[dict[str, Any]], spec: Any, work: Any, output: str, *_: Any) -> None:
        replies = [
            {"question": "which?", "options": ["red", "blue"], "prediction": "blue", "logprob": -0.5, "own": True},
            {"question": "what?", "options": None, "prediction": "noise", "logprob": -0.5, "own": True},
        ]
        rows: list[dict[str, object]] = [{"image_id": job.id_of(number), "replies": replies} for number in (1, 2)]
        step_rows.write(output, rows, tables.REPLIES)

    for replaced in ("start_ray", "engine_spec"):
        monkeypatch.setattr(module, replaced, lambda *_: None)
    monkeypatch.setattr(module, "run_shards", run_shards)
    rows = [
        {"id": 7, "image": "2.png", "question": "which?", "answer": "B", "options": ["A. red", "B. blue"], "file": "x"},
        {"id": 8, "image": "1.png", "question": "what?", "answer": "red", "question_type": "colour"},
    ]
    made = predict("leaml-tiny", str(job.images), str(job.ask(*rows)), str(tmp_path / name))
    found = (pa.csv.read_csv(made) if name.endswith("csv") else tables.read(made)).to_pylist()
    assert list(found[0]) == [*tables.ANSWERED.names, "id", "answer", "given_file", "question_type"]
    kept = [tuple(row[key] for key in ("file", "prediction", "id", "answer", "given_file")) for row in found]
    assert [(*row[:4], row[4] or None) for row in kept] == [("2.png", "blue", 7, "B", "x"), ("1.png", "noise", 8, "red", None)]
    said = "not asked about, but copied to the output: id, answer, file (as given_file), question_type"
    assert said in capsys.readouterr().out


def test_the_command_hands_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(module, "predict", lambda *arguments: given.append(arguments))
    words = ["runs/mine", "--images", "a", "--questions", "b.csv", "--output", "c.csv", "resources.engines=2", "--verbose"]
    assert CliRunner().invoke(cli.app, ["predict", *words]).exit_code == 0
    assert given == [("runs/mine", "a", "b.csv", "c.csv", ["resources.engines=2"], True)]


def test_the_command_ends_with_exit_code_2_and_one_message(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "predict",
        str(tmp_path),
        "--images",
        str(tmp_path),
        "--questions",
        "q.csv",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} is neither a run (no status.json) nor a model (no config.json); " + (
        "give the folder of one of them\n"
    )
