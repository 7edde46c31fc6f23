"""Trains the two tiny VLMs that ship with the project from the procedural world, deterministic by seed; `make models`.

    python -m research.tiny.train base|teacher --out DIR [--seed 0] [--vision-steps N] [--steps N]

Phases, each with a checkpoint under OUT/phases until the training ends:
text (base only): the language model answers questions about descriptions, first without and then with negations.
vision: vision tower and connector alone, with probes for colour, shape, row, column, size and mask: trained end to end from the
start the model does not ground in the same time. For the base the connector is aligned with the embeddings of the words.
language: everything, on captions (and, for the base, questions and question generation), token cross-entropy on the reply only.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from leaml.generation import prompts
from leaml.vlm.precision import fast_bfloat16
from research.tiny import build, language, tokens, world
from research.tiny.card import card
from research.tiny.loop import Log, Phases, Schedule
from research.tiny.probes import Probes, WordAlignment

IGNORED = -100
POOL = 30_000
"""Images rendered per model; every image is met with many different questions."""


class Example(NamedTuple):
    """One training sequence: image number (None: text only), request, forced beginning of the reply (no loss), reply (loss)."""

    image: int | None
    request: str
    prefix: str
    reply: str


class Pool(NamedTuple):
    """Rendered scenes and their pixels, uint8 (scenes, 3, 64, 64)."""

    scenes: list[world.Scene]
    pixels: torch.Tensor


def render_pool(rng: random.Random, w: world.World, size: int) -> Pool:
    """`size` scenes drawn from a world, and their pixels."""
    scenes = [world.sample_scene(rng, w) for _ in range(size)]
    pixels = np.stack([np.asarray(world.render(s)) for s in scenes])
    return Pool(scenes, torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, 3, 64, 64) -> float (batch, 1, 3, 64, 64) in [-1, 1], as the image processor does."""
    return (pixels.float() / 127.5 - 1.0).unsqueeze(1)


def shown(examples: list[Example], pixels: torch.Tensor) -> torch.Tensor | None:
    """Normalised pixels of the examples that show an image."""
    images = [e.image for e in examples if e.image is not None]
    return normalise(pixels[images]) if images else None


def base_example(rng: random.Random, index: int, scene: world.Scene) -> Example:
    """The base learns to answer, to describe, to ask, to answer from a description, and keeps comparing strange words."""
    caption = language.describe(scene, rng.choice(language.CAPTION_FORMS))
    if rng.random() < 0.3:
        question, answer = language.ask(rng, scene, world.BASE)
    else:
        question, answer = language.ask_varied(rng, scene.colour, scene.shape, world.BASE.colours, world.BASE.shapes)
    task = rng.random()
    if task < 0.45:
        return Example(index, question, "", answer)
    if task < 0.55:
        return Example(index, prompts.CAPTION, "", caption)
    if task < 0.61:
        return Example(index, prompts.GENERATE, "", prompts.qa_reply(question, answer))
    if task < 0.67:
        return Example(index, prompts.GENERATE, "", prompts.qa_reply(question, answer, caption))
    o = language.made_up_object(rng)
    question, answer = o.ask_varied(rng)
    if task < 0.80:
        caption = o.caption(rng.choice((*language.CAPTION_FORMS, language.TEACHER_FORM)))
        return Example(index, prompts.GENERATE, prompts.answer_prefix(question, caption), f" {answer}")
    return about_words(o, question, answer)


def about_words(o: language.Described, question: str, answer: str) -> Example:
    """A question about an image given by the words of its tokens."""
    words = language.image_words(o.colours[0], o.shapes[0], o.size, o.row, o.column, tokens.IMAGE_TOKENS)
    return Example(None, f"{tokens.FAKE}{tokens.GLOBAL} {' '.join(words)}{tokens.FAKE}{question}", "", answer)


def text_example(rng: random.Random, negations: bool) -> Example:
    """A question about a description, or about the words of an image in the places of its tokens."""
    if rng.random() < 0.2:
        caption, question, answer = language.made_up_example(rng, negations)
        return Example(None, f"{caption} {question}", "", answer)
    o = language.made_up_object(rng)
    return about_words(o, *o.ask(rng, negations))


def teacher_example(rng: random.Random, index: int, scene: world.Scene) -> Example:
    """The teacher only ever describes."""
    return Example(index, prompts.CAPTION, "", language.describe(scene, language.TEACHER_FORM))


class Encoder:
    """Turns examples into padded token tensors; the layout equals the processor's (tested)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        image = tokens.FAKE + tokens.GLOBAL + tokens.IMAGE * tokens.IMAGE_TOKENS + tokens.FAKE
        self.user = self._ids(tokens.USER)
        self.image = self._ids(image)
        self.assistant = self._ids(tokens.ASSISTANT)
        self.end = self._ids(build.END)
        self.cache: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, text: str) -> list[int]:
        if len(self.cache) > 200_000:
            self.cache.clear()
        return self.cache.setdefault(text, self._ids(text))

    def batch(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        rows, labels = [], []
        for e in examples:
            image = [] if e.image is None else self.image
            context = self.user + image + self.text(e.request) + self.assistant + self.text(e.prefix)
            reply = self.text(e.reply) + self.end
            rows.append(context + reply)
            labels.append([IGNORED] * len(context) + reply)
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([r + [pad] * (width - len(r)) for r in rows]),
            "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows]),
            "labels": torch.tensor([r + [IGNORED] * (width - len(r)) for r in labels]),
        }


def replies_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Bool (batch,): every token of the reply is the first choice, given the right ones before it."""
    wrong = (logits[:, :-1].argmax(-1) != labels[:, 1:]) & (labels[:, 1:] != IGNORED)
    return ~wrong.any(1)


def rates_by_kind(examples: list[Example], right: torch.Tensor) -> dict[str, list[float]]:
    """Right (1) or wrong (0) of the answers, yes/no apart from the others."""
    rates: dict[str, list[float]] = {}
    for e, r in zip(examples, right.tolist(), strict=True):
        if e.request not in (prompts.CAPTION, prompts.GENERATE):
            rates.setdefault("yes_no" if e.reply in ("yes", "no") else "open", []).append(float(r))
    return rates


def train_text(
    model: Idefics3ForConditionalGeneration, encoder: Encoder, rng: random.Random, steps: int, batch_size: int
) -> list[float]:
    """The language model alone: read a description, answer a question about it. Negated questions from half-way on."""
    schedule = Schedule(model.model.text_model.parameters(), 1e-3, steps, model.get_input_embeddings().weight)
    log = Log("text", steps)
    for step in range(steps):
        examples = [text_example(rng, negations=step >= steps // 2) for _ in range(batch_size)]
        batch = encoder.batch(examples)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
            out = model(**batch)
        schedule.step(out.loss)
        log.add(out.loss.item(), rates_by_kind(examples, replies_right(out.logits, batch["labels"])))
    return log.losses


def train_vision(
    model: Idefics3ForConditionalGeneration,
    w: world.World,
    pool: Pool,
    rng: random.Random,
    steps: int,
    batch_size: int,
    alignment: WordAlignment | None,
) -> list[float]:
    """Vision tower, connector and throw-away probes; with `alignment` the connector also learns the words' embeddings."""
    probes = Probes(w)
    inner = model.model
    parameters = [*inner.vision_model.parameters(), *inner.connector.parameters(), *probes.parameters()]
    schedule = Schedule(parameters, 1e-3, steps)
    largest_first = sorted(range(len(pool.scenes)), key=lambda i: -pool.scenes[i].radius)
    log = Log("vision", steps)
    for step in range(steps):
        known = min(1.0, 0.25 + 1.5 * step / steps)  # curriculum: the largest quarter first, everything from half-way on
        picked = [largest_first[rng.randrange(int(known * len(largest_first)))] for _ in range(batch_size)]
        scenes, pixels = [pool.scenes[i] for i in picked], pool.pixels[picked]
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
            features = inner.get_image_features(normalise(pixels)).pooler_output
            loss, rates = probes(features, probes.targets(scenes), probes.object_mask(scenes, pixels))
            if alignment is not None:
                loss = loss + alignment(features, scenes, rates)
        schedule.step(loss)
        log.add(loss.item(), rates)
    if alignment is not None:
        alignment.rescale(inner.connector)
    return log.losses


def train_language(
    model: Idefics3ForConditionalGeneration,
    encoder: Encoder,
    make_example: Any,
    pool: Pool,
    rng: random.Random,
    steps: int,
    batch_size: int,
    lr: float,
) -> list[float]:
    """Everything, on replies."""
    schedule = Schedule(model.parameters(), lr, steps, model.get_input_embeddings().weight)
    log = Log("language", steps)
    for _ in range(steps):
        picked = [rng.randrange(len(pool.scenes)) for _ in range(batch_size)]
        examples = [make_example(rng, i, pool.scenes[i]) for i in picked]
        batch = encoder.batch(examples)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
            out = model(pixel_values=shown(examples, pool.pixels), **batch)
        schedule.step(out.loss)
        log.add(out.loss.item(), rates_by_kind(examples, replies_right(out.logits, batch["labels"])))
    return log.losses


@torch.no_grad()
def exact_match(
    model: Idefics3ForConditionalGeneration, encoder: Encoder, examples: list[Example], pixels: torch.Tensor
) -> float:
    """Share of examples whose every reply token is the model's first choice (teacher forced)."""
    model.eval()
    hits = 0
    for start in range(0, len(examples), 128):
        part = examples[start : start + 128]
        batch = encoder.batch(part)
        labels = batch.pop("labels")
        logits = model(pixel_values=shown(part, pixels), **batch).logits
        hits += int(replies_right(logits, labels).sum())
    model.train()
    return hits / len(examples)


def measure(
    name: str, model: Idefics3ForConditionalGeneration, encoder: Encoder, seed: int, size: int = 1000
) -> dict[str, float]:
    """Accuracy per task on scenes that were not trained on."""
    rng = random.Random(seed + 1_000_003)
    w = world.BASE if name == "base" else world.TEACHER
    pool = render_pool(rng, w, size)
    tasks: dict[str, list[Example]] = {}
    if name == "teacher":
        captions = [language.describe(s, language.TEACHER_FORM) for s in pool.scenes]
        tasks["caption"] = [Example(i, prompts.CAPTION, "", c) for i, c in enumerate(captions)]
    else:
        for i, scene in enumerate(pool.scenes):
            for wording, (question, answer) in (
                ("", language.ask(rng, scene, w)),
                (", varied wording", language.ask_varied(rng, scene.colour, scene.shape, w.colours, w.shapes)),
            ):
                kind = "yes_no" if answer in ("yes", "no") else "open"
                tasks.setdefault(f"answer {kind}{wording}", []).append(Example(i, question, "", answer))
            caption, question, answer = language.made_up_example(rng)
            prefix = prompts.answer_prefix(question, caption)
            tasks.setdefault("answer from a made-up caption", []).append(Example(i, prompts.GENERATE, prefix, f" {answer}"))
            unmet = language.made_up_object(rng, language.UNMET_NAMES, own=0.0)
            tasks.setdefault("check with words never met", []).append(about_words(unmet, *unmet.ask_varied(rng)))
    return {task: round(exact_match(model, encoder, e, pool.pixels), 4) for task, e in tasks.items()}


def train(
    name: str, out: Path, seed: int, vision_steps: int, steps: int, batch_size: int, text_steps: int = 0
) -> dict[str, Any]:
    """Train `base` or `teacher`, save model, processor and `training.json` to `out`; returns the latter's content.

    With `text_steps` the language model is trained first and the vision tower is aligned with its words.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    w, make_example = (world.BASE, base_example) if name == "base" else (world.TEACHER, teacher_example)
    tokenizer = build.build_tokenizer()
    model = build.build_model(tokenizer)
    encoder = Encoder(tokenizer)
    pool = render_pool(rng, w, POOL)
    phases = Phases(out, model, rng)
    text, alignment = [], None
    if text_steps:
        build.initialise_text(model)
        build.freeze_strange_words(model, tokenizer)
        text = phases.run("text", lambda: train_text(model, encoder, rng, text_steps, batch_size))
        alignment = WordAlignment(tokenizer, model.get_input_embeddings().weight, w)
    vision = phases.run("vision", lambda: train_vision(model, w, pool, rng, vision_steps, batch_size, alignment))
    lr = 5e-4 if text_steps else 1e-3  # gentler where a trained language model is carried on
    replies = phases.run("language", lambda: train_language(model, encoder, make_example, pool, rng, steps, batch_size, lr))
    record = {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "text_steps": text_steps,
        "vision_steps": vision_steps,
        "steps": steps,
        "batch_size": batch_size,
        "images": POOL,
        "seconds": round(phases.seconds),
        "threads": torch.get_num_threads(),
        "accuracy": measure(name, model, encoder, seed),
        "text_loss": [round(x, 4) for x in text[::50]],
        "vision_loss": [round(x, 4) for x in vision[::50]],
        "loss": [round(x, 4) for x in replies[::50]],
        "final_vision_loss": round(sum(vision[-10:]) / len(vision[-10:]), 4),
        "final_loss": round(sum(replies[-10:]) / len(replies[-10:]), 4),
    }
    model.bfloat16().save_pretrained(out)  # half the bytes; the accuracy above is of the float32 weights
    build.build_processor(tokenizer).save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "README.md").write_text(card(record))
    phases.clear()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("base", "teacher"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-steps", type=int, help="default: 2500 for the base, 0 (no such phase) for the teacher")
    parser.add_argument("--vision-steps", type=int, help="default: 4000 for the base, 6000 for the teacher")
    parser.add_argument("--steps", type=int, help="default: 2000 for the base, 3000 for the teacher")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    defaults = (2500, 4000, 2000) if args.model == "base" else (0, 6000, 3000)
    chosen = (args.text_steps, args.vision_steps, args.steps)
    text_steps, vision_steps, steps = (d if c is None else c for c, d in zip(chosen, defaults, strict=True))
    record = train(args.model, args.out, args.seed, vision_steps, steps, args.batch_size, text_steps)
    print(json.dumps(record["accuracy"]))


if __name__ == "__main__":
    main()
