"""However a batch is cut, into micro-batches or for workers, a training is the same; and what it keeps in memory."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import pytest
import torch
from PIL import Image
from training_runs import CONFIG, Disk, KilledError, adapted, copy_of, get_image, mixture, questions

from leaml.config import TrainConfig
from leaml.errors import DataError, ModelError
from leaml.training import loop, memory
from leaml.training.batches import Batches, Example, Size, Task, draw, split
from leaml.training.feed import Feed
from leaml.training.loop import Trainer
from leaml.training.objectives import reply_logits
from leaml.training.prepare import checkpoint_activations
from leaml.training.worker import Worker
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.load import VLM


def trained(vlm: VLM, method: str = "full", worker: Worker | None = None, **settings: Any) -> tuple[list[float], torch.Tensor]:
    """Losses, and how far each trained weight has moved."""
    parameters = adapted(vlm, method)
    before = [p.detach().clone() for p in parameters]
    config = CONFIG.model_copy(update={"steps": 3, "batch_size": 8, "lr": 1e-4, **settings})
    outcome = Trainer(vlm, parameters, mixture(), config, get_image, 1, worker or Worker()).run()
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)])
    return [loss for _, loss in outcome.losses], moved


# --- how a batch is cut ------------------------------------------------------------------------------------------------


def test_parts_hold_every_example_once_and_no_more_tokens_than_the_budget() -> None:
    lengths = [30, 7, 90, 12, 12, 55, 8, 30]
    parts = split(lengths, 100)
    assert sorted(i for part in parts for i in part) == list(range(8))
    assert [[lengths[i] for i in part] for part in parts] == [[90], [55], [30, 30, 12], [12, 8, 7]]
    assert split(lengths, 1) == [[2], [5], [0], [7], [3], [4], [6], [1]]  # one that is too long is alone
    assert split([], 100) == []


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("budget", [40, 100, 10_000])
def test_workers_share_a_batch_and_pass_through_it_together(world: int, budget: int) -> None:
    def size(example: Example) -> Size:
        return Size(10 + 3 * len(example.reply), len(example.reply))

    tasks = mixture()
    cuts = [Batches(tasks, 8, 1, size, budget, rank, world).at(2) for rank in range(world)]
    assert len({len(cut.parts) for cut in cuts}) == 1
    assert all(part for cut in cuts for part in cut.parts)
    found = sorted((n, e.image_id, e.reply) for cut in cuts for part in cut.parts for n, e in part)
    drawn = draw(tasks, 8, 1, 2)
    assert found == sorted((n, e.image_id, e.reply) for n, e in drawn)
    for cut in cuts:
        assert cut.reply_tokens == [sum(len(e.reply) for n, e in drawn if n == task) for task in (0, 1)]
        for part in cut.parts:
            assert len(part) == 1 or len(part) * max(size(e).tokens for _, e in part) <= budget


def test_tokens_are_those_of_the_tensors(tiny: VLM) -> None:
    """Also of an image whose size the processor changes, and with a forced beginning."""
    examples = [Example("red-64", "a?", "red"), Example("red-200", "What colour is it here?", "it is red", prefix="I see ")]
    images = {"red-64": Image.new("RGB", (64, 64)), "red-200": Image.new("RGB", (200, 90))}
    trainer = Trainer(tiny, [], [Task("t", examples)], TrainConfig(micro_batch_tokens=100), images.__getitem__, 1, Worker())
    for example in examples:
        made = Collator(tiny.processor)([Turn(images[example.image_id], example.request, example.reply, example.prefix)])
        size = trainer._size(example)
        assert size.tokens == made["input_ids"].shape[1]
        assert size.reply == int((made["labels"] != -100).sum())


# --- the training is the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
@pytest.mark.parametrize("settings", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 150}], ids=str)
def test_micro_batches_train_as_the_whole_batch(tiny: VLM, method: str, settings: dict[str, Any]) -> None:
    losses, moved = trained(copy_of(tiny), method)
    other, passes = copy_of(tiny), []
    other.model.register_forward_hook(lambda *_: passes.append(1))
    found_losses, found = trained(other, method, **settings)
    assert len(passes) == (3 * 8 if settings["micro_batch_tokens"] == 1 else 12)
    assert found_losses == pytest.approx(losses, rel=1e-8)
    assert (found - moved).norm() < 1e-5 * moved.norm()  # parts of transformers compute in float32 whatever the weights are
    assert moved.abs().max() > 5e-5


@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_activations_computed_again_change_nothing(tiny: VLM, method: str) -> None:
    losses, moved = trained(copy_of(tiny), method, activation_checkpointing=False)
    again = copy_of(tiny)
    passes = []
    layer = again.model.model.text_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    found_losses, found = trained(again, method, activation_checkpointing=True)
    assert len(passes) == 6  # three steps, each forward and once more in backward
    assert found_losses == pytest.approx(losses, rel=1e-8)
    assert (found - moved).norm() < 1e-6 * moved.norm()


def test_a_model_that_cannot_compute_again_is_refused_when_asked_to() -> None:
    plain: Any = VLM(torch.nn.Linear(2, 2), None, "plain")  # type: ignore[arg-type]
    assert checkpoint_activations(plain, "auto") is False
    with pytest.raises(ModelError, match=r"'plain' cannot compute activations again; set activation_checkpointing to false"):
        checkpoint_activations(plain, True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_weights_train_as_float32_ones(tiny: VLM, precision: str) -> None:
    """Updates of 1e-5 of a weight are lost in bfloat16, whose step is 4e-3 of it; so what is trained is held in float32."""
    settings: dict[str, Any] = {"lr": 1e-5, "steps": 12, "precision": precision}
    start = copy_of(tiny, torch.bfloat16)
    losses, moved = trained(copy_of(start, torch.float32), **settings)
    half = copy_of(start, torch.bfloat16)
    found_losses, found = trained(half, **settings)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert found_losses[-1] == pytest.approx(losses[-1], rel=0.02)
    assert (found != 0).double().mean() > 0.9
    assert (found - moved).norm() < 0.05 * moved.norm()


def test_weights_that_are_not_trained_keep_their_type(tiny: VLM) -> None:
    half = copy_of(tiny, torch.bfloat16)
    losses, _ = trained(half, "neurons", precision="bfloat16")
    assert losses[-1] > 0
    types = {p.requires_grad: p.dtype for p in half.model.parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}


# --- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_logits_are_made_of_reply_tokens_alone(tiny: VLM, wrapped: bool) -> None:
    vlm = copy_of(tiny, torch.float32)
    if wrapped:
        adapted(vlm, "lora")
    turns = [Turn(get_image(c), "What colour is it, in a word?", c) for c in ("red", "green")]
    batch = Collator(vlm.processor)(turns)
    labels = batch.pop("labels")
    seen: list[torch.Size] = []
    handle = vlm.model.get_output_embeddings().register_forward_hook(lambda _, given, made: seen.append(made.shape))
    found = reply_logits(vlm.model, batch, labels)
    count = int((labels != -100).sum())
    assert seen == [torch.Size([count, vlm.model.config.text_config.vocab_size])]
    assert count < 0.2 * labels.numel()
    whole = vlm.model(**batch).logits
    expected = torch.nn.functional.cross_entropy(whole[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    assert torch.allclose(found.losses(), expected[labels[:, 1:].flatten() != -100], atol=1e-6)
    assert seen[1][:2] == labels.shape  # afterwards the head sees everything again
    handle.remove()


def test_hidden_states_of_another_number_than_tokens_are_refused(tiny: VLM) -> None:
    vlm = copy_of(tiny, torch.float32)
    batch = Collator(vlm.processor)([Turn(get_image("red"), "a?", "red")])
    labels = batch.pop("labels")
    with pytest.raises(ModelError, match=r"shape \(1, \d+, 128\) for 1 examples of \d+ tokens"):
        reply_logits(vlm.model, batch, torch.cat([labels, labels], 1))


# --- where the input comes from ----------------------------------------------------------------------------------------


def picture_or_error(name: str) -> Image.Image:
    """Pickled to the processes by its name."""
    if name == "torn":
        msg = "image torn cannot be read"
        raise DataError(msg)
    return get_image(name)


def test_processes_make_the_same_input_in_the_same_order_and_hand_on_what_went_wrong(tiny: VLM) -> None:
    def made(feed: Feed, tasks: list[Task]) -> list[Any]:
        batches = Batches(tasks, 4, 1, lambda e: Size(60, len(e.reply)), budget=130)
        return [
            (batch.reply_tokens, [(tensors["input_ids"].tolist(), numbers.tolist()) for tensors, numbers in parts])
            for batch, parts in feed.steps(batches, 1, 4)
        ]

    here, there = Feed(tiny.processor, picture_or_error), Feed(tiny.processor, picture_or_error, processes=2)
    found = made(there, mixture())
    assert found == made(here, mixture())
    assert [len(parts) for _, parts in found] == [2, 2, 2]
    assert there.waited > 0
    torn = [*questions().examples, Example("torn", "a?", "b")]
    with pytest.raises(DataError, match=r"^image torn cannot be read$"):
        made(Feed(tiny.processor, picture_or_error, processes=1), [Task("labels", torn)])


# --- how much fits -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much a process has taken at its height")
def test_a_pass_gets_what_is_measured_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One example of 100 tokens takes 300 MB: its activations 260, the gradients of 10 M weights 40."""

    def once(copies: int) -> None:
        torch.ones(10_000_000 + 65_000_000 * copies)

    monkeypatch.setattr(memory, "free_memory", lambda: 2_160_000_000)
    device = torch.device("cpu")
    found = memory.token_budget(once, 100, 10_000_000, device) or 0
    assert found == pytest.approx(0.7 * 2.0e9 / 2.6e6, rel=0.1)
    half = memory.token_budget(once, 100, 10_000_000, device, share=0.5) or 0
    assert half == pytest.approx(0.7 * 0.92e9 / 2.6e6, rel=0.1)
    assert memory.token_budget(once, 900, 10_000_000, device, share=0.01) == 900  # an example is never cut


def test_a_training_that_shares_a_gpu_keeps_to_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GB others hold 45; this one has reserved 10 and uses 6 of them."""
    kept = list[tuple[float, str]]()
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (25e9, 80e9))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 10e9)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 6e9)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda share, device: kept.append((share, str(device))))
    gpu = torch.device("cuda", 0)
    assert memory._free(gpu, 1.0) == 25e9 + 4e9
    assert memory._free(gpu, 0.4) == 0.4 * 80e9 - 6e9  # less than what is free, and more than 0.4 of that
    assert memory._free(gpu, 0.5) == 25e9 + 4e9  # others hold more than their half
    for device, share in ((gpu, 0.5), (gpu, 1.0), (torch.device("cpu"), 0.5)):
        memory.keep_to_share(device, share)
    assert kept == [(0.5, "cuda:0")]


@pytest.mark.parametrize(("small", "budget"), [(10**8, None), (0, 1)])
def test_where_nothing_tells_what_a_pass_takes_examples_of_a_large_model_come_one_by_one(
    tiny: VLM, monkeypatch: pytest.MonkeyPatch, small: int, budget: int | None
) -> None:
    """As without /proc/self/clear_refs: the whole batch in one pass would be the end of it."""
    monkeypatch.setattr(memory, "_peak_of", lambda once, device: None)
    monkeypatch.setattr(loop, "SMALL", small)
    trainer = Trainer(copy_of(tiny), [], mixture(), CONFIG, get_image, 1, Worker())
    assert trainer._measured_budget() == budget


def test_the_budget_is_measured_before_the_first_step_and_leaves_nothing(tiny: VLM) -> None:
    vlm = copy_of(tiny, torch.float32)
    parameters = adapted(vlm, "lora")
    trainer = Trainer(vlm, parameters, mixture(), TrainConfig(batch_size=8), get_image, 1, Worker())
    assert (trainer._measured_budget() or 0) > 100
    assert all(p.grad is None for p in parameters)


def test_a_resumed_training_keeps_its_budget(tiny: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_measured_budget", lambda self: 150)
    disk, config = Disk(), {"micro_batch_tokens": "auto", "steps": 6, "save_every": 2}
    with pytest.raises(KilledError):
        trained(copy_of(tiny), "full", disk.worker(die_at=(0, 3)), **config)
    monkeypatch.setattr(Trainer, "_measured_budget", lambda self: 10_000)  # more memory is free than before
    losses, _ = trained(copy_of(tiny), "full", disk.worker(), **config)
    assert disk.saved[-1].state()["budget"] == 150
    assert losses == trained(copy_of(tiny), "full", **config | {"micro_batch_tokens": 150})[0]
    shutil.rmtree(disk.saved[-1].folder)
    trained(copy_of(tiny), "full", disk.worker(), **config | {"micro_batch_tokens": 60})  # what did not fit is made to fit
    assert disk.saved[-1].state()["budget"] == 60


def test_a_frozen_part_of_a_half_precision_model_is_no_hindrance(tiny: VLM) -> None:
    """Vision states are written among the embeddings: both must have one type."""
    half = copy_of(tiny, torch.bfloat16)
    half.model.requires_grad_(True)
    half.model.model.vision_model.requires_grad_(False)
    parameters = [p for p in half.model.parameters() if p.requires_grad]
    config = CONFIG.model_copy(update={"steps": 2, "precision": "bfloat16", "lr": [1e-3, 1e-4]})
    outcome = Trainer(half, parameters, [questions(10, held_out=5)], config, get_image, 1, Worker()).run()
    assert len(outcome.sweep) == 2  # validated, too


def test_a_budget_is_one_example_where_two_do_not_fit() -> None:
    def once(copies: int) -> None:
        if copies > 1:
            raise torch.OutOfMemoryError

    assert memory.token_budget(once, 123, 10, torch.device("cpu")) == 123
