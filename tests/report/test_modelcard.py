"""Which model a name stands for, and the card that tells where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from finished_runs import CALIBRATION, METRICS, write_run

from leaml.errors import InputError
from leaml.report.modelcard import card, licence
from leaml.run.model_source import find


def test_the_card_says_what_limits_the_comparison(tmp_path: Path) -> None:
    warnings = ["1 validation question cannot show a difference"]
    limited = card(str(write_run(tmp_path / "limited", metrics=METRICS | {"warnings": warnings})))
    assert limited["evaluation"]["warnings"] == warnings
    assert card(str(write_run(tmp_path / "earlier")))["evaluation"]["warnings"] == []


def test_a_run_stands_for_its_adapted_model(tmp_path: Path) -> None:
    found = find(f"{write_run(tmp_path / 'mine')}/")
    assert found.model.name == f"{tmp_path}/mine/finetune-abc/model"
    assert (found.model.dtype, found.name, found.step) == ("bfloat16", "mine", "finetune-abc")
    assert (found.temperature, found.answer_tokens, found.max_pixels) == (1.7, 11, 1000)
    assert find(str(tmp_path / "mine"), dtype="float32").model.dtype == "float32"


@pytest.mark.parametrize("how", ["running", "not reached", "weights gone"])
def test_a_run_without_a_finished_model_is_refused(tmp_path: Path, how: str) -> None:
    state = "running" if how == "running" else "done"
    steps = (("finetune_labels", "finetune-base"),) if how == "not reached" else (("leaml", "finetune-abc"),)
    run = write_run(tmp_path / "mine", state, None, None, steps)
    if how == "weights gone":
        (run / "finetune-abc" / "model" / "config.json").unlink()
    with pytest.raises(InputError, match=r"mine has no finished adapted model .*run `leaml adapt` to its end"):
        find(str(run))


def test_the_evaluation_of_an_earlier_model_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    other = {"model": "finetune-old"}
    found = find(str(write_run(tmp_path / "mine", metrics=METRICS | other, calibration=CALIBRATION | other)))
    assert (found.metrics, found.calibration, found.temperature) == ({}, {}, None)
    shown = card(found)
    assert (shown["evaluation"], shown["calibration"]) == (None, None)
    assert "not been evaluated" in shown["note"]


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "evaluation/calibration.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "mine")
    (run / name).write_text('{"steps": [')
    with pytest.raises(InputError, match=f"{name} is damaged"):
        find(str(run))


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a run"):
        find(str(tmp_path))
    for missing in (str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(InputError, match="does not exist"):
            find(missing)


def test_card_of_a_run(tmp_path: Path) -> None:
    shown = card(str(write_run(tmp_path / "mine")))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert (shown["kind"], shown["run"], shown["run_id"], shown["code_version"]) == ("run", "mine", "finetune-abc", "0.1.0")
    assert shown["base_model"] == {"name": "leaml-tiny", "revision": None, "dtype": "bfloat16"}
    assert shown["labels"] == {"images": 40, "questions": 371}
    assert shown["data"] == {
        "labeled": "jsonl, train.jsonl, split train",
        "unlabeled": None,
        "evaluation": "huggingface, org/set, split test",
    }
    rows = shown["evaluation"]["rows"]
    assert [(r["name"], r["title"], r["ours"]) for r in rows] == [
        ("zero_shot", "Zero-shot", False),
        ("leaml", "LEAML", True),
        ("my_control", "my_control", False),
    ]
    assert rows[1] | {"accuracy": 0.9, "ci95": [0.88, 0.92], "n": 1500, "by_type": {"color": 0.8}} == rows[1]
    assert shown["evaluation"]["comparison"]["difference"] == 0.4
    assert shown["calibration"] == {"temperature": 1.7, "ece": 0.02, "ece_uncalibrated": 0.09, "n": 1500}
    assert (shown["licence"], shown["date"], shown["note"]) == ("Apache-2.0", "2026-11-23T12:00:00Z", "")


def test_the_card_of_a_run_has_the_size_of_images(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] |= {"max_image_pixels": 9000, "image_tiles": False}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    model = {"name": "leaml-tiny", "revision": None, "dtype": "bfloat16", "max_image_pixels": 9000, "image_tiles": False}
    assert card(str(run))["base_model"] == model


def test_a_card_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    text = json.dumps(card(str(write_run(tmp_path / "mine"))))
    assert str(tmp_path) not in text
    assert "secret" not in text


def test_card_of_a_bare_model(tmp_path: Path) -> None:
    shown = card("leaml-tiny-teacher")
    assert (shown["kind"], shown["name"], shown["licence"]) == ("model", "leaml-tiny-teacher", "Apache-2.0")
    assert "not of a run" in shown["note"]
    assert not {"run", "evaluation", "labels"} & set(shown)
    assert card("org/model")["base_model"] == {"name": "org/model", "revision": None, "dtype": "float32"}
    folder = tmp_path / "somewhere" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert card(str(folder))["base_model"]["name"] == "model"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0 # ok\n---\nlicense: no", "apache-2.0"),
        ('---\nlicense: "cc-by-4.0"\n---\n', "cc-by-4.0"),
        ("A model.\n\nLicence: MIT\n", "MIT"),
        ("A model, license to be found elsewhere.\n", None),
        (None, None),
    ],
)
def test_licence_of_a_model_folder(tmp_path: Path, text: str | None, found: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert licence(str(tmp_path)) == found
    assert licence("org/model") is None
