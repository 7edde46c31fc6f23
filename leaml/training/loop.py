"""The training loop behind every training step: one loop, any mixture of tasks, full, LoRA or neuron-only.

Batches are a pure function of (seed, step), so a run that is killed and resumed sees the very batches it would have seen, and
any number of workers splits the same global batch. The loop knows nothing of Ray: the caller passes a `Worker` with its rank
and with functions to save and restore a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from leaml.config import TrainConfig
from leaml.errors import ConfigError, StepError
from leaml.training.batches import Batches, Size, StepBatch, Task, draw, refuse_unusable, split
from leaml.training.checkpoints import Checkpoints
from leaml.training.examples import Example, subset
from leaml.training.feed import Feed, GetImage, Made, Prefetch
from leaml.training.memory import keep_to_share, token_budget
from leaml.training.objectives import reply_logits
from leaml.training.parallel import Alone, Replicas, Shards, Strategy, fits, local, shard, whole
from leaml.training.prepare import SMALL, checkpoint_activations, float32_masters, fuse_layers, held, one_type
from leaml.training.worker import TrainingState, Worker
from leaml.vlm import four_bit
from leaml.vlm.lengths import Lengths
from leaml.vlm.load import VLM
from leaml.vlm.precision import Precision, computing_in

_NO_LIMIT = 2**62
"""Tokens of a pass that may have any."""


@dataclass(frozen=True)
class Validation:
    """Examples that are never trained on and asked every `every` steps and after the last one; `report` gets each result as
    {"step", "accuracy", "loss"}, on every worker."""

    examples: Sequence[Example]
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
    wait_share: float = 0.0
    """Of this attempt's seconds, those in which the model waited for its input, that of validations included."""


GetSize = Callable[[str], tuple[int, int]]
"""Width and height of the image with an id, without decoding it where that is known."""


def learning_rate(step: int, config: TrainConfig, peak: float) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then cosine decay to a tenth of the peak.

    Args:
        step: Counted from 0.
        config: Only `steps` and `warmup_ratio` of it are read.
        peak: The rate when the warm-up ends.
    """
    warm = max(1, round(config.warmup_ratio * config.steps))
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def task_loss(
    vlm: VLM,
    batch: dict[str, torch.Tensor],
    numbers: torch.Tensor,
    weights: list[float],
    precision: Precision,
    tokens: Sequence[int],
    call: Any = None,
) -> torch.Tensor:
    """Sum over tasks of weight x mean cross-entropy over the task's reply tokens, not its examples.

    Args:
        vlm: The model, on the device of the batch.
        batch: Tensors of a micro-batch, with `labels`.
        numbers: (batch,) int64: which task a row belongs to.
        weights: Of the tasks.
        precision: That the forward pass computes in.
        tokens: (tasks,) reply tokens in the *global* batch, so that the parts add up to its loss.
        call: Called instead of the model: DDP's wrapper around it.
    """
    labels = batch["labels"]
    with computing_in(precision, labels.device.type):
        found = reply_logits(vlm.model, {k: v for k, v in batch.items() if k != "labels"}, labels, call)
    losses = found.losses()
    shares = torch.tensor([w / max(1, n) for w, n in zip(weights, tokens, strict=True)], dtype=losses.dtype)
    return (losses * shares[numbers].to(losses.device)[found.rows]).sum()


class NotFiniteError(StepError):
    """A loss or gradient is not finite; the update was not applied."""


class Trainer:
    """Trains the given parameters of a model on a mixture of tasks, with a learning-rate sweep before when asked for.

    Args:
        vlm: The model, on the CPU or where the worker trains. It is moved there, or cut over the workers; what is trained of
            it is held in float32 from here on, whatever type it came in.
        parameters: Those of them that move; of a model that is cut `parameters` of the trainer are its parts.
        tasks: What it is trained on.
        config: How.
        get_image: Image of an example.
        seed: Of the order of the examples.
        worker: Who runs it.
        validation: What it is asked on the way.
        get_size: Width and height of an image; None: those of the decoded one.
        processes: That make its input; 0: none but this.
        prefetch: Told the ids of a micro-batch before `get_image` is asked for each.
    """

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
        get_size: GetSize | None = None,
        processes: int = 0,
        prefetch: Prefetch | None = None,
    ) -> None:
        self.vlm, self.parameters, self.tasks, self.config = vlm, parameters, tasks, config
        self.seed, self.worker, self.validation = seed, worker, validation
        self._get_size = get_size or (lambda image_id: get_image(image_id).size)
        self._lengths = Lengths(vlm.processor)
        self.budget: int | None = 1  # tokens of a micro-batch
        self.feed = Feed(vlm.processor, get_image, processes, worker.device.startswith("cuda"), prefetch)
        refuse_unusable(tasks, config.batch_size, worker.world)
        checkpoint_activations(vlm, config.activation_checkpointing)
        fuse_layers(vlm.model, worker.device)
        self.sharded = self._place()

    def _place(self) -> bool:
        """Put the model where it is trained; returns whether it was cut over the workers."""
        model, worker, precision = self.vlm.model, self.worker, self.config.precision
        keep_to_share(torch.device(worker.device), worker.memory_share)
        cut = worker.world > 1 and bool(self.parameters) and worker.sharding
        if cut and four_bit.are_in(model):
            if cut is True:
                msg = (
                    "weights in 4 bits are not cut over workers; set resources.train_sharding to false or lora.quantization to"
                    " null"
                )
                raise ConfigError(msg)
            cut = False
        if cut == "auto":
            cut = not fits(model, worker.device, worker.memory_share)
        if not cut:
            model.to(worker.device)
            float32_masters(model.parameters(), one_type(model, precision, worker.device))
            return False
        ours = set(map(id, self.parameters))
        names = [name for name, parameter in model.named_parameters() if id(parameter) in ours]
        shard(model, precision, worker.device)
        parts = dict(model.named_parameters())
        self.parameters = [parts[name] for name in names]
        return True

    def run(self) -> Outcome:
        """Sweep if several learning rates are given and some rows are held out, then train the final model in place."""
        rates = self.config.lr if isinstance(self.config.lr, list) else [self.config.lr]
        held_out = [e for t in self.tasks for e in subset(t.examples, held_out=True)]
        visible = [t.without_held_out() for t in self.tasks]
        comparable = bool(held_out) and all(t.examples for t in visible if t.share > 0)
        phases = list(rates) if len(rates) > 1 and comparable else []
        self._phases = len(phases) + 1
        if not self.parameters:  # a selection ratio of 0: nothing may move
            return Outcome(rates[0])
        # each rate begins where the model was; without a sweep it still is there
        start = [local(p.detach()).to("cpu", copy=True) for p in self.parameters] if phases else None
        self.checkpoints = Checkpoints(self.worker, self.vlm.model)
        state = self.checkpoints.state() or {"phase": 0, "step": 0, "sweep": [], "losses": [], "validations": []}
        self.budget = self._budget(state.get("budget"))
        self.strategy = self._strategy()
        self._attempt, self._before = time.time(), self.feed.waited
        self._began = self._attempt - state.get("seconds", 0.0)
        while state["phase"] < len(phases):
            sweep = [*state["sweep"], self._tried(visible, phases[state["phase"]], state, start, held_out)]
            state |= {"phase": state["phase"] + 1, "step": 0, "sweep": sweep, "losses": [], "validations": []}
        ended = [r for r in state["sweep"] if "loss" in r]
        if phases and not ended:
            msg = f"the loss was not finite at any of the learning rates {phases}; give lower ones, or look at the data"
            raise StepError(msg)
        best = max(ended, key=lambda r: (r["accuracy"], -r["loss"]))["lr"] if ended else rates[0]
        self._train(self.tasks, best, state, start, self.validation)
        seconds = time.time() - self._began
        return Outcome(best, state["losses"], state["sweep"], state["validations"], seconds, self._wait_share())

    def _wait_share(self) -> float:
        """Of this attempt's seconds so far, those in which the model waited for its input."""
        return (self.feed.waited - self._before) / max(1e-9, time.time() - self._attempt)

    def _strategy(self) -> Strategy:
        if self.sharded:
            return Shards(self.vlm.model)
        return Replicas(self.vlm.model) if self.worker.world > 1 else Alone(self.vlm.model)

    def _tried(
        self, tasks: list[Task], lr: float, state: TrainingState, start: list[torch.Tensor] | None, held_out: list[Example]
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
        start: list[torch.Tensor] | None,
        validation: Validation | None = None,
    ) -> None:
        """One training from `start` (or from the restored `state`) to the last step; appends to the lists in `state`."""
        optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=self.config.weight_decay, fused=True)
        if not self.checkpoints.load(optimizer):
            with torch.no_grad():
                for parameter, value in zip(self.parameters, start or (), strict=bool(start)):
                    local(parameter).copy_(value)
        self.vlm.model.train()
        first, began, weights = state["step"], time.time(), [t.weight for t in tasks]
        batches = self._batches(tasks)
        for step, (batch, parts) in enumerate(self.feed.steps(batches, first, self.config.steps), first):
            loss = self._step(optimizer, batch, parts, weights, lr, step)
            state["step"] = step + 1
            if step % 10 == 0 or step + 1 == self.config.steps:
                state["losses"].append((step, loss))
            if validation and ((step + 1) % validation.every == 0 or step + 1 == self.config.steps):
                accuracy, error = self._validate(validation.examples)
                state["validations"] = [*state["validations"], {"step": step + 1, "accuracy": accuracy, "loss": error}]
                validation.report(state["validations"][-1])
                self.vlm.model.train()
            self._report(state, optimizer, loss, (step + 1 - first) / (time.time() - began))
        self.checkpoints.finish()

    def _batches(self, tasks: list[Task]) -> Batches:
        config, worker = self.config, self.worker
        return Batches(tasks, config.batch_size, self.seed, self._size, self.budget, worker.rank, worker.world)

    def _budget(self, earlier: int | None) -> int | None:
        """Tokens of a micro-batch: as configured or measured, and then no more than before the training was resumed."""
        given = self.config.micro_batch_tokens
        if given != "auto":
            return given
        found = self._measured_budget()
        return found if earlier is None or found is None else min(earlier, found)

    def _measured_budget(self) -> int | None:
        """What is measured on examples of the first batch; the smallest that any of the workers finds.

        They are the longest, the one with the longest reply, as a reply token has logits and costs more than others, and the
        shortest, as most of the price of a pass of many short ones is that of their images.
        """
        drawn = draw(self.tasks, self.config.batch_size, self.seed, 0)
        sizes = [self._size(example) for _, example in drawn]
        weights, trained = [t.weight for t in self.tasks], sum(local(p).numel() for p in self.parameters)
        device = torch.device(self.worker.device)

        def of(example: int) -> int | None:
            def once(copies: int) -> None:
                tensors, numbers = self.feed.make([drawn[example]] * copies)
                on_device = {k: v.to(device) for k, v in tensors.items()}
                tokens = [sizes[example].reply] * len(self.tasks)
                with held(self.vlm.model):
                    task_loss(self.vlm, on_device, numbers, weights, self.config.precision, tokens).backward()

            return token_budget(once, sizes[example].tokens, trained, device, self.worker.memory_share)

        self.vlm.model.train()
        every = range(len(drawn))
        by_length, by_reply = (lambda i: sizes[i].tokens), (lambda i: sizes[i].reply)
        measured = {max(every, key=by_length), max(every, key=by_reply), min(every, key=by_length)}
        each = [of(example) for example in sorted(measured)]
        # where nothing tells what a pass takes, examples of a large model are taken one by one
        unknown = 1 if sum(p.numel() for p in self.vlm.model.parameters()) > SMALL else _NO_LIMIT
        found = min((n for n in each if n is not None), default=unknown)
        self.vlm.model.zero_grad(set_to_none=True)
        if self.worker.world > 1:
            smallest = torch.tensor(found, device=device)
            torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
            found = int(smallest)
        return None if found == _NO_LIMIT else found

    def _size(self, example: Example) -> Size:
        """Tokens of an example; without a limit of a micro-batch nobody asks how many its image has."""
        text, reply = self._lengths.texts(example.request, example.reply, example.prefix)
        if self.budget is None:
            return Size(text + reply, reply)
        return Size(text + reply + self._lengths.image(self._get_size(example.image_id)), reply)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        batch: StepBatch,
        parts: Iterable[Made],
        weights: list[float],
        lr: float,
        step: int,
    ) -> float:
        """One update with the gradients of all micro-batches of all workers."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config, lr)
        optimizer.zero_grad(set_to_none=True)
        # dropout, where a model has any, is a function of (seed, step, rank) too, so that a resumed run repeats it
        torch.manual_seed((self.seed * 1_000_003 + step) * self.worker.world + self.worker.rank)
        loss = torch.zeros((), device=self.worker.device)
        with held(self.vlm.model):
            for number, (tensors, numbers) in enumerate(parts, 1):
                on_device = {k: v.to(self.worker.device, non_blocking=True) for k, v in tensors.items()}
                with self.strategy.one_pass(last=number == len(batch.parts)):
                    given = (weights, self.config.precision, batch.reply_tokens, self.strategy.forward)
                    part = task_loss(self.vlm, on_device, numbers, *given)
                    part.backward()
                loss = loss + part.detach()
        if self.worker.world > 1:
            torch.distributed.all_reduce(loss)
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
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
        of_sweep = {"phase": state["phase"], "phases": self._phases}
        speed = {"steps_per_s": rate, "wait_share": self._wait_share()}
        self.worker.progress({"step": step, "steps": steps, **of_sweep, "loss": loss, **speed})
        # the last step too: what follows, a validation or the writing of the model, may fail
        if step % self.config.save_every == 0 or step == steps:
            self.checkpoints.begin(optimizer, {**state, "budget": self.budget, "seconds": time.time() - self._began})
        self.checkpoints.step(step)

    @torch.no_grad()
    def _validate(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Share of held-out replies whose every token is the model's first choice, and their mean loss."""
        self.vlm.model.eval()
        hits, total = 0, 0.0
        for part in self._validation_parts(examples):
            batch, _ = self.feed.make([(0, examples[i]) for i in part])
            on_device = {k: v.to(self.worker.device) for k, v in batch.items()}
            labels = on_device.pop("labels")
            with computing_in(self.config.precision, labels.device.type):
                found = reply_logits(self.vlm.model, on_device, labels)
            hits += int(found.right_by_row(len(part)).sum())
            total += float(found.mean_by_row(len(part)).sum())
        self.strategy.rest()
        return hits / len(examples), total / len(examples)

    def _validation_parts(self, examples: Sequence[Example]) -> list[list[int]]:
        size = self.config.batch_size
        if self.budget is None:
            return [list(range(n, min(n + size, len(examples)))) for n in range(0, len(examples), size)]
        return split([self._size(e).tokens for e in examples], self.budget)
