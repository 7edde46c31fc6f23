"""The table of architectures, on two models."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import zoo
from leaml.vlm.collate import Collator


def test_a_model_that_does_all_and_one_that_is_refused(
    shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good", "quantised"):
        shutil.copytree(shared_folder / "zoo" / "llava15", tmp_path / "zoo" / name)
    config = tmp_path / "zoo" / "quantised" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    monkeypatch.setattr(sys, "argv", ["zoo", "--json", str(tmp_path / "table.json"), "--folder", str(tmp_path / "zoo")])
    zoo.main()
    found = json.loads((tmp_path / "table.json").read_text())["models"]
    assert found["good"] == dict.fromkeys(zoo.CELLS, "ok")
    assert found["quantised"].pop("load").startswith("refused: the weights of the model")
    assert set(found["quantised"].values()) == {zoo.NOT_TRIED}


def test_labels_without_the_end_token_are_noticed(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Collator.reply_ids
    monkeypatch.setattr(Collator, "reply_ids", lambda *arguments: real(*arguments)[:-1])
    found = zoo.row(shared_folder / "zoo" / "llava15")
    assert found["labels"].startswith("failed: AssertionError: trained 'red'")
    assert found["adapter"] == zoo.NOT_TRIED
    assert found["score"] == "ok"
