"""Sections of the steps that train."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from leaml.config.base import Section

Method = Literal["full", "lora", "neurons"]
"""What a training moves."""
Part = Literal["vision", "connector", "language"]
"""Of a model."""
Rate = Annotated[float, Field(gt=0)]
Rates = Rate | Annotated[list[Rate], Field(min_length=1)]
LR = "Learning rate; a list is swept on the validation part of the labels."


class LoraSettings(Section):
    """What PEFT's LoRA is told."""

    rank: int = Field(16, gt=0, description="Rank of the two factors.")
    alpha: float | None = Field(None, gt=0, description="Scale: the product is multiplied by alpha / rank; null: 2 x rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the adapter's input.")
    target: list[Part] = Field(
        ["vision", "connector", "language"], min_length=1, description="Parts of the model whose Linear modules get it."
    )
    dora: bool = Field(False, description="Train magnitude and direction apart (DoRA, arXiv 2402.09353).")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).")
    quantization: Literal["nf4"] | None = Field(
        None,
        description="nf4: the frozen weights of the language model are held in 4 bits (QLoRA, arXiv 2305.14314; needs"
        " bitsandbytes); what is trained is merged into the weights as they were.",
    )


class TrainConfig(Section):
    """Shared by every training step."""

    method: Method = Field(
        "full",
        description="What is trained. full: all weights. lora: LoRA on every Linear. neurons: the rows that select chose; not"
        " for steps before it.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings, description="With method lora.")
    freeze: list[Literal["vision", "connector"]] = Field(
        default_factory=list, description="Parts of the model that full training and LoRA leave as they are."
    )

    steps: int = Field(200, gt=0, description="Optimizer steps.")
    batch_size: int = Field(64, gt=0, description="Examples per optimizer step, shared by all workers.")
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(gt=0)] | None = Field(
        "auto",
        description="Tokens of one forward and backward pass of a worker, padding and images included. Gradients of a step's"
        " passes are added up, so this changes memory and time, and the result by rounding and dropout alone. auto: what fits"
        " into the free memory, measured on examples; null: a worker's part of a batch is one pass.",
    )
    activation_checkpointing: Literal["auto"] | bool = Field(
        "auto",
        description="Keep the inputs of layers alone and compute the rest again in the backward pass: a third more time for a"
        " fraction of the memory. auto: for models of more than 100 M parameters.",
    )
    lr: Rates = Field(5e-4, description=LR)
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps with linearly rising learning rate; then cosine decay."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm clipping.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Autocast type of the forward pass; what is trained is held in float32. auto: bfloat16 where the hardware"
        " multiplies it (GPUs from Ampere on, CPUs with AVX-512), else float32.",
    )
    save_every: int = Field(100, gt=0, description="Steps between checkpoints that a killed run resumes from.")

    @model_validator(mode="after")
    def _lora_has_a_part(self) -> Self:
        if self.method == "lora" and not set(self.lora.target) - set(self.freeze):
            msg = f"lora.target {self.lora.target} is frozen; name a part that is not in freeze {self.freeze}"
            raise ValueError(msg)
        return self

    @property
    def is_quantized(self) -> bool:
        """Whether frozen weights are held in fewer bits."""
        return self.method == "lora" and self.lora.quantization is not None

    def identity(self) -> dict[str, object]:
        """The keys that decide what comes out of the training; the others change its memory and its time."""
        other = {"micro_batch_tokens", "activation_checkpointing", "save_every"}
        return self.model_dump(exclude=other if self.method == "lora" else other | {"lora"})


def _only(*methods: Method) -> Any:
    """Refuses other methods than these for a step."""

    def check(cls: type[TrainConfig], value: Method) -> Method:
        if value not in methods:
            why = "select comes after this step" if value == "neurons" else "the row is called after its method"
            msg = f"{value!r} cannot be taken here, {why}; use {' or '.join(methods)}"
            raise ValueError(msg)
        return value

    return field_validator("method")(classmethod(check))  # type: ignore[arg-type]


def _refuse_too_small(config: TrainConfig, kinds: list[str], otherwise: str = "") -> None:
    """Raise ValueError for a batch without a slot for each kind of examples; else captions would be paid for before."""
    if config.batch_size < len(kinds):
        of_each = f"has no slot for each of {', '.join(kinds)}"
        msg = f"batch_size {config.batch_size} {of_each}; raise it to {len(kinds)}{otherwise}"
        raise ValueError(msg)


class WarmupConfig(TrainConfig):
    """The QA generator learns from the labeled rows."""

    describe_first: bool = Field(False, description="The generator writes a caption before the pair; false: the pair alone.")

    _method = _only("full", "lora")

    @model_validator(mode="after")
    def _a_slot_each(self) -> Self:
        _refuse_too_small(self, ["pairs", "answers"])
        return self


class DistillConfig(TrainConfig):
    """Caption distillation into the selected neurons: caption loss + qa_weight x QA loss."""

    method: Method = Field("neurons", description="What captions move; neurons: the rows that select chose.")
    qa_weight: float = Field(1.0, ge=0, description="Lambda: weight of the QA loss beside the caption loss.")
    qa_share: float = Field(
        1.0, gt=0, description="Slots in a batch for labeled pairs, and as many for their questions, to one for a caption."
    )
    check_share: float = Field(
        0.5, ge=0, description="Yes/no checks of single caption words for each caption in a batch; 0: none, as in the paper."
    )
    cloze_share: float = Field(
        0.5,
        ge=0,
        description="Caption sentences with a blank to fill (cloze) for each caption in a batch; 0: none, as in the paper.",
    )
    check_weight: float = Field(
        0.5,
        gt=0,
        description="Weight of the loss of checks and of that of clozes beside the caption loss, each a mean per token.",
    )
    skip: bool = Field(False, description="Leave distillation out (the no_captions control, as SelTDA).")

    def question_shares(self) -> dict[str, float]:
        """Questions about a caption that share its batches, by kind, and how many of each to one caption."""
        shares = {"checks": self.check_share, "clozes": self.cloze_share}
        return {name: share for name, share in shares.items() if share}

    @model_validator(mode="after")
    def _a_slot_each(self) -> Self:
        kinds = ["captions", *self.question_shares(), *(("pairs", "answers") if self.qa_weight else ())]
        if not self.skip:
            _refuse_too_small(self, kinds, ", or set check_share, cloze_share or qa_weight to 0")
        return self


class FinetuneConfig(TrainConfig):
    """The VQA model learns from labeled rows and accepted pseudo pairs."""

    label_share: float = Field(0.2, ge=0, le=1, description="Share of each batch drawn from the labeled rows.")
    start: Literal["base", "generator"] = Field(
        "generator", description="The model that fine-tuning begins with: the generator that wrote the pairs, or the base."
    )

    @model_validator(mode="after")
    def _a_slot_each(self) -> Self:
        if 0 < self.label_share < 1:
            _refuse_too_small(self, ["labels", "pairs"], ", or set label_share to 0 or 1")
        return self


class FinetuneLabelsConfig(TrainConfig):
    """Full fine-tuning on the labels alone."""

    method: Method = Field("full", description="full: what the row is called after.")
    lr: Rates = Field([3e-4, 1e-3], description=LR)

    _method = _only("full")


class LoraLabelsConfig(TrainConfig):
    """LoRA on the labels alone."""

    method: Method = Field("lora", description="lora: what the row is called after.")
    lr: Rates = Field([1e-3, 3e-3], description=LR)

    _method = _only("lora")
