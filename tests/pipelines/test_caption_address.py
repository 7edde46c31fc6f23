"""What the caption step depends on: the images, the teacher and its settings, and nothing of the labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pictures import labeled, scene

from leaml.config import Config, parse
from leaml.run.records import DoneRecord
from pipelines import plan
from pipelines.caption import caption
from pipelines.context import Context
from pipelines.ingest import draw_labels, ingest
from pipelines.rehearsal import rehearse
from pipelines.run import Run, Step
from pipelines.trial import refuse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for role, seeds in {"train": range(3), "frames": range(2, 6), "test": range(10, 11)}.items():
        labeled(tmp_path / role, seeds, "answer {}")
    return tmp_path


def config(folder: Path, **caption_section: Any) -> Config:
    data: dict[str, Any] = {
        role: {"format": "jsonl", "path": f"{folder}/{name}/rows.jsonl"}
        for role, name in (("labeled", "train"), ("evaluation", "test"))
    }
    data["unlabeled"] = {"format": "folder", "path": f"{folder}/frames"}
    return parse({"storage": f"{folder}/runs", "data": data, "caption": caption_section})


def steps(found: Config) -> dict[str, Step]:
    """The steps of a plan by label; their addresses are those of the run that has just begun."""
    run, _, _ = rehearse(found)
    return {planned.step.label: planned.step for planned in run.planned.values()}


def ingested(found: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, Step]:
    """The steps after ingest; the dry run before it, the plan after it and the run itself agree on the caption step."""
    before, _, _ = rehearse(found, refuse(found).amounts.captioned)
    with Run(found) as run:
        sources = ingest(run)
        monkeypatch.setattr(run, "execute", lambda step, work: step)
        made = caption(Context(run, sources, draw_labels(run, sources)))
    after = steps(found)
    assert after["caption"] == made
    assert [planned.step for planned in before.planned.values()] == list(after.values())
    return after


def mended(folder: Path) -> None:
    file = folder / "train" / "rows.jsonl"
    file.write_text(file.read_text().replace("answer 1", "another answer").replace("what?", "which?", 1))


@pytest.mark.parametrize("section", [{}, {"max_images": 4}, {"file": "given.json", "complete": True}])
def test_a_mended_answer_keeps_the_captions(folder: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any]) -> None:
    (folder / "given.json").write_text(json.dumps({"1.png": "One."}))
    section = section | ({"file": f"{folder}/given.json"} if "file" in section else {})
    before = ingested(config(folder, **section), monkeypatch)
    mended(folder)
    after = ingested(config(folder, **section), monkeypatch)
    assert after["ingest labeled"] != before["ingest labeled"]
    assert after["caption"] == before["caption"]
    assert not {s.folder for s in after.values()} & {
        s.folder for label, s in before.items() if s.name in ("warmup", "distill", "generate", "finetune")
    }


def test_one_more_question_about_an_image_keeps_the_captions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingested(config(folder), monkeypatch)
    with (folder / "train" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"image": "1.png", "question": "how many?", "answer": "two"}))
    assert ingested(config(folder), monkeypatch)["caption"] == before["caption"]


def another_image(folder: Path) -> dict[str, Any]:
    scene(20).save(folder / "train" / "1.png")
    mended(folder)  # what lies in a folder is not looked at, the file of the labels is
    return {}


def another_teacher(folder: Path) -> dict[str, Any]:
    return {"teacher": {"name": "leaml-tiny"}}


def another_prompt(folder: Path) -> dict[str, Any]:
    return {"prompt": "What is there?"}


@pytest.mark.parametrize("change", [another_image, another_teacher, another_prompt])
def test_another_image_teacher_or_prompt_makes_captions_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    before = ingested(config(folder), monkeypatch)
    assert ingested(config(folder, **change(folder)), monkeypatch)["caption"].hash != before["caption"].hash


def test_another_name_of_an_image_makes_captions_anew_that_are_given_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "given.json").write_text(json.dumps({"1.png": "One."}))
    given = {"file": f"{folder}/given.json"}
    alone, named = (ingested(config(folder, **section), monkeypatch)["caption"] for section in ({}, given))
    shutil.move(folder / "train" / "1.png", folder / "train" / "7.png")
    file = folder / "train" / "rows.jsonl"
    file.write_text(file.read_text().replace("1.png", "7.png"))
    assert ingested(config(folder), monkeypatch)["caption"] == alone
    assert steps(config(folder, **given))["caption"] != named


def test_the_dry_run_after_a_mended_answer_finds_the_captions_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ingested(config(folder), monkeypatch)["caption"]
    Path(made.folder).mkdir()
    DoneRecord("ingest", "labeled", 0, (), 1.0, 1, "x", {"images": 6}).write(made.folder)
    mended(folder)
    assert steps(config(folder))["caption"].hash.endswith("?")
    lines: list[str] = []
    monkeypatch.setattr(plan, "print_line", lines.append)
    plan.show(config(folder), refuse(config(folder)).amounts)
    assert next(line for line in lines if f"caption-{made.hash}" in line).split()[0] == "finished"


def test_what_vllm_is_told_is_in_the_addresses_as_far_as_it_may_change_replies(folder: Path) -> None:
    def hashes(**sections: Any) -> dict[str, str]:
        made = parse(config(folder).model_dump() | sections)
        return {label: step.hash for label, step in steps(made).items()}

    before = hashes()
    speed = {"sequences": 16, "memory_share": 0.5, "processor_cache_gb": 1}
    caption = config(folder).caption.model_dump()
    assert hashes(engine=speed, caption=caption | {"engine": speed}) == before
    for told in ({"quantization": "fp8"}, {"max_model_len": 512}, {"options": {"kv_cache_dtype": "fp8"}}):
        after = hashes(engine=told)
        assert {label for label in before if after[label] == before[label]} == {
            label
            for label in before
            if label.startswith(("ingest", "warmup", "score", "select", "finetune_labels"))
            or label in ("finetune finetune_labels", "finetune lora_labels")
        }
    teacher = hashes(caption=caption | {"engine": {"quantization": "fp8"}})
    assert teacher["caption"] != before["caption"] and teacher["warmup"] == before["warmup"]
