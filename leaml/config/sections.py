"""The sections of the configuration tree, one per step, named like the step."""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from leaml import score_methods
from leaml.config.base import PATH, Section
from leaml.config.caption import CaptionConfig
from leaml.config.engine import EngineConfig
from leaml.config.filter import FilterConfig
from leaml.config.generate import GenerateConfig
from leaml.config.limits import MAX_ASPECT, MAX_PIXELS, MAX_SIDE
from leaml.config.models import ModelConfig
from leaml.config.search import TuneConfig
from leaml.config.training import (
    DistillConfig,
    FinetuneConfig,
    FinetuneLabelsConfig,
    LoraLabelsConfig,
    TrainConfig,
    WarmupConfig,
)
from leaml.config.wanted import Spelled
from leaml.rows import OPTIONAL, TRAINED_BASELINES, Row, baselines_without, rows


class SourceConfig(Section):
    """One data source, read by the reader named `format`."""

    format: str = Field(
        examples=["jsonl"],
        description="Reader: easy_vqa, folder, jsonl, csv, conversations, parquet, huggingface, sportu, webdataset, video.",
    )
    path: str | None = Field(
        None,
        description="File or folder, local or s3://; hub id for huggingface; none for easy_vqa. Relative ones in a "
        "config file are relative to that file, on the command line to the current folder.",
        json_schema_extra=PATH,
    )
    images: str | None = Field(
        None,
        description="Folder that relative image paths in the file refer to; default: the file's folder.",
        json_schema_extra=PATH,
    )
    split: str | None = Field(None, description="Split of the source, where it has several (easy_vqa: train or test).")
    fps: float = Field(1.0, gt=0, description="Video only: frames taken per second.")
    limit: int | None = Field(None, gt=0, description="Use at most this many images, chosen by hash of their id; none: all.")


class LabelBudget(Section):
    """Which part of the labeled data may be used; always whole images, so that no image is on both sides."""

    count: int | None = Field(None, gt=0, description="Number of labeled images or rows.")
    fraction: float | None = Field(None, gt=0, le=1, description="Share of labeled images or rows; exclusive with count.")
    of: Literal["images", "rows"] = Field("images", description="Whether the budget counts images or question rows.")
    seed: int = Field(0, ge=0, description="Draw of the labeled images.")
    validation_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of the labeled images held out to choose learning rates."
    )


# pydantic has a deprecated method of the name `copy`, which nothing here calls
warnings.filterwarnings("ignore", 'Field name "copy" in "DataConfig" shadows', UserWarning)


class DataConfig(Section):
    """Where labeled, unlabeled and evaluation data come from."""

    labeled: SourceConfig = Field(
        examples=["{format: jsonl, path: data/train.jsonl}"], description="Source with images, questions and answers."
    )
    unlabeled: SourceConfig | None = Field(
        None, description="Source of images without labels; none: the labeled source's unused images."
    )
    evaluation: SourceConfig = Field(
        examples=["{format: jsonl, path: data/test.jsonl}"],
        description="Source with questions to test on; its images must not occur in the others.",
    )
    budget: LabelBudget = Field(default_factory=lambda: LabelBudget(), description="Label budget.")
    evaluation_questions: int | None = Field(
        None, gt=0, description="Evaluate on at most this many questions (whole images, by seed); none: all."
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        gt=0,
        description="Pixels; larger images are quarantined before they are decoded, as are sides over "
        f"{MAX_SIDE:,} or beyond {MAX_ASPECT:g}:1.",
    )
    copy: bool = Field(  # type: ignore[assignment]
        True,
        description="Copy the images into the run. false: tables say where each one is, and it is read there, whole or (from "
        "a plain tar) its part, so it must stay as it is; images that are no files, such as frames of videos, are copied.",
    )
    max_quarantined: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Stop when a larger share of the images or of the label rows is unusable, or of the images gets no usable"
        " caption.",
    )
    exclude_evaluation: bool = Field(
        False,
        description="Leave images that are in the evaluation too out of the labeled and unlabeled ones, and near duplicates of "
        "them where near_duplicate_bits is set, and count them; false: refuse the run and name them.",
    )
    near_duplicate_bits: int | None = Field(
        None,
        ge=0,
        le=32,
        description="Refuse training images whose 64-bit perceptual hash differs from an evaluation image's in at most this "
        "many bits (4 finds rescaled and recompressed copies); none: exact copies are refused only.",
    )


NAME_WORDS = Spelled("a name of letters, digits, '.', '_' and '-' (at most 64, no '.' first; the folder under storage)")


ScoreMethod = Literal[*score_methods.NAMES]  # type: ignore[valid-type]  # names that are known when it is imported


class ScoreConfig(Section):
    """A score for every neuron (row of a Linear, or hidden neuron of a feed-forward block) for question answering."""

    method: ScoreMethod = Field(
        "squared",
        description=f"Mean over labeled rows, g the gradient of one of them, w the weights. {score_methods.MEANINGS}. The last "
        "three are controls.",
    )
    unit: Literal["row", "ffn"] = Field(
        "row",
        description="What a neuron is. row: an output row of a Linear. ffn: row j of gate_proj and up_proj (or fc1) and column "
        "j of down_proj (fc2) scored, chosen and trained together; other Linears by row.",
    )
    modules: str = Field(
        r".*",
        description="Regular expression (full match) of Linear modules that may be selected; lm_head never. Language model "
        r"alone: (.*\.)?(text_model|language_model)\..* ; all but the vision tower: "
        r"(?!(.*\.)?(vision_model|vision_tower|visual)\.).*",
    )
    samples: int = Field(256, gt=0, description="Labeled rows the gradients are taken over.")
    batch_size: int = Field(
        16,
        gt=0,
        description="Labeled rows per forward and backward pass of one worker; changes time and memory, not scores. Where the "
        "vision tower mixes the images of a batch, 1 is taken unless modules leaves it out.",
    )
    seed: int = Field(0, ge=0, description="Seed of the draw of labeled rows and of the random control.")

    @field_validator("modules")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            msg = f"not a regular expression: {error}"
            raise ValueError(msg) from None
        return value


class SelectConfig(Section):
    """The share of the neurons that distillation may move, those of the highest scores."""

    ratio: float = Field(0.3, ge=0, le=1, description="Share of neurons that distillation may move.")
    scope: Literal["module", "layer", "global"] = Field(
        "module", description="Where the top share is taken: in each module (block with unit ffn), layer, or overall."
    )
    normalise: bool = Field(True, description="Scale scores to mean 1 per layer before a global selection.")


class BaselineConfig(Section):
    """The baselines LEAML is compared with; their learning rates are swept on the validation labels."""

    finetune_labels: FinetuneLabelsConfig = Field(
        default_factory=FinetuneLabelsConfig, description="Full fine-tuning on the labels."
    )
    lora_labels: LoraLabelsConfig = Field(default_factory=LoraLabelsConfig, description="LoRA on the labels.")
    no_captions_warmup: int | None = Field(
        None,
        gt=0,
        description="Warm-up steps of the no_captions control, whose generator is trained by nothing else; null: warmup.steps.",
    )


Control = Literal[*OPTIONAL]  # type: ignore[valid-type]  # names that are known when it is imported
Trained = Literal[*TRAINED_BASELINES]  # type: ignore[valid-type]


class EvaluateConfig(Section):
    """Accuracy by question type beside the baselines."""

    baselines: BaselineConfig = Field(default_factory=lambda: BaselineConfig(), description="Baseline training.")
    controls: list[Control] = Field(
        default_factory=list, description="Extra rows to run: the whole method with one part replaced."
    )
    leave_out: list[Trained] = Field(
        default_factory=list,
        description="Baselines not to train, where their cost matters more than the comparison; the report says so.",
    )
    max_tokens: int = Field(24, gt=0, description="Longest answer, in tokens.")
    bootstrap: int = Field(2000, gt=0, description="Resamples (over images) behind intervals and tests.")


class ResourcesConfig(Section):
    """What the steps ask of Ray."""

    engines: int = Field(1, gt=0, description="vLLM engines for caption, generate and evaluate.")
    max_engines: int | None = Field(
        None, gt=0, description="Let the pool grow to this many engines while shards wait, as nodes are there; none: fixed."
    )
    engine_cpus: float = Field(1.0, gt=0, description="Logical CPUs of one engine, and threads that prepare images for it.")
    engine_gpus: float = Field(0.0, ge=0, description="GPUs of one engine; below 1 it shares one, above it is tensor parallel.")
    teacher_engines: int | None = Field(
        None, gt=0, description="Engines for caption, where a large teacher needs fewer and larger ones; none: engines."
    )
    teacher_gpus: float | None = Field(None, ge=0, description="GPUs of one engine for caption; none: engine_gpus.")
    engine_shards: int = Field(
        2, gt=0, description="Shards an engine works on at a time: the next one fills its batches while one ends."
    )
    train_workers: int = Field(1, gt=0, description="Data-parallel training workers.")
    train_cpus: float = Field(1.0, gt=0, description="Logical CPUs of one training worker.")
    train_gpus: float = Field(0.0, ge=0, description="GPUs of one training worker; below 1 it shares one.")
    train_sharding: Literal["auto"] | bool = Field(
        "auto",
        description="Cut weights, gradients and moments over the training workers (FSDP2) instead of giving each all of them"
        " (DDP). auto: where they take more than 0.7 of a worker's memory.",
    )
    train_inputs: int | None = Field(
        None,
        ge=0,
        description="Processes of each training worker that decode images and run the processor ahead of it; none: 0 on a CPU,"
        " 4 with a GPU.",
    )
    parallel_baselines: bool = Field(
        False,
        description="Train and evaluate the baselines while the method runs, and controls two at a time; needs all the above a "
        "second time.",
    )
    concurrent_runs: int = Field(
        1, gt=0, description="Runs that share the machines at a time, each with all the above; leaml tune sets it by itself."
    )
    images_per_shard: int = Field(256, gt=0, description="Images per shard; a shard is one committed file.")
    model_cache: Annotated[str | None, Spelled("an absolute path, or null")] = Field(
        None,
        pattern=r"^/.",
        description="Folder of every node for copies of models in S3 and of a hub's models, fetched once for all of its"
        " processes; none: the variable LEAML_MODEL_CACHE or the temporary folder, and the hub's own cache.",
    )
    address: str | None = Field(None, description="Ray cluster to join; none: start one in this process.")

    @model_validator(mode="after")
    def _gpus_are_parts_of_one_or_whole(self) -> ResourcesConfig:
        for name in ("engine_gpus", "teacher_gpus", "train_gpus"):
            gpus = getattr(self, name) or 0.0
            if gpus > 1 and gpus != int(gpus):
                msg = f"{name} is {gpus:g}, but a process has a part of one GPU (0.5) or whole ones (2)"
                raise ValueError(msg)
        if 0 < self.train_gpus < 1 and self.train_workers > 1:
            msg = (
                f"train_gpus is {self.train_gpus:g} and train_workers {self.train_workers}, but workers of a training may not"
                " share a GPU (NCCL refuses that); set train_workers to 1, or train_gpus to 1 or more"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _pool_grows(self) -> ResourcesConfig:
        if self.max_engines is not None and self.max_engines < self.engines:
            msg = f"max_engines is {self.max_engines}, less than engines, {self.engines}; raise it or leave it out"
            raise ValueError(msg)
        return self

    @property
    def teacher(self) -> ResourcesConfig:
        """The same with the teacher's engines as the engines."""
        gpus = self.engine_gpus if self.teacher_gpus is None else self.teacher_gpus
        if self.teacher_engines is None:
            return self.model_copy(update={"engine_gpus": gpus})
        return self.model_copy(update={"engine_gpus": gpus, "engines": self.teacher_engines, "max_engines": None})

    @property
    def input_processes(self) -> int:
        """Processes of each training worker that make its input."""
        return self.train_inputs if self.train_inputs is not None else 4 * (self.train_gpus > 0)

    @property
    def lanes(self) -> int:
        """How many engine pools or trainings may run at a time."""
        return self.concurrent_runs * (2 if self.parallel_baselines else 1)


class Config(Section):
    """Everything one run needs."""

    name: Annotated[str, NAME_WORDS] = Field(
        "run", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", description="Run name; the folder under storage."
    )
    storage: str = Field(
        "runs",
        description="Local folder or s3://bucket/prefix that holds runs; a relative one is relative to the config file that "
        "gives it, the default to the current folder.",
        json_schema_extra=PATH,
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice that has no seed of its own.")
    model: ModelConfig = Field(
        default_factory=ModelConfig, description="The VLM to adapt; also the QA generator's starting point."
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="vLLM's engine for generate, evaluate and hardness, and for caption."
    )
    data: DataConfig = Field(
        examples=["{labeled: {format: jsonl, path: data/train.jsonl}, evaluation: {format: jsonl, path: data/test.jsonl}}"],
        description="Data sources.",
    )
    caption: CaptionConfig = Field(default_factory=CaptionConfig, description="Captions by the teacher.")
    warmup: WarmupConfig = Field(default_factory=WarmupConfig, description="Training of the QA generator on the labels.")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="Scores of neurons.")
    select: SelectConfig = Field(default_factory=SelectConfig, description="Which neurons distillation may move.")
    distill: DistillConfig = Field(default_factory=DistillConfig, description="Distillation of captions.")
    generate: GenerateConfig = Field(default_factory=GenerateConfig, description="Candidates of pairs.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="Which candidates become pairs.")
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, description="Training of the VQA model.")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="The table of results.")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="Resources.")
    rounds: int = Field(
        1,
        gt=0,
        description="Times that the method is done, warm-up to finetune; from the second on the generator starts as the model "
        "adapted before.",
    )
    tune: TuneConfig = Field(default_factory=lambda: TuneConfig(), description="Search (leaml tune).")

    @model_validator(mode="after")
    def _select_chooses_neurons(self) -> Config:
        if self.distill.skip and self.finetune.method == "neurons":
            msg = "finetune.method neurons needs the rows that select chooses, which distill.skip leaves out; use full or lora"
            raise ValueError(msg)
        without = {row.name for row in self.controls if row.neurons == "none"}
        if self.finetune.method == "neurons" and without:
            msg = f"the controls {sorted(without)} select no neurons, which finetune.method neurons needs; use full or lora"
            raise ValueError(msg)
        others = {row.name for row in self.controls if row.neurons == "others"}
        if others and "neurons" not in (self.distill.method, self.finetune.method):
            msg = f"the controls {sorted(others)} select other neurons, but no training moves selected ones; leave them out"
            raise ValueError(msg)
        for name in ("distill", "finetune"):
            section: TrainConfig = getattr(self, name)
            if section.method == "neurons" and section.freeze:
                msg = f"{name}.freeze says nothing where neurons are trained; score.modules says in which parts they may be"
                raise ValueError(msg)
        return self

    @property
    def baselines(self) -> list[Row]:
        """The baselines of its table, in order."""
        return baselines_without(self.evaluate.leave_out)

    @property
    def controls(self) -> list[Row]:
        """The rows that `evaluate.controls` switches on."""
        return [rows()[name] for name in self.evaluate.controls]

    @property
    def learns_captions(self) -> bool:
        """Whether the method, or a row beside it, learns from captions."""
        return not self.distill.skip or any(row.captions for row in self.controls)

    @property
    def teacher_engine(self) -> EngineConfig:
        """The engine of the teacher."""
        return self.caption.engine.over(self.engine)

    @property
    def run_folder(self) -> str:
        """Folder of this run, below `storage`."""
        return f"{self.storage.rstrip('/')}/{self.name}"
