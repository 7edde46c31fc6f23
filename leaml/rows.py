"""Every row of the table of results, declared once; configuration, training, statistics, report and model card iterate over it.

Another control that is the method with other settings is one `Row` with a `change`. Packages of others add rows by the entry
point group `leaml.rows`. Their modules are imported when a row is first asked for, and not before the configuration has been
defined, which they may import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel

from leaml.errors import InputError
from leaml.plugins import Plugins

PLUGINS = Plugins("leaml.rows", "row")
Role = Literal["ours", "baseline", "control", "reference"]
"""baseline: what the method is measured against. control: the method with one part replaced, or fed something else. reference:
told more than the method is, so shown and no rival."""
Settings = TypeVar("Settings", bound=BaseModel)
"""`leaml.config.Config`, which imports the names of rows and so is not known here."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: In `metrics.json` and in the configuration.
        title: In reports.
        role: What it is compared for.
        optional: Whether `evaluate.controls` switches it on.
        change: Of a `leaml.config.Config`, for a row that is the method with other settings.
        make: `module:function` that trains its model, given run, sources, labels and the row; "" for a row of no training.
        predict: `module:function` that answers in place of a model, given the same. It returns a PREDICTIONS table, or None
            where the data has nothing for it; it is called in every run and keeps nothing.
        note: What the row is, below the table of results, before its accuracy.
        warning: What the verdict says, before the row's accuracy, where the method is no more accurate than the row.
        training: Key of the configuration's section that it is trained by, where that is not the method's.
        neurons: Which neurons its trainings may move: those of the method, others, or none since it selects none.
        captions: Whether it learns from captions, also where the method has none.
        all_labels: Whether it learns from every label, beyond the budget.
    """

    name: str
    title: str
    role: Role
    optional: bool = False
    change: Callable[[Any], Any] | None = None
    make: str = ""
    predict: str = ""
    note: str = ""
    warning: str = ""
    training: str = ""
    neurons: Literal["method", "others", "none"] = "method"
    captions: bool = False
    all_labels: bool = False

    def section(self, tree: Any) -> Any:
        """The section that it is trained by, of a configuration or of one as plain data."""
        for key in self.training.split("."):
            tree = tree[key] if isinstance(tree, dict) else getattr(tree, key)
        return tree


def _with(config: Settings, **sections: dict[str, object]) -> Settings:
    changed = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=changed)


def _scored_by(method: str) -> Callable[[Settings], Settings]:
    return lambda config: _with(config, score={"method": method})


def _all_neurons(config: Settings) -> Settings:
    return _with(config, select={"ratio": 1.0})


def _no_captions(config: Any) -> Any:
    """SelTDA, arXiv 2306.03932: no captions, no mask."""
    steps = config.evaluate.baselines.no_captions_warmup or config.warmup.steps
    return _with(config, warmup={"describe_first": False, "steps": steps}, distill={"skip": True}, generate={"caption": "none"})


_NOT_LOOKING = "It is no better than answering without looking at the image"
_ON_LABELS = "pipelines.rows:on_labels"
BUILTIN = (
    Row(
        "blind_prior",
        "Blind prior (no image)",
        "baseline",
        predict="pipelines.priors:blind_prior",
        note="Blind prior: the most common labeled answer to each question, without the image",
        warning=_NOT_LOOKING,
    ),
    Row(
        "letter_prior",
        "Letter prior (no image)",
        "baseline",
        predict="pipelines.priors:letter_prior",
        note="Letter prior: the most common labeled letter of each question, without the image or the options' text",
        warning=_NOT_LOOKING,
    ),
    Row(
        "source_prior",
        "Prior by source (no image)",
        "reference",
        predict="pipelines.priors:source_prior",
        note="Prior by source: the most common labeled answer per question and source of the image; no baseline, since no "
        "model is told the source",
        warning="A source-only prior does at least as well",
    ),
    Row("zero_shot", "Zero-shot", "baseline"),
    Row(
        "finetune_labels",
        "Fine-tuned on labels",
        "baseline",
        make=_ON_LABELS,
        training="evaluate.baselines.finetune_labels",
    ),
    Row("lora_labels", "LoRA on labels", "baseline", make=_ON_LABELS, training="evaluate.baselines.lora_labels"),
    Row("leaml", "LEAML", "ours"),
    Row("random_neurons", "LEAML, random neurons", "control", True, _scored_by("random"), neurons="others"),
    Row("magnitude_neurons", "LEAML, largest neurons", "control", True, _scored_by("magnitude"), neurons="others"),
    Row("lowest_neurons", "LEAML, lowest scores", "control", True, _scored_by("lowest"), neurons="others"),
    Row("all_neurons", "LEAML, all neurons", "control", True, _all_neurons, neurons="others"),
    Row("no_captions", "LEAML, no captions", "control", True, _no_captions, neurons="none"),
    Row(
        "captions_mixed",
        "Labels and captions",
        "control",
        True,
        make="pipelines.rows:captions_mixed",
        neurons="none",
        captions=True,
    ),
    Row("self_training", "Self-training", "control", True, make="pipelines.rows:self_training", neurons="none"),
    Row(
        "full_labels",
        "All labels (ceiling)",
        "reference",
        True,
        make="pipelines.rows:full_labels",
        training="finetune",
        neurons="none",
        all_labels=True,
    ),
)
OPTIONAL = (*(row.name for row in BUILTIN if row.optional), *PLUGINS.names)
"""What `evaluate.controls` may hold."""
TRAINED_BASELINES = tuple(row.name for row in BUILTIN if row.role == "baseline" and row.training)
"""What `evaluate.leave_out` may hold."""


@cache
def rows() -> dict[str, Row]:
    """All rows by name, in the order in which reports show them.

    Raises:
        ConfigError: An installed package has a row that cannot be used.
    """
    found = {row.name: row for row in BUILTIN}
    for name in PLUGINS.names:
        row = PLUGINS.load(name)
        if not isinstance(row, Row):
            raise PLUGINS.unusable(name, f"is no leaml.rows.Row, but {row!r}")
        if why := _fault(row, name, found):
            raise PLUGINS.unusable(name, why)
        found[name] = row
    return found


def _fault(row: Row, name: str, taken: dict[str, Row]) -> str:
    """Why a row of another package cannot be used; "" if it can."""
    if row.name != name:
        return f"calls itself {row.name!r}; give the entry point the name of the row"
    if name in taken:
        return "has the name of another row; choose another one"
    if row.role not in get_args(Role) or row.role == "ours":
        return f"has the role {row.role!r}; it may be baseline, control or reference"
    if not row.optional:
        return "would never be made; set optional=True, so that evaluate.controls switches it on"
    if [row.change is not None, bool(row.make), bool(row.predict)].count(True) != 1:
        return "must have one of change, make and predict"
    return ""


@cache
def titles() -> dict[str, str]:
    """What rows are called in reports, by name; rows that are not here go under their own name."""
    return {row.name: row.title for row in rows().values()}


def names_of(role: Role) -> tuple[str, ...]:
    """Names of the rows of a role."""
    return tuple(row.name for row in rows().values() if row.role == role)


def baselines_without(left_out: Collection[str]) -> list[Row]:
    """The baselines that every run compares with but for those `left_out`, in order; others are among the controls."""
    return [row for row in rows().values() if row.role == "baseline" and not row.optional and row.name not in left_out]


def changed(config: Settings, name: str) -> Settings:
    """The configuration of a row that is the method with other settings. Raises InputError for other rows."""
    row = rows().get(name)
    if row is None or row.change is None:
        known = ", ".join(each.name for each in rows().values() if each.change)
        msg = f"{name!r} is no row that is the method with other settings; those are {known}"
        raise InputError(msg)
    made: Settings = row.change(config)
    return made
