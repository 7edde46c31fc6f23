"""Every step, declared once: commands, plan, status, tune, docs and tests iterate over these.

A step of one's own takes three places: its file with a function of a `Context`, its section of the configuration, and its
declaration here (docs/how-to/step.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines import step_facts as facts
from pipelines.amounts import Amounts, Requests, Tokens, Tree, Workload

if TYPE_CHECKING:
    from leaml.config import Config

Kind = Literal["data", "engine", "train", "gradients", "driver"]
"""What a step runs on: CPU tasks of Ray, engines, training workers, training workers that do not train, or the driver alone."""
ENGINE_REQUESTS = Requests(shard=(3, 11), image_file=(0, 3))
"""Rows, counts and attempt are written; two open the table of images, four read some; five read rows and counts again when they
are gathered. To find where images are: the footer of each fragment, its columns, the ids."""
FILTER_REQUESTS = Requests(image_file=(1, 5))
"""Of a quarter of a part of 4096 images: its rows and counts are written, and read when they are gathered; some four GETs of
the candidates, and where filters look at all pairs together what was decided by itself is written once and read twice."""
EXAMPLE_REQUESTS = Requests(image=(0, 2))
"""Where an example's image is, and the image."""
REQUESTS: dict[Kind, Requests] = {
    "engine": ENGINE_REQUESTS,
    "train": EXAMPLE_REQUESTS,
    "gradients": EXAMPLE_REQUESTS,
    "data": Requests(),
    "driver": Requests(),
}
"""Of a step that declares none."""


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
        why_not: Why a configuration does not have it, as a clause for people; "" where there is no more to say.
        model: Key of the model, in the configuration, that its engines or workers load.
        url: Of a server that is asked instead; None: engines of the run.
        engines: How many engines it has, and the GPUs of each.
        command: Whether it is a command of its own.
        shared: Whether all rows of the table have it in common.
        once: Whether later rounds do not have it again.
        tuned: Whether trials of a search pay for it.
        judged: Whether it trains the generator that a search judges; one step does.
        work: How much it has to do.
        describe: What there is to say of what it reads, for the plan.
        makes: What comes of it, for the plan.
        each: How many of them an image makes, for steps that make them of images.
        per_image: How often an engine reads an image, and tokens that it writes about it.
        alike: What two steps have in common when one's rate tells the other's, beside model and resources.
        reply: Tokens of a reply that a training learns.
        requests: Of S3, for each of what it reads; None: those of its kind, `REQUESTS`.
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
    why_not: Callable[[Config], str] = lambda config: ""
    model: str = "model"
    url: Callable[[Tree], str | None] = lambda tree: None
    engines: Callable[[Tree], tuple[int, float]] = lambda tree: (tree["resources"]["engines"], tree["resources"]["engine_gpus"])
    command: bool = True
    shared: bool = False
    once: bool = False
    tuned: bool = False
    judged: bool = False
    work: Callable[[Tree, Amounts], Workload] = lambda tree, amounts: Workload(held_out=amounts.validation != 0)
    describe: Callable[[Tree, Amounts], str] = lambda tree, amounts: ""
    makes: str = ""
    each: Callable[[Tree], int] = lambda tree: 1
    per_image: Callable[[Tree, Workload, Tokens], tuple[float, float]] = lambda tree, work, tokens: (1.0, 0.0)
    alike: Callable[[Tree], tuple[object, ...]] = lambda tree: ()
    reply: Callable[[Tokens], int] = lambda tokens: tokens.pair
    requests: Requests | None = None
    inspect: str = ""


METHOD = (
    StepSpec(
        "caption",
        "the teacher describes the images",
        "engine",
        "caption",
        ("ingest",),
        "pipelines.caption:caption",
        version=7,
        when=facts.distills,
        why_not=facts.why_not_distill,
        model="caption.teacher",
        url=lambda tree: tree["caption"]["url"],
        engines=facts.teacher_engines,
        shared=True,
        once=True,
        work=facts.caption_work,
        describe=facts.describe_captions,
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
        version=2,
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
        when=facts.selects,
        why_not=facts.why_not_select,
        work=facts.score_work,
        makes="table of scores",
    ),
    StepSpec(
        "select",
        "select neurons by their scores",
        "driver",
        "select",
        ("score",),
        "pipelines.selection:select",
        when=facts.selects,
        why_not=facts.why_not_select,
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
        when=facts.distills,
        why_not=facts.why_not_distill,
        tuned=True,
        judged=True,
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
        version=11,
        tuned=True,
        work=facts.pair_work,
        describe=facts.describe_pairs,
        makes="pairs",
        each=facts.questions,
        per_image=facts.generate_tokens,
        alike=facts.asked_pairs,
    ),
    StepSpec(
        "hardness",
        "the base answers the questions of candidates",
        "engine",
        "filter",
        ("ingest", "generate"),
        "pipelines.hardness:hardness",
        version=3,
        when=lambda config: config.filter.hardness,
        command=False,
        tuned=True,
        work=facts.pair_work,
        makes="answers",
        each=facts.questions,
        per_image=facts.hardness_tokens,
        alike=facts.asked_pairs,
    ),
    StepSpec(
        "filter",
        "accept or reject candidates",
        "data",
        "filter",
        ("generate", "hardness"),
        "pipelines.filter:filter_pairs",
        version=2,
        work=facts.pair_work,
        makes="pairs at most",
        each=facts.questions,
        requests=FILTER_REQUESTS,
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
    version=6,
    makes="images",
    # a fragment is sent in parts of 5 MiB; the file of its part is looked for, written and read
    requests=Requests(image_file=(27, 6), image=(0, 1)),
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
    per_image=facts.evaluate_tokens,
    alike=facts.evaluation,
    inspect="pipelines.inspect_image:answers",
)
STEPS = {spec.name: spec for spec in (INGEST, *METHOD, EVALUATE)}
"""By name, in order."""
PARTS_OF_INGEST: dict[str, Kind] = {"exclude": "driver", "contamination": "data"}
"""Steps that only some data need, and what they run on."""
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


def kind_of(name: str) -> Kind:
    """What a step of this name runs on."""
    return STEPS[name].kind if name in STEPS else PARTS_OF_INGEST.get(name, "driver")


def why_not(spec: StepSpec, config: Config) -> str:
    """Why a run with this configuration does not have a step, as a clause; "" where it has it."""
    if spec.when(config):
        return ""
    return spec.why_not(config) or f"the configuration leaves out {spec.name} (section {spec.section})"


def judged_step() -> StepSpec:
    """The step that trains the generator which a search judges."""
    (found,) = (spec for spec in METHOD if spec.judged)
    return found


def judged_sections() -> list[str]:
    """Sections of the method's steps up to that one, on which its generator depends."""
    return list(dict.fromkeys(spec.section for spec in METHOD[: METHOD.index(judged_step()) + 1]))


def of_kind(*kinds: Kind) -> frozenset[str]:
    """Names of the steps that run on one of these."""
    return frozenset(spec.name for spec in STEPS.values() if spec.kind in kinds)
