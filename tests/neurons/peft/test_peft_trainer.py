"""The training loop with a neuron adapter: resumes bit for bit, and stops before an update that is not finite."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nets import adapted, llama_rows, trainable
from training_runs import CONFIG, Disk, KilledError, get_image, mixture

from leaml.errors import StepError
from leaml.training.loop import Outcome, Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from leaml.vlm.load import VLM
from research.tiny import build


@pytest.fixture(scope="module")
def base() -> VLM:
    tokenizer = build.build_tokenizer()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "TEXT_LAYERS", 1)
        patch.setattr(build, "VISION_LAYERS", 1)
        return VLM(build.build_model(tokenizer).eval(), build.build_processor(tokenizer), "random")


@pytest.fixture
def models(base: VLM) -> Iterator[VLM]:
    """Models with the same untrained adapter, as processes of their own would make them."""

    def make() -> Iterator[VLM]:
        while True:
            model = copy.deepcopy(base.model)
            rows = llama_rows(model)
            language = {name: rows[name] for name in load.language_linears(model)}
            yield VLM(adapted(model, language), base.processor, "random")

    return make()


def train(vlm: VLM, worker: Worker, **changes: Any) -> Outcome:
    config = CONFIG.model_copy(update=changes)
    return Trainer(vlm, trainable(vlm.model), mixture(), config, get_image, 1, worker).run()


def state(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in vlm.model.state_dict().items()}


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(models: Iterator[VLM], base: VLM) -> None:
    whole, first, second = (next(models) for _ in range(3))
    expected = train(whole, Worker(), weight_decay=0.05)
    disk = Disk()
    with pytest.raises(KilledError):
        train(first, disk.worker(die_at=(0, 5)), weight_decay=0.05)
    resumed = train(second, disk.worker(), weight_decay=0.05)
    assert disk.steps == [(0, n) for n in (1, 2, 3, 4, 5, 5, 6)]
    assert resumed.losses == expected.losses
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(second).items())
    saved = disk.saved[-1].weights()
    assert sum(p.numel() for p in saved.values()) == sum(p.numel() for p in trainable(second.model))
    live = base.model.state_dict()
    for name, value in state(second).items():
        if "neuron_" in name:
            assert value.abs().min() > 0, name
        else:
            assert torch.equal(value, live[name.removeprefix("base_model.model.").replace(".base_layer", "")]), name


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_value_that_is_not_finite_stops_before_the_update_and_names_the_step(models: Iterator[VLM], where: str) -> None:
    vlm, disk, calls = next(models), Disk(), itertools.count()

    def poison(module: Any, args: Any, output: Any) -> Any:
        if next(calls) == 3:
            if where == "loss":
                output.logits = output.logits * float("nan")
            else:
                output.logits.register_hook(lambda gradient: gradient * float("inf"))
        return output

    vlm.model.register_forward_hook(poison)
    with pytest.raises(StepError, match=r"not finite at step 3 \(learning rate 0.001\); the update was not applied"):
        train(vlm, disk.worker(), save_every=1)
    assert disk.saved[-1].state()["step"] == 3
    saved = disk.saved[-1].weights()
    live = {name: p for name, p in vlm.model.named_parameters() if p.requires_grad}
    assert saved.keys() == live.keys()
    assert all(torch.equal(p, saved[name]) for name, p in live.items())
    assert all(torch.isfinite(value).all() for value in state(vlm).values() if value.is_floating_point())
