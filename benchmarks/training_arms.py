"""The trainings that `benchmarks.training` compares, each in a process of its own: `python -m benchmarks.training_arms JSON`.

The plan is the JSON in the argument; what was measured is the JSON in the last line of the output. Before each step the process
writes a line and waits for one: `benchmarks.training_turns` lets trainings that are compared go on in turn, a step each.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_turns import Clock, take_turns

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

ARMS = ("trl_lora", "lora", "neurons10", "neurons30", "full")
RANK = 16


@dataclass(frozen=True)
class Plan:
    """A training.

    Attributes:
        arm: One of `ARMS`.
        model: Folder of the model.
        batch: Examples of a step.
        micro: Of them in a forward and backward pass.
        steps: Of which the first is not timed.
        tiles: Whether photos are cut into tiles.
        checkpointing: Whether activations are computed again.
        precision: "float32" or "bfloat16", with the latter under autocast.
        threads: Of torch.
        photo: Width and height.
    """

    arm: str
    model: str
    batch: int = 4
    micro: int = 1
    steps: int = 3
    tiles: bool = False
    checkpointing: bool = True
    precision: str = "float32"
    threads: int = 2
    photo: tuple[int, int] = (1280, 1024)


@dataclass(frozen=True)
class Measured:
    """What a training took.

    Attributes:
        seconds: Of each timed step, with its input.
        peak_bytes: The most that its process held, libraries, loading and all.
        run_bytes: The most that it held while it trained, libraries and all.
        before_bytes: What it held before the model was loaded.
        tokens: Of an example, on average, as the language model sees it.
        losses: Of each step.
        trained: Number of parameters.
        estimate_bytes: What the plan says of it, beside libraries; 0: nothing.
    """

    seconds: list[float]
    peak_bytes: int
    run_bytes: int
    before_bytes: int
    tokens: float
    losses: list[float]
    trained: int
    estimate_bytes: int = 0

    @property
    def estimate_error(self) -> float:
        """Of what the training took beside libraries."""
        taken = self.run_bytes - self.before_bytes
        return abs(self.estimate_bytes - taken) / taken


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most so far) of this process. Linux only."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Let VmHWM begin anew, where the kernel allows it; returns what it was."""
    gc.collect()
    found = resident("VmHWM")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return found


def measure(plans: Sequence[Plan]) -> list[Measured]:
    """Run trainings of equally many steps, each in a process of its own, a step each in turn.

    Raises:
        RuntimeError: One failed; with the end of what it wrote.
    """
    (steps,), (threads,) = {plan.steps for plan in plans}, {plan.threads for plan in plans}
    commands = [[sys.executable, "-m", "benchmarks.training_arms", json.dumps(asdict(plan))] for plan in plans]
    return [Measured(**json.loads(line)) for line in take_turns(commands, environment(threads), steps)]


def environment(threads: int) -> dict[str, str]:
    """Of an arm's process: no network, so many threads, and an allocator that gives back what is freed.

    Else a peak is that of the holes in glibc's heap too: 2.7 GiB with LoRA where 1.7 are in use, TRL's and ours alike. A worker
    of the pipeline has it with a model of this size.
    """
    from leaml.training.memory import allocator

    own = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    return {**os.environ, **own, **allocator(None)}


def ours(plan: Plan, method: str) -> Measured:
    """The training loop of LEAML."""
    import torch

    from benchmarks.training_model import Photos
    from leaml.config import ModelConfig, TrainConfig
    from leaml.training import footprint
    from leaml.training.anatomy import of_model
    from leaml.training.loop import Task, Trainer
    from leaml.training.worker import Worker
    from leaml.vlm import load

    assert plan.micro in (1, plan.batch), "a micro-batch has one example or the whole batch"
    torch.set_num_threads(plan.threads)
    photos = Photos.of(plan.batch, plan.photo)
    before = resident("VmRSS")
    vlm = load.load(ModelConfig(name=plan.model, image_tiles=plan.tiles))
    made_of = of_model(vlm.model)
    adapt(vlm, method)
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    clock, losses = Clock(), []

    def progress(metrics: dict[str, float]) -> None:
        clock.step()
        losses.append(metrics["loss"])

    config = TrainConfig(
        method=KINDS.get(method, "neurons"),
        steps=plan.steps,
        batch_size=plan.batch,
        micro_batch_tokens=1 if plan.micro == 1 else None,
        activation_checkpointing=plan.checkpointing,
        precision=plan.precision,  # type: ignore[arg-type]
        lr=1e-5,
    )
    trainer = Trainer(vlm, trained, [Task("qa", photos.examples)], config, photos.decode, 0, Worker(progress=progress))
    made = [trainer.feed.make([(0, example)])[0] for example in photos.examples[:4]]
    largest = max((footprint.extent(made_of, one) for one in made), key=lambda one: (one.tokens, one.reply))
    estimate = footprint.footprint(made_of, largest.times(plan.micro), config, ratio=share_of(method)).peak
    tokens = sum(one["input_ids"].numel() for one in made) / len(made)
    del made
    count = sum(p.numel() for p in trained)
    loading = forget_peak()
    clock.begin()
    trainer.run()
    return _measured(clock.seconds, loading, before, tokens, losses, count, estimate)


KINDS: dict[str, Any] = {"full": "full", "lora": "lora"}


def share_of(method: str) -> float:
    """Of the rows that a method trains; 0 where it trains no rows."""
    return 0.0 if method in KINDS else float(method.removeprefix("neurons")) / 100


def adapt(vlm: Any, method: str) -> None:
    """Let the model train what the method trains: all weights, LoRA on every Linear, or a share of their rows."""
    from peft import LoraConfig, get_peft_model

    from leaml.neurons import scores
    from leaml.neurons.peft import NeuronConfig

    if method == "full":
        vlm.model.requires_grad_(True)
        return
    if method == "lora":
        names = sorted(scores.all_linears(vlm.model))
        vlm.model = get_peft_model(vlm.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names))
        return
    vlm.model = get_peft_model(vlm.model, NeuronConfig(selection="random", ratio=share_of(method)))


def trl(plan: Plan, method: str) -> Measured:
    """TRL's SFTTrainer with PEFT's LoRA, as its documentation shows it for a vision-language model."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from benchmarks.training_model import Photos
    from leaml.neurons import scores

    assert method == "lora"
    torch.set_num_threads(plan.threads)
    photos = Photos.of(plan.batch, plan.photo)
    before = resident("VmRSS")
    model = AutoModelForImageTextToText.from_pretrained(plan.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(plan.model)
    processor.image_processor.do_image_splitting = plan.tiles
    if not plan.tiles:  # what `image_tiles: false` does
        processor.image_processor.size = dict(processor.image_processor.max_image_size)
    data = _dataset(photos)
    clock, losses, lengths = Clock(), [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **_: Any,
        ) -> None:
            losses.extend([float(logs["loss"])] if logs and "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=plan.micro,
            gradient_accumulation_steps=plan.batch // plan.micro,
            max_steps=plan.steps,
            gradient_checkpointing=plan.checkpointing,
            bf16=plan.precision == "bfloat16",
            use_cpu=True,
            learning_rate=1e-5,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=sorted(scores.all_linears(model)))
        trainer = SFTTrainer(
            model, config, train_dataset=data, processing_class=processor, peft_config=lora, callbacks=[Watch()]
        )
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        collate = trainer.data_collator
        lengths = [int(collate([trainer.train_dataset[i]])["input_ids"].shape[1]) for i in range(plan.batch)]
        loading = forget_peak()
        trainer.train()
    return _measured(clock.seconds, loading, before, sum(lengths) / len(lengths), losses, trained)


def _dataset(photos: Any) -> Any:
    """As TRL takes photos, requests and replies."""
    from datasets import Dataset, Features, Image, List, Value

    rows = [
        {
            "images": [{"bytes": photos.encoded[e.image_id], "path": None}],
            "prompt": [{"role": "user", "content": e.request}],
            "completion": [{"role": "assistant", "content": e.reply}],
        }
        for e in photos.examples
    ]
    message = List({"role": Value("string"), "content": Value("string")})
    return Dataset.from_list(rows, features=Features(images=List(Image()), prompt=message, completion=message))


def _measured(
    seconds: list[float], loading: int, before: int, tokens: float, losses: list[float], trained: int, estimate: int = 0
) -> Measured:
    running = resident("VmHWM")
    return Measured(seconds[1:] or seconds, max(loading, running), running, before, tokens, losses, trained, estimate)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    library, _, method = plan.arm.rpartition("_")
    found = (trl if library == "trl" else ours)(plan, method)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
