"""What a training worker trains and writes, by method, without Ray: full, LoRA and the rows and columns of a selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from leaml.config import ModelConfig, TrainConfig
from leaml.errors import ModelError
from leaml.neurons import scores, selection
from leaml.neurons.units import feed_forwards
from leaml.training.loop import Outcome
from leaml.vlm import load
from pipelines.train import TrainJob, _trainable, _write_result
from research.tiny import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model."""
    where = tmp_path_factory.mktemp("model")
    tokenizer = build.build_tokenizer()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "TEXT_LAYERS", 1)
        patch.setattr(build, "VISION_LAYERS", 1)
        load.save(build.build_model(tokenizer).eval(), build.build_processor(tokenizer), where)
    return where


def job(folder: Path, tmp_path: Path, method: str, unit: str = "row", **training: Any) -> TrainJob:
    """A job whose selection is a fifth of the rows (or feed-forward neurons) of every module but the vision tower's."""
    model = load.load(ModelConfig(name=str(folder))).model
    linears = scores.all_linears(model)
    mine = {name: m for name, m in linears.items() if name not in load.vision_linears(model)}
    blocks = feed_forwards(mine) if unit == "ffn" else {}
    found = scores.score(mine, "random", blocks=blocks)
    chosen = selection.select(found, 0.2, "module", False)
    selection.save(chosen, found, tmp_path / "selection", selection.model_hash(linears), {}, blocks)
    config = TrainConfig(**{"method": method, "lora": {"rank": 2}, **training})
    model_config = ModelConfig(name=str(folder))
    return TrainJob(str(tmp_path / "job"), model_config, [], [], config, selection=str(tmp_path / "selection"))


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_trained_parameters_are_the_methods_and_end_in_a_plain_model(folder: Path, tmp_path: Path, method: str) -> None:
    task = job(folder, tmp_path, method)
    vlm = load.load(task.model)
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    parameters = _trainable(vlm, task)
    assert {id(p) for p in parameters} == {id(p) for p in vlm.model.parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01)
    _write_result(vlm, task, Outcome(1e-3, [(0, 1.0)]), len(parameters))
    summary = json.loads((tmp_path / "job" / "training.json").read_text())
    assert (summary["method"], summary["lr"], summary["trainable_parameters"]) == (method, 1e-3, len(parameters))
    assert summary["peak_memory"] > 50e6
    after = load.load(ModelConfig(name=str(tmp_path / "job" / "model"))).model.state_dict()
    assert list(after) == list(before)
    rows = selection.load(str(task.selection), scores.all_linears(load.load(task.model).model)).rows
    for name, value in after.items():
        moved = (value != before[name]).reshape(len(value), -1).any(1).nonzero().flatten() if value.dim() else torch.tensor([])
        if method == "full":
            assert len(moved), name
        elif method == "neurons":
            module, _, kind = name.rpartition(".")
            expected = rows.get(module, torch.tensor([], dtype=torch.int64)) if kind in ("weight", "bias") else []
            assert moved.tolist() == list(map(int, expected)), name
        else:
            assert not len(moved) or name.removesuffix(".weight") in scores.all_linears(vlm.model), name


def test_selected_feed_forward_neurons_move_with_their_columns(folder: Path, tmp_path: Path) -> None:
    task = job(folder, tmp_path, "neurons", "ffn")
    vlm = load.load(task.model)
    chosen = selection.load(str(task.selection), scores.all_linears(vlm.model))
    assert chosen.columns
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    parameters = _trainable(vlm, task)
    expected = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in before.items()}
    for kind in ("weight", "bias"):
        for name, rows in chosen.rows.items():
            if f"{name}.{kind}" in expected:
                expected[f"{name}.{kind}"][rows] = True
    for name, columns in chosen.columns.items():
        expected[f"{name}.weight"][:, columns] = True
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01)
    _write_result(vlm, task, Outcome(1e-3, [(0, 1.0)]), len(parameters))
    after = load.load(ModelConfig(name=str(tmp_path / "job" / "model"))).model.state_dict()
    for name, value in after.items():
        assert torch.equal(value != before[name], expected[name]), name


def test_selection_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    task = job(folder, tmp_path, "neurons")
    vlm = load.load(task.model)
    with torch.no_grad():
        next(iter(load.language_linears(vlm.model).values())).weight[0, 0] += 1
    with pytest.raises(ModelError, match="made for model"):
        _trainable(vlm, task)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_frozen_parts_stay_as_they_are(folder: Path, tmp_path: Path, method: str) -> None:
    task = job(folder, tmp_path, method, freeze=["vision", "connector"])
    vlm = load.load(task.model)
    _trainable(vlm, task)
    trained = {load.part_of(n) for n, p in vlm.model.named_parameters() if p.requires_grad}
    assert trained - {None} == {"language"}  # None: the head, and embeddings tied to it


def test_lora_is_what_peft_is_told(folder: Path, tmp_path: Path) -> None:
    given = {"rank": 3, "alpha": 12, "dropout": 0.1, "target": ["connector"], "dora": True, "rslora": True}
    task = job(folder, tmp_path, "lora", lora=given)
    vlm = load.load(task.model)
    _trainable(vlm, task)
    (config,) = vlm.model.peft_config.values()
    found = (config.r, config.lora_alpha, config.lora_dropout, config.use_dora, config.use_rslora)
    assert found == (3, 12, 0.1, True, True)
    plain = load.load(task.model).model
    assert set(config.target_modules) == set(load.connector_linears(plain))


def test_neurons_of_a_model_that_has_moved_since_are_those_of_the_selection(folder: Path, tmp_path: Path) -> None:
    """Fine-tuning begins with the generator, whose weights are not those that were scored."""
    task = job(folder, tmp_path, "neurons")
    task.scored_here = False
    vlm = load.load(task.model)
    with torch.no_grad():
        next(iter(load.language_linears(vlm.model).values())).weight[0, 0] += 1
    chosen = selection.load(str(task.selection), scores.all_linears(load.load(task.model).model)).rows
    _trainable(vlm, task)
    (config,) = vlm.model.peft_config.values()
    assert {name: config.indices(name).tolist() for name in config.modules} == {n: r.tolist() for n, r in chosen.items()}


def test_a_model_is_saved_in_its_own_type(folder: Path, tmp_path: Path) -> None:
    task = job(folder, tmp_path, "full")
    task.model = ModelConfig(name=str(folder), dtype="bfloat16")
    vlm = load.load(task.model)
    vlm.model.float()  # as it is trained
    _write_result(vlm, task, Outcome(1e-3, [(0, 1.0)]), 1)
    with safe_open(tmp_path / "job" / "model" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118  # no mapping
    assert json.loads((tmp_path / "job" / "model" / "config.json").read_text())["dtype"] == "bfloat16"
