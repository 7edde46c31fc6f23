"""A plan says how many tokens an image takes, and estimates with them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from leaml.config import Config, parse
from leaml.data.label_counts import LabelCounts
from pipelines import image_tokens, plan
from pipelines.estimates import signature
from pipelines.ingest import ingest
from pipelines.run import Run
from pipelines.trial import refuse

SOURCE = {"format": "easy_vqa", "split": "train", "limit": 6}


def config(folder: Path, **changes: Any) -> Config:
    sections = {"data": {"labeled": SOURCE, "evaluation": SOURCE | {"split": "test"}, "budget": {"count": 4}}}
    return parse({"name": "planned", "storage": str(folder), **sections, **changes})


def image_lines(found: Config, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
    plan.show(found, *arguments)
    return [line for line in stream.getvalue().splitlines() if line.startswith("an image")]


def test_the_tokens_of_the_images_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path, caption={"url": "http://teacher/v1"})
    (assumed,) = image_lines(found, monkeypatch)
    assert "in model leaml-tiny: " in assumed
    assert assumed.endswith(", at 1000 x 1000 pixels (the size of the images is unknown until ingest)")
    for amounts in (refuse(found.model_copy(update={"caption": config(tmp_path).caption})).amounts, None):
        if amounts is None:
            with Run(found) as run:
                ingest(run)
                run.finish()
        (line,) = image_lines(found, monkeypatch, amounts)
        assert line.endswith(", at 64 x 64 pixels (the median of the images)")


@pytest.mark.parametrize(("wanted", "tokens"), [({}, 310), ({"max_image_pixels": 128 * 128}, 92), ({"image_tiles": False}, 18)])
def test_the_size_of_images_decides(
    shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], tokens: int
) -> None:
    model = {"name": str(shared_folder / "zoo" / "smolvlm1"), **wanted}
    found = config(tmp_path, model=model, caption={"teacher": model}, resources={"engine_gpus": 1, "train_gpus": 1})
    own, teacher = image_lines(found, monkeypatch)
    assert f"in model {model['name']}: {tokens} tokens of the " in own
    assert f"in caption.teacher {model['name']}: {tokens} tokens of the " in teacher

    made = plan.make(found)
    assert [one.tokens for one in made.images] == [tokens, tokens]
    estimated = {step.name: step.cost.how for step in made.steps if step.cost.rate == "assumed"}
    assert {"caption", "warmup", "generate"} <= set(estimated)
    for how in estimated.values():
        assert f" {tokens + 50:,} tokens" in how


def test_what_cannot_be_counted_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path, model={"name": "somebody/model"}, caption={"teacher": {"max_image_pixels": 100}})
    own, teacher = image_lines(found, monkeypatch)
    assert own.endswith("somebody/model: unknown tokens an image, its processor is not on this machine yet")
    assert "leaml-tiny-teacher: unknown tokens an image, max_image_pixels of the model 'leaml-tiny-teacher' is 100" in teacher


def test_a_rate_is_of_images_of_one_size(tmp_path: Path) -> None:
    plain, same, fewer = (
        config(tmp_path, model=model).model_dump(mode="json")
        for model in ({"name": "a/b"}, {"name": "a/b", "image_tiles": True}, {"name": "a/b", "max_image_pixels": 9000})
    )
    for name in ("generate", "evaluate", "warmup", "score"):
        assert signature(name, "leaml", plain) == signature(name, "leaml", same) != signature(name, "leaml", fewer)
    earlier = {**plain, "model": {"name": "a/b"}}  # of a run before these keys
    assert signature("warmup", "", earlier) == signature("warmup", "", plain)


def test_the_image_that_takes_most_is_that_of_most_tokens(shared_folder: Path) -> None:
    """Where images are cut into tiles a small square takes more than a large banner."""
    counts = {"images": 3, "rows": 0, "seen": 3, "quarantined": 0, "labels": LabelCounts().summary()}
    summaries = {"labeled": counts | {"largest": [[600, 600]]}, "unlabeled": counts | {"largest": [[4000, 250], [64, 64]]}}
    run: Any = SimpleNamespace(
        config=config(Path(), model={"name": str(shared_folder / "zoo" / "smolvlm1")}),
        done=lambda step: step in summaries,
        summary=summaries.__getitem__,
    )
    steps: Any = ["labeled", "unlabeled"]
    assert image_tokens.largest_size(run, steps) == (600, 600)
    run.config = config(Path(), model={"name": "somebody/model-that-is-not-here"})
    assert image_tokens.largest_size(run, steps) == (4000, 250)
    summaries.clear()
    assert image_tokens.largest_size(run, steps) is None
