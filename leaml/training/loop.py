"""The training loop behind every training step: one loop, any mixture of tasks, full, LoRA or neuron-only.

Batches are a pure function of (seed, step), so a run that is killed and resumed sees the very batches it would have seen, and
any number of workers splits the same global batch. The loop knows nothing of Ray: the caller passes a `Worker` with its rank
and with functions to save and restore a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from leaml.config import TrainConfig
from leaml.errors import ConfigError, StepError
from leaml.training.objectives import IGNORED, per_example_loss, token_loss
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.load import VLM
from leaml.vlm.precision import Precision, compute_dtype


@dataclass(frozen=True)
class Example:
    """One training row: the request shown with an image, a forced beginning of the reply (no loss), and the reply."""

    image_id: str
    request: str
    reply: str
    prefix: str = ""
    held_out: bool = False
    """Part of the validation labels: left out while learning rates are compared, used afterwards."""


@dataclass(frozen=True)
class Task:
    """Examples that share a loss term: `weight` scales their mean token loss, `share` is their part of every batch."""

    name: str
    examples: list[Example]
    share: float = 1.0
    weight: float = 1.0


@dataclass
class Worker:
    """What the loop needs from whoever runs it; the defaults run it alone and save nothing."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    restore: Callable[[], dict[str, Any] | None] = lambda: None
    save: Callable[[dict[str, object]], None] = lambda state: None
    progress: Callable[[dict[str, float]], None] = lambda metrics: None


@dataclass(frozen=True)
class Validation:
    """Examples that are never trained on and asked every `every` steps and after the last one; `report` gets each result as
    {"step", "accuracy", "loss"}, on every worker."""

    examples: list[Example]
    every: int
    report: Callable[[dict[str, float]], None] = lambda found: None


@dataclass
class Outcome:
    """What a training produced: the loss curve of the final phase, the sweep's results, the learning rate used, and what a
    `Validation` found."""

    lr: float
    losses: list[tuple[int, float]] = field(default_factory=list)
    sweep: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


class TrainingState(TypedDict):
    """Where a training is; with the last three keys, what a `Worker` saves and restores.

    Attributes:
        phase: Learning rate of the sweep that is tried, from 0; after the sweep their number.
        step: Steps done in this phase.
        sweep: Result of each rate tried: "lr", "accuracy" and, where it stayed finite, "loss".
        losses: `(step, loss)` points of this phase.
        validations: Results of this phase, as `Validation` reports them.
        seconds: Since the training began, those of earlier attempts included.
        parameters: The trained parameters, on the CPU.
        optimizer: Its state dict.
    """

    phase: int
    step: int
    sweep: list[dict[str, float]]
    losses: list[tuple[int, float]]
    validations: list[dict[str, float]]
    seconds: NotRequired[float]
    parameters: NotRequired[list[torch.Tensor]]
    optimizer: NotRequired[dict[str, object]]


GetImage = Callable[[str], Image.Image]


def learning_rate(step: int, config: TrainConfig, peak: float) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then cosine decay to a tenth of the peak."""
    warm = max(1, round(config.warmup_ratio * config.steps))
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def batch_counts(tasks: list[Task], batch_size: int) -> list[int]:
    """Examples of each task in a batch, by share; every task with a share gets at least one. Sums to `batch_size`.

    Raises ConfigError when there are more such tasks than examples in a batch.
    """
    if batch_size < (active := sum(t.share > 0 for t in tasks)):
        msg = f"batch_size {batch_size} has no slot for each of the {active} tasks {[t.name for t in tasks]}; raise it"
        raise ConfigError(msg)
    total = sum(t.share for t in tasks)
    counts = [max(1, round(batch_size * t.share / total)) if t.share > 0 else 0 for t in tasks]
    counts[int(np.argmax(counts))] += batch_size - sum(counts)
    return counts


def draw(tasks: list[Task], batch_size: int, seed: int, step: int) -> list[tuple[int, Example]]:
    """The global batch of `step` as (task index, example): each task walks its own shuffled epochs without gaps."""
    batch = []
    for number, (task, count) in enumerate(zip(tasks, batch_counts(tasks, batch_size), strict=True)):
        size = len(task.examples)
        for position in range(step * count, (step + 1) * count):
            epoch, offset = divmod(position, size)
            batch.append((number, task.examples[_order(size, seed, number, epoch)[offset]]))
    return batch


_orders: dict[tuple[int, int, int, int], np.ndarray] = {}


def _order(size: int, seed: int, number: int, epoch: int) -> np.ndarray:
    key = (size, seed, number, epoch)
    if key not in _orders:
        if len(_orders) > 16:
            _orders.clear()
        _orders[key] = np.random.default_rng((seed, number, epoch)).permutation(size)
    return _orders[key]


def reply_tokens(labels: torch.Tensor, numbers: torch.Tensor, tasks: int) -> torch.Tensor:
    """int64 (tasks,): how many tokens of each task carry loss; `numbers` (batch,) says which task a row belongs to."""
    per_row = (labels[:, 1:] != IGNORED).sum(1)
    return torch.zeros(tasks, dtype=torch.int64, device=labels.device).index_add(0, numbers.to(labels.device), per_row)


def task_loss(
    vlm: VLM,
    batch: dict[str, torch.Tensor],
    numbers: torch.Tensor,
    weights: list[float],
    precision: Precision,
    tokens: torch.Tensor,
) -> torch.Tensor:
    """Sum over tasks of weight x mean token cross-entropy of that task's reply tokens (token mean, not example mean).

    The mean is over `tokens` (tasks,), the counts of the *global* batch: with several workers each returns its part, and the
    parts add up to the loss of one worker, however unequally tasks and long replies are spread.
    """
    labels = batch["labels"]
    device_type = labels.device.type
    dtype = compute_dtype(precision, device_type)
    with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
        logits = vlm.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    total = logits.new_zeros((), dtype=torch.float32)
    for number, weight in enumerate(weights):
        rows = (numbers == number).nonzero().flatten()
        if len(rows) and weight:
            total = total + weight * token_loss(logits[rows], labels[rows]).sum() / max(1, int(tokens[number]))
    return total


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sum of the gradients over all workers in one all-reduce; only trainable parameters travel."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter)


class NotFiniteError(StepError):
    """A loss or gradient is not finite; the update was not applied."""


class Trainer:
    """Trains the given parameters of a model on a mixture of tasks, with a learning-rate sweep before when asked for."""

    def __init__(
        self,
        vlm: VLM,
        parameters: list[nn.Parameter],
        tasks: list[Task],
        config: TrainConfig,
        get_image: GetImage,
        seed: int,
        worker: Worker,
        validation: Validation | None = None,
    ) -> None:
        self.vlm, self.parameters, self.tasks, self.config = vlm, parameters, tasks, config
        self.get_image, self.seed, self.worker, self.validation = get_image, seed, worker, validation
        self.collator = Collator(vlm.processor)
        if config.batch_size % worker.world:
            msg = f"batch_size {config.batch_size} cannot be split over {worker.world} workers; choose a multiple"
            raise ConfigError(msg)
        for task in tasks:
            if task.share > 0 and not task.examples:
                msg = f"training task {task.name!r} has no examples; check the step that makes them"
                raise StepError(msg)
        batch_counts(tasks, config.batch_size)

    def run(self) -> Outcome:
        """Sweep if several learning rates are given and some rows are held out, then train the final model in place."""
        rates = self.config.lr if isinstance(self.config.lr, list) else [self.config.lr]
        held_out = [e for t in self.tasks for e in t.examples if e.held_out]
        visible = [_without_held_out(t) for t in self.tasks]
        comparable = bool(held_out) and all(t.examples for t in visible if t.share > 0)
        phases = list(rates) if len(rates) > 1 and comparable else []
        if not self.parameters:  # a selection ratio of 0: nothing may move
            return Outcome(rates[0])
        start = [p.detach().clone() for p in self.parameters]
        state: TrainingState = {"phase": 0, "step": 0, "sweep": [], "losses": [], "validations": []}
        state |= cast(TrainingState, self.worker.restore() or {})
        self._began = time.time() - state.get("seconds", 0.0)
        while state["phase"] < len(phases):
            sweep = [*state["sweep"], self._tried(visible, phases[state["phase"]], state, start, held_out)]
            state = {"phase": state["phase"] + 1, "step": 0, "sweep": sweep, "losses": [], "validations": []}
        ended = [r for r in state["sweep"] if "loss" in r]
        if phases and not ended:
            msg = f"the loss was not finite at any of the learning rates {phases}; give lower ones, or look at the data"
            raise StepError(msg)
        best = max(ended, key=lambda r: (r["accuracy"], -r["loss"]))["lr"] if ended else rates[0]
        self._train(self.tasks, best, state, start, self.validation)
        return Outcome(best, state["losses"], state["sweep"], state["validations"], time.time() - self._began)

    def _tried(
        self, tasks: list[Task], lr: float, state: TrainingState, start: list[torch.Tensor], held_out: list[Example]
    ) -> dict[str, float]:
        """What a rate of the sweep is worth; one whose training has no finite loss is worth nothing and has no "loss"."""
        try:
            self._train(tasks, lr, state, start)
        except NotFiniteError:
            return {"lr": lr, "accuracy": 0.0}
        accuracy, loss = self._validate(held_out)
        return {"lr": lr, "accuracy": accuracy, "loss": loss}

    def _train(
        self,
        tasks: list[Task],
        lr: float,
        state: TrainingState,
        start: list[torch.Tensor],
        validation: Validation | None = None,
    ) -> None:
        """One training from `start` (or from the restored `state`) to the last step; appends to the lists in `state`."""
        optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=self.config.weight_decay)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state.get("parameters") or start, strict=True):
                parameter.copy_(value)
        if saved := state.get("optimizer"):
            optimizer.load_state_dict(saved)
        self.vlm.model.train()
        first, began = state["step"], time.time()
        for step, (batch, numbers) in enumerate(self._batches(tasks, first), first):
            loss = self._step(optimizer, batch, numbers, [t.weight for t in tasks], lr, step)
            state["step"] = step + 1
            if step % 10 == 0 or step + 1 == self.config.steps:
                state["losses"].append((step, loss))
            if validation and ((step + 1) % validation.every == 0 or step + 1 == self.config.steps):
                accuracy, error = self._validate(validation.examples)
                state["validations"] = [*state["validations"], {"step": step + 1, "accuracy": accuracy, "loss": error}]
                validation.report(state["validations"][-1])
                self.vlm.model.train()
            self._report(state, optimizer, loss, (step + 1 - first) / (time.time() - began))

    def _batches(self, tasks: list[Task], first: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """The batches from step `first` on. For a GPU the next one is decoded and tokenised while this one trains; on a CPU
        that thread would take cores and the interpreter from the products, which cost more than it saves."""
        steps = range(first, self.config.steps)
        if self.worker.device == "cpu":
            yield from (self._batch(tasks, step) for step in steps)
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._batch, tasks, first)
            for step in steps:
                batch = pending.result()
                if step + 1 < self.config.steps:
                    pending = ahead.submit(self._batch, tasks, step + 1)
                yield batch

    def _batch(self, tasks: list[Task], step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        drawn = draw(tasks, self.config.batch_size, self.seed, step)[self.worker.rank :: self.worker.world]
        images = {e.image_id: self.get_image(e.image_id) for _, e in drawn}
        turns = [Turn(images[e.image_id], e.request, e.reply, e.prefix) for _, e in drawn]
        return self.collator(turns), torch.tensor([number for number, _ in drawn])

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        batch: dict[str, torch.Tensor],
        numbers: torch.Tensor,
        weights: list[float],
        lr: float,
        step: int,
    ) -> float:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config, lr)
        optimizer.zero_grad(set_to_none=True)
        on_device = {k: v.to(self.worker.device) for k, v in batch.items()}
        tokens = reply_tokens(on_device["labels"], numbers, len(weights))
        distributed = self.worker.world > 1
        if distributed:
            torch.distributed.all_reduce(tokens)
        # dropout, where a model has any, is a function of (seed, step, rank) too, so that a resumed run repeats it
        torch.manual_seed((self.seed * 1_000_003 + step) * self.worker.world + self.worker.rank)
        loss = task_loss(self.vlm, on_device, numbers, weights, self.config.precision, tokens)
        loss.backward()
        loss = loss.detach()
        if distributed:
            torch.distributed.all_reduce(loss)
            sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            msg = (
                f"loss {loss.item()} or gradient norm {norm.item()} is not finite at step {step} (learning rate {lr}); "
                "the update was not applied. Lower the learning rate or look at the data of this step"
            )
            raise NotFiniteError(msg)
        optimizer.step()
        return float(loss)

    def _report(self, state: TrainingState, optimizer: torch.optim.Optimizer, loss: float, rate: float) -> None:
        step, steps = state["step"], self.config.steps
        self.worker.progress({"step": step, "steps": steps, "phase": state["phase"], "loss": loss, "steps_per_s": rate})
        if step % self.config.save_every == 0 and step < steps:
            parameters = [p.detach().cpu() for p in self.parameters]
            seconds = time.time() - self._began
            self.worker.save({**state, "seconds": seconds, "parameters": parameters, "optimizer": optimizer.state_dict()})

    @torch.no_grad()
    def _validate(self, examples: list[Example]) -> tuple[float, float]:
        """Share of held-out replies whose every token is the model's first choice, and their mean loss."""
        self.vlm.model.eval()
        hits, losses = 0, []
        for begin in range(0, len(examples), self.config.batch_size):
            part = examples[begin : begin + self.config.batch_size]
            batch = self.collator([Turn(self.get_image(e.image_id), e.request, e.reply, e.prefix) for e in part])
            labels = batch.pop("labels").to(self.worker.device)
            logits = self.vlm.model(**{k: v.to(self.worker.device) for k, v in batch.items()}).logits
            wrong = (logits[:, :-1].argmax(-1) != labels[:, 1:]) & (labels[:, 1:] != IGNORED)
            hits += int((~wrong.any(1)).sum())
            losses += per_example_loss(logits, labels).tolist()
        return hits / len(examples), float(np.mean(losses))


def _without_held_out(task: Task) -> Task:
    return Task(task.name, [e for e in task.examples if not e.held_out], task.share, task.weight)
