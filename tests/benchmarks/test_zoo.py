"""The table of architectures: its cheap cells for every checkpoint there is, and what it says of faults."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import zoo
from benchmarks.zoo_engines import computed
from leaml.config import load
from leaml.vlm.collate import Collator

CHEAP = ("load", "labels", "score", "adapter", "merge")
GIVEN = dict.fromkeys(("score", "merge", "adapt", "serve"), "ok") | {"vllm": "differs: 1"}
NAMES = sorted(file.parent.name for file in zoo.ZOO.glob("*/model.safetensors"))


@pytest.mark.parametrize("name", NAMES or ["none"])
def test_an_architecture_is_loaded_labelled_scored_trained_and_merged(shared_folder: Path, name: str) -> None:
    assert zoo.row(shared_folder / "zoo" / name, CHEAP) == dict.fromkeys(CHEAP, "ok")


def test_a_model_that_does_all_and_one_that_is_refused(
    shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good", "quantised"):
        shutil.copytree(shared_folder / "zoo" / "llava15", tmp_path / "zoo" / name)
    (tmp_path / "zoo" / "without weights").mkdir()
    config = tmp_path / "zoo" / "quantised" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    file, arguments = tmp_path / "table.json", ["--folder", str(tmp_path / "zoo"), "--add", "--cells"]
    file.write_text(json.dumps({"models": {"good": GIVEN, "quantised": {"vllm": "ok"}}}))
    monkeypatch.setattr(sys, "argv", ["zoo", "--json", str(file), *arguments, "adapter"])
    zoo.main()
    table = json.loads(file.read_text())
    assert table["models"]["good"] == dict.fromkeys(("load", "labels", "adapter"), "ok") | GIVEN
    assert table["models"]["quantised"].pop("load").startswith("refused: the weights of the model")
    assert set(table["models"]["quantised"].values()) == {zoo.NOT_TRIED, "ok"}
    assert (table["passed"], table["of"]) == (1, 2)


def test_labels_without_the_end_token_are_noticed(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Collator.reply_ids
    monkeypatch.setattr(Collator, "reply_ids", lambda *arguments: real(*arguments)[:-1])
    found = zoo.row(shared_folder / "zoo" / "llava15", ("score", "adapter"))
    assert found["labels"].startswith("failed: AssertionError: trained 'red'")
    assert found["adapter"] == zoo.NOT_TRIED
    assert found["score"] == "ok"


@pytest.mark.parametrize(("name", "same"), [("llava15", "ok"), ("gemma3", "differs: attends both ways")])
def test_attention_both_ways_is_measured_and_anything_else_is_a_failure(
    shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, same: str
) -> None:
    tried = zoo.Tried(shared_folder / "zoo" / name, tmp_path)
    tried.load()
    said = [vars(one) for one in computed(tried.vlm, causal=True)]
    monkeypatch.setattr(tried, "_process", lambda *_: said)
    assert zoo.outcome(tried.vllm).startswith(same)
    said[0]["answer"] += 0.01
    assert zoo.outcome(tried.vllm).startswith("failed: AssertionError: vLLM and transformers")
    said[0]["ids"][-1] += 1
    assert "differ by inf nats" in zoo.outcome(tried.vllm)


def test_the_smallest_run_is_a_configuration(tmp_path: Path) -> None:
    config = load(zoo.adapt_config("leaml-tiny", tmp_path))
    assert config.distill.steps == 2
    lines = [line for name in ("train", "test") for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert all((tmp_path / json.loads(line)["image"]).is_file() for line in lines)


def test_a_program_that_says_what_is_wrong_has_refused() -> None:
    says = "import sys; print('{}', file=sys.stderr); sys.exit(1)"
    assert zoo.outcome(lambda: zoo.run(["-c", says.format("error: no model")], 20)) == "refused: error: no model"
    assert zoo.outcome(lambda: zoo.run(["-c", says.format("killed")], 20)) == "failed: RuntimeError: killed"
