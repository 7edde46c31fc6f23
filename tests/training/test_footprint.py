"""What a training is said to take: what layers keep is counted beside what autograd holds."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from benchmarks.gpu import part
from leaml.config import ModelConfig, TrainConfig
from leaml.config.training import LoraSettings
from leaml.neurons import scores
from leaml.neurons.peft import NeuronConfig
from leaml.training import footprint, memory
from leaml.training.anatomy import Anatomy, Layer, Way, of_config, of_model
from leaml.training.footprint import Extent
from leaml.training.objectives import reply_logits
from leaml.vlm import checkpoint, load
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.precision import computing_in

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["idefics3", "qwen2_5_vl"])
def made(request: pytest.FixtureRequest) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model with sdpa, and a batch of an example."""
    if request.param == "idefics3":
        vlm = load.load(ModelConfig(name="leaml-tiny"), attn_implementation="sdpa")
        turn = Turn(Image.new("RGB", (64, 64)), "What is in the picture? " * 20, "A bridge over water.")
        return vlm.model, Collator(vlm.processor)([turn])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "PHOTO", (280, 280))
        model = part.model("tiny", part.Part(CPU, True, None, {}), dtype=torch.float32)  # type: ignore[arg-type]
        return model, part.batch(model, part.Part(CPU, False, None, {}), 1)  # type: ignore[arg-type]


def adapted(model: Any, method: str, lora: LoraSettings | None = None) -> Any:
    model.requires_grad_(method == "full")
    if method == "full":
        return model
    if method == "neurons":
        return get_peft_model(model, NeuronConfig(selection="random", ratio=0.1))
    lora, names = lora or LoraSettings(), sorted(scores.all_linears(model))
    return get_peft_model(model, LoraConfig(r=lora.rank, target_modules=names, lora_dropout=lora.dropout, use_dora=lora.dora))


def working(anatomy: Anatomy, one: Extent, compute: int = 4, lora: LoraSettings | None = None) -> int:
    """What is freed again."""
    way = Way("", set(), compute, 4, False, lora=lora)
    return max(layer.working(one.tokens, way) for layer in anatomy.layers["language"])


class Kept:
    """A tensor that lives as long as the graph that has saved it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def held(model: Any, batch: dict[str, torch.Tensor], precision: Any) -> int:
    """Bytes that autograd holds for the backward pass, beside the model."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    found: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Kept:
        kept = Kept(tensor)
        found.add(kept)
        return kept

    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor), computing_in(precision, "cpu"):
        alive = reply_logits(model, inputs, batch["labels"])
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage().nbytes() for kept in found}
    del alive
    return sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_activations_are_those_that_autograd_holds(made: tuple[Any, dict[str, torch.Tensor]], method: str) -> None:
    model, batch = made
    anatomy = of_model(model)
    one = footprint.extent(anatomy, batch)
    train = TrainConfig(method=method, precision="float32", activation_checkpointing=False)
    said = footprint.footprint(anatomy, replace(one, pixels=0), train, ratio=0.1).activations
    peft = adapted(model, method)
    try:
        found = held(peft.train(), batch, "float32")
    finally:
        if method != "full":
            peft.unload()
        model.requires_grad_(False)
    assert said - working(anatomy, one) == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [{}, {"dropout": 0.1}, {"dora": True}, {"dora": True, "dropout": 0.1, "rank": 4}], ids=str)
def test_what_variants_of_lora_keep_is_counted(
    made: tuple[Any, dict[str, torch.Tensor]], lora: dict[str, Any], precision: str
) -> None:
    model, batch = made
    anatomy, settings = of_model(model), LoraSettings(**lora)
    one = footprint.extent(anatomy, batch)
    train = TrainConfig(method="lora", lora=settings, precision=precision, activation_checkpointing=False)
    said = footprint.footprint(anatomy, replace(one, pixels=0), train).activations
    freed = working(anatomy, one, 4 if precision == "float32" else 2, settings)
    peft = adapted(model, "lora", settings)
    try:
        found = held(peft.train(), batch, precision)
    finally:
        peft.unload()
    assert said - freed == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_what_a_mixture_s_experts_keep_is_counted(shared_folder: Path, method: str) -> None:
    """They are no Linears: without them half of what autograd holds was told."""
    vlm = load.load(ModelConfig(name=str(shared_folder / "zoo" / "qwen3_vl_moe")), attn_implementation="sdpa")
    turn = Turn(Image.new("RGB", (64, 64)), "What is in the picture? " * 20, "A bridge over water.")
    batch = Collator(vlm.processor)([turn])
    anatomy = of_model(vlm.model)
    one = footprint.extent(anatomy, batch)
    train = TrainConfig(method=method, precision="float32", activation_checkpointing=False)
    said = footprint.footprint(anatomy, replace(one, pixels=0), train, ratio=0.1).activations
    assert said - working(anatomy, one) == pytest.approx(held(adapted(vlm.model, method).train(), batch, "float32"), rel=0.15)


def test_a_worker_gathers_a_layer_with_all_of_its_experts(shared_folder: Path) -> None:
    vlm = load.load(ModelConfig(name=str(shared_folder / "zoo" / "qwen3_vl_moe")))
    anatomy = of_model(vlm.model)
    layers = [sum(p.numel() for p in layer.parameters()) for layer in load.transformer_layers(vlm.model)]
    assert max(layers) > 4 * 3 * 96 * 64  # four experts with a gate, an up and a down projection
    assert footprint._gathered(anatomy, TrainConfig(method="lora"), 2) == 2 * (2 * anatomy.largest + 2 * max(layers))


ZOO = ["gemma3", "glm4v", "internvl", "llava15", "llava_next", "llava_onevision", "paligemma", "pixtral", "qwen2_5_vl"]
ZOO += ["qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm1", "smolvlm2"]


@pytest.mark.parametrize("name", ZOO)
def test_weights_are_those_that_the_loaded_model_has(shared_folder: Path, name: str) -> None:
    config = ModelConfig(name=str(shared_folder / "zoo" / name))
    anatomy, (_, one) = of_config(config), shape()
    said = footprint.footprint(anatomy, one, TrainConfig(method="full", precision="float32"))
    real = sum(p.nbytes for p in load.load(config).model.parameters())
    assert (said.weights, said.gradients, said.moments) == (real, real, 2 * real)


def test_the_head_is_copied_into_the_type_of_products() -> None:
    anatomy, one = shape()
    half = {"precision": "bfloat16", "activation_checkpointing": True}
    for method, stored, copied in (("neurons", "float32", 1), ("lora", "float32", 1), ("lora", "bfloat16", 0)):
        train, larger = TrainConfig(method=method, **half), replace(anatomy, vocabulary=2 * anatomy.vocabulary)
        plain, large = (footprint.footprint(made, one, train, stored).activations for made in (anatomy, larger))
        assert large - plain == copied * 2 * 576 * 49_280


def shape(**changes: Any) -> tuple[Anatomy, Extent]:
    """SmolVLM-256M's sizes, and an example with an image of 17 tiles."""
    vision = Layer(768, 768, 3072, False, False, 0, 12, 6, read=6912, made=6912)
    text = Layer(576, 576, 1536, True, False, 2, 9, 7, read=4992, made=5184)
    layers = {"vision": [vision] * 12, "language": [text] * 30}
    counts = {"vision": 86_000_000, "connector": 7_000_000, "language": 135_000_000, None: 28_000_000}
    linears: dict[str | None, list[tuple[int, int]]] = {"vision": [(768, 768)] * 12, "language": [(576, 576)] * 30}
    anatomy = Anatomy(counts, linears, layers, 49_280, 28_385_280, 16, True, False, True)
    return replace(anatomy, **changes), Extent(1143, 20, 17 * 1024, 17 * 3 * 512 * 512 * 4, 1, 1024)


def test_weights_gradients_and_moments_by_hand() -> None:
    anatomy, one = shape()
    full = footprint.footprint(anatomy, one, TrainConfig(method="full", precision="float32"))
    assert (full.weights, full.gradients, full.moments) == (4 * 256e6, 4 * 256e6, 8 * 256e6)
    frozen = footprint.footprint(anatomy, one, TrainConfig(method="full", precision="float32", freeze=["vision"]))
    assert (frozen.weights, frozen.gradients) == (4 * 256e6, 4 * 170e6)
    half = TrainConfig(method="full", precision="bfloat16", freeze=["vision"])
    assert footprint.footprint(anatomy, one, half, "bfloat16").weights == 2 * 86e6 + 4 * 170e6
    assert footprint.footprint(replace(anatomy, mixes=False), one, half, "bfloat16").weights == 4 * 256e6
    rows = sum(round(0.3 * out) * width for each in anatomy.linears.values() for out, width in each)
    train = TrainConfig(method="neurons", precision="bfloat16")
    neurons = footprint.footprint(anatomy, one, train, "bfloat16", ratio=0.3)
    assert (neurons.weights, neurons.gradients, neurons.moments) == (2 * 256e6 + 4 * rows, 4 * rows, 8 * rows)
    ranks = 16 * sum(sum(size) for each in anatomy.linears.values() for size in each)
    assert anatomy.trained(TrainConfig(method="lora"), 0.0) == ranks


def test_a_photo_in_tiles_takes_what_was_measured_of_it() -> None:
    """Of a tile 0.416 GiB were held for the backward pass with sdpa, and 22 of all with eager attention, in bfloat16."""
    anatomy, one = shape()
    train = TrainConfig(method="lora", precision="bfloat16", activation_checkpointing=False)
    sdpa = footprint.footprint(anatomy, one, train, "bfloat16")
    eager = footprint.footprint(replace(anatomy, eager=True), one, train, "bfloat16")
    assert sdpa.activations / 2**30 == pytest.approx(17 * 0.416, rel=0.15)
    assert eager.activations / 2**30 == pytest.approx(22, rel=0.15)


def test_layers_that_compute_again_keep_their_input_alone() -> None:
    anatomy, one = shape()
    train = TrainConfig(method="lora", precision="float32", activation_checkpointing=True)
    again = footprint.footprint(anatomy, one, train).activations
    kept = footprint.footprint(anatomy, one, train.model_copy(update={"activation_checkpointing": False})).activations
    assert again < 0.35 * kept
    assert footprint.footprint(anatomy, one, train.model_copy(update={"activation_checkpointing": "auto"})).activations == again
    small = replace(anatomy, counts={"language": 99_000_000})
    assert not footprint.again(small, TrainConfig(activation_checkpointing="auto"))


def test_a_frozen_tower_keeps_nothing() -> None:
    anatomy, one = shape()
    train = TrainConfig(method="lora", precision="float32", activation_checkpointing=False)
    frozen = train.model_copy(update={"freeze": ["vision"]})
    assert footprint.footprint(anatomy, one, frozen).activations < 0.2 * footprint.footprint(anatomy, one, train).activations


def test_logits_are_of_reply_tokens_alone() -> None:
    anatomy, one = shape()
    train = TrainConfig(method="lora", precision="float32")
    assert footprint.footprint(anatomy, one, train).logits == 12 * 20 * 49_280
    assert footprint.footprint(anatomy, one.times(3), train).logits == 12 * 60 * 49_280


def test_weights_in_four_bits_take_an_eighth_of_those_in_float32(made: tuple[Any, dict[str, torch.Tensor]]) -> None:
    model, batch = made
    anatomy = of_model(model)
    one = footprint.extent(anatomy, batch)
    lora = TrainConfig(method="lora", precision="bfloat16")
    nf4 = lora.model_copy(update={"lora": lora.lora.model_copy(update={"quantization": "nf4"})})
    quantised = sum(out * width for out, width in anatomy.linears["language"])
    plain, small = (footprint.footprint(anatomy, one, train, "bfloat16").weights for train in (lora, nf4))
    assert plain - small == pytest.approx(quantised * (2 - 4.127 / 8), rel=1e-3)


def test_workers_with_a_part_each_gather_a_layer_and_what_is_outside(made: tuple[Any, dict[str, torch.Tensor]]) -> None:
    model, batch = made
    anatomy = of_model(model)
    one = footprint.extent(anatomy, batch)
    train = TrainConfig(method="full", precision="bfloat16")
    whole, part = (footprint.footprint(anatomy, one, train, shards=shards) for shards in (1, 8))
    assert part.fixed == pytest.approx(whole.fixed / 8, rel=1e-6)
    gathered = footprint._gathered(anatomy, train, 2)
    assert part.activations - gathered == whole.activations - footprint._copies(anatomy, train, 2, 4)
    assert gathered > 2 * anatomy.largest


@pytest.mark.parametrize("name", ["smolvlm2", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3", "llava15", "glm4v", "pixtral"])
def test_layers_of_both_towers_are_found(shared_folder: Path, name: str) -> None:
    """What is not found is neither sharded by layers nor counted."""
    layers = of_config(ModelConfig(name=str(shared_folder / "zoo" / name))).layers
    assert layers["vision"] and layers["language"]


@pytest.mark.parametrize(("name", "threshold"), [("leaml-tiny", 2**30), ("somebody/model-that-is-not-here", 2**20)])
def test_buffers_of_a_large_model_go_back_to_the_system(name: str, threshold: int) -> None:
    """And of one whose size nobody knows; those of a small one are kept for the next step."""
    parameters = checkpoint.parameters(ModelConfig(name=name))
    assert memory.allocator(parameters)["MALLOC_MMAP_THRESHOLD_"] == str(threshold)
