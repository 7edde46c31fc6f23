"""What is tried: plans are groups of experiments on one domain, and what a group gave is written before the next one begins.

A plan is given the list of results so far, which grows while it is asked for groups.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from leaml.config import Config
from leaml.config.reading import override, parse
from leaml.errors import InputError
from leaml.rows import changed as with_row
from research.ensemble.domain import Case, Domain
from research.ensemble.lab import Experiment, Result
from research.label_efficiency import FILTERS, FILTERS_AT, TUNED

AT = FILTERS_AT
"""The budget with several draws, at which choices are compared."""
FEW = 2
"""Draws on which the many variants are run."""
LABELS_ALONE = ("zero_shot", "finetune_labels", "lora_labels")
PLAIN = ("full_labels", "captions_mixed", "self_training")
NEURONS = ("all_neurons", "random_neurons", "magnitude_neurons", "lowest_neurons")

Plan = Iterable[list[Experiment]]
Choices = dict[str, list[str]]
"""Name -> configuration keys `a.b=value`."""

SETTINGS: Choices = {
    "no cloze, weight 1": ["distill.check_weight=1.0", "distill.cloze_share=0.0"],
    "cloze, weight 0.5": ["distill.check_weight=0.5", "distill.cloze_share=0.5"],
    "cloze, weight 0.2": ["distill.check_weight=0.2", "distill.cloze_share=0.5"],
    "cloze, fewer checks, weight 0.3": ["distill.check_weight=0.3", "distill.cloze_share=0.5", "distill.check_share=0.25"],
}
"""What distillation asks about captions beside the captions themselves, and what it weighs."""
WARMUPS: Choices = {f"warm-up {n}": [f"evaluate.baselines.no_captions_warmup={n}"] for n in (60, 300)}
"""SelTDA's generator is trained by nothing else."""


def changed(config: Config, *keys: str) -> Config:
    """The configuration with `a.b=value` keys changed."""
    tree = config.model_dump()
    for key in keys:
        override(tree, key)
    return parse(tree)


def seeded(config: Config, case: Case) -> Config:
    """Random neurons are other ones in every draw of the labels."""
    return config.model_copy(update={"score": config.score.model_copy(update={"seed": case.draw})})


def table(given: Domain, results: Sequence[Result] = ()) -> Plan:
    """The methods at every budget, some controls at 1 %; then on the first `FEW` draws the other controls and each filter."""
    cases = [c for c in given.cases.values() if c.name != "full"]
    few = draws(given, FEW)
    first, last = [], []
    for case in cases:
        config = seeded(given.config, case)
        first += [Experiment(kind, case, config, kind) for kind in (*LABELS_ALONE, "full_labels")]
        first.append(Experiment("leaml", case, config))
        controls = NEURONS if case in few else NEURONS[:2] if case.budget == AT else ()
        first += [Experiment(name, case, with_row(config, name)) for name in ("no_captions", *controls)]
        first += [Experiment("captions_mixed", case, config, "captions_mixed")] if case in few else []
    for case in few:
        config = seeded(given.config, case)
        last.append(Experiment("self_training", case, config, "self_training"))
        for name, keys in FILTERS.items():
            last.append(Experiment(f"leaml_{name}", case, changed(config, *(f"filter.{k}" for k in keys))))
    return [first, last]


def draws(given: Domain, count: int) -> list[Case]:
    """The first draws of the labels at 1 %."""
    return [c for c in given.cases.values() if c.budget == AT and c.draw < count]


def one_factor(given: Domain, choices: Choices, count: int, kind: str = "method") -> list[Experiment]:
    """LEAML with each of `choices` on the first draws of 1 %."""
    return [
        Experiment(name, c, changed(seeded(given.config, c), *keys), kind)
        for c in draws(given, count)
        for name, keys in choices.items()
    ]


def neurons(given: Domain, results: Sequence[Result] = ()) -> Plan:
    """Rows by score and at random where few may move, on every draw of 1 %: generators, then adapted models."""
    choices: Choices = {
        f"{method} {ratio:g}": [f"score.method={method}", f"select.ratio={ratio}"]
        for method in ("squared", "random")
        for ratio in (0.02, 0.05, 0.1)
    }
    adapted = {f"{name}, adapted": keys for name, keys in choices.items()}
    return [one_factor(given, choices, len(given.cases), "generator"), one_factor(given, adapted, len(given.cases))]


def parts(given: Domain, results: Sequence[Result] = ()) -> Plan:
    """One part of the method at a time: first of the generator, by its own answers, then behind it, by the adapted model."""
    config = given.config
    rate, weight, share = float(config.distill.lr), config.distill.qa_weight, config.distill.qa_share  # type: ignore[arg-type]
    generator: Choices = {
        "default": [],
        **{f"lambda {w:g}": [f"distill.qa_weight={w}"] for w in (weight / 2, weight * 2.5)},
        **{f"qa share {s:g}": [f"distill.qa_share={s}"] for s in (min(1, share * 2), min(1, share * 4)) if s != share},
        **{f"checks {s:g}": [f"distill.check_share={s}"] for s in (0, 0.125, 0.25, 0.5) if s != config.distill.check_share},
        "half the rate": [f"distill.lr={rate / 2}"],
        "twice the rate": [f"distill.lr={2 * rate}"],
        "rows 10 %": ["select.ratio=0.1"],
        "rows 10 %, twice the rate": ["select.ratio=0.1", f"distill.lr={2 * rate}"],
        "all rows, half the rate": ["select.ratio=1.0", f"distill.lr={rate / 2}"],
        "random rows": ["score.method=random"],
        "random rows 10 %, twice the rate": ["score.method=random", "select.ratio=0.1", f"distill.lr={2 * rate}"],
    }
    behind: Choices = {
        "default, adapted": [],
        "captions 0": ["distill.skip=true"],
        "pairs 16": ["generate.pairs_per_image=16"],
        "images 400": ["generate.max_images=400"],
        "images all": ["generate.max_images=null"],
        "correct off": ["filter.correct_above=null"],
        "correct 0.9": ["filter.correct_above=0.9"],
        "half the labels' share": [f"finetune.label_share={config.finetune.label_share / 2}"],
        "twice the labels' share": [f"finetune.label_share={config.finetune.label_share * 2}"],
        "fine-tuning at half the rate": [f"finetune.lr={float(config.finetune.lr) / 2}"],  # type: ignore[arg-type]
        "fine-tuning at twice the rate": [f"finetune.lr={float(config.finetune.lr) * 2}"],  # type: ignore[arg-type]
        "from the base": ["finetune.start=base"],
    }
    all_labels = [Experiment("full_labels", case, config, "full_labels") for case in draws(given, FEW)]
    again = {f"rounds {count}": [f"rounds={count}"] for count in (2, 3)}
    return [
        one_factor(given, generator, FEW, "generator"),
        [*one_factor(given, behind, FEW), *all_labels],
        one_factor(given, again, FEW),
    ]


def chosen(given: Domain, results: Sequence[Result] = ()) -> Plan:
    """The table with the settings of `SETTINGS` and `WARMUPS` that answer most about unlabeled images; rates by validation and
    few rows on every draw of 1 %; then what the table tries on few draws."""
    cases = draws(given, len(given.cases))
    named = {f"leaml, {name}": keys for name, keys in SETTINGS.items()}
    warmed = {f"no_captions, {name}": keys for name, keys in WARMUPS.items()}
    yield [
        *one_factor(given, named, len(cases)),
        *(replace(e, config=with_row(e.config, "no_captions")) for e in one_factor(given, warmed, len(cases))),
        Experiment("full_labels", cases[0], given.config, "full_labels"),
    ]
    settled = replace(given, config=changed(given.config, *named[best(results, named)], *warmed[best(results, warmed)]))
    first, last = table(settled)
    twice = f"distill.lr={2 * float(given.config.distill.lr)}"  # type: ignore[arg-type]
    few = {f"{m}, 10 % of rows": [f"score.method={m}", "select.ratio=0.1", twice] for m in ("squared", "random")}
    mixed = [e for e in first if e.name == "captions_mixed"]
    yield [*(e for e in first if e not in mixed), *one_factor(settled, few, len(cases))]
    tuned = one_factor(settled, {"leaml, rate by validation": TUNED}, len(cases))
    alone = [replace(e, name="no_captions, rate by validation", config=with_row(e.config, "no_captions")) for e in tuned]
    yield [*tuned, *alone]
    yield [*mixed, *last]
    yield one_factor(settled, {"leaml, 2 rounds": ["rounds=2"]}, FEW)


def best(results: Sequence[Result], names: Collection[str]) -> str:
    """The name whose models know most of the unlabeled images, mean over the draws. Raises InputError where none was asked."""
    known: dict[str, list[float]] = defaultdict(list)
    for r in results:
        if r.name in names and r.development is not None:
            known[r.name].append(r.development)
    if not known:
        msg = f"no model of {', '.join(names)} was asked about unlabeled images; give --seconds more, or a generate.max_images"
        raise InputError(msg)
    found = max(known, key=lambda name: statistics.mean(known[name]))
    print({name: round(statistics.mean(values), 4) for name, values in known.items()}, "best:", found, flush=True)
    return found


PLANS: dict[str, Callable[[Domain, Sequence[Result]], Plan]] = {
    "table": table,
    "chosen": chosen,
    "neurons": neurons,
    "parts": parts,
}
