"""What a scoring is said to take, beside what its pass holds; which models mix the examples of a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from leaml.config import ModelConfig, ScoreConfig
from leaml.neurons import footprint, scores
from leaml.neurons.gradients import MixedExamplesError, gradient_sums
from leaml.training import footprint as of_training
from leaml.training.anatomy import Way, of_model
from leaml.training.batches import Example
from leaml.vlm import load, skeleton
from leaml.vlm.collate import Collator, Turn

LANGUAGE = r"(.*\.)?(text_model|language_model)\..*"
PICTURE = Image.new("RGB", (64, 48))
TURN = Turn(PICTURE, "What is in the picture? " * 10, "A bridge over water.")


def test_what_a_pass_keeps_is_what_autograd_holds() -> None:
    vlm = load.load(ModelConfig(name="leaml-tiny"), attn_implementation="sdpa")
    vlm.model.requires_grad_(False)
    made = of_model(vlm.model)
    examples = [Example("a", TURN.request, TURN.reply)] * 3
    batch = scores.vlm_batches(vlm, lambda _: PICTURE, "cpu")(examples)
    own = {t.untyped_storage().data_ptr() for t in (*vlm.model.parameters(), *vlm.model.buffers())}
    held, kept = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        gradient_sums(scores.all_linears(vlm.model), batch)
    one = of_training.extent(made, Collator(vlm.processor)([TURN] * 3))
    parts = footprint.scored_parts(vlm.model, ".*")
    assert parts == {"vision", "connector", "language"}
    said = footprint.footprint(made, replace(one, pixels=0), ScoreConfig(), parts, "float32")
    length = one.tokens // one.examples
    norms = max(
        footprint._norms("squared", *side, (one.patches if p == "vision" else one.tokens) // 3, 3)
        for p in parts
        for side in made.linears[p]
    )
    working = max(layer.working(one.tokens, Way("lora", parts, 4, 4, False)) for layer in made.layers["language"])
    assert length > 50
    assert said.activations - norms - working == pytest.approx(sum(held.values()), rel=0.15)
    assert said.peak == pytest.approx(4 * made.parameters + said.activations + said.logits, rel=0.01)
    assert (said.gradients, said.moments) == (0, 0)


def test_the_norms_of_a_linear_take_a_chunk_at_a_time() -> None:
    """64 MiB in float32, unless the gradient of a single example is larger."""
    assert footprint._norms("squared", 100, 100, 10, 2) == 4 * (2 * 10 * 110 + 2 * 10 * 200)
    many = footprint._norms("absolute", 2048, 2048, 100, 64)
    assert many == 4 * (2**24 + 4 * 100 * 4096)
    assert footprint._norms("absolute", 8192, 8192, 100, 64) == 4 * (8192**2 + 100 * 16384)


MODELS = ["gemma3", "glm4v", "internvl", "llava15", "llava_next", "pixtral", "qwen2_5_vl", "qwen3_vl_moe", "smolvlm2"]
CASES = [(name, True) for name in MODELS] + [("internvl", False), ("smolvlm2", False)]


@pytest.mark.parametrize("modules", [".*", LANGUAGE])
@pytest.mark.parametrize(("name", "tiles"), CASES)
def test_which_models_mix_examples_is_told_without_their_weights(
    shared_folder: Path, name: str, tiles: bool, modules: str
) -> None:
    """As a pass finds it out."""
    config = ModelConfig(name=str(shared_folder / "zoo" / name), image_tiles=tiles)
    vlm: Any = load.load(config)
    vlm.model.requires_grad_(False)
    linears = scores.selectable(scores.all_linears(vlm.model), modules)
    try:
        gradient_sums(linears, scores.vlm_batches(vlm, lambda _: PICTURE, "cpu")([Example("a", "What is it?", "A ball")] * 2))
        together = True
    except MixedExamplesError:
        together = False
    pair = Collator(vlm.processor)([Turn(PICTURE, "What is it?", "A ball")] * 2)
    assert footprint.goes_together(skeleton.without_weights(config), modules, pair) is together
