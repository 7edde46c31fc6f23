"""Neuron scores of a batch in four model families: equal to autograd on every example alone, in float64."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from leaml.neurons import scores
from leaml.neurons.gradients import gradient_sums
from leaml.training.batches import Example
from leaml.vlm.load import VLM, language_linears, part_of

if TYPE_CHECKING:
    from tests.vlm.conftest import Made

EXAMPLES = [
    Example("0", "What colour is the shape?", "red"),
    Example(
        "1", "Write a question about the image and answer it.", " Question: What shape? Answer: circle", "Caption: a shape"
    ),
    Example("0", "Is it a circle?", "no, it is a rectangle"),
    Example("2", "Where?", "left"),
]
BATCHED = ("idefics3", "llava", "paligemma")
"""The others cut images into tiles or flatten all patches into one dimension, so their vision towers are scored one by one."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small wait for a second thread longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prepare(made: Made, pictures: list[Image.Image]) -> tuple[scores.Data, VLM]:
    vlm = VLM(copy.deepcopy(made.model).double().requires_grad_(False), made.processor, made.family)
    return scores.Data(EXAMPLES, scores.vlm_batches(vlm, lambda i: pictures[int(i)], "cpu"), 4), vlm


def naive(data: scores.Data, linears: dict[str, torch.nn.Linear]) -> dict[str, torch.Tensor]:
    weights = [m.weight.requires_grad_(True) for m in linears.values()]
    total = {n: torch.zeros(m.out_features, dtype=torch.float64) for n, m in linears.items()}
    for example in EXAMPLES:
        gradients = torch.autograd.grad(data.collate([example]).losses()[0], weights, allow_unused=True)
        for name, gradient in zip(linears, gradients, strict=True):
            total[name] += 0 if gradient is None else gradient.square().sum(1)
    for weight in weights:
        weight.requires_grad_(False)
    return {name: value / len(EXAMPLES) for name, value in total.items()}


def test_scores_equal_autograd(made: Made, pictures: list[Image.Image], caplog: pytest.LogCaptureFixture) -> None:
    data, vlm = prepare(made, pictures)
    linears = scores.all_linears(vlm.model)
    with caplog.at_level(logging.WARNING):
        found = scores.score(linears, "squared", data)
    for name, expected in naive(data, linears).items():
        torch.testing.assert_close(
            found[name].double(), expected, rtol=1e-4, atol=1e-14 + 1e-5 * float(expected.max()), msg=name
        )
    assert {part_of(n) for n in linears if found[n].max() > 0} == {"vision", "connector", "language"}
    one_by_one = [r.message for r in caplog.records if "one at a time" in r.message]
    assert len(one_by_one) == (0 if made.family in BATCHED else 1)


def test_the_language_model_alone_is_scored_in_batches(made: Made, pictures: list[Image.Image]) -> None:
    data, vlm = prepare(made, pictures)
    linears = language_linears(vlm.model)
    found = gradient_sums(linears, data.collate(EXAMPLES))  # raises if examples cannot be told apart
    for name, expected in naive(data, linears).items():
        torch.testing.assert_close(found[name] / 4, expected, rtol=1e-4, atol=1e-14 + 1e-5 * float(expected.max()), msg=name)


def test_as_many_tiles_as_examples_are_not_taken_for_one_image_each(tiny: Any, pictures: list[Image.Image]) -> None:
    """Tiles that are padding are dropped, so 4 tiles may be left of 4 images: 2 of one and 2 of another, say."""
    data, vlm = prepare(tiny("idefics3-tiles"), pictures)
    vision = next(n for n in scores.all_linears(vlm.model) if part_of(n) == "vision")
    assert not data.collate(EXAMPLES).separate(vision, torch.Size((4, 64, 128)))
    whole, _ = prepare(tiny("idefics3"), pictures)
    assert whole.collate(EXAMPLES).separate(vision, torch.Size((4, 64, 128)))
