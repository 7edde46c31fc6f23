"""`leaml adapt --dry-run` refuses what `leaml adapt` refuses before an engine starts, in the same words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dry_runs import captions_of, dry_run, line, plan_lines
from pictures import scene
from typer.testing import CliRunner

from leaml.config import load
from leaml.errors import InputError, ResourceError
from pipelines import adapt, cli, report, trial
from pipelines.rehearsal import rehearse
from pipelines.run import Run

Tree = dict[str, Any]


def started(recipe: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `leaml adapt` says when it refuses this; it must do so before Ray starts."""
    monkeypatch.setattr(adapt, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(InputError) as refused:
        adapt.adapt(load(recipe, overrides))
    return str(refused.value)


def broken_line(folder: Path) -> list[str]:
    file = folder / "train" / "rows.jsonl"
    file.write_text(file.read_text().replace('"answer"', "answer", 1))
    return []


def line_without_an_answer(folder: Path) -> list[str]:
    with (folder / "test" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"image": "10.png", "question": "how many?"}) + "\n")
    return []


def evaluation_image_among_the_frames(folder: Path) -> list[str]:
    (folder / "frames" / "copied.png").write_bytes((folder / "test" / "11.png").read_bytes())
    return []


def unreadable_frames(folder: Path) -> list[str]:
    for number in range(3):
        (folder / "frames" / f"torn{number}.jpg").write_bytes(b"no image")
    return []


def no_images(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [f"data.unlabeled.path={folder}/empty"]


def nothing_but_labeled_images(folder: Path) -> list[str]:
    for file in (folder / "frames").iterdir():
        if file.suffix == ".png":
            file.unlink()
    for seed in range(2):
        scene(seed).save(folder / "frames" / f"again{seed}.png")
    return []


def nothing_but_evaluation_images(folder: Path) -> list[str]:
    nothing_but_labeled_images(folder)
    for file in (folder / "frames").glob("again*.png"):
        file.unlink()
    evaluation_image_among_the_frames(folder)
    return ["data.exclude_evaluation=true"]


def storage_in_a_file(folder: Path) -> list[str]:
    (folder / "taken").write_text("no folder")
    return [f"storage={folder}/taken/runs"]


def storage_behind_a_dead_link(folder: Path) -> list[str]:
    (folder / "dead").symlink_to(folder / "nowhere")
    return [f"storage={folder}/dead"]


def run_that_is_a_file(folder: Path) -> list[str]:
    (folder / "others").mkdir()
    (folder / "others" / "tried").write_text("no folder")
    return [f"storage={folder}/others"]


CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "format": (lambda _: ["data.unlabeled.format=foldr"], "unknown format 'foldr': did you mean 'folder'?"),
    "absent": (lambda f: [f"data.labeled.path={f}/none.jsonl"], "none.jsonl does not exist"),
    "absent in evaluation": (lambda f: [f"data.evaluation.path={f}/none.jsonl"], "none.jsonl does not exist"),
    "json": (broken_line, "rows.jsonl:1: not valid JSON"),
    "no answer": (line_without_an_answer, "rows.jsonl:3"),
    "same file": (
        lambda f: [f"data.evaluation.path={f}/train/rows.jsonl"],
        "train/rows.jsonl with no split; give another file, or a split to each: data.labeled.split=train",
    ),
    "one image": (evaluation_image_among_the_frames, "1 evaluation images are also in the unlabeled source"),
    "unreadable": (unreadable_frames, "3 of 6 images of"),
    "empty": (no_images, "found no images"),
    "no images": (lambda f: [f"data.labeled.images={f}/nowhere"], "4 of 4 images of"),
    "budget": (lambda _: ["data.budget.count=9"], "data.budget.count is 9 images, but the labeled source has 4"),
    "model": (lambda _: ["model.name=leaml-tyni"], "'leaml-tyni'"),
    "teacher": (lambda _: ["caption.teacher.name=./nowhere"], "nowhere"),
    "split": (lambda _: ["data.labeled.split=trian"], "no line has split 'trian'"),
    "no unlabeled source": (
        lambda _: ["data.unlabeled=null"],
        "no image is left to generate pairs for: all 4 images are labeled",
    ),
    "all labeled": (nothing_but_labeled_images, "no image is left to generate pairs for: all 4 images are labeled"),
    "all left out": (nothing_but_evaluation_images, "and 1 others are left out (data.exclude_evaluation)"),
    "storage in a file": (storage_in_a_file, "taken is a file, so the run cannot be kept in"),
    "storage behind a dead link": (storage_behind_a_dead_link, "dead is a link that leads nowhere"),
    "run is a file": (run_that_is_a_file, "others/tried is a file"),
    "storage": (lambda _: ["storage=/proc/runs"], "storage: nothing can be written to /proc"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_run_refuses_the_dry_run_refuses_in_the_same_words(
    case: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = CASES[case]
    overrides = make(recipe.parent)
    done = dry_run(recipe, *overrides)
    assert isinstance(done.exception, InputError), done.output
    assert expected in str(done.exception)
    assert not (recipe.parent / "runs").exists()
    assert str(done.exception) == started(recipe, overrides, monkeypatch)


@pytest.mark.parametrize("key", ["data.labeled", "data.unlabeled", "data.evaluation", "caption.file"])
def test_a_path_that_is_not_there_is_named_with_its_key(key: str, recipe: Path) -> None:
    path = key if key == "caption.file" else f"{key}.path"
    found = str(dry_run(recipe, f"{path}={recipe.parent}/none.jsonl").exception)
    assert found.startswith(f"{key}: {recipe.parent}/none.jsonl does not exist")


def test_what_a_run_takes_is_planned_and_leaves_no_trace(recipe: Path) -> None:
    before = sorted(recipe.parent.rglob("*"))
    done = dry_run(recipe)
    assert done.exit_code == 0, done.output
    assert "plan of tried" in done.output
    assert sorted(recipe.parent.rglob("*")) == before


def test_near_duplicates_are_refused_before_ray_starts(recipe: Path) -> None:
    scene(10, 50).save(recipe.parent / "frames" / "smaller.png")
    found = dry_run(recipe, "data.near_duplicate_bits=6").exception
    assert isinstance(found, InputError)
    assert "1 images of the unlabeled source are near duplicates of evaluation images" in str(found)
    assert "smaller.png is like" in str(found)


def test_a_finished_ingest_is_looked_at_and_not_read_again(recipe: Path) -> None:
    evaluation_image_among_the_frames(recipe.parent)
    with pytest.raises(InputError), Run(load(recipe)) as run:
        adapt.ingest(run)
    for file in (recipe.parent / "frames").iterdir():
        file.unlink()
    scene(1).save(recipe.parent / "frames" / "another.png")  # a folder's content does not make it anew
    assert "1 evaluation images are also in the unlabeled source" in str(dry_run(recipe).exception)


def test_of_a_large_source_the_beginning_is_looked_at_and_that_is_said(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.TrialRun, "first", 3)
    done = dry_run(recipe, "data.budget.count=4")
    assert done.exit_code == 0, done.output
    assert "of the labeled source the first" in done.output
    assert "of the evaluation source" not in done.output


def test_a_plan_that_this_machine_cannot_hold_is_shown_and_refused(recipe: Path) -> None:
    done = dry_run(recipe, "resources.engines=4000")
    assert "plan of tried" in done.output
    assert isinstance(done.exception, ResourceError)
    assert "resources.engines needs 4001 CPU" in str(done.exception)
    cluster = dry_run(recipe, "resources.engines=4000", "resources.address=auto")
    assert cluster.exit_code == 0, cluster.output


def test_a_configuration_runs_from_any_folder_and_its_steps_are_the_same(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also after the project has moved."""
    tree = yaml.safe_load(recipe.read_text().replace(f"{recipe.parent}/", ""))
    recipe.write_text(yaml.safe_dump(tree))
    assert tree["data"]["labeled"]["path"] == "train/rows.jsonl"
    folders = []
    moved = tmp_path_factory.mktemp("moved") / "project"
    for here, file in ((recipe.parent, recipe), (tmp_path_factory.mktemp("here"), recipe), (moved.parent, moved / recipe.name)):
        if file != recipe:
            shutil.copytree(recipe.parent, moved)
        monkeypatch.chdir(here)
        done = dry_run(file)
        assert done.exit_code == 0, done.output
        run, _, _ = rehearse(load(file))
        assert run.folder == f"{file.parent}/runs/tried"
        folders.append([Path(folder).name for folder in run.planned])
    assert folders[0] == folders[1] == folders[2]
    absent = dry_run(recipe, "data.labeled.path=none.jsonl").exception
    assert f"{moved.parent}/none.jsonl does not exist" in str(absent)


def test_labels_alone_need_no_image_to_generate_for(recipe: Path) -> None:
    done = dry_run(recipe, "data.unlabeled=null", "finetune.label_share=1")
    assert done.exit_code == 0, done.output


def test_images_that_are_left_out_are_not_planned_for(recipe: Path) -> None:
    """Also where the sources were ingested before the key was set."""
    evaluation_image_among_the_frames(recipe.parent)
    for _ in range(2):
        lines = plan_lines(recipe, "data.exclude_evaluation=true")
        assert "1 images that are in the evaluation too" in line(lines, "left out  ")
        assert " 7 images" in line(lines, " caption ", "caption-")
        assert " 3 images; 8 pairs" in line(lines, " generate leaml ")
        with pytest.raises(InputError), Run(load(recipe)) as run:
            adapt.ingest(run)


def test_a_file_of_captions_that_names_no_image_is_refused(recipe: Path) -> None:
    found = dry_run(recipe, captions_of(recipe.parent, "a.png", "b.png")).exception
    assert isinstance(found, InputError)
    assert "captions.jsonl: none of its 2 names, such as ['a.png'], is that of an image" in str(found)


def test_how_many_images_have_a_caption_is_said_and_planned(recipe: Path) -> None:
    given = captions_of(recipe.parent, "0.png", "4.png", "a.png")
    lines = plan_lines(recipe, given)
    assert "caption: 2 of 7 images have one in" in line(lines, "1 of its names are no image of this run")
    assert " 5 images; 2 captions of the file" in line(lines, " caption ", "caption-")
    alone = plan_lines(recipe, given, "caption.complete=false")
    assert " 0 images; 2 captions of the file" in line(alone, " caption ", "caption-")


def test_no_file_of_the_temporary_folder_is_named(recipe: Path) -> None:
    evaluation_image_among_the_frames(recipe.parent)
    (recipe.parent / "frames" / "torn.jpg").write_bytes(b"no image")
    line_without_an_answer(recipe.parent)
    lines = plan_lines(recipe, "data.exclude_evaluation=true", "data.max_quarantined=0.9")
    assert not [text for text in lines if "leaml-trial" in text]
    assert "torn.jpg" in line(lines, "1 images quarantined")
    line(lines, "unlabeled: 1 images left out (exclude)")


def test_a_word_about_data_that_are_too_few_before_anything_is_paid_for(recipe: Path) -> None:
    lines = plan_lines(recipe, "data.budget.count=1", "data.evaluation.limit=1")
    assert "1 question of 1 image cannot show a difference, however large: at least 6 images are needed" in line(
        lines, "warning"
    )
    line(lines, "The accuracy on 1 question is 0 or 100 %, which says nothing of a model", "data.evaluation")
    line(lines, "1 labeled image cannot be split into training and validation")
    line(lines, "No labels are held out, so of the 2 learning rates of", "there is nothing to choose by")
    held = plan_lines(recipe)
    line(held, "1 validation question cannot show a difference between the 2 learning rates of", "at least 6 are needed")
    quiet = plan_lines(recipe, "evaluate.baselines.finetune_labels.lr=1e-3", "evaluate.baselines.lora_labels.lr=1e-3")
    assert len([text for text in quiet if "warning" in text]) == 1  # two evaluation images


def test_images_without_a_question_are_no_questions_of_an_evaluation(recipe: Path) -> None:
    rows = [{"image": "10.png", "question": "what?", "answer": "noise"}]
    for seed in range(11, 20):
        scene(seed).save(recipe.parent / "test" / f"{seed}.png")
        rows.append({"image": f"{seed}.png"})
    (recipe.parent / "test" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = "1 question of 1 image cannot show a difference"
    line(plan_lines(recipe), "warning", said)
    line(CliRunner().invoke(cli.app, ["plan", str(recipe)]).output.splitlines(), "warning", said)


def test_several_rates_and_nothing_to_choose_by_are_told_by_every_plan_and_every_step(recipe: Path) -> None:
    found = ["data.budget.validation_fraction=0", "warmup.lr=[1e-3, 3e-3, 1e-4]"]
    said = "No labels are held out, so of the 3 learning rates of warmup the first is taken untried"
    fix = "Hold out labels (data.budget.validation_fraction above 0"
    lines = plan_lines(recipe, *found)
    line(lines, "warning", said, "there is nothing to choose by", fix)
    line(lines, "warmup", "3 rates, of which the first: no labels are held out to choose by")
    line(CliRunner().invoke(cli.app, ["plan", str(recipe), *found]).output.splitlines(), "warning", said, fix)
    sizes = (1, 1, 4, 0)
    (alone,) = adapt.doubts(load(recipe, found), *sizes, until="warmup")
    assert said in alone
    assert not adapt.doubts(load(recipe, found[:1]), *sizes, until="generate")
    assert not adapt.doubts(load(recipe, found), *sizes, until="caption")


def test_experts_that_no_neuron_and_no_lora_reaches_are_told(recipe: Path, shared_folder: Path) -> None:
    sizes, moe = (None, None, 4, None), f"model.name={shared_folder / 'zoo' / 'qwen3_vl_moe'}"
    (told,) = adapt.doubts(load(recipe, [moe]), *sizes)
    assert report.model_facts(load(recipe, [moe]))["experts"].split()[0] in told
    assert re.match(r"\d\d% of the weights of .*qwen3_vl_moe' are experts", told)
    assert "LoRA on labels (lora), distill (neurons) train the other weights alone" in told
    assert not adapt.doubts(load(recipe, [moe]), *sizes, until="warmup")
    whole = [moe, "distill.method=full", "evaluate.leave_out=[lora_labels]"]
    assert not adapt.doubts(load(recipe, whole), *sizes)
    assert not adapt.doubts(load(recipe, [moe.replace("qwen3_vl_moe", "qwen3_vl")]), *sizes)


def test_an_engine_on_a_cpu_that_attends_otherwise_is_told(recipe: Path, shared_folder: Path) -> None:
    sizes, gemma = (None, None, 4, None), f"model.name={shared_folder / 'zoo' / 'gemma3'}"
    (told,) = adapt.doubts(load(recipe, [gemma]), *sizes)
    assert "attends both ways over its prompt where it is trained" in told
    assert set(report.model_facts(load(recipe, [gemma]))) == {"attention over the prompt"}
    assert not adapt.doubts(load(recipe, [gemma, "resources.engine_gpus=1"]), *sizes)
    assert not adapt.doubts(load(recipe, []), *sizes)
    assert not report.model_facts(load(recipe, []))


def test_a_limit_of_questions_below_those_of_every_image_is_refused(recipe: Path) -> None:
    rows = [{"image": f"{seed}.png", "question": text, "answer": "noise"} for seed in (10, 11) for text in ("what?", "who?")]
    (recipe.parent / "test" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = dry_run(recipe, "data.evaluation_questions=1")
    assert "evaluation_questions is 1, and whole images are asked about, of at least 2 questions" in str(refused.exception)
