"""What a finished run gives its report, read from its files without models: counts, wrong answers, trainings, warnings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaml.config import Config, parse
from leaml.data import tables
from leaml.evaluation import comparisons, results
from leaml.io import files
from leaml.rows import titles
from pipelines import report
from pipelines.adapt import trainings
from pipelines.ingest import draw_labels, ingest
from pipelines.run import Run, Step

QUESTIONS = ("what colour?", "what shape?", "how many?")
LOSSES = {
    "finetune_labels": [(0, 3.0), (9, 2.0)],
    "lora_labels": [(0, 3.0), (9, 2.9)],
    "leaml": [(0, 3.0), (10, 1.0), (29, 0.5)],
}


def source(folder: Path, images: int, shade: int) -> dict[str, Any]:
    """A JSONL source of so many images with three questions each; one more file is no image."""
    folder.mkdir()
    lines = []
    for number in range(images):
        Image.new("RGB", (40, 40), (number, shade, 90)).save(folder / f"{number}.png")
        lines += [
            {"image": f"{number}.png", "question": q, "answer": "red", "question_type": q.split()[-1][:-1]} for q in QUESTIONS
        ]
    (folder / "broken.png").write_bytes(b"no image")
    lines.append({"image": "broken.png", "question": "what?", "answer": "nothing", "question_type": "colour"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"format": "jsonl", "path": str(folder / "rows.jsonl")}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = {
        "labeled": source(tmp_path / "train", 6, 10),
        "evaluation": source(tmp_path / "testing", 8, 200),
        "budget": {"validation_fraction": 0.2},
        "max_quarantined": 0.5,
    }
    trained = {"steps": 10, "batch_size": 8}
    settings = {"finetune": {"steps": 30, "batch_size": 8}}
    baselines = {"finetune_labels": trained, "lora_labels": trained}
    return parse({"storage": str(tmp_path / "runs"), "data": data, "evaluate": {"baselines": baselines}} | settings)


def answered(run: Run, rows: list[dict[str, Any]], row: str, wrong: set[int]) -> Step:
    """A finished evaluate step whose answers are right but for those at `wrong`, the later the surer."""
    step = run.step("evaluate", {"row": row}, [], variant=row)
    said = [
        {"image_id": r["image_id"], "question": r["question"], "answer": r["answer"], "question_type": r["question_type"]}
        | {"prediction": f"{row} {n}" if n in wrong else "red", "correct": n not in wrong, "logprob": n - 30.0}
        for n, r in enumerate(rows)
    ]

    def work() -> dict[str, Any]:
        tables.write(step.path("predictions.parquet"), tables.table(said, tables.PREDICTIONS))
        return {}

    return run.execute(step, work)


def finetuned(run: Run, row: str) -> Step:
    step = run.step("finetune", {"row": row}, [], variant=row)
    content = {
        "losses": LOSSES[row],
        "lr": 1e-3,
        "sweep": [{"lr": 1e-3, "accuracy": 0.5, "loss": 1.0}, {"lr": 3e-3, "accuracy": 0.0}],
    }

    def work() -> dict[str, Any]:
        files.write_bytes(step.path("training.json"), json.dumps(content).encode())
        return content

    return run.execute(step, work)


def test_a_finished_run_tells_what_was_counted_what_was_wrong_and_what_limits_it(config: Config, capsys: Any) -> None:
    with Run(config) as run:
        sources = ingest(run)
        labels = draw_labels(run, sources)
        rows = tables.read(sources.evaluation.path("labeled.parquet"), tables.LABELED).to_pylist()
        predictions = {
            "leaml": report.read_predictions(answered(run, rows, "leaml", {0, 1, 2, 3, 4, 5})),
            "lora_labels": report.read_predictions(answered(run, rows, "lora_labels", {1, 4, 7})),
        }
        for row in LOSSES:
            adapted = finetuned(run, row)
        ours, *others = trainings(run, adapted)
        assert [(t.title, t.steps, t.batch_size) for t in (ours, *others)] == [
            ("LEAML", 30, 8),
            ("Fine-tuned on labels", 10, 8),
            ("LoRA on labels", 10, 8),
        ]
        found = {name: results.summarise(table, 50) for name, table in predictions.items()}
        comparison = results.compare(found, predictions, resamples=50, permutations=200)
        held = labels.validation.num_rows
        warnings = comparisons.of_evaluation({"rows": found, "comparison": comparison}, titles(), ours, others, held)
        metrics = results.metrics_json("testing", labels.images, found, comparison, None, warnings)
        uri = report.write(run, sources, labels, adapted, metrics)
        kept = report._wrong_answers(run, sources, metrics)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", Path(uri).read_text(), flags=re.S)))
    # of every kind of question in turn, the surest first
    by_kind = {rows[n]["question_type"]: n for n in range(3, 6)}
    assert [answer.prediction for answer in kept[:3]] == [f"leaml {by_kind[kind]}" for kind in sorted(by_kind)]
    assert len(kept) == 6
    assert {answer.baseline for answer in kept} == {("red", True), ("lora_labels 1", False), ("lora_labels 4", False)}
    assert Path(uri).read_text().count('<article class="wrong">') == 6
    assert "Data labeled evaluation labels used images 6 8 6 rows" in page
    assert "quarantined 1 1" in page
    said = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "24 questions of 8 images do not tell LEAML and LoRA on labels apart",
        "Fine-tuned on labels was trained for 10 steps of 8 examples, the last training of LEAML for 30 of 8, and was not",
        "LoRA on labels: the 2 learning rates tried differ by 50.0 points at most, and 3 validation questions can show no",
    ):
        assert sentence in page
        assert f"warning: {sentence}" in said
