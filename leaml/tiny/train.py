"""Trains the two tiny VLMs that ship with the project from the procedural world, deterministic by seed.

    python -m leaml.tiny.train base|teacher --out DIR [--seed 0] [--vision-steps N] [--steps N]

Two phases. First the vision tower and connector alone, with heads for colour, shape, row, column and size: trained end to end
from the start the model does not ground in the same time. Then the whole model on captions (and, for the base, questions and
question generation) with token cross-entropy on the reply only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from leaml import prompts
from leaml.tiny import build, language, world
from leaml.tiny.card import card

IGNORED = -100
POOL = 30_000
"""Images rendered per model; every image is met with many different questions."""


class Example(NamedTuple):
    """One training sequence: image number, request, forced beginning of the reply (no loss), reply (loss)."""

    image: int
    request: str
    prefix: str
    reply: str


def render_pool(rng: random.Random, w: world.World, size: int) -> tuple[list[world.Scene], torch.Tensor]:
    """`size` scenes and their pixels as uint8 (size, 3, 64, 64)."""
    scenes = [world.sample_scene(rng, w) for _ in range(size)]
    pixels = np.stack([np.asarray(world.render(s)) for s in scenes])
    return scenes, torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, 3, 64, 64) -> float (batch, 1, 3, 64, 64) in [-1, 1], as the image processor does."""
    return (pixels.float() / 127.5 - 1.0).unsqueeze(1)


def base_example(rng: random.Random, index: int, scene: world.Scene) -> Example:
    """The base learns to answer, to describe, to ask, and to ask after describing (also in made-up words)."""
    caption = language.describe(scene, rng.choice(language.CAPTION_FORMS))
    question, answer = language.ask(rng, scene, world.BASE)
    task = rng.random()
    if task < 0.40:
        return Example(index, question, "", answer)
    if task < 0.52:
        return Example(index, prompts.CAPTION, "", caption)
    if task < 0.62:
        return Example(index, prompts.GENERATE, "", prompts.qa_reply(question, answer))
    if task < 0.75:
        return Example(index, prompts.GENERATE, "", prompts.qa_reply(question, answer, caption))
    caption, question, answer = language.made_up_example(rng)
    return Example(index, prompts.GENERATE, prompts.caption_prefix(caption), " " + prompts.qa_reply(question, answer))


def teacher_example(rng: random.Random, index: int, scene: world.Scene) -> Example:
    """The teacher only ever describes."""
    return Example(index, prompts.CAPTION, "", language.describe(scene, language.TEACHER_FORM))


class Encoder:
    """Turns examples into padded token tensors; the layout equals the processor's (tested)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        image = build.FAKE + build.GLOBAL + build.IMAGE * build.IMAGE_TOKENS + build.FAKE
        self.head = self._ids(build.USER + image)
        self.assistant = self._ids(build.ASSISTANT)
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
            context = self.head + self.text(e.request) + self.assistant + self.text(e.prefix)
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


class VisionHeads(nn.Module):
    """Linear probes on the connector's output, used in the first phase only and then thrown away.

    Beside colour, shape, row, column and size of the object they predict its mask: every image token the 16 x 16 pixels it
    stands for. The mask is dense supervision about outlines and shortens the search for shape features.
    """

    TILE = 2 * build.PATCH
    MASK_WEIGHT = 4.0

    def __init__(self, w: world.World) -> None:
        super().__init__()
        self.world = w
        self.mask = nn.Linear(build.HIDDEN, self.TILE**2)
        sizes = {"colour": len(w.colours), "shape": len(w.shapes), "row": 3, "column": 3, "size": 2}
        width = build.IMAGE_TOKENS * build.HIDDEN
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})

    def targets(self, scenes: list[world.Scene]) -> dict[str, torch.Tensor]:
        values = {
            "colour": [self.world.colours.index(s.colour) for s in scenes],
            "shape": [self.world.shapes.index(s.shape) for s in scenes],
            "row": [world.ROWS.index(s.row) for s in scenes],
            "column": [world.COLUMNS.index(s.column) for s in scenes],
            "size": [int(s.size == "large") for s in scenes],
        }
        return {name: torch.tensor(v) for name, v in values.items()}

    def object_mask(self, scenes: list[world.Scene], pixels: torch.Tensor) -> torch.Tensor:
        """Float (batch, tokens, 256): 1 where a pixel differs from the plain background."""
        background = torch.tensor([s.background for s in scenes]).view(-1, 3, 1, 1)
        mask = ((pixels.float() - background).abs().sum(1) > 60).float()
        n = world.SIZE // self.TILE
        return mask.view(-1, n, self.TILE, n, self.TILE).permute(0, 1, 3, 2, 4).reshape(len(scenes), n * n, -1)

    def forward(
        self, features: torch.Tensor, targets: dict[str, torch.Tensor], mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss and the accuracy per attribute; `features` is (batch, tokens, hidden)."""
        flat = features.flatten(1).float()
        loss = self.MASK_WEIGHT * nn.functional.binary_cross_entropy_with_logits(self.mask(features.float()), mask)
        accuracy = {}
        for name, head in self.heads.items():
            logits = head(flat)
            loss = loss + nn.functional.cross_entropy(logits, targets[name])
            accuracy[name] = (logits.argmax(-1) == targets[name]).float().mean().item()
        return loss, accuracy


class Schedule:
    """AdamW with a short linear warm-up and cosine decay over `steps`."""

    def __init__(self, parameters: Any, lr: float, steps: int) -> None:
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
        warm = max(1, min(100, steps // 10))
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.05, total_iters=warm),
                torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps - warm), eta_min=lr * 0.02),
            ],
            [warm],
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.scheduler.step()


def train_vision(
    model: Idefics3ForConditionalGeneration,
    w: world.World,
    scenes: list[world.Scene],
    pixels: torch.Tensor,
    rng: random.Random,
    steps: int,
    batch_size: int,
) -> list[float]:
    """Phase 1: vision tower, connector and throw-away heads. Returns the loss of every step."""
    heads = VisionHeads(w)
    inner = model.model
    parameters = [*inner.vision_model.parameters(), *inner.connector.parameters(), *heads.parameters()]
    schedule = Schedule(parameters, 1e-3, steps)
    largest_first = sorted(range(len(scenes)), key=lambda i: -scenes[i].radius)
    losses, started = [], time.time()
    for step in range(steps):
        known = min(1.0, 0.25 + 1.5 * step / steps)  # curriculum: the largest quarter first, everything from half-way on
        picked = [largest_first[rng.randrange(int(known * len(scenes)))] for _ in range(batch_size)]
        shown_scenes = [scenes[i] for i in picked]
        with torch.autocast("cpu", torch.bfloat16):
            features = inner.get_image_features(normalise(pixels[picked])).pooler_output
            mask = heads.object_mask(shown_scenes, pixels[picked])
            loss, accuracy = heads(features, heads.targets(shown_scenes), mask)
        schedule.step(loss)
        losses.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            shown = " ".join(f"{k} {v:.2f}" for k, v in accuracy.items())
            print(f"vision {step}/{steps} loss {loss.item():.3f} {shown} {time.time() - started:.0f}s", flush=True)
    return losses


def train_language(
    model: Idefics3ForConditionalGeneration,
    encoder: Encoder,
    make_example: Any,
    scenes: list[world.Scene],
    pixels: torch.Tensor,
    rng: random.Random,
    steps: int,
    batch_size: int,
) -> list[float]:
    """Phase 2: everything, on replies. Returns the loss of every step."""
    schedule = Schedule(model.parameters(), 1e-3, steps)
    losses, started = [], time.time()
    for step in range(steps):
        picked = [rng.randrange(len(scenes)) for _ in range(batch_size)]
        batch = encoder.batch([make_example(rng, i, scenes[i]) for i in picked])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixel_values=normalise(pixels[picked]), **batch).loss
        schedule.step(loss)
        losses.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            print(f"language {step}/{steps} loss {loss.item():.3f} {time.time() - started:.0f}s", flush=True)
    return losses


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
        logits = model(pixel_values=normalise(pixels[[e.image for e in part]]), **batch).logits
        wrong = (logits[:, :-1].argmax(-1) != labels[:, 1:]) & (labels[:, 1:] != IGNORED)
        hits += int((~wrong.any(1)).sum())
    model.train()
    return hits / len(examples)


def measure(
    name: str, model: Idefics3ForConditionalGeneration, encoder: Encoder, seed: int, size: int = 1000
) -> dict[str, float]:
    """Accuracy per task on scenes that were not trained on."""
    rng = random.Random(seed + 1_000_003)
    w = world.BASE if name == "base" else world.TEACHER
    scenes, pixels = render_pool(rng, w, size)
    form = language.CAPTION_FORMS[0] if name == "base" else language.TEACHER_FORM
    tasks: dict[str, list[Example]] = {}
    if name == "teacher":
        tasks["caption"] = [Example(i, prompts.CAPTION, "", language.describe(s, form)) for i, s in enumerate(scenes)]
    else:
        for i, scene in enumerate(scenes):
            question, answer = language.ask(rng, scene, w)
            kind = "yes_no" if answer in ("yes", "no") else "open"
            tasks.setdefault(f"answer {kind}", []).append(Example(i, question, "", answer))
            caption, question, answer = language.made_up_example(rng)
            prefix = prompts.caption_prefix(caption) + f" Question: {question} Answer:"
            tasks.setdefault("answer from a made-up caption", []).append(Example(i, prompts.GENERATE, prefix, f" {answer}"))
    return {task: round(exact_match(model, encoder, e, pixels), 4) for task, e in tasks.items()}


def train(name: str, out: Path, seed: int, vision_steps: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Train `base` or `teacher`, save model, processor and `training.json` to `out`; returns the latter's content."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    w, make_example = (world.BASE, base_example) if name == "base" else (world.TEACHER, teacher_example)
    tokenizer = build.build_tokenizer()
    model = build.build_model(tokenizer)
    encoder = Encoder(tokenizer)
    started = time.time()
    scenes, pixels = render_pool(rng, w, POOL)
    vision = train_vision(model, w, scenes, pixels, rng, vision_steps, batch_size)
    text = train_language(model, encoder, make_example, scenes, pixels, rng, steps, batch_size)
    record = {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vision_steps": vision_steps,
        "steps": steps,
        "batch_size": batch_size,
        "images": POOL,
        "seconds": round(time.time() - started),
        "threads": torch.get_num_threads(),
        "accuracy": measure(name, model, encoder, seed),
        "vision_loss": [round(x, 4) for x in vision[::50]],
        "loss": [round(x, 4) for x in text[::50]],
        "final_vision_loss": round(sum(vision[-10:]) / len(vision[-10:]), 4),
        "final_loss": round(sum(text[-10:]) / len(text[-10:]), 4),
    }
    model.bfloat16().save_pretrained(out)  # half the bytes; the accuracy above is of the float32 weights
    build.build_processor(tokenizer).save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "README.md").write_text(card(record))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("base", "teacher"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, help="default: 5000 for the base, 6000 for the teacher")
    parser.add_argument("--steps", type=int, help="default: 5000 for the base, 3000 for the teacher")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    vision_steps, steps = (5000, 5000) if args.model == "base" else (6000, 3000)
    vision_steps, steps = args.vision_steps or vision_steps, args.steps or steps
    record = train(args.model, args.out, args.seed, vision_steps, steps, args.batch_size)
    print(json.dumps(record["accuracy"]))


if __name__ == "__main__":
    main()
