"""Every step, declared once: commands, plan, status, tune, docs and tests iterate over these.

A step of one's own takes three places: its file with a function of a `Context`, its section of the configuration, and its
declaration here (docs/how-to/step.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.amounts import Amounts, Tokens, Workload

if TYPE_CHECKING:
    from leaml.config import Config

Tree = dict[str, Any]
"""The configuration as plain data."""
Kind = Literal["data", "engine", "train", "gradients", "driver"]
"""What a step runs on: CPU tasks of Ray, engines, training workers, training workers that do not train, or the driver alone."""


@dataclass(frozen=True)
class StepSpec:
    """A step.

    Attributes:
        name: Also that of its command.
        what: What it does, in a sentence, for people.
        kind: What it runs on.
        section: Of the configuration.
        inputs: Names of the steps that it may read, beside the labels.
        run: `module:function` that makes it, given a `pipelines.context.Context`; "" for those that others make.
        version: Raised when its code changes its results.
        when: Whether a configuration has it.
        command: Whether it is a command of its own.
        shared: Whether all rows of the table have it in common.
        once: Whether later rounds do not have it again.
        tuned: Whether trials of a search pay for it.
        work: How much it has to do.
        describe: What there is to say of that, for the plan.
        makes: What comes of it, for the plan.
        each: How many of them an image makes, for steps that make them of images.
        per_image: How often an engine reads an image, and tokens that it writes about it.
        alike: What two steps have in common when one's rate tells the other's, beside model and resources.
        reply: Tokens of a reply that a training learns.
        inspect: `module:function` that prints what its tables say of an image, given a finished step
            (`pipelines.inspect_image.InspectedStep`) and the image's id; "" for those that have nothing to say.
    """

    name: str
    what: str
    kind: Kind
    section: str
    inputs: tuple[str, ...] = ()
    run: str = ""
    version: int = 1
    when: Callable[[Config], bool] = lambda config: True
    command: bool = True
    shared: bool = False
    once: bool = False
    tuned: bool = False
    work: Callable[[Tree, Amounts], Workload] = lambda tree, amounts: Workload(held_out=amounts.validation != 0)
    describe: Callable[[Tree, Workload], str] = lambda tree, work: ""
    makes: str = ""
    each: Callable[[Tree], int] = lambda tree: 1
    per_image: Callable[[Tree, Workload, Tokens], tuple[float, float]] = lambda tree, work, tokens: (1.0, 0.0)
    alike: Callable[[Tree], tuple[object, ...]] = lambda tree: ()
    reply: Callable[[Tokens], int] = lambda tokens: tokens.pair
    inspect: str = ""


def _distills(config: Config) -> bool:
    return not config.distill.skip


def _selects(config: Config) -> bool:
    """Scores cost a pass with gradients over the labels, which only a training of neurons is worth."""
    return _distills(config) and "neurons" in (config.distill.method, config.finetune.method)


def _caption_work(tree: Tree, amounts: Amounts) -> Workload:
    limit, complete = tree["caption"]["max_images"], tree["caption"]["complete"]
    if amounts.training is None:
        return Workload(None if complete else 0)
    return Workload(max(0, min(limit or amounts.training, amounts.training) - (amounts.given or 0)) if complete else 0)


def _pair_work(tree: Tree, amounts: Amounts) -> Workload:
    limit = tree["generate"]["max_images"]
    return Workload(None if amounts.rest is None else min(limit or amounts.rest, amounts.rest))


def _score_work(tree: Tree, amounts: Amounts) -> Workload:
    return Workload(None if amounts.label_rows is None else min(tree["score"]["samples"], 2 * amounts.label_rows))


def _describe_pairs(tree: Tree, _: Workload) -> str:
    given = len(tree["generate"]["questions"])
    return f"{tree['generate']['pairs_per_image']} pairs{f' + {given} given questions' if given else ''} an image"


def _questions(tree: Tree) -> int:
    """About an image, sampled and given."""
    return int(tree["generate"]["pairs_per_image"]) + len(tree["generate"]["questions"])


def _generate_tokens(tree: Tree, _: Workload, tokens: Tokens) -> tuple[float, float]:
    config = tree["generate"]
    pairs, given, own = config["pairs_per_image"], len(config["questions"]), config["caption"] == "self"
    again = pairs if config["votes"] else 0
    written = pairs * tokens.pair + (given + again) * max(1, config["votes"]) * tokens.answer
    return own + bool(pairs) + given + again, written + own * min(tokens.caption, config["max_tokens"])


def _hardness_tokens(tree: Tree, _: Workload, tokens: Tokens) -> tuple[float, float]:
    return _questions(tree), _questions(tree) * tokens.answer


def _evaluate_tokens(_: Tree, work: Workload, tokens: Tokens) -> tuple[float, float]:
    asked = (work.questions or 0) / work.images if work.images else 1.0
    return round(asked, 1), round(asked * tokens.answer, 1)


def _asked_pairs(tree: Tree) -> tuple[object, ...]:
    section = tree["generate"]
    return section["pairs_per_image"], len(section["questions"]), section["votes"], section["caption"]


def _evaluation(tree: Tree) -> tuple[object, ...]:
    data = tree["data"]
    return (*(data["evaluation"].get(key) for key in ("format", "path", "split", "limit")), data["evaluation_questions"])


METHOD = (
    StepSpec(
        "caption",
        "the teacher describes the images",
        "engine",
        "caption",
        ("ingest",),
        "pipelines.caption:caption",
        version=6,
        when=_distills,
        shared=True,
        once=True,
        work=_caption_work,
        makes="captions",
        inspect="pipelines.inspect_image:caption",
        per_image=lambda tree, work, tokens: (1, min(tokens.caption, tree["caption"]["max_tokens"])),
        alike=lambda tree: (tree["caption"]["url"], tree["caption"]["max_tokens"]),
    ),
    StepSpec(
        "warmup",
        "the QA generator learns from the labels",
        "train",
        "warmup",
        ("ingest", "caption", "finetune"),  # of the round before
        "pipelines.warmup:warmup",
        shared=True,
        makes="model",
    ),
    StepSpec(
        "score",
        "score neurons by gradients of the QA loss",
        "gradients",
        "score",
        ("warmup",),
        "pipelines.score:score",
        version=3,
        when=_selects,
        work=_score_work,
        makes="table of scores",
    ),
    StepSpec(
        "select",
        "select neurons by their scores",
        "driver",
        "select",
        ("score",),
        "pipelines.selection:select",
        when=_selects,
        describe=lambda tree, _: f"{100 * tree['select']['ratio']:g} % of the neurons by {tree['score']['method']}",
        makes="selection",
    ),
    StepSpec(
        "distill",
        "distill captions into the selected neurons",
        "train",
        "distill",
        ("caption", "warmup", "select"),
        "pipelines.distill:distill",
        version=2,
        when=_distills,
        tuned=True,
        reply=lambda tokens: tokens.caption,
        makes="model",
    ),
    StepSpec(
        "generate",
        "write candidates of pairs",
        "engine",
        "generate",
        ("ingest", "caption", "warmup", "distill"),
        "pipelines.generate:generate",
        version=10,
        tuned=True,
        work=_pair_work,
        describe=_describe_pairs,
        makes="pairs",
        each=_questions,
        per_image=_generate_tokens,
        alike=_asked_pairs,
    ),
    StepSpec(
        "hardness",
        "the base answers the questions of candidates",
        "engine",
        "filter",
        ("ingest", "generate"),
        "pipelines.hardness:hardness",
        version=2,
        when=lambda config: config.filter.hardness,
        command=False,
        tuned=True,
        work=_pair_work,
        makes="answers",
        each=_questions,
        per_image=_hardness_tokens,
        alike=_asked_pairs,
    ),
    StepSpec(
        "filter",
        "accept or reject candidates",
        "data",
        "filter",
        ("generate", "hardness"),
        "pipelines.filter:filter_pairs",
        work=_pair_work,
        makes="pairs at most",
        each=_questions,
        inspect="pipelines.inspect_image:pairs",
    ),
    StepSpec(
        "finetune",
        "fine-tune the VQA model",
        "train",
        "finetune",
        ("select", "filter"),
        "pipelines.finetune:finetune",
        tuned=True,
        makes="model",
    ),
)
"""The steps of the method, in order."""
LABELS = "labels"
"""Name of the drawn labels among the inputs of a step."""
INGEST = StepSpec(
    "ingest",
    "read the sources into tables",
    "data",
    "data",
    version=5,
    makes="images",
    inspect="pipelines.inspect_image:labels",
)
EVALUATE = StepSpec(
    "evaluate",
    "evaluate beside the baselines (the same as adapt)",
    "engine",
    "evaluate",
    ("finetune",),
    version=4,
    work=lambda _, amounts: Workload(amounts.asked_images, amounts.asked),
    makes="answers",
    per_image=_evaluate_tokens,
    alike=_evaluation,
    inspect="pipelines.inspect_image:answers",
)
STEPS = {spec.name: spec for spec in (INGEST, *METHOD, EVALUATE)}
"""By name, in order. Those that only some data need (exclude, contamination) are parts of ingest."""
COMMANDS = tuple(spec for spec in STEPS.values() if spec.command)
LAST = EVALUATE.name
ONCE = frozenset(spec.name for spec in STEPS.values() if spec.once)
"""Names of the steps that later rounds do not have again."""


def number_of(name: str) -> int:
    """Place of a command in the order of the method, from 1; 0 for what comes before."""
    return [spec.name for spec in COMMANDS].index(name)


def had_by(config: Config) -> dict[str, bool]:
    """The method's commands in order, and whether a run with this configuration has them."""
    return {spec.name: spec.when(config) for spec in METHOD if spec.command}


def steps_of(config: Config, until: str = LAST) -> list[StepSpec]:
    """The method's steps up to `until` that a run with this configuration has."""
    names = [*STEPS][: [*STEPS].index(until) + 1]
    return [spec for spec in METHOD if spec.name in names and spec.when(config)]


def trained_by(config: Config, until: str = LAST) -> list[StepSpec]:
    """The method's trainings up to the step `until` that a run with this configuration has."""
    from leaml.config import TrainConfig

    return [spec for spec in steps_of(config, until) if isinstance(getattr(config, spec.section), TrainConfig)]


def of_kind(*kinds: Kind) -> frozenset[str]:
    """Names of the steps that run on one of these."""
    return frozenset(spec.name for spec in STEPS.values() if spec.kind in kinds)
