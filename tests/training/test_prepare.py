"""What a model gets before it is trained, where the machine has it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import transformers.integrations.liger as integration
from peft import get_peft_model

from leaml.config import ModelConfig
from leaml.neurons.peft import NeuronConfig
from leaml.training import prepare
from leaml.vlm import load


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
