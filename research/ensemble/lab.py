"""The method's steps for many experiments at once: what they share is done once, what they do not is done side by side.

An experiment is a draw of the labels and a configuration; its steps are those of `pipelines.method`, on the same examples,
tasks and learning rates, with controls by `leaml.rows.changed`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from leaml.config import Config
from leaml.engine.interface import Request
from leaml.generation import prompts
from leaml.neurons import selection
from leaml.text import scoring
from leaml.text.scoring import ask
from leaml.training.batches import Example, Task
from pipelines.distill import CAPTION_QUESTIONS
from pipelines.rows import asked_of_labels
from pipelines.warmup import answer_examples, pair_examples
from research.ensemble import model, training
from research.ensemble.decoding import StackedEngine
from research.ensemble.domain import Case, Domain
from research.ensemble.model import Weights
from research.ensemble.training import Arm, Bench, Trained
from research.ensemble.workers import Asking, Pairs, Workers

QUESTIONS = 4000
"""Questions about unlabeled images that no pair is made for; models are compared on them without looking at the test set."""


@dataclass(frozen=True)
class Experiment:
    """`kind`: "method" (with `config` as it is), "generator" (the same up to distillation, whose model is then the final one),
    or a row of the table that is a training without a generator."""

    name: str
    case: Case
    config: Config
    kind: str = "method"


@dataclass
class Result:
    """What became of an experiment; `correct` says of every evaluation question whether the final model's answer is right."""

    name: str
    case: str
    correct: list[bool] = field(default_factory=list)
    development: float | None = None
    generator: float | None = None
    pairs: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)


def key_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Lab:
    """The models of one domain: `base`, the `teacher`, and every model made on the way, by what it was made of.

    After `deadline` (seconds since the epoch) no more questions are asked: models that were not reached have no answers.
    """

    def __init__(
        self, domain: Domain, bench: Bench, base: Weights, teacher: Weights, workers: Workers, deadline: float | None = None
    ) -> None:
        self.domain, self.bench, self.base, self.teacher = domain, bench, base, teacher
        self.models: dict[str, Trained] = {}
        self.scored: dict[str, dict[str, torch.Tensor]] = {}
        self.pairs: dict[str, Pairs] = {}
        self.captioned: dict[str, dict[str, str]] = {}
        self.examples: dict[str, list[Example]] = {}
        self.workers = workers
        self.began, self.deadline = time.time(), deadline

    def late(self) -> bool:
        """Whether it is time to hand over what there is."""
        return self.deadline is not None and time.time() > self.deadline

    def say(self, line: str) -> None:
        print(f"{time.time() - self.began:7.1f} s  {line}", flush=True)

    # examples, as the steps make them

    def answers(self, case: Case) -> list[Example]:
        return self._made(("answers", case.name), lambda: answer_examples(self.domain.labels(case)))

    def qa_tasks(self, case: Case, weight: float = 1.0, share: float = 1.0) -> list[Task]:
        pairs = self._made(("pairs", case.name), lambda: pair_examples(self.domain.labels(case), {}))
        return [Task("pairs", pairs, share, weight), Task("answers", self.answers(case), share, weight)]

    def described(self, config: Config) -> list[Example]:
        """Captions as a model learns to write them."""
        request = config.caption.prompt or prompts.CAPTION
        return self._made(
            ("described", config.caption.model_dump(), config.seed),
            lambda: [Example(i, request, text) for i, text in self.captions(config).items()],
        )

    def _made(self, what: tuple[Any, ...], make: Callable[[], list[Example]]) -> list[Example]:
        """One list for all who ask for the same: arms that share it are not read again."""
        key = key_of(what)
        if key not in self.examples:
            self.examples[key] = make()
        return self.examples[key]

    def captions(self, config: Config) -> dict[str, str]:
        """The teacher's captions of `caption.max_images` training images, by image."""
        given, chosen = config.caption, self._sample(config.caption.max_images, config.seed)
        key = key_of(given.model_dump(), config.seed)
        if key not in self.captioned:
            engine = StackedEngine(model.stack([self.teacher]), self.bench.shape, self.bench.texts, self.bench.pixels)
            request = given.prompt or prompts.CAPTION
            asked = [Request(None, i, request, max_tokens=given.max_tokens) for i in chosen]  # type: ignore[arg-type]
            (replies,) = engine.generate([asked])
            self.captioned[key] = {i: c.text for i, (c,) in zip(chosen, replies, strict=True) if c.text}
            self.say(f"{len(self.captioned[key])} captions")
        return self.captioned[key]

    def caption_tasks(self, config: Config) -> list[Task]:
        """Questions made of the captions, as `pipelines.distill` asks them."""

        def made(name: str) -> list[Example]:
            what = (name, config.caption.model_dump(), config.seed)
            return self._made(what, lambda: list(CAPTION_QUESTIONS[name](self.captions(config), config.seed)))

        shares = config.distill.question_shares()
        found = [Task(name, made(name), share, config.distill.check_weight) for name, share in shares.items()]
        return [task for task in found if task.examples]

    def _sample(self, count: int | None, seed: int, without: Iterable[str] = ()) -> list[str]:
        left_out = set(without)
        left = [i for i in self.domain.training if i not in left_out]
        if count is None or len(left) <= count:
            return left
        ranked = sorted(left, key=lambda i: hashlib.sha256(f"{seed}:{self.domain.names[int(i)]}".encode()).digest())
        return sorted(ranked[:count], key=int)

    def unlabeled(self, experiment: Experiment) -> list[str]:
        """The images that the generator writes about."""
        given = experiment.config.generate
        return self._sample(given.max_images, given.seed, self.domain.labels(experiment.case).image_ids)

    def development(self, experiment: Experiment) -> list[Example]:
        """Questions about training images that are neither labeled nor written about."""
        given = experiment.config.generate

        def make() -> list[Example]:
            used = self.domain.labels(experiment.case).image_ids | set(self.unlabeled(experiment))
            rows = [r for r in self.domain.labeled if r["image_id"] not in used]
            return [Example(r["image_id"], ask(r), r["answer"]) for r in rows[:: max(1, len(rows) // QUESTIONS)][:QUESTIONS]]

        return self._made(("development", experiment.case.name, given.max_images, given.seed), make)

    # steps

    def train(self, wanted: Mapping[str, Callable[[], Arm]]) -> None:
        """Train what is not there yet; an arm is made only then."""
        missing = {key: arm() for key, arm in wanted.items() if key not in self.models}
        found = training.run(self.bench, list(missing.values())) if missing else []
        self.models.update(zip(missing, found, strict=True))

    def _usable(self, keys: dict[int, str]) -> dict[int, str]:
        """Those whose training ended with a finite loss."""
        return {number: key for number, key in keys.items() if math.isfinite(self.models[key].loss)}

    def run(self, experiments: Sequence[Experiment]) -> list[Result]:
        """Every experiment to its end, its model's answers to the evaluation questions included. What is there is used.

        An experiment without an accepted pair, or with a training whose loss is not finite, has no result.
        """
        methods = [e for e in experiments if e.kind in ("method", "generator")]
        others = [e for e in experiments if e.kind not in ("method", "generator", "zero_shot")]
        final: dict[int, str] = {}
        self.models.setdefault("base", Trained(self.base, 0.0, 0.0))
        final.update({id(e): "base" for e in experiments if e.kind == "zero_shot"})
        self.say(f"{len(experiments)} experiments; trainings on labels and captions alone")
        late = [e for e in others if e.kind in ("full_labels", "captions_mixed")]  # trained beside the adapted models
        early = [e for e in others if e not in late]
        self.train({self._plain_key(e): partial(self._plain, e) for e in early})
        final.update(self._usable({id(e): self._plain_key(e) for e in early if e.kind != "self_training"}))
        generators, starts = {}, {id(e): "base" for e in methods}
        for number in range(max((e.config.rounds for e in methods), default=1)):
            active = [e for e in methods if e.config.rounds > number]
            if not active and number:
                break
            self.say(f"generators, round {number + 1}")
            found = self._generators(active, starts)
            for e in active:
                final.pop(id(e), None)  # the model of the round before
            active = [e for e in active if id(e) in found]
            generators.update(found)
            teachers = [] if number else [e for e in others if e.kind == "self_training"]
            found |= self._usable({id(e): self._plain_key(e) for e in teachers})
            teachers = [e for e in teachers if id(e) in found]
            tuned = self._finetuned([*(e for e in active if e.kind == "method"), *teachers], found, [] if number else late)
            final.update({id(e): found[id(e)] for e in active if e.kind == "generator"} | tuned)
            starts.update(tuned)
            methods = [e for e in active if e.kind == "method" and id(e) in tuned]
        final.update(self._usable({id(e): self._plain_key(e) for e in late}))
        for e in (e for e in experiments if id(e) not in final):
            self.say(f"{e.name} of {e.case.name}: no pair was accepted or a training failed, so it has no result")
        experiments = [e for e in experiments if id(e) in final]
        results = [Result(e.name, e.case.name) for e in experiments]
        self._ask(experiments, results, final)
        self._describe(experiments, results, final, generators)
        return results

    def _plain_key(self, e: Experiment) -> str:
        given = e.config.evaluate.baselines
        kind = "finetune_labels" if e.kind == "self_training" else e.kind
        settings = {"finetune_labels": given.finetune_labels, "lora_labels": given.lora_labels}.get(kind, e.config.finetune)
        case = "full" if kind == "full_labels" else e.case.name
        return key_of(kind, case, settings.model_dump(), e.config.caption.model_dump() if kind == "captions_mixed" else "")

    def _plain(self, e: Experiment) -> Arm:
        """A training without a generator: a baseline, all labels, or labels and captions."""
        given, seed = e.config.evaluate.baselines, e.config.seed
        labels = self.answers(e.case)
        if e.kind == "finetune_labels":
            return Arm(self.base, [Task("labels", labels)], given.finetune_labels, seed, name=e.name)
        if e.kind == "lora_labels":
            rank = given.lora_labels.lora.rank
            return Arm(self.base, [Task("labels", labels)], given.lora_labels, seed, lora=rank, name=e.name)
        if e.kind == "full_labels":
            everything = self.answers(self.domain.cases["full"])
            return Arm(self.base, [Task("labels", everything)], e.config.finetune, seed, name=e.name)
        share = e.config.finetune.label_share
        tasks = [Task("labels", labels, share=share), Task("captions", self.described(e.config), share=1 - share)]
        return Arm(self.base, tasks, e.config.finetune, seed, name=e.name)

    def _generators(self, experiments: Sequence[Experiment], starts: dict[int, str]) -> dict[int, str]:
        """Warm-up, score and distill; the key of the generator of each experiment whose trainings did not fail."""
        warmed = {id(e): key_of("warmup", e.case.name, e.config.warmup.model_dump(), starts[id(e)]) for e in experiments}
        self.train({warmed[id(e)]: partial(self._warmup, e, starts[id(e)]) for e in experiments})
        warmed = self._usable(warmed)
        distilled = [e for e in experiments if id(e) in warmed and not e.config.distill.skip]
        keys = {
            id(e): key_of(
                warmed[id(e)],
                *(section.model_dump() for section in (e.config.score, e.config.select, e.config.distill, e.config.caption)),
            )
            for e in distilled
        }
        self.train({keys[id(e)]: partial(self._distillation, e, warmed[id(e)]) for e in distilled})
        return self._usable(warmed | keys)

    def _warmup(self, e: Experiment, start: str) -> Arm:
        return Arm(self.models[start].weights, self.qa_tasks(e.case), e.config.warmup, e.config.seed, name=e.name)

    def _distillation(self, e: Experiment, warmed: str) -> Arm:
        given = e.config.distill
        tasks = [Task("captions", self.described(e.config)), *self.caption_tasks(e.config)]
        if given.qa_weight:
            tasks += self.qa_tasks(e.case, given.qa_weight, given.qa_share)
        return Arm(self.models[warmed].weights, tasks, given, e.config.seed, rows=self._rows(e, warmed), name=e.name)

    def _rows(self, e: Experiment, warmed: str) -> dict[str, torch.Tensor]:
        """The neurons that distillation may move."""
        given = e.config.select
        found = {n: s for n, s in self.scores(e, warmed).items() if re.fullmatch(e.config.score.modules, n)}
        return selection.select(found, given.ratio, given.scope, given.normalise)

    def scores(self, e: Experiment, warmed: str) -> dict[str, torch.Tensor]:
        """Scores of every row, as `leaml.neurons.scores` defines them."""
        given, weights = e.config.score, self.models[warmed].weights
        names = model.linears(weights)
        if given.method == "random":
            generator = torch.Generator().manual_seed(given.seed)
            return {n: torch.rand(len(weights[f"{n}.weight"]), generator=generator) for n in names}
        if given.method == "magnitude":
            return {n: weights[f"{n}.weight"].abs().sum(1).cpu() for n in names}
        key = key_of(warmed, given.samples, given.seed)
        if key not in self.scored:
            examples = [x for t in self.qa_tasks(e.case) for x in t.examples]
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(given.seed))[: given.samples]
            self.scored[key] = training.row_scores(self.bench, weights, [examples[i] for i in order.tolist()])
        kind = {"lowest": "squared"}.get(given.method, given.method)
        sign = -1.0 if given.method == "lowest" else 1.0
        return {n: sign * self.scored[key][f"{kind} {n}"] for n in names}

    def _finetuned(
        self, experiments: Sequence[Experiment], generators: dict[int, str], beside: Sequence[Experiment]
    ) -> dict[int, str]:
        """Generate and finetune; the key of each experiment's adapted model. Trainings without pairs are done `beside`."""
        asking = {id(e): key_of(self._asked(e, generators), e.config.filter.model_dump()) for e in experiments}
        together: dict[str, dict[str, Experiment]] = {}  # what is asked -> pairs to be made of the replies
        for e in experiments:
            if asking[id(e)] not in self.pairs:
                together.setdefault(self._asked(e, generators), {})[asking[id(e)]] = e
        listed = list(together.values())
        size = min(len(self.workers.processes), self.bench.together)
        for begin in range(0, len(listed), size):
            part = listed[begin : begin + size]
            self.say(f"pairs of {begin + len(part)} of {len(listed)} generators")
            self._generate(part, generators)
        experiments = [e for e in experiments if self.pairs[asking[id(e)]].accepted]  # the pipeline's step fails without any
        tuned = {id(e): key_of(asking[id(e)], e.config.finetune.model_dump()) for e in experiments}
        self.train(
            {tuned[id(e)]: partial(self._finetuning, e, generators[id(e)], self.pairs[asking[id(e)]]) for e in experiments}
            | {self._plain_key(e): partial(self._plain, e) for e in beside}
        )
        for e in experiments:
            self.pairs[tuned[id(e)]] = self.pairs[asking[id(e)]]
        return self._usable(tuned)

    def _asked(self, e: Experiment, generators: dict[int, str]) -> str:
        """Key of the candidates that an experiment's generator writes."""
        return key_of(generators[id(e)], self._questions(e).model_dump(), e.case.name)

    def _questions(self, e: Experiment) -> Any:
        """The generate section; self-training asks the labeled questions about every image instead."""
        if e.kind != "self_training":
            return e.config.generate
        return asked_of_labels(e.config, self.domain.labels(e.case)).generate

    def _generate(self, part: Sequence[dict[str, Experiment]], generators: dict[int, str]) -> None:
        firsts = [next(iter(made.values())) for made in part]
        weights = model.stack([self.models[generators[id(e)]].weights for e in firsts])
        base = StackedEngine(model.stack([self.base]), self.bench.shape, self.bench.texts, self.bench.pixels)

        def answer(which: list[int], requests: list[list[Request]], of_base: bool) -> list[Any]:
            if of_base:
                return [base.generate([asked])[0] for asked in requests]
            chosen, seed = {n: w[which] for n, w in weights.items()}, firsts[0].config.generate.seed
            return StackedEngine(chosen, self.bench.shape, self.bench.texts, self.bench.pixels, seed).generate(requests)

        askings = [
            Asking(
                self._questions(first),
                [e.config.filter for e in made.values()],
                self.unlabeled(first),
                first.config.caption.prompt or prompts.CAPTION,
            )
            for made, first in zip(part, firsts, strict=True)
        ]
        for made, found in zip(part, self.workers.run(askings, answer), strict=True):
            self.pairs.update(zip(made, found, strict=True))

    def _finetuning(self, e: Experiment, generator: str, pairs: Pairs) -> Arm:
        start = self.models[generator].weights if e.config.finetune.start == "generator" else self.base
        share = e.config.finetune.label_share
        pseudo = [Example(*pair) for pair in pairs.accepted]
        tasks = [Task("labels", self.answers(e.case), share=share), Task("pseudo", pseudo, share=1 - share)]
        return Arm(start, tasks, e.config.finetune, e.config.seed, name=e.name)

    # what they are worth

    def _describe(
        self, experiments: Sequence[Experiment], results: Sequence[Result], final: dict[int, str], generators: dict[int, str]
    ) -> None:
        judged: dict[tuple[str, str], float] = {}
        for e, result in zip(experiments, results, strict=True):
            for kind, key in (("development", final[id(e)]), ("generator", generators.get(id(e)))):
                if key is None:
                    continue
                left = self.development(e)  # none where pairs are made for all images
                if left and (key, e.case.name) not in judged and not self.late():
                    judged[key, e.case.name], _ = training.judge(self.bench, self.models[key].weights, left)
                setattr(result, kind, judged.get((key, e.case.name)))
            trained = self.models[final[id(e)]]
            result.trained = {"lr": trained.lr, "loss": trained.loss, "sweep": trained.sweep}
            if final[id(e)] in self.pairs:
                pairs = self.pairs[final[id(e)]]
                result.pairs = {**pairs.worth, "counts": pairs.counts}

    def _ask(self, experiments: Sequence[Experiment], results: Sequence[Result], final: dict[int, str]) -> None:
        """Greedy answers to the evaluation questions."""
        keys = list(dict.fromkeys(final[id(e)] for e in experiments))
        limit = experiments[0].config.evaluate.max_tokens
        requests = [Request(None, r["image_id"], ask(r), max_tokens=limit) for r in self.domain.asked]  # type: ignore[arg-type]
        verdicts: dict[str, list[bool]] = {}
        for begin in range(0, len(keys), self.bench.together):
            if self.late():
                break
            part = keys[begin : begin + self.bench.together]
            self.say(f"answers of {begin + len(part)} of {len(keys)} models")
            weights = model.stack([self.models[k].weights for k in part])
            engine = StackedEngine(weights, self.bench.shape, self.bench.texts, self.bench.pixels)
            for key, replies in zip(part, engine.generate([requests] * len(part)), strict=True):
                verdicts[key] = [
                    scoring.is_correct(c.text, r["answer"], r["question_type"], r["options"])
                    for r, (c,) in zip(self.domain.asked, replies, strict=True)
                ]
        for e, result in zip(experiments, results, strict=True):
            result.correct = verdicts.get(final[id(e)], [])
