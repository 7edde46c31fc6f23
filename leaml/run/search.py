"""What a search over configurations is made of, without Ray: points, their configurations, tables, plots, importances."""

from __future__ import annotations

import io
import json
import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from leaml.config import Config, RangeConfig, parse
from leaml.errors import ConfigError
from leaml.evaluation import comparisons

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Point = dict[str, object]
"""Configuration key -> value."""


@dataclass(frozen=True)
class Trial:
    """One point with one seed.

    Attributes:
        point: The values tried.
        seed: Added to the configuration's seed.
        accuracy: On the validation labels: of the adapted model when `finished`, else of the generator.
        objective: Accuracy less the price of `hours`.
        hours: Of engines and training workers, whatever was shared with other trials left out.
        finished: Whether the trial came to its end, the adapted model.
        distilled: Whether the generator came to its end.
        error: Why it failed; empty when it did not.
    """

    point: Point
    seed: int
    accuracy: float
    objective: float
    hours: float
    finished: bool
    error: str = ""
    distilled: bool = False

    @property
    def state(self) -> str:
        """In words."""
        if self.error:
            return f"failed: {self.error}"
        return "finished" if self.finished else "generator" if self.distilled else "stopped"


@dataclass
class SearchResult:
    """All trials of a search, and the best point: the finalist with the best median over seeds, or the best trial.

    `judge` as in the configuration: what trials that are not finalists were run for.
    """

    trials: list[Trial]
    questions: int
    finalists: dict[str, float] = field(default_factory=dict)
    judge: str = "adapted"

    @property
    def compared(self) -> list[Trial]:
        """Trials of the first seed that can be compared: finished ones, or those whose generator came to its end."""
        wanted = "finished" if self.judge == "adapted" else "generator"
        return [t for t in self.trials if t.state == wanted and t.seed == 0]

    @property
    def ranked(self) -> list[Trial]:
        """Those that can be compared, best first; of equal ones the cheaper, then the earlier."""
        return sorted(self.compared, key=lambda t: (-t.objective, t.hours))

    @property
    def best(self) -> Point | None:
        """None when no trial finished."""
        if self.finalists:
            return dict(json.loads(max(self.finalists, key=lambda key: self.finalists[key])))
        return self.ranked[0].point if self.ranked else None

    def warnings(self) -> list[str]:
        """Where naming a best point means little."""
        best = self.best
        if best is None:
            return []
        if len(self.finalists) > 1:
            ended = {key: [t for t in self.trials if t.finished and key_of(t.point) == key] for key in self.finalists}
            reached = {key: statistics.median(t.accuracy for t in trials) for key, trials in ended.items()}
        else:
            reached = {key_of(t.point): t.accuracy for t in reversed(self.ranked)}
        mine = reached.pop(key_of(best))
        points = {key_of(t.point) for t in self.compared}
        found = comparisons.of_points([mine, *reached.values()], self.questions, len(points))
        for key, value in best.items():
            if key.endswith(".lr") and isinstance(value, float):  # of other keys an end may be all there is, as a ratio of 1
                found += comparisons.of_edge(
                    key, value, [tried for t in self.compared if isinstance(tried := t.point[key], float)]
                )
        return found

    def settle(self, count: int) -> None:
        """Take the median objective over the seeds of each of the `count` best points."""
        for trial in self.ranked[:count]:
            if same := [t.objective for t in self.trials if t.finished and t.point == trial.point]:
                self.finalists[key_of(trial.point)] = statistics.median(same)


def key_of(point: Point) -> str:
    """A point as text."""
    return json.dumps(point, sort_keys=True)


def at(config: Config, point: Point, seed: int = 0) -> Config:
    """The configuration at a point, without its search.

    Args:
        config: What is searched.
        point: Values by dotted key.
        seed: Added to the configuration's own.

    Raises:
        ConfigError: A value does not fit; the message names the key.
    """
    tree = config.model_dump(mode="json", exclude={"tune"})
    for key, value in point.items():
        node, (*parents, leaf) = tree, key.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    tree["seed"] += seed
    return parse(tree, f"tune.space at {key_of(point)}")


def base_point(config: Config) -> Point | None:
    """The configuration's own values of the searched keys; None when one of them lies outside of its range.

    Raises ConfigError for a key that does not exist.
    """
    tree, point = config.model_dump(mode="json"), {}
    for key, values in config.tune.space.items():
        node: object = tree
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node or key.startswith("tune."):
                msg = f"tune.space has the key {key!r}, which the configuration does not; leaml config --explain lists all"
                raise ConfigError(msg)
            node = node[part]
        point[key] = node
        inside = node in values.choices if values.choices is not None else _between(values, node)
        if not inside:
            return None
    return point


def last_shared_step(config: Config, steps: Mapping[str, bool], once: Collection[str]) -> str | None:
    """The last step before those that a key of the space changes, so that trials find it done; None when there is none.

    Args:
        config: With the space.
        steps: The steps of the method in order, each configured by the section of its name, and whether the run has it.
        once: Names of those that later rounds do not have again.
    """
    names = list(steps)
    changed = {key.split(".")[0] for key in config.tune.space}
    if not changed <= set(names):
        return None
    shared = names[: min(map(names.index, changed))]
    if config.rounds > 1:  # all else of a later round depends on what the first one adapted
        shared = [step for step in shared if step in once]
    return next((step for step in reversed(shared) if steps[step]), None)


def _between(values: RangeConfig, value: object) -> bool:
    return isinstance(value, int | float) and float(values.low or 0) <= value <= float(values.high or 0)


def check_space(config: Config) -> None:
    """Raise ConfigError for an empty space, an unknown key or a value at the end of a range that the key refuses."""
    if not config.tune.space:
        msg = "tune.space is empty; give at least one key a range, for example {select.ratio: {choices: [0.1, 0.3, 1.0]}}"
        raise ConfigError(msg)
    base_point(config)
    for key, values in config.tune.space.items():
        for value in values.choices or [cast(values, float(end or 0)) for end in (values.low, values.high)]:
            at(config, {key: value})


def cast(values: RangeConfig, value: float) -> float | int:
    """A number of the range's kind."""
    return round(value) if values.integer else value


def wilson(accuracy: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` answers (Wilson 1927)."""
    from scipy.stats import binomtest  # half a second to import

    found = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def best_yaml(config: Config, point: Point, warnings: Sequence[str] = ()) -> str:
    """The configuration at the best point, as `leaml adapt` takes it.

    Args:
        config: What was searched; its section `tune` is left out.
        point: The best one.
        warnings: What limits the comparison, a line each; written above as comments.
    """
    tree = at(config, point).model_dump(mode="json", exclude={"tune"})
    head = "".join(f"# {line}\n" for line in (f"the best point of a search: {key_of(point)}", *warnings))
    return head + yaml.safe_dump(tree, sort_keys=False)


def table(found: SearchResult) -> str:
    """Trials as Markdown, best first, stopped and failed ones last."""
    keys = sorted({k for t in found.trials for k in t.point})
    lines = ["| " + " | ".join([*keys, "seed", "validation accuracy", "95 %", "hours", "state"]) + " |"]
    lines.append("|---" * (len(keys) + 5) + "|")
    for trial in sorted(found.trials, key=lambda t: (bool(t.error), not t.finished, -t.objective if not t.error else 0)):
        numbers = ["", "", ""]
        if not trial.error:
            low, high = wilson(trial.accuracy, found.questions)
            hours = f"{trial.hours:.3f}" if trial.finished else ""  # counted at the end
            numbers = [f"{trial.accuracy:.3f}", f"{low:.3f} to {high:.3f}", hours]
        values = [str(trial.point.get(k)) for k in keys]
        lines.append("| " + " | ".join([*values, str(trial.seed), *numbers, trial.state]) + " |")
    return "\n".join(lines)


def page(found: SearchResult) -> str:
    """The content of `trials.md`: the table, and what limits the comparison."""
    notes = [f"- {warning}" for warning in found.warnings()]
    return "\n".join([table(found), *(["", "What limits this comparison:", "", *notes] if notes else []), ""])


def importances(found: SearchResult, space: dict[str, RangeConfig]) -> dict[str, float]:
    """How much each key decides which trials are the better half (PED-ANOVA, Watanabe et al. 2023); empty with few trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in found.compared:
        distributions = {key: _distribution(values) for key, values in space.items()}
        study.add_trial(optuna.trial.create_trial(params=trial.point, distributions=distributions, value=trial.objective))
    if len(study.trials) < 4 or len({t.value for t in study.trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(baseline_quantile=0.5)  # a tenth of a few trials is one
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(values: RangeConfig) -> BaseDistribution:
    import optuna

    if values.choices is not None:
        choices: list[Any] = values.choices
        return optuna.distributions.CategoricalDistribution(choices)
    low, high = values.low or 0.0, values.high or 0.0
    if values.integer:
        return optuna.distributions.IntDistribution(round(low), round(high), log=values.log)
    return optuna.distributions.FloatDistribution(low, high, log=values.log)


def plot(found: SearchResult, space: dict[str, RangeConfig]) -> bytes:
    """An SVG with one panel a key: accuracy and its interval over the value; stopped trials hollow, finalists ringed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "leaml"
    figure, panels = pyplot.subplots(1, len(space), figsize=(1.2 + 4.2 * len(space), 3.6), squeeze=False, sharey=True)
    for axes, (key, values) in zip(panels[0], space.items(), strict=True):
        texts = [str(c) for c in values.choices or []]
        numeric = all(isinstance(c, int | float) and not isinstance(c, bool) for c in values.choices or [])
        for trial in (t for t in found.trials if not t.error):
            low, high = wilson(trial.accuracy, found.questions)
            value = trial.point[key]
            at_x = float(value) if numeric and isinstance(value, int | float) else texts.index(str(value))
            colour = "#2b6cb0" if trial.finished else "#a0aec0"
            axes.vlines(at_x, low, high, color=colour, linewidth=1)
            axes.plot(at_x, trial.accuracy, "o", color=colour, markerfacecolor=colour if trial.finished else "white")
            if key_of(trial.point) in found.finalists:
                axes.plot(at_x, trial.accuracy, "o", color="#c05621", markersize=11, fillstyle="none")
        if not numeric:
            axes.set_xticks(range(len(texts)), texts)
        elif values.log:
            axes.set_xscale("log")
        axes.set_xlabel(key)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("validation accuracy")
    figure.suptitle("filled: adapted model; hollow: generator, at its end or where it was stopped; ring: finalist", fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return buffer.getvalue()
