"""What the trainings and the scoring of a run take of memory, before anything is run, and the refusal of one that does not fit.

leaml/training/footprint.py and leaml/neurons/footprint.py have the arithmetic. A training's largest micro-batch is made of the
largest image: as many examples as its `micro_batch_tokens` allows, or with `auto` one, as it then takes what is left. A scoring
takes `score.batch_size` examples at a time where the model keeps them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from leaml import score_methods
from leaml.config import Config, ModelConfig, ResourcesConfig, ScoreConfig, TrainConfig
from leaml.errors import LeamlError, ResourceError
from leaml.machine import SHARDED_ABOVE, total_memory
from leaml.rows import TRAINED_BASELINES
from pipelines import image_tokens
from pipelines.amounts import Tokens, Tree
from pipelines.steps import LAST, STEPS, steps_of, trained_by

if TYPE_CHECKING:
    import torch

    from leaml.training.footprint import Extent, Footprint

LIBRARIES = 600 * 2**20
"""Of a training worker's process: torch, transformers and what they load."""
BESIDE = 2 * 2**30
"""Of the driver and Ray's own processes, as measured beside a training of SmolVLM-256M (docs/benchmarks.md)."""
RAY_SHARE = 0.95
"""Of a machine's memory, above which Ray ends workers."""
PLANNED_GPU = 80 * 2**30
"""Bytes of a GPU that is planned for and not seen here: an A100 or H100."""
LANGUAGE = r"(.*\.)?(text_model|language_model)\..*"
"""Modules that are scored where those of the vision tower are left out."""
FEWEST_PIXELS = 50_000
"""Of an image, below which none is proposed."""


@dataclass(frozen=True)
class Need:
    """What one worker of a training, or of the scoring, takes.

    Attributes:
        footprint: In bytes.
        one: Its largest example.
        examples: In its largest micro-batch.
        at_least: Whether there may be more of them, which only running tells.
    """

    footprint: Footprint
    one: Extent
    examples: int
    at_least: bool = False

    @property
    def peak(self) -> int:
        """Bytes beside libraries."""
        return self.footprint.peak


@dataclass(frozen=True)
class Training:
    """A training step: its name in the configuration, its section, and the tokens of a reply that it learns."""

    key: str
    section: TrainConfig
    reply: int
    ratio: float

    def changed(self, **values: object) -> Training:
        """The same with other settings."""
        return replace(self, section=self.section.model_copy(update=values))


def of_training(
    training: Training, model: ModelConfig, size: tuple[int, int] | None, resources: ResourcesConfig
) -> Need | None:
    """What a training takes; None where the model's files are not at hand, or its architecture is not known.

    Args:
        training: The step.
        model: That it trains.
        size: Width and height of the largest image; None: `image_tokens.SIZE`.
        resources: Its workers.
    """
    from leaml.training.anatomy import of_config
    from leaml.training.footprint import footprint

    local = image_tokens.at_hand(model)
    if local is None:
        return None
    try:
        one = _extent(local, size or image_tokens.SIZE, training.reply)
        made = of_config(local)
    except (LeamlError, ValueError, KeyError, AttributeError, IndexError, RuntimeError):
        return None  # `load.check` says what is wrong with a model
    section, workers = training.section, resources.train_workers
    budget = section.micro_batch_tokens
    examples = 1 if budget == "auto" else math.ceil(section.batch_size / workers)
    if isinstance(budget, int):
        examples = max(1, min(examples, budget // one.tokens))
    device = "cuda" if resources.train_gpus else "cpu"
    micro_batch, dtype, ratio = one.times(examples), model.dtype, training.ratio
    found = footprint(made, micro_batch, section, dtype, ratio, device)
    if _are_sharded(found, resources):
        found = footprint(made, micro_batch, section, dtype, ratio, device, workers)
    return Need(found, one, examples)


def of_score(score: ScoreConfig, model: ModelConfig, size: tuple[int, int] | None, resources: ResourcesConfig) -> Need | None:
    """What the scoring of neurons takes; None where that is not known, or no gradients are taken.

    Examples that the model mixes are scored one at a time. Where that cannot be told one is counted, which is the least.
    """
    from leaml.neurons import footprint as of_scores
    from leaml.training.anatomy import of_config

    local = image_tokens.at_hand(model)
    if local is None or score_methods.method(score.method).of != "gradients":
        return None
    try:
        one = _extent(local, size or image_tokens.SIZE, STEPS["warmup"].reply(Tokens()))
        parts, together = _scored(local, size or image_tokens.SIZE, score.modules)
        made = of_config(local)
    except (LeamlError, ValueError, KeyError, AttributeError, IndexError, RuntimeError):
        return None
    wanted = min(score.batch_size, math.ceil(score.samples / resources.train_workers))
    examples = wanted if together else 1
    device = "cuda" if resources.train_gpus else "cpu"
    found = of_scores.footprint(made, one.times(examples), score, parts, model.dtype, device)
    return Need(found, one, examples, together is None and wanted > 1)


@lru_cache(maxsize=16)
def _scored(model: ModelConfig, size: tuple[int, int], modules: str) -> tuple[set[str], bool | None]:
    """The parts of a model that are scored, and whether examples with images of this size go through it together."""
    from leaml.neurons import footprint
    from leaml.vlm import skeleton

    empty = skeleton.without_weights(model)
    return footprint.scored_parts(empty, modules), footprint.goes_together(empty, modules, _made(model, size, 2))


def _are_sharded(whole: Footprint, resources: ResourcesConfig) -> bool:
    """Whether the workers share weights, gradients and moments, which take so much as a whole."""
    sharding, memory = resources.train_sharding, room(resources) or (PLANNED_GPU if resources.train_gpus else None)
    if resources.train_workers == 1 or sharding is False:
        return False
    return sharding is True or (memory is not None and whole.fixed > SHARDED_ABOVE * memory)


@lru_cache(maxsize=16)
def _extent(model: ModelConfig, size: tuple[int, int], reply: int) -> Extent:
    """Of an example with an image of this size, as the model's own processor makes it."""
    from leaml.training.anatomy import of_config
    from leaml.training.footprint import extent
    from pipelines.estimates import ASSUMED

    one = extent(of_config(model), _made(model, size, 1))
    return replace(one, tokens=one.tokens - one.reply + ASSUMED.text_tokens + reply, reply=reply)


def _made(model: ModelConfig, size: tuple[int, int], count: int) -> dict[str, torch.Tensor]:
    """Tensors of so many examples, each with an image of this size."""
    from PIL import Image

    from leaml.vlm import load
    from leaml.vlm.collate import Collator, Turn

    return Collator(load.processor(model))([Turn(Image.new("RGB", size), "What is it?", "A ball")] * count)


def trainings(config: Config, until: str = LAST) -> Iterator[Training]:
    """Those of a run up to the step `until`: the method's, and the baselines' where all of it is done."""
    ratio = config.select.ratio
    for spec in trained_by(config, until):
        yield Training(spec.name, getattr(config, spec.section), spec.reply(Tokens()), ratio)
    for row in config.baselines:
        if row.training and until == LAST:
            yield Training(row.training, row.section(config), Tokens().pair, ratio)


def of_step(name: str, section: Tree, tree: Tree, size: tuple[int, int] | None) -> Need | None:
    """What a step takes, see `of_training`.

    Args:
        name: Name of the step, which tells the length of a reply.
        section: Its training section, as plain data.
        tree: The whole configuration, as plain data.
        size: Width and height of the largest image; None: `image_tokens.SIZE`.

    Returns:
        None for a step that neither trains nor scores, or where `of_training` cannot tell.
    """
    if STEPS[name].kind == "gradients" and section.keys() == ScoreConfig.model_fields.keys():
        return of_score(ScoreConfig(**section), ModelConfig(**tree["model"]), size, ResourcesConfig(**tree["resources"]))
    if not section.keys() >= TrainConfig.model_fields.keys():
        return None
    train = TrainConfig(**{key: section[key] for key in TrainConfig.model_fields})
    training = Training(name, train, STEPS[name].reply(Tokens()), tree["select"]["ratio"])
    return of_training(training, ModelConfig(**tree["model"]), size, ResourcesConfig(**tree["resources"]))


def usable_memory() -> int:
    """Bytes of this machine that its trainings may take together."""
    return int(RAY_SHARE * total_memory()) - BESIDE


def room(resources: ResourcesConfig) -> int | None:
    """Bytes that a training worker may take; None where that is another machine's, or no GPU is seen here."""
    if resources.address is not None:
        return None
    beside = resources.train_workers * resources.lanes
    if not resources.train_gpus:
        return usable_memory() // beside - LIBRARIES
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory * min(1.0, resources.train_gpus))


def refuse_large(config: Config, size: tuple[int, int] | None, until: str = LAST) -> None:
    """Refuse trainings and a scoring that do not fit the memory of this machine, before captions are paid for.

    Args:
        config: The run.
        size: Width and height of the largest image.
        until: The last step that is done.

    Raises:
        ResourceError: With the settings that would make it fit.
    """
    memory = room(config.resources)
    if memory is None:
        return
    for training in trainings(config, until):
        need = of_training(training, config.model, size, config.resources)
        if need is not None and need.peak > memory:
            raise ResourceError(_refusal(training, config, size, need, memory))
    if any(
        spec.kind == "gradients" and isinstance(getattr(config, spec.section), ScoreConfig) for spec in steps_of(config, until)
    ):
        scored = of_score(config.score, config.model, size, config.resources)
        if scored is not None and scored.peak > memory:
            raise ResourceError(_score_refusal(config, size, scored, memory))


def _found(what: str, config: Config, need: Need, memory: int) -> str:
    where = "GPU" if config.resources.train_gpus else "machine's share for a worker"
    about = "at least" if need.at_least else "about"
    return f"{what} takes {about} {_gib(need.peak)} GiB ({parts_text(need)}), and the {where} has {_gib(memory)}"


def _score_refusal(config: Config, size: tuple[int, int] | None, need: Need, memory: int) -> str:
    """As `_refusal`, with the settings of a scoring."""
    found, changes = _found("the step score", config, need, memory), list[str]()
    score, model, smallest = config.score, config.model, need.peak
    for change, of_section, of_model in _smaller_score(model, size, need):
        changed, smaller = score.model_copy(update=of_section), model.model_copy(update=of_model)
        then = of_score(changed, smaller, size, config.resources)
        if then is None or then.peak >= smallest:
            continue
        changes.append(change)
        if then.peak <= memory:
            return f"{found}; set {_listed(changes)}, with which it takes {_gib(then.peak)} GiB"
        score, model, smallest = changed, smaller, then.peak
    tried = f"{_listed(changes)} would not be enough: " if changes else ""
    return f"{found}; {tried}set distill.method=lora and finetune.method=lora, which need no scores, or take more memory"


def _smaller_score(
    model: ModelConfig, size: tuple[int, int] | None, need: Need
) -> Iterator[tuple[str, dict[str, object], dict[str, object]]]:
    """As `_smaller`, of a scoring."""
    if need.examples > 1:
        yield "score.batch_size=1", {"batch_size": 1}, {}
    yield from ((change, {}, of_model) for change, of_model in _smaller_images(model, size))
    yield f"score.modules='{LANGUAGE}'", {"modules": LANGUAGE}, {}


def _refusal(training: Training, config: Config, size: tuple[int, int] | None, need: Need, memory: int) -> str:
    found = _found(f"the training {training.key}", config, need, memory)
    changes: list[str] = []
    model, smallest = config.model, need.peak
    for change, of_section, of_model in _smaller(training, model, size, need, bool(config.resources.train_gpus)):
        changed, smaller = training.changed(**of_section), model.model_copy(update=of_model)
        then = of_training(changed, smaller, size, config.resources)
        if then is None or then.peak >= smallest:  # this model or this training has nothing of it
            continue
        changes.append(change)
        if then.peak <= memory:
            return f"{found}; set {_listed(changes)}, with which it takes {_gib(then.peak)} GiB"
        training, model, smallest = changed, smaller, then.peak
    tried = f"{_listed(changes)} would not be enough: " if changes else ""
    leave = f"leave the row out (evaluate.leave_out=[{_row_of(training)}]), or " if _row_of(training) else ""
    return f"{found}; {tried}{leave}take a smaller model, more train_workers, or more memory"


def _row_of(training: Training) -> str:
    """The row of the table that a training alone is for; "" for one of the method."""
    section, _, name = training.key.rpartition(".")
    return name if section and name in TRAINED_BASELINES else ""


def _smaller(
    training: Training, model: ModelConfig, size: tuple[int, int] | None, need: Need, gpu: bool
) -> Iterator[tuple[str, dict[str, object], dict[str, object]]]:
    """Settings that may take less, what costs least first: in words, of the training's section, and of the model's."""
    key, section = training.key, training.section
    if need.examples > 1:
        yield f"{key}.micro_batch_tokens={need.one.tokens}", {"micro_batch_tokens": need.one.tokens}, {}
    yield f"{key}.activation_checkpointing=true", {"activation_checkpointing": True}, {}
    yield from ((change, {}, of_model) for change, of_model in _smaller_images(model, size))
    fixed = bool(_row_of(training))  # such a row is called after its method
    if section.method == "full" and not fixed:
        yield f"{key}.method=lora", {"method": "lora"}, {}
    if gpu and section.method != "neurons" and not (fixed and section.method == "full"):
        lora = section.lora.model_copy(update={"quantization": "nf4"})
        yield f"{key}.lora.quantization=nf4", {"method": "lora", "lora": lora}, {}


def _smaller_images(model: ModelConfig, size: tuple[int, int] | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Settings with which images take less: in words, and of the model's section."""
    yield "model.image_tiles=false", {"image_tiles": False}
    width, height = size or image_tokens.SIZE
    pixels = (model.max_image_pixels or width * height) // 4
    if pixels >= FEWEST_PIXELS:
        yield f"model.max_image_pixels={pixels}", {"max_image_pixels": pixels}


def parts_text(need: Need) -> str:
    """The parts of a need in words."""
    found = need.footprint
    names = ("weights", "gradients", "moments", "activations", "logits")
    sizes = ", ".join(f"{name} {_gib(size)}" for name in names if (size := getattr(found, name)) or found.gradients)
    least = "at least " if need.at_least else ""
    return f"{sizes}; {least}{need.examples} x {need.one.tokens:,} tokens a micro-batch"


def _listed(changes: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(changes[:-1]), changes[-1])))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"
