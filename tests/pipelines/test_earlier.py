"""What a later command on a run says of the steps that earlier ones have finished, and which model the run stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leaml import config as tree
from leaml.errors import InputError, StepError
from leaml.io import files
from leaml.run.model_source import find
from pipelines import status as shown
from pipelines.run import PARTIAL, Run, Step

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
ORDER = ["ingest labeled", "ingest evaluation", "exclude", "caption", "finetune leaml", "evaluate leaml"]


def make(step: Step) -> dict[str, Any]:
    files.write_bytes(step.path("model", "config.json"), b"{}")
    return {}


class Mine:
    """A run whose steps make nothing but the adapted model's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = {"labeled": "a", "evaluation": "a"}
        self.changes: dict[str, Any] = {}

    def steps(self, run: Run) -> list[Step]:
        labeled, evaluation = (
            run.step("ingest", {"content": role + self.content[role]}, [], variant=role) for role in self.content
        )
        exclude = run.step("exclude", {}, [evaluation, labeled])
        source = Step("ingest", "labeled", f"{labeled.hash}{exclude.hash}", labeled.folder, also=(exclude.name_of_folder,))
        images = Step("images", "", "0", "", also=(labeled.name_of_folder,))
        caption = run.step("caption", {}, [images])
        lr = run.config.finetune.lr
        finetune = run.step("finetune", {"lr": lr, "seed": run.config.seed}, [caption, source], variant="leaml")
        evaluate = run.step("evaluate", run.config.evaluate.model_dump(), [finetune, evaluation], variant="leaml")
        return [labeled, evaluation, exclude, caption, finetune, evaluate]

    def command(self, last: str = "evaluate leaml", error: Exception | None = None) -> dict[str, Any]:
        """All steps up to `last`; the state afterwards."""
        config = tree.parse({"name": "mine", "storage": str(self.folder), "data": DATA, **self.changes})
        try:
            with Run(config) as run:
                for step in self.steps(run):
                    run.execute(step, partial(make, step))
                    if step.label == last:
                        break
                if error:
                    raise error
                run.finish("done" if last == "evaluate leaml" else PARTIAL)
        except StepError:
            assert error
        return shown.read(str(self.folder / "mine")).tree()

    def model(self) -> str:
        return find(str(self.folder / "mine")).step


def labels_of(state: dict[str, Any]) -> list[str]:
    return [step["label"] for step in state["steps"]]


def test_a_command_for_a_part_or_one_that_fails_hides_nothing_that_is_finished(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    assert mine.command("finetune leaml")["state"] == "partial"
    model = mine.model()
    state = mine.command("ingest evaluation")
    assert (state["state"], labels_of(state)) == ("partial", ORDER[:5])
    assert "others" in state["go_on"]
    assert mine.model() == model
    mine.changes = {"resources": {"engines": 3}, "evaluate": {"max_tokens": 9}}  # the model does not depend on them
    state = mine.command("ingest evaluation", StepError("Ray did not start"))
    assert (state["state"], labels_of(state)) == ("failed", ORDER[:5])
    assert mine.model() == model


def test_a_whole_run_stays_done_after_a_command_for_a_part_of_it(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    assert mine.command("caption")["state"] == "partial"
    assert mine.command()["state"] == "done"
    assert mine.command("ingest evaluation", StepError("Ray did not start"))["state"] == "failed"
    state = mine.command("caption")
    assert (state["state"], labels_of(state)) == ("done", ORDER)
    mine.changes = {"seed": 5}
    assert mine.command("caption")["state"] == "partial"


def change(**changes: Any) -> Callable[[Mine], None]:
    return lambda mine: setattr(mine, "changes", changes)


def content(role: str) -> Callable[[Mine], None]:
    return lambda mine: mine.content.__setitem__(role, "b")


@pytest.mark.parametrize(
    "other",
    [change(seed=5), change(finetune={"lr": 1e-5}), content("labeled"), content("evaluation")],
    ids=["seed", "rate", "labels", "evaluation"],
)
def test_what_another_configuration_or_other_data_made_is_not_taken_for_this_ones(
    tmp_path: Path, other: Callable[[Mine], None]
) -> None:
    mine = Mine(tmp_path)
    mine.command()
    model, before = mine.model(), dict(mine.content)
    metrics = tmp_path / "mine" / "evaluation" / "metrics.json"
    metrics.parent.mkdir()
    metrics.write_text(json.dumps({"model": model}))
    other(mine)
    state = mine.command("exclude")
    assert not {"finetune leaml", "evaluate leaml"} & set(labels_of(state))
    assert state["state"] == "partial"
    with pytest.raises(InputError, match="has no finished adapted model"):
        mine.model()
    changed, mine.changes, mine.content = (mine.changes, mine.content), {}, before
    mine.command("exclude")
    assert mine.model() == model  # as it was
    mine.changes, mine.content = changed
    mine.command("finetune leaml")
    assert mine.model() != model


def test_a_step_folder_that_is_gone_and_a_damaged_status_are_no_steps(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    mine.command()
    files.delete_tree(str(tmp_path / "mine" / mine.model() / "_DONE.json"))
    assert labels_of(mine.command("caption")) == [*ORDER[:4], "evaluate leaml"]
    (tmp_path / "mine" / "status.json").write_text("{")
    assert labels_of(mine.command("caption")) == ORDER[:4]


def test_a_run_that_moves_with_its_data_keeps_its_steps(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    mine = Mine(tmp_path / "here" / "runs")
    source = {"format": "jsonl", "path": str(tmp_path / "here" / "train.jsonl")}
    mine.changes = {"data": {**DATA, "labeled": source}}
    mine.command()
    (tmp_path / "here").rename(tmp_path / "there")
    mine.folder, source["path"] = tmp_path / "there" / "runs", str(tmp_path / "there" / "train.jsonl")
    assert labels_of(mine.command("ingest evaluation")) == ORDER
