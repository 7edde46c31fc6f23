"""Runs one training on Ray Train: what to train is a `TrainJob`, how is `leaml.training.loop.Trainer`.

The job's result is a model folder (adapters merged) and `training.json`. Checkpoints go through Ray Train to the step's folder,
so a killed job resumes at its last checkpoint; a job that finished is not run again (its step is done).
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypedDict, TypeVar

import pyarrow as pa

from leaml.config import ModelConfig, ResourcesConfig, TrainConfig, resolve_model
from leaml.config.limits import MAX_PIXELS
from leaml.data.store import ImageStore
from leaml.errors import LeamlError, ModelError, StepError
from leaml.imports import uncollected
from leaml.io import files, s3
from leaml.training.batches import Task
from leaml.training.examples import StoredExamples, read_examples
from leaml.training.loop import Outcome, Trainer, Validation
from leaml.training.memory import allocator
from leaml.training.worker import Worker
from leaml.vlm import checkpoint
from pipelines import _compat, worker
from pipelines.metrics import StepMetrics
from pipelines.progress import PROGRESS, Bar, TrainingProgress, note_of
from pipelines.summaries import TRAINING

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from ray.train import ScalingConfig, UserCallback
    from torch import nn
    from transformers import PreTrainedModel

    from leaml.vlm.load import VLM


class ModelJob(Protocol):
    """A job about a model."""

    @property
    def model(self) -> ModelConfig: ...


Job = TypeVar("Job", bound=ModelJob)

VALIDATED = "validated"
"""Key under which Ray Train workers report what a validation on the way found."""
PLACED = "placement_group"
"""Key beside it: the placement group of the workers, in hex."""


@dataclass
class TaskFile:
    """A task whose examples are in a file that `leaml.training.examples` has written."""

    name: str
    file: str
    share: float = 1.0
    weight: float = 1.0


@dataclass
class TrainJob:
    """Everything a training worker needs, as plain data.

    With `config.method` neurons, the rows and columns of the selection in folder `selection` are trained; unless
    `scored_here`, the model's weights may have moved since it was made. With `validation`, a file of examples, the model is
    asked about them `validations` times on the way.
    """

    folder: str
    model: ModelConfig
    tasks: list[TaskFile]
    images: list[str]
    config: TrainConfig
    selection: str | None = None
    scored_here: bool = True
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    validation: str | None = None
    validations: int = 1
    facts: Mapping[str, object] = field(default_factory=dict)


class WorkerConfig(TypedDict, Generic[Job]):
    """What each Ray Train worker is given, `gpus` of its own; `lanes` trainings run on its machine at a time, `processes` make
    its input, `sharding` is as in `ResourcesConfig`."""

    job: Job
    gpus: float
    lanes: int
    processes: int
    sharding: Literal["auto"] | bool


@dataclass(frozen=True)
class TrialValidation:
    """Questions that a search judges models by: a file of examples, how often distillation is judged, and Ray Train callbacks
    that get the reports under `VALIDATED`."""

    file: str
    times: int
    callbacks: tuple[UserCallback, ...] = ()


def validation_interval(steps: int, times: int) -> int:
    """Steps between validations when a training is judged `times` times."""
    return max(1, steps // times)


def run_training(
    label: str, job: TrainJob, resources: ResourcesConfig, callbacks: Sequence[UserCallback] = ()
) -> dict[str, object]:
    """Train on `resources.train_workers` workers with progress.

    Args:
        label: Of the step, for progress and messages.
        job: What is trained; its folder gets checkpoints, the model and training.json.
        resources: The workers.
        callbacks: Of Ray Train.

    Returns:
        The content of training.json.

    Raises:
        LeamlError: As `fit`.
    """
    job = replace(job, model=job.model.model_copy(update={"name": resolve_model(job.model.name)}))
    with ProgressMonitor(label, job.folder, job.config.steps):
        fit(_train_worker, job, resources, f"{job.folder}/checkpoints", label, callbacks)
    return dict(json.loads(files.read_bytes(f"{job.folder}/{TRAINING}")))


def fit(
    body: Callable[[WorkerConfig[Job]], None],
    job: Job,
    resources: ResourcesConfig,
    folder: str,
    label: str,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Run a function on the Ray Train workers of the plan, anew after a failure, twice at most.

    Args:
        body: Runs on each worker.
        job: What it is given, under the key `job`.
        resources: The workers.
        folder: Ray's checkpoints go there; it is deleted when the training ends well.
        label: Of the step, for the message of a failure.
        callbacks: Of Ray Train.

    Raises:
        LeamlError: Our own errors, as they are.
        StepError: Others.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipelines.process_group import NodeNetwork

    gpus = resources.train_gpus
    run: Callable[..., None] = body  # Ray's types know no TypedDict
    storage, _, name = files.absolute(folder).rpartition("/")
    trainer = TorchTrainer(
        run,
        train_loop_config={
            "job": job,
            "gpus": gpus,
            "lanes": resources.lanes,
            "processes": resources.input_processes,
            "sharding": resources.train_sharding,
        },
        torch_config=NodeNetwork(backend="nccl" if gpus else "gloo"),
        scaling_config=_scaling(resources),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Train V1, V2 is switched on
            name=name,
            storage_path=storage.removeprefix("s3://"),
            storage_filesystem=s3.filesystem() if files.is_remote(folder) else None,
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env=None if gpus else {"env_vars": allocator(checkpoint.parameters(job.model))},
            callbacks=list(callbacks),  # type: ignore[arg-type]  # the same
        ),
    )
    try:
        _compat.plain(trainer, private=resources.address is None).fit()
    except Exception as error:
        own = _own_error(error)
        if own is not None:
            raise own from None
        msg = f"{label}: training failed: {error}; run the same command again to resume from the last checkpoint"
        raise StepError(msg) from error
    files.delete_tree(folder)


def _scaling(resources: ResourcesConfig) -> ScalingConfig:
    import ray.train

    gpus = resources.train_gpus
    each = {"CPU": resources.train_cpus} | ({"GPU": gpus} if gpus else {})
    return ray.train.ScalingConfig(num_workers=resources.train_workers, use_gpu=gpus > 0, resources_per_worker=each)


def _own_error(error: BaseException) -> LeamlError | None:
    """The LeamlError inside Ray Train's wrapping: attached as a cause, or one of the per-worker failures."""
    for inner in (*getattr(error, "worker_failures", {}).values(), getattr(error, "cause", None), error.__cause__):
        if isinstance(inner, LeamlError):
            return inner
        if isinstance(inner, BaseException) and (found := _own_error(inner)):
            return found
    return None


def _train_worker(config: WorkerConfig[TrainJob]) -> None:
    """Body of one Ray Train worker."""
    with uncollected():
        import ray.train
        import torch

        from leaml.vlm import load as vlm_load

    job = config["job"]
    worker.share_machine(config["lanes"])
    torch.manual_seed(job.seed)
    context = ray.train.get_context()
    device = str(ray.train.torch.get_device()) if config["gpus"] else "cpu"
    vlm = vlm_load.load(job.model, runs_on=device, four_bits=_computed_on_four_bits(job.config, device))
    parameters = _trainable(vlm, job)
    own = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        restore=worker.restore,
        save=lambda folder, state: worker.save(folder, state, last=state["step"] == job.config.steps),
        sharding=config["sharding"],
        memory_share=min(1.0, config["gpus"]) or 1 / (context.get_local_world_size() * config["lanes"]),
        progress=worker.progress_writer(job.folder) if context.get_world_rank() == 0 else lambda metrics: None,
    )
    tasks, asked, store = training_data(job)
    every = validation_interval(job.config.steps, job.validations)
    group = ray.util.get_current_placement_group()
    placed = {PLACED: group.id.hex()} if group else {}
    validation = Validation(asked, every, lambda found: ray.train.report({VALIDATED: found} | placed)) if asked else None
    images = (store.get, job.seed, own, validation, store.size, config["processes"], store.prefetch)
    trainer = Trainer(vlm, parameters, tasks, job.config, *images)
    outcome, count = trainer.run(), sum(p.numel() for p in trainer.parameters)
    result = _gathered(vlm, job, own.rank) if trainer.sharded or job.config.is_quantized else vlm
    if own.rank == 0:
        _write_result(result, job, outcome, count)
    ray.train.report({"step": job.config.steps})


def training_data(job: TrainJob) -> tuple[list[Task], StoredExamples | None, ImageStore]:
    """What a worker trains on, what it is validated on, and the images of both: nothing that grows with those it never sees."""
    stored = [read_examples(task.file) for task in job.tasks]
    tasks = [Task(t.name, examples, t.share, t.weight) for t, examples in zip(job.tasks, stored, strict=True)]
    asked = read_examples(job.validation) if job.validation else None
    every = [*stored, *([asked] if asked else [])]
    ids = pa.chunked_array([chunk for examples in every for chunk in examples.image_ids.chunks], pa.string())
    return tasks, asked, ImageStore(job.images, job.max_pixels, ids=ids)


def _computed_on_four_bits(config: TrainConfig, device: str) -> torch.dtype | None:
    """The type of products with weights in 4 bits; None where there are none."""
    from leaml.vlm.precision import compute_dtype

    return compute_dtype(config.precision, device.split(":")[0]) if config.is_quantized else None


def _gathered(sharded: VLM, job: TrainJob, rank: int) -> VLM:
    """The whole model on rank 0's CPU: loaded once more, and given what was trained, one tensor at a time."""
    from leaml.training import parallel, prepare
    from leaml.vlm import load as vlm_load

    if rank:
        parallel.gather(sharded.model, None)
        return sharded
    whole = vlm_load.load(job.model)
    trained = _trainable(whole, job)
    if job.config.method != "full":  # rounded when they are merged, once
        prepare.float32_masters(trained, everything=False)
    parallel.gather(sharded.model, whole.model)
    return whole


def _trainable(vlm: VLM, job: TrainJob) -> list[nn.Parameter]:
    """Freeze what the method does not train, put its adapter on the model, and return the trained parameters."""
    from leaml.vlm.load import part_of

    if job.config.method == "full":
        for name, parameter in vlm.model.named_parameters():
            parameter.requires_grad_(part_of(name) not in job.config.freeze)
    else:
        with uncollected():
            from peft import get_peft_model

        vlm.model = get_peft_model(vlm.model, _adapter(vlm.model, job))
    return [p for p in vlm.model.parameters() if p.requires_grad]


def _adapter(model: PreTrainedModel, job: TrainJob) -> PeftConfig:
    """The PEFT configuration of the method: rows and columns of the selection, or LoRA on the Linears of the parts meant."""
    if job.config.method == "neurons":
        from leaml.neurons.peft import NeuronConfig

        if job.scored_here:
            return NeuronConfig(rows=str(job.selection))
        from leaml.neurons import selection

        chosen = selection.read(str(job.selection))
        return NeuronConfig(rows=chosen.rows, columns=chosen.columns)
    from peft import LoraConfig

    from leaml.neurons import scores
    from leaml.vlm.load import part_of

    given = job.config.lora
    parts = set(given.target) - set(job.config.freeze)
    targets = sorted(name for name in scores.all_linears(model) if part_of(name) in parts)
    if not targets:
        msg = f"the model has no Linear in {sorted(parts)} for LoRA; give other parts as lora.target"
        raise ModelError(msg)
    return LoraConfig(
        r=given.rank,
        lora_alpha=2 * given.rank if given.alpha is None else given.alpha,  # type: ignore[arg-type]  # PEFT takes any number
        lora_dropout=given.dropout,
        target_modules=targets,
        use_dora=given.dora,
        use_rslora=given.rslora,
    )


def _write_result(vlm: VLM, job: TrainJob, outcome: Outcome, trainable: int) -> None:
    """Merge adapters, publish the model folder, then training.json, which marks the training finished."""
    import torch

    from leaml.vlm import load as vlm_load

    if job.config.method != "full":
        vlm.model = vlm.model.merge_and_unload()
    with tempfile.TemporaryDirectory() as folder:
        vlm_load.save(vlm.model, vlm.processor, Path(folder), getattr(torch, job.model.dtype))
        files.upload_tree(folder, f"{job.folder}/model")
    facts = {"trainable_parameters": trainable, "method": job.config.method, "peak_memory": worker.peak_memory()}
    summary = {**asdict(outcome), **facts, **job.facts}
    files.write_bytes(f"{job.folder}/{TRAINING}", json.dumps(summary, indent=1).encode())


class ProgressMonitor:
    """Shows the progress of Ray Train workers while `fit` blocks the driver, by reading progress.json in the step's folder.

    Its `step` of `steps` is one phase's; `phases` follow each other, as the workers say. `loss` is shown where there is one.
    """

    def __init__(self, label: str, folder: str, steps: int, unit: str = "steps") -> None:
        self.file, self.stop = f"{folder}/{PROGRESS}", threading.Event()
        self.bar, self.exported = Bar(label, steps, unit), StepMetrics(folder, label)

    def __enter__(self) -> None:
        files.delete_tree(self.file)
        self.bar.__enter__()
        self.exported.__enter__()
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.thread.start()

    def _poll(self) -> None:
        begun = False
        while not self.stop.wait(1.0):
            try:
                now: TrainingProgress = json.loads(files.read_bytes(self.file))
            except (LeamlError, ValueError):
                continue  # not started yet
            done = now.get("phase", 0) * now["steps"] + now["step"]
            if not begun:
                self.bar.begin(done, now.get("phases", 1) * now["steps"])
                begun = True
            self.bar.update(done, note_of(now))
            self.exported.progress(done, self.bar.total)
            self.exported.training(now)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.exported.__exit__()
        self.bar.__exit__()
        files.delete_tree(self.file)
