"""`leaml adapt --dry-run`: the plan has the run's own steps and addresses, and leaves no trace."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from leaml.config import Config, load, parse
from leaml.data.kvasir import QUESTION_TYPES
from leaml.data.readers.sportu import shuffled
from leaml.errors import InputError
from leaml.evaluation.priors import BlindPrior
from leaml.run.records import DoneRecord
from leaml.text.scoring import is_correct
from pipelines import adapt, cli, plan
from pipelines.ingest import ingest
from pipelines.plan import rehearse
from pipelines.run import Run
from pipelines.trial import refuse

CONFIGS = Path(cli.__file__).parent / "configs"
DATA = {"labeled": {"format": "easy_vqa", "split": "train", "limit": 12}, "evaluation": {"format": "easy_vqa", "split": "test"}}
METHOD = ["caption", "warmup", "score", "select", "distill", "generate", "filter", "finetune"]


def config(folder: Path, **changes: Any) -> Config:
    data = DATA | {"budget": {"count": 4}, "evaluation": {"format": "easy_vqa", "split": "test", "limit": 5}}
    return parse({"name": "planned", "storage": str(folder), "data": data, **changes})


def shown(found: Config, monkeypatch: pytest.MonkeyPatch, amounts: plan.Amounts | None = None) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
    plan.show(found, amounts)
    return stream.getvalue().splitlines()


def line(lines: list[str], *words: str) -> str:
    return next(text for text in lines if all(word in text for word in words))


def test_steps_come_in_order_and_those_that_rows_share_once(tmp_path: Path) -> None:
    run, _, _ = rehearse(config(tmp_path, evaluate={"controls": ["random_neurons", "full_labels"]}))
    labels = [p.step.label for p in run.planned.values()]
    assert labels[:3] == ["ingest labeled", "ingest evaluation", "caption"]
    names = [p.step.name for p in run.planned.values()]
    assert names[2:10] == METHOD
    assert [x for x in labels if x.startswith("evaluate")] == [
        f"evaluate {row}" for row in ("zero_shot", "finetune_labels", "lora_labels", "leaml", "random_neurons", "full_labels")
    ]
    assert labels.count("warmup") == 1
    assert {"distill random_neurons", "finetune full_labels"} <= set(labels)
    assert not list(tmp_path.iterdir())


def test_addresses_are_those_of_the_run_before_and_after_ingest(tmp_path: Path) -> None:
    """Before, what depends on the captioned images has one as soon as they are known; captions are the first of that."""
    found = config(tmp_path, caption={"max_images": 6}, evaluate={"controls": ["full_labels"]})
    captioned = refuse(found).amounts.captioned
    unknown, before = rehearse(found)[0].planned, list(rehearse(found, captioned)[0].planned)
    with Run(found) as run:
        sources = ingest(run)
        run.finish()
    made = sorted(str(folder) for folder in (tmp_path / "planned").glob("ingest-*"))
    assert sorted(before[:2]) == made
    after, again, labels = rehearse(found)
    assert list(after.planned) == before
    assert len(unknown) == len(before)
    assert unknown.keys() & set(before) == {p.step.folder for p in unknown.values() if not p.step.hash.endswith("?")}
    assert next(p.step.label for p in unknown.values() if p.step.hash.endswith("?")) == "caption"
    assert again == sources
    assert labels.images == 4


def test_the_plan_prints_counts_states_resources_and_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path, caption={"max_images": 6})
    lines = shown(found, monkeypatch)
    assert not list(tmp_path.iterdir())
    assert "12 images, " in line(lines, "labeled ", "easy_vqa train")
    assert "4 images, draw 0: 4 images, " in line(lines, "labels ")
    assert line(lines, "ingest labeled").split()[:2] == ["to", "run"]
    assert "6 images" in line(lines, " caption ", "caption-?")
    assert any("folders with ? depend on the images" in text for text in lines)
    assert not any("?" in text for text in shown(found, monkeypatch, refuse(found).amounts))
    assert "8 images; 8 pairs an image" in line(lines, " generate leaml ")
    assert "5 images, " in line(lines, " evaluate leaml ")
    estimated = line(lines, "estimated, not promised")
    assert estimated.endswith("no GPU-hours, as nothing asks for a GPU to go, unknown hours one step after the other")
    assert any("on CPUs, and no earlier run in this storage measured it" in text for text in lines)


def test_finished_steps_are_reused_and_their_rates_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path)
    with Run(found) as run:
        ingest(run)
        run.finish()
    rehearsed = {p.step.label: p.step for p in rehearse(found)[0].planned.values()}
    for label, summary in (
        ("warmup", {"lr": 1e-3, "seconds": 100.0}),
        ("caption", {"images": 12, "images_per_engine_s": 4.0, "engine_seconds": 3.0}),
    ):
        folder = Path(rehearsed[label].folder)
        folder.mkdir()
        DoneRecord(label, "", 0, (), 136.0, 1, "x", summary).write(str(folder))
        (folder / "config.yaml").write_text(yaml.safe_dump(found.model_dump(mode="json")))
    Path(rehearsed["generate leaml"].folder).mkdir()
    lines = shown(found, monkeypatch)
    for label in ("ingest labeled", "warmup ", "caption "):
        assert line(lines, label, "-").split()[0] == "finished"
        assert line(lines, label, "-").split()[-1] == "reused"
    assert line(lines, " generate leaml ").split()[0] == "begun"
    assert "measured in warmup-" in line(lines, "finetune leaml", "steps / 2 per s + 36 s start")
    other = shown(found.model_copy(update={"name": "another"}), monkeypatch)
    assert "measured in caption-" in line(other, "caption: 12 images / 4 per s + 133 s start")


def test_the_plan_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generate.caption is 'self'"):
        rehearse(config(tmp_path, generate={"caption": "self"}))


def test_dry_run_of_the_command_line_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "adapt", lambda *_: pytest.fail("the run was started"))
    done = CliRunner().invoke(cli.app, ["adapt", str(CONFIGS / "demo.yaml"), f"storage={tmp_path}", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "plan of demo" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["kvasir_vqa", "sportu"])
def test_recipes_of_the_papers_domains_are_planned_without_their_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(CONFIGS / f"{name}.yaml", [f"storage={tmp_path}/runs"])
    lines = shown(recipe, monkeypatch)
    assert "unknown until ingest" in line(lines, "labeled ")
    assert "2 engines x 4 GPU" in line(lines, " caption ", "caption-")
    assert "8 workers x 1 GPU" in line(lines, " warmup ", "warmup-")
    assert any("per 1,000: 1,000 images" in text and "72B" in text for text in lines)
    estimated = re.search(r"at least (\S+) GPU-hours to go, at least (\S+) hours", line(lines, "estimated, not promised"))
    assert estimated and float(estimated[1]) > float(estimated[2]) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["kvasir_vqa", "sportu"])
@pytest.mark.parametrize("of", ["images", "rows"])
def test_recipes_take_one_percent_of_images_or_rows(name: str, of: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert f"budget: {{fraction: 0.01, of: {of}, seed: 0}}" in text
    recipe = load(CONFIGS / f"{name}.yaml", [f"data.budget.of={of}"])
    assert (recipe.data.labeled.split, recipe.data.evaluation.split) == ("train", "test")
    assert recipe.data.budget.fraction == 0.01
    assert recipe.caption.teacher.name == "Qwen/Qwen2.5-VL-72B-Instruct"
    found = recipe.resources
    for engines, gpus in (
        (found.engines, found.engine_gpus),
        (found.teacher.engines, found.teacher.engine_gpus),
        (found.train_workers, found.train_gpus),
    ):
        assert engines * gpus == 8


def test_the_kvasir_recipe_asks_the_19_questions_and_leaves_room_for_the_longest_answer() -> None:
    recipe = load(CONFIGS / "kvasir_vqa.yaml")
    assert recipe.generate.questions == list(QUESTION_TYPES)
    cells = [f"{row}-{column}" for row in ("upper", "lower") for column in ("left", "center", "right")]
    longest = "; ".join(["center", "center-left", "center-right", *cells])
    assert recipe.filter.max_answer_chars > len(longest) == 111


def test_letter_and_text_priors_see_shuffled_options_differently() -> None:
    """What the SPORTU recipe says: shuffling ends the habit of the letter, not that of the text."""
    options = {"A": "push", "B": "trip", "C": "hold", "D": "none of the above"}
    rows = [("Which foul?", *shuffled(f"soccer_{n}", options, "D" if n % 2 else "A")) for n in range(400)]
    prior = BlindPrior.fit([r[0] for r in rows], [r[2] for r in rows], options=[r[1] for r in rows])
    share = {
        by: sum(is_correct(prior.predict(q, options=o, by=by), a, options=o) for q, o, a in rows) / len(rows)
        for by in ("letter", "text")
    }
    assert share["text"] == 0.5
    assert 0.25 <= share["letter"] < 0.4
