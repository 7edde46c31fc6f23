"""What a model gets before it is trained, where the machine has it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import training_runs
import transformers.integrations.liger as integration
from peft import get_peft_model

from leaml.config import ModelConfig
from leaml.neurons.peft import NeuronConfig
from leaml.training import prepare
from leaml.training.loop import Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from leaml.vlm.load import VLM


@pytest.mark.parametrize(("device", "installed", "asked"), [("cuda:0", True, 1), ("cpu", True, 0), ("cuda", False, 0)])
def test_liger_computes_layers_but_not_losses_on_a_gpu_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: bool, asked: int
) -> None:
    """A GPU and Liger are what has to be made up: what Liger would be asked to patch."""
    calls: list[dict[str, Any]] = []
    liger, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner._apply_liger_kernel_to_instance = lambda **given: calls.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", liger)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    for module in (prepare, integration):
        monkeypatch.setattr(module, "is_liger_kernel_available", lambda: installed)
    plain = load.load(ModelConfig(name="leaml-tiny")).model
    model = get_peft_model(plain, NeuronConfig(selection="random", ratio=0.1))

    assert prepare.fuse_layers(model, device) is bool(asked)
    assert len(calls) == asked
    for given in calls:
        assert given.pop("model") is plain
        assert given == {"cross_entropy": False, "fused_linear_cross_entropy": False}


@pytest.mark.skipif(find_spec("torchvision") is None, reason="the processors of these models need torchvision")
@pytest.mark.parametrize(
    ("name", "kept"), [("qwen2_5_vl", torch.bfloat16), ("internvl", torch.bfloat16), ("smolvlm2", torch.float32)]
)
def test_frozen_parts_keep_their_type_beside_float32_masters(shared_folder: Path, name: str, kept: torch.dtype) -> None:
    vlm = load.load(ModelConfig(name=str(shared_folder / "zoo" / name), dtype="bfloat16"))
    half, single = (training_runs.copy_of(vlm, dtype) for dtype in (torch.bfloat16, torch.float32))
    losses = [_with_frozen_vision(one) for one in (half, single)]
    types = {(p.requires_grad, p.dtype) for p in half.model.parameters()}
    assert types == {(True, torch.float32), (False, kept)}
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def _with_frozen_vision(vlm: VLM) -> list[float]:
    for path, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(load.part_of(path) != "vision")
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    config = training_runs.CONFIG.model_copy(update={"steps": 2, "lr": 1e-4, "precision": "bfloat16"})
    given = ([training_runs.questions(5)], config, training_runs.get_image, 1, Worker())
    return [loss for _, loss in Trainer(vlm, trained, *given).run().losses]


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_float16_weights_are_trained_on_a_cpu(shared_folder: Path, method: str) -> None:
    """Where autocast computes in bfloat16, beside which norms take no float16."""
    made = load.load(ModelConfig(name=str(shared_folder / "zoo" / "smolvlm2")))
    vlm = training_runs.copy_of(made, torch.float16)
    trained = training_runs.adapted(vlm, method)
    config = training_runs.CONFIG.model_copy(update={"steps": 2, "lr": 1e-4, "precision": "bfloat16"})
    outcome = Trainer(vlm, trained, [training_runs.questions(5)], config, training_runs.get_image, 1, Worker()).run()
    assert all(loss > 0 for _, loss in outcome.losses)
