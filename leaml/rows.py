"""Every row of the table of results, declared once; configuration, training, statistics, report and model card iterate over it.

Another control that is the method with other settings is one `Row` with a `change`. Packages of others add rows by the entry
point group `leaml.rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from leaml.errors import InputError

if TYPE_CHECKING:
    from leaml.config import Config

GROUP = "leaml.rows"
"""Entry points of rows in other packages: name and `Row`."""
Role = Literal["ours", "baseline", "control", "reference"]
"""baseline: what the method is measured against. control: the method with one part replaced, or fed something else. reference:
told more than the method is, so shown and no rival."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: In `metrics.json` and in the configuration.
        title: In reports.
        role: What it is compared for.
        optional: Whether `evaluate.controls` switches it on.
        change: Of a configuration, for a row that is the method with other settings.
        make: `module:function` that trains its model, given run, sources, labels and the row; "" for a row of no training.
        training: Key of the configuration's section that it is trained by, where that is not the method's.
    """

    name: str
    title: str
    role: Role
    optional: bool = False
    change: Callable[[Config], Config] | None = None
    make: str = ""
    training: str = ""

    def section(self, tree: Any) -> Any:
        """The section that it is trained by, of a configuration or of one as plain data."""
        for key in self.training.split("."):
            tree = tree[key] if isinstance(tree, dict) else getattr(tree, key)
        return tree


def _with(config: Config, **sections: dict[str, object]) -> Config:
    changed = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=changed)


def _scored_by(method: str) -> Callable[[Config], Config]:
    return lambda config: _with(config, score={"method": method})


def _no_captions(config: Config) -> Config:
    """SelTDA, arXiv 2306.03932: no captions, no mask."""
    steps = config.evaluate.baselines.no_captions_warmup or config.warmup.steps
    return _with(config, warmup={"describe_first": False, "steps": steps}, distill={"skip": True}, generate={"caption": "none"})


_ON_LABELS = "pipelines.rows:on_labels"
BUILTIN = (
    Row("blind_prior", "Blind prior (no image)", "baseline"),
    Row("letter_prior", "Letter prior (no image)", "baseline"),
    Row("source_prior", "Prior by source (no image)", "reference"),
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
    Row("random_neurons", "LEAML, random neurons", "control", True, _scored_by("random")),
    Row("magnitude_neurons", "LEAML, largest neurons", "control", True, _scored_by("magnitude")),
    Row("lowest_neurons", "LEAML, lowest scores", "control", True, _scored_by("lowest")),
    Row("all_neurons", "LEAML, all neurons", "control", True, lambda config: _with(config, select={"ratio": 1.0})),
    Row("no_captions", "LEAML, no captions", "control", True, _no_captions),
    Row("captions_mixed", "Labels and captions", "control", True, make="pipelines.rows:captions_mixed"),
    Row("self_training", "Self-training", "control", True, make="pipelines.rows:self_training"),
    Row("full_labels", "All labels (ceiling)", "reference", True, make="pipelines.rows:full_labels", training="finetune"),
)
ROWS: dict[str, Row] = {row.name: row for row in BUILTIN}
"""By name, in the order in which reports show them."""
for _entry in entry_points(group=GROUP):
    _row = _entry.load()
    ROWS[_row.name] = _row
OPTIONAL = tuple(row.name for row in ROWS.values() if row.optional)
"""What `evaluate.controls` may hold."""
TRAINED_BASELINES = tuple(row.name for row in ROWS.values() if row.role == "baseline" and row.training)
"""What `evaluate.leave_out` may hold."""
TITLES = {row.name: row.title for row in ROWS.values()}
"""What rows are called in reports; others follow under their own name."""


def names_of(role: Role) -> tuple[str, ...]:
    """Names of the rows of a role."""
    return tuple(row.name for row in ROWS.values() if row.role == role)


def baselines_of(config: Config) -> list[Row]:
    """The baselines that a run compares with, in order."""
    return [row for row in ROWS.values() if row.role == "baseline" and row.name not in config.evaluate.leave_out]


def changed(config: Config, name: str) -> Config:
    """The configuration of a row that is the method with other settings. Raises InputError for other rows."""
    row = ROWS.get(name)
    if row is None or row.change is None:
        known = ", ".join(each.name for each in ROWS.values() if each.change)
        msg = f"{name!r} is no row that is the method with other settings; those are {known}"
        raise InputError(msg)
    return row.change(config)
