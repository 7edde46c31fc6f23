"""Stacked models against transformers' forward pass, the pipeline's Trainer and scores, and greedy replies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leaml.config import ModelConfig, TrainConfig, resolve_model
from leaml.engine.interface import Request
from leaml.generation import prompts
from leaml.neurons import scores, selection
from leaml.training.batches import Example, Task
from leaml.training.loop import Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from leaml.vlm.collate import Collator, Turn
from research.ensemble import decoding, model, training
from research.ensemble.texts import Texts

pytestmark = pytest.mark.research

FOLDER = Path(resolve_model("leaml-tiny"))
IMAGES = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for n in range(6)]
WORDS = ("red", "a green circle", "no", "yes", "two blue squares on the left", "gray")
ANSWERS = [Example(str(n % 6), f"what is shown, number {n}?", WORDS[n % 6], held_out=n >= 10) for n in range(13)]
PAIRS = [Example(str(n % 6), prompts.GENERATE, prompts.qa_reply(f"is it {w}?", "no")) for n, w in enumerate(WORDS)]


@pytest.fixture(scope="module")
def bench() -> training.Bench:
    pixels = torch.tensor(np.stack([np.asarray(i) for i in IMAGES])).permute(0, 3, 1, 2).contiguous()
    return training.Bench(model.Shape.of(FOLDER), Texts(FOLDER), pixels)


@pytest.fixture
def vlm() -> load.VLM:
    return load.load(ModelConfig(name=str(FOLDER)), "cpu")


def stack_of(vlm: load.VLM) -> model.Weights:
    names = model.load(FOLDER, "cpu")
    return {n: v.detach().clone() for n, v in vlm.model.state_dict().items() if n in names}


def test_forward_is_that_of_transformers(bench: training.Bench, vlm: load.VLM) -> None:
    turns = [Turn(IMAGES[int(e.image_id)], e.request, e.reply) for e in (*ANSWERS[:4], *PAIRS[:2])]
    batch = Collator(vlm.processor)(turns)
    rows = training.Rows(bench, [*ANSWERS[:4], *PAIRS[:2]])
    kept = batch["attention_mask"].bool()
    assert torch.equal(rows.ids.long()[kept], batch["input_ids"][kept])
    assert torch.equal(rows.replied, batch["labels"] != -100)
    labels = batch.pop("labels")
    with torch.no_grad():
        expected = vlm.model(**batch).logits
        other = stack_of(vlm)
        other["model.text_model.norm.weight"] = other["model.text_model.norm.weight"] * 2
        both = model.stack([stack_of(vlm), other])
        pixels = bench.pixels[rows.images].expand(2, -1, -1, -1, -1)
        found = model.forward(both, bench.shape, pixels, rows.ids.expand(2, -1, -1), bench.texts.at)
    assert torch.allclose(found[0][kept], expected[kept], atol=2e-4)
    assert torch.allclose(found[1][kept], 2 * expected[kept], atol=4e-4)
    assert labels.shape == rows.ids.shape


def config(**changes: object) -> TrainConfig:
    given = {"steps": 6, "batch_size": 8, "lr": 1e-3, "precision": "float32", "weight_decay": 0.01, "save_every": 100}
    return TrainConfig(**(given | changes))


@pytest.mark.parametrize("method", ["full", "neurons"])
def test_training_ends_with_the_trainers_weights(bench: training.Bench, vlm: load.VLM, method: str) -> None:
    from peft import get_peft_model

    from leaml.neurons.peft import NeuronConfig

    start = stack_of(vlm)
    given = config(weight_decay=0.0) if method == "neurons" else config()
    tasks = [Task("answers", ANSWERS[:10], share=1.0), Task("pairs", PAIRS, share=0.5, weight=0.7)]
    rows = None
    vlm.model.requires_grad_(method == "full")
    if method == "neurons":
        found = scores.score(scores.all_linears(vlm.model), "random", seed=3)
        rows = selection.select(found, 0.2, "module", True)
        vlm.model = get_peft_model(vlm.model, NeuronConfig(rows=rows))
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    outcome = Trainer(vlm, parameters, tasks, given, lambda i: IMAGES[int(i)], 5, Worker()).run()
    if method == "neurons":
        vlm.model = vlm.model.merge_and_unload()
    expected = stack_of(vlm)
    other = training.Arm(start, [Task("answers", ANSWERS[:3])], given, seed=1)
    trained, beside = training.run(bench, [training.Arm(start, tasks, given, seed=5, rows=rows), other])
    assert trained.loss == pytest.approx(outcome.losses[-1][1], rel=1e-3)
    for name, value in expected.items():
        if name.endswith("self_attn.k_proj.bias"):
            continue  # softmax cancels it: its gradient is rounding
        moved = (value - start[name]).norm()
        assert (trained.weights[name] - value).norm() <= 0.02 * moved + 1e-7, name
    if rows is not None:
        name = "model.text_model.layers.0.mlp.up_proj"
        still = torch.ones(len(start[f"{name}.weight"]), dtype=torch.bool)
        still[rows[name]] = False
        assert torch.equal(trained.weights[f"{name}.weight"][still], start[f"{name}.weight"][still])
        assert not torch.equal(trained.weights[f"{name}.weight"], start[f"{name}.weight"])
    assert not torch.equal(beside.weights[model.EMBEDDING], trained.weights[model.EMBEDDING])


def test_only_products_are_rounded(bench: training.Bench, vlm: load.VLM) -> None:
    """As by autocast: embeddings in bfloat16, and their gradients summed in it, cost all labels six points."""
    given = training.Parameters([training.Arm(stack_of(vlm), [Task("answers", ANSWERS[:3])], config())])
    found = {name: w.dtype for name, w in given.weights(torch.bfloat16).items()}
    rounded = {name.rpartition(".")[0] for name, kind in found.items() if kind == torch.bfloat16}
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    assert rounded == {n for n, m in vlm.model.named_modules() if isinstance(m, layers)} - {"lm_head"}
    assert {kind for name, kind in found.items() if name.rpartition(".")[0] not in rounded} == {torch.float32}
    embedding = given.weights(torch.bfloat16)[model.EMBEDDING]
    assert torch.equal(embedding[0], stack_of(vlm)[model.EMBEDDING])
    assert model.head(given.weights(torch.bfloat16))[1].dtype == torch.bfloat16  # the last product is rounded too


def test_rates_are_chosen_as_by_the_trainer(bench: training.Bench, vlm: load.VLM) -> None:
    start, given = stack_of(vlm), config(lr=[1e-5, 3e-3])
    vlm.model.requires_grad_(True)
    tasks = [Task("answers", ANSWERS)]
    outcome = Trainer(vlm, list(vlm.model.parameters()), tasks, given, lambda i: IMAGES[int(i)], 0, Worker()).run()
    (trained,) = training.run(bench, [training.Arm(start, tasks, given)])
    assert trained.lr == outcome.lr
    for mine, theirs in zip(trained.sweep, outcome.sweep, strict=True):
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"])
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_lora_starts_as_the_model_and_trains_products_only(bench: training.Bench, vlm: load.VLM) -> None:
    start = stack_of(vlm)
    still = training.Arm(start, [Task("answers", ANSWERS[:10])], config(steps=1, lr=1e-9), lora=4)
    moving = training.Arm(start, [Task("answers", ANSWERS[:10])], config(steps=30, lr=3e-3), lora=4)
    same, moved = (training.run(bench, [arm])[0] for arm in (still, moving))
    assert all(torch.allclose(same.weights[n], w, atol=1e-5) for n, w in start.items())
    assert moved.loss < 0.5 * same.loss
    name = "model.text_model.layers.1.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank(moved.weights[name] - start[name], atol=1e-4) == 4
    assert torch.equal(moved.weights[model.EMBEDDING], start[model.EMBEDDING])


def test_row_gradients_give_the_scores(bench: training.Bench, vlm: load.VLM) -> None:
    examples = ANSWERS[:5]
    vlm.model.requires_grad_(False).eval()
    linears = scores.all_linears(vlm.model)
    assert sorted(linears) == sorted(model.linears(stack_of(vlm)))
    data = scores.Data(examples, scores.vlm_batches(vlm, lambda i: IMAGES[int(i)], "cpu"), 5)
    expected = scores.score(linears, "squared", data)
    sums = {name: torch.zeros(m.out_features) for name, m in linears.items()}
    for gradients in training.row_gradients(bench, stack_of(vlm), examples, together=3):
        for name in sums:
            sums[name] += gradients[f"{name}.weight"].pow(2).sum(2).sum(0)
    for name, value in expected.items():
        assert torch.allclose(sums[name] / 5, value, rtol=1e-2, atol=1e-3 * float(value.max())), name


def test_greedy_replies_are_those_of_transformers(bench: training.Bench, vlm: load.VLM) -> None:
    asked = [
        Request(IMAGES[0], str(n), text, max_tokens=12) for n in range(3) for text in ("what is it?", "describe the image now")
    ]
    other = stack_of(vlm)
    engine = decoding.StackedEngine(model.stack([other, other]), bench.shape, bench.texts, bench.pixels)
    first, second = engine.generate([asked, asked[:1]])
    assert [c.text for c in second[0]] == [c.text for c in first[0]]
    from leaml.vlm.collate import prompt

    for request, (completion,) in zip(asked, first, strict=True):
        text = prompt(vlm.processor, request.text)
        inputs = vlm.processor(images=[[IMAGES[int(request.image_id)]]], text=[text], return_tensors="pt")
        out = vlm.model.generate(**inputs, max_new_tokens=12, do_sample=False, output_scores=True, return_dict_in_generate=True)
        new = out.sequences[0, inputs["input_ids"].shape[1] :]
        picked = [float(s[0].float().log_softmax(-1)[t]) for s, t in zip(out.scores, new, strict=True)]
        assert completion.text == vlm.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert completion.tokens == len(new)
        assert completion.mean_logprob == pytest.approx(sum(picked) / len(picked), abs=1e-3)


def test_samples_follow_the_models_probabilities(bench: training.Bench, vlm: load.VLM) -> None:
    weights = model.stack([stack_of(vlm)])
    engine = decoding.StackedEngine(weights, bench.shape, bench.texts, bench.pixels, seed=1)
    (replies,) = engine.generate([[Request(IMAGES[0], "0", "what color is it?", n=400, temperature=1.0, max_tokens=1)]])
    counted = {c.text: (np.exp(c.mean_logprob), sum(o.text == c.text for o in replies[0]) / 400) for c in replies[0]}
    expected, share = max(counted.values())
    assert len(replies[0]) == 400
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 400) + 0.01)
    (kept,) = engine.generate([[Request(IMAGES[0], "0", "what color is it?", n=50, temperature=1.0, top_p=1e-6, max_tokens=1)]])
    assert len({c.text for c in kept[0]}) == 1
