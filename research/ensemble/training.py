"""Trains a stack of models on the batches, with the losses and the learning rates of `leaml.training.loop.Trainer`.

What is not trained has no gradient: rows that a selection leaves out are masked, LoRA is a sum in front of the product. In
float32 an arm ends with the weights that the Trainer gives it (tests/benchmarks/test_ensemble.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from leaml.config import TrainConfig
from leaml.training.batches import Example, Task, batch_counts
from leaml.training.loop import learning_rate
from leaml.vlm.precision import compute_dtype
from research.ensemble import model
from research.ensemble.model import Shape, Weights
from research.ensemble.texts import Texts

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Arm:
    """One training: `rows` (module -> indices) are the neurons that move, None all weights; with `lora` adapters of that rank
    on every Linear."""

    start: Weights
    tasks: list[Task]
    config: TrainConfig
    seed: int = 0
    rows: dict[str, torch.Tensor] | None = None
    lora: int = 0
    name: str = ""


@dataclass
class Trained:
    """The model that an arm ended with, and how; a loss that is not finite says that the model is of no use."""

    weights: Weights
    lr: float
    loss: float
    sweep: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """Where the arms train: the model's shape, its tokenizer, and uint8 pixels (images, 3, H, W) on the device.

    At most `together` arms make a stack. With `compile` stacks of more than `few` arms and at least `long` steps are compiled.
    """

    shape: Shape
    texts: Texts
    pixels: torch.Tensor
    together: int = 32
    few: int = 10
    long: int = 300
    compile: bool = False
    progress: Callable[[str], None] = lambda line: None


def run(bench: Bench, arms: Sequence[Arm]) -> list[Trained]:
    """Train every arm; those with several learning rates choose by the examples held out, as the Trainer does.

    An arm whose loss is not finite in the end does not stop the others.
    """
    swept = [a for a in arms if isinstance(a.config.lr, list) and len(a.config.lr) > 1 and _held_out(a)]
    tries = [(a, lr) for a in swept for lr in a.config.lr]  # type: ignore[union-attr]
    visible = [_at(replace(a, tasks=[_visible(t) for t in a.tasks]), lr) for a, lr in tries]
    judged: dict[int, list[dict[str, float]]] = {}
    for (arm, lr), tried in zip(tries, _train(bench, visible), strict=True):
        accuracy, loss = judge(bench, tried.weights, _held_out(arm))
        judged.setdefault(id(arm), []).append({"lr": lr, "accuracy": accuracy, "loss": loss})
    final = []
    for arm in arms:
        rates = arm.config.lr if isinstance(arm.config.lr, list) else [arm.config.lr]
        usable = [r for r in judged.get(id(arm), []) if math.isfinite(r["loss"])]
        best = max(usable, key=lambda r: (r["accuracy"], -r["loss"]), default={"lr": rates[0]})["lr"]
        final.append(_at(arm, best))
    found = _train(bench, final)
    for arm, trained in zip(arms, found, strict=True):
        trained.sweep = judged.get(id(arm), [])
    return found


def _at(arm: Arm, lr: float) -> Arm:
    return replace(arm, config=arm.config.model_copy(update={"lr": lr}))


def _held_out(arm: Arm) -> list[Example]:
    return [e for t in arm.tasks for e in t.examples if e.held_out]


def _visible(task: Task) -> Task:
    return replace(task, examples=[e for e in task.examples if not e.held_out])


def _train(bench: Bench, arms: Sequence[Arm]) -> list[Trained]:
    """Train arms at one learning rate each, those of one kind together."""
    found: dict[int, Trained] = {}
    kinds: dict[tuple[int, int, bool], list[int]] = {}
    for number, arm in enumerate(arms):
        kinds.setdefault((arm.config.steps, arm.config.batch_size, bool(arm.lora)), []).append(number)
    for (steps, _, lora), numbers in kinds.items():
        for begin in range(0, len(numbers), bench.together):
            part = numbers[begin : begin + bench.together]
            bench.progress(f"training {begin + len(part)} of {len(numbers)}: {steps} steps{' of LoRA' if lora else ''}")
            found.update(zip(part, _together(bench, [arms[n] for n in part]), strict=True))
    return [found[n] for n in range(len(arms))]


class Rows:
    """Token ids of every distinct example of some arms, padded on the right to a multiple of a number of tokens."""

    def __init__(self, bench: Bench, examples: Sequence[Example], multiple: int = 1) -> None:
        texts, device = bench.texts, bench.pixels.device
        contexts = texts.prompts([e.request for e in examples])
        replies = [texts.reply(e.reply) for e in examples]
        if any(e.prefix for e in examples):
            msg = "ensembles train no reply behind a prefix; leave warmup.describe_first off"
            raise ValueError(msg)
        width = max(len(c) + len(r) for c, r in zip(contexts, replies, strict=True))
        width = -(-width // multiple) * multiple
        ids = np.full((len(examples), width), texts.pad, np.int32)
        replied = np.zeros((len(examples), width), bool)
        for row, (context, reply) in enumerate(zip(contexts, replies, strict=True)):
            ids[row, : len(context)], ids[row, len(context) : len(context) + len(reply)] = context, reply
            replied[row, len(context) : len(context) + len(reply)] = True
        self.lengths = np.array([len(r) for r in replies])
        self.ids, self.replied = torch.tensor(ids, device=device), torch.tensor(replied, device=device)
        self.images = torch.tensor([int(e.image_id) for e in examples], device=device)


def batches(arm: Arm, places: dict[int, np.ndarray], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows each step of an arm trains on (steps, batch), and the weight of each of a row's reply tokens.

    `places` are the rows of each list of examples, by its id. The rows are those of
    `leaml.training.loop.draw`; the weight is the task's over the number of its reply tokens in the step.
    """
    config, rows, weights = arm.config, [], []
    for number, (task, count) in enumerate(zip(arm.tasks, batch_counts(arm.tasks, config.batch_size), strict=True)):
        if not count:
            continue
        own = places[id(task.examples)]
        epochs = math.ceil(config.steps * count / len(own))
        orders = [np.random.default_rng((arm.seed, number, epoch)).permutation(len(own)) for epoch in range(epochs)]
        drawn = own[np.concatenate(orders)[: config.steps * count]].reshape(config.steps, count)
        rows.append(drawn)
        weights.append(np.broadcast_to(task.weight / lengths[drawn].sum(1, keepdims=True), drawn.shape))
    return np.concatenate(rows, 1), np.concatenate(weights, 1).astype(np.float32)


def cross_entropy(
    norm: torch.Tensor, embedding: torch.Tensor, eps: float, x: torch.Tensor, targets: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Sum (A,) over tokens of `wanted` (A, B, T) x cross-entropy of `targets` (A, B, T), given the last layer's output x."""
    found = model.logits(norm, embedding, eps, x).float()
    losses = functional.cross_entropy(found.flatten(0, 2), targets.flatten(), reduction="none")
    return (losses.view(targets.shape) * wanted).sum((1, 2))


def loss_of(
    weights: Weights,
    shape: Shape,
    pixels: torch.Tensor,
    ids: torch.Tensor,
    wanted: torch.Tensor,
    at: int,
    compiled: bool = False,
) -> torch.Tensor:
    """Loss (A,) of a batch: the sum over tokens of `wanted` (A, B, T) x cross-entropy of the token, given those before it."""
    x = model.hidden(weights, shape, pixels, ids, at, compiled)
    targets = functional.pad(ids[:, :, 1:], (0, 1)).long()
    counted = functional.pad(wanted[:, :, 1:], (0, 1))
    ended = model.fast(cross_entropy) if compiled else cross_entropy
    return ended(*model.head(weights), shape.norm, x, targets, counted)


def update(
    values: torch.Tensor,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    rate: torch.Tensor,
    corrections: torch.Tensor,
    decay: float,
    clip: float,
) -> torch.Tensor:
    """AdamW in place on (A, P), the gradient's norm clipped model by model; `corrections` are 1 - beta^step of both moments."""
    gradient = gradient * (clip / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).add_(gradient * gradient * (1 - BETAS[1]))
    step = first / ((second / corrections[1]).sqrt() + EPSILON)
    values.copy_(values * (1 - rate * decay) - rate / corrections[0] * step)
    return values


class Parameters:
    """The trained numbers of a stack as one tensor (A, P), and the weights that they make."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.names = list(arms[0].start)
        self.sizes = [arms[0].start[n].numel() for n in self.names]
        self.shapes = [arms[0].start[n].shape for n in self.names]
        self.base = torch.stack([torch.cat([a.start[n].flatten() for n in self.names]) for a in arms])
        self.rank = arms[0].lora
        self.products = {*model.linears(arms[0].start), model.PATCHES}
        self.adapted = model.linears(arms[0].start) if self.rank else []
        self.mask: torch.Tensor | None = None
        if self.rank:
            self.values = torch.stack([self._adapters(a.seed) for a in arms])
        else:
            self.values = self.base.clone()
            if any(a.rows is not None for a in arms):
                self.mask = torch.stack([self._moves(a) for a in arms])
        self.values.requires_grad_()

    def _moves(self, arm: Arm) -> torch.Tensor:
        """1 for every number that an arm trains, bias entries of its rows included."""
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = arm.start[name]
            if arm.rows is None:
                parts.append(torch.ones_like(value).flatten())
                continue
            kept = torch.zeros(shape[0], *[1] * (len(shape) - 1), device=value.device)
            kept[arm.rows.get(name.rpartition(".")[0], torch.zeros(0, dtype=torch.int64)).to(value.device)] = 1
            parts.append(kept.expand(shape).flatten())
        return torch.cat(parts)

    def _adapters(self, seed: int) -> torch.Tensor:
        """PEFT's start: A uniform in +-1 / sqrt(in), B zero."""
        generator, parts = torch.Generator().manual_seed(seed), []
        for name in self.adapted:
            out, width = self.shapes[self.names.index(f"{name}.weight")]
            drawn = (torch.rand(self.rank, width, generator=generator) * 2 - 1) / math.sqrt(width)
            parts += [drawn.flatten(), torch.zeros(out * self.rank)]
        return torch.cat(parts).to(self.base.device)

    def weights(self, dtype: torch.dtype) -> Weights:
        """The model's weights, differentiable in `values`: those of products in this type, the others in float32, as by
        autocast. Rounded embeddings, and their gradients summed in bfloat16, cost a long training some points."""
        source = self.base if self.rank else self.values
        parts = source.split(self.sizes, 1)
        found = {n: p.view(-1, *s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}
        found = {n: p.to(dtype) if n.rpartition(".")[0] in self.products else p for n, p in found.items()}
        if not self.rank:
            return found
        sizes = [
            n
            for name in self.adapted
            for n in (self.rank * found[f"{name}.weight"].shape[2], self.rank * found[f"{name}.weight"].shape[1])
        ]
        factors = iter(self.values.split(sizes, 1))
        for name in self.adapted:
            weight = found[f"{name}.weight"]
            a = next(factors).view(len(weight), self.rank, -1)
            b = next(factors).view(len(weight), -1, self.rank)
            found[f"{name}.weight"] = (weight.float() + 2.0 * (b @ a)).to(dtype)  # lora_alpha is twice the rank
        return found


def _together(bench: Bench, arms: Sequence[Arm]) -> list[Trained]:
    """Train arms of one kind at once. Compiled stacks have one size, since every other one is compiled anew; what is few or
    short is trained as it is, since compiling takes as long as some hundred steps."""
    asked, config, device = len(arms), arms[0].config, bench.pixels.device
    compiled = bench.compile and asked > bench.few and config.steps >= bench.long and not arms[0].lora
    if compiled:
        arms = [*arms, *[arms[-1]] * (bench.together - asked)]
    lists = {id(t.examples): t.examples for a in arms for t in a.tasks}  # arms share most of them
    numbers: dict[Example, int] = {}
    places = {key: np.array([numbers.setdefault(e, len(numbers)) for e in listed]) for key, listed in lists.items()}
    rows = Rows(bench, list(numbers), 64 if compiled else 1)
    drawn = [batches(a, places, rows.lengths) for a in arms]
    order = torch.tensor(np.stack([d[0] for d in drawn], 1), device=device)  # (steps, A, B)
    worth = torch.tensor(np.stack([d[1] for d in drawn], 1), device=device)
    rates = torch.tensor([[learning_rate(s, a.config, float(a.config.lr)) for a in arms] for s in range(config.steps)])  # type: ignore[arg-type]
    rates = rates.to(device)
    given = Parameters(arms)
    first, second = torch.zeros_like(given.values), torch.zeros_like(given.values)
    dtype = compute_dtype(config.precision, device.type)
    total = torch.zeros(len(arms), device=device)
    advance = model.fast(update) if compiled else update
    corrections = torch.tensor([[1 - b ** (s + 1) for b in BETAS] for s in range(config.steps)], device=device)
    for step in range(config.steps):
        part = order[step]
        wanted = rows.replied[part] * worth[step][..., None]
        weights, shown = given.weights(dtype), bench.pixels[rows.images[part]]
        total = loss_of(weights, bench.shape, shown, rows.ids[part], wanted, bench.texts.at, compiled)
        (gradient,) = torch.autograd.grad(total.sum(), [given.values])
        with torch.no_grad():
            if given.mask is not None:
                gradient *= given.mask
            state = (given.values.detach(), gradient, first, second)
            advance(*state, rates[step][:, None], corrections[step], config.weight_decay, config.max_grad_norm)
    for arm, loss in zip(arms[:asked], total.tolist(), strict=False):
        if not math.isfinite(loss):
            bench.progress(
                f"the loss of {arm.name} is not finite after {config.steps} steps at {arm.config.lr}; lower the rate"
            )
    with torch.no_grad():
        made = given.weights(torch.float32)
    return [
        Trained({n: w[number].clone() for n, w in made.items()}, float(arm.config.lr), loss)  # type: ignore[arg-type]
        for number, (arm, loss) in enumerate(zip(arms, total.tolist(), strict=True))
    ][:asked]


@torch.no_grad()
def judge(bench: Bench, weights: Weights, examples: Sequence[Example]) -> tuple[float, float]:
    """Share of a model's replies whose every token is its first choice, and their mean loss, in float32."""
    hits, losses, one = [], [], model.stack([weights])
    for ids, replied, images in _parts(Rows(bench, examples), len(examples), 2048):
        out = model.forward(one, bench.shape, bench.pixels[images][None], ids[None], bench.texts.at)
        out, targets, counted = out[0, :, :-1].float(), ids[:, 1:].long(), replied[:, 1:]
        hits.append(((out.argmax(-1) == targets) | ~counted).all(1))
        each = functional.cross_entropy(out.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        losses.append((each * counted).sum(1) / counted.sum(1))
    return float(torch.cat(hits).float().mean()), float(torch.cat(losses).mean())


def _parts(rows: Rows, count: int, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    for begin in range(0, count, size):
        part = slice(begin, min(count, begin + size))
        yield rows.ids[part], rows.replied[part], rows.images[part]


def row_gradients(bench: Bench, weights: Weights, examples: Sequence[Example], together: int = 64) -> Iterator[Weights]:
    """The gradient of each example's own loss (mean over its reply tokens), float32: a stack of as many copies as examples."""
    rows = Rows(bench, examples)
    for ids, replied, images in _parts(rows, len(examples), together):
        copies = {n: w.expand(len(ids), *w.shape).clone().requires_grad_() for n, w in weights.items()}
        wanted = replied / replied.sum(1, keepdim=True)
        loss = loss_of(copies, bench.shape, bench.pixels[images][:, None], ids[:, None], wanted[:, None], bench.texts.at)
        found = torch.autograd.grad(loss.sum(), list(copies.values()), allow_unused=True)
        yield {n: g for n, g in zip(copies, found, strict=True) if g is not None}


def row_scores(bench: Bench, weights: Weights, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Mean over the examples of each row's score, as `leaml.neurons.scores` defines it, by "kind module"."""
    kinds: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "squared": lambda g, w: g.pow(2),
        "absolute": lambda g, w: g.abs(),
        "gradient_weight": lambda g, w: (g * w).abs(),
    }
    found: dict[str, torch.Tensor] = {}
    for gradients in row_gradients(bench, weights, examples):
        for name in model.linears(weights):
            gradient, weight = gradients[f"{name}.weight"], weights[f"{name}.weight"]
            for kind, norm in kinds.items():
                part = norm(gradient, weight).sum(2).sum(0).double().cpu()
                found[f"{kind} {name}"] = found.get(f"{kind} {name}", torch.zeros_like(part)) + part / len(examples)
    return found
