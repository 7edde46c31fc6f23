"""Step 5, generate: the distilled generator writes pseudo question-answer pairs; filters accept or reject each with a reason.

Per image: its caption (the generator's own, greedy; or the teacher's; or none), `pairs_per_image` sampled pairs after it, then
every distinct question, and every given one, is put to the same model, after the caption if there is one, else as a user would
put it: a generated pair whose answer does not come back is rejected, an answer the model is sure of becomes a pair of its own,
and the answer to a given question always does. Filters of the whole set of pairs come last (pipelines/pairs.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from leaml import filters, prompts, replies, tables
from leaml.config import GenerateConfig
from leaml.engine import Completion, Engine, Request
from leaml.preambles import without_assent, without_preamble
from pipelines.caption import read_captions
from pipelines.ingest import Labels, Sources, labels_key, sample_refs, training_images
from pipelines.models import engine_spec, trained
from pipelines.pairs import filter_set
from pipelines.run import Run, Step
from pipelines.unit import make_units
from pipelines.units import Item, read_files, replied, run_step


class GenerateWork:
    """Caption, sample, answer again, filter: all pairs of an image in one row, rejected ones included."""

    schema = tables.PSEUDO_QA

    def __init__(self, config: GenerateConfig, caption_prompt: str) -> None:
        self.config, self.caption_prompt = config, caption_prompt

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        counts, rows = Counter[str](), []
        captions = self._captions(engine, items, counts)
        candidates = self._sample(engine, items, captions, counts)
        self._answer(engine, items, captions, candidates, counts)
        for item, caption, found in zip(items, captions, candidates, strict=True):
            pairs = filters.apply(found, self.config.filters)
            rows.append({"image_id": item.image_id, "caption": caption or None, "pairs": pairs})
            counts["pairs"] += len(pairs)
            counts["accepted"] += sum(bool(p["accepted"]) for p in pairs)
            counts.update(f"rejected: {p['reason']}" for p in pairs if not p["accepted"])
        return rows, counts

    def _captions(self, engine: Engine, items: list[Item], counts: Counter[str]) -> list[str]:
        if self.config.caption == "none":
            return [""] * len(items)
        if self.config.caption == "teacher":
            return [str(i.extra or "") for i in items]
        requests = [Request(i.image, i.image_id, self.caption_prompt, max_tokens=self.config.max_tokens) for i in items]
        written = [completion for (completion,) in _counted(engine.generate(requests), counts)]
        texts = [without_assent(c.text) for c in written]
        return [replies.whole_sentences(text) or text if c.cut else text for text, c in zip(texts, written, strict=True)]

    def _sample(
        self, engine: Engine, items: list[Item], captions: list[str], counts: Counter[str]
    ) -> list[list[filters.Candidate]]:
        config = self.config
        if not config.pairs_per_image:
            return [[] for _ in items]
        limits = config.filters.max_question_chars, config.filters.max_answer_chars
        pattern = prompts.pair_pattern(*limits) if config.structured else None
        requests = [
            Request(
                item.image,
                item.image_id,
                prompts.GENERATE,
                prompts.caption_prefix(caption) if caption else "",
                n=config.pairs_per_image,
                temperature=config.temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
                seed=sampling_seed(config.seed, item.image_id),
                pattern=pattern,
            )
            for item, caption in zip(items, captions, strict=True)
        ]
        sampled = _counted(engine.generate(requests), counts)
        return [[filters.Candidate.from_reply(c.text, c.mean_logprob, cut=c.cut) for c in samples] for samples in sampled]

    def _answer(
        self,
        engine: Engine,
        items: list[Item],
        captions: list[str],
        candidates: list[list[filters.Candidate]],
        counts: Counter[str],
    ) -> None:
        """Answer the given questions and, for the filters that need it, every distinct generated one, `votes` times each.

        Fills in `reanswers` and adds the pairs of given questions and the corrections of generated ones.
        """
        config = self.config
        asked: dict[tuple[int, str], list[filters.Candidate]] = {
            (number, question): [] for number in range(len(items)) for question in config.questions
        }
        check = config.filters.round_trip or bool(config.filters.min_votes)
        for number, found in enumerate(candidates):
            for candidate in found:
                if candidate.question and (check or (number, candidate.question) in asked):
                    asked.setdefault((number, candidate.question), []).append(candidate)
        if not asked:
            return
        requests = [self._question(items[number], captions[number], question) for number, question in asked]
        answered = _counted(engine.generate(requests), counts)
        for (number, question), same, answers in zip(asked, asked.values(), answered, strict=True):
            texts = [without_preamble(a.text) for a in answers]
            logprobs, cut = [a.mean_logprob for a in answers], [a.cut for a in answers]
            for candidate in same:
                candidate.reanswers.extend(texts)
            if question in config.questions:
                candidates[number].extend(filters.from_answers(question, same, texts, logprobs, cut=cut))
            elif config.filters.round_trip and config.correct_above:
                candidates[number].extend(filters.from_answers(question, same, texts, logprobs, config.correct_above, cut))

    def _question(self, item: Item, caption: str, question: str) -> Request:
        """A question as a user puts it, or after the caption if there is one."""
        config = self.config
        return Request(
            item.image,
            item.image_id,
            prompts.GENERATE if caption else question,
            prompts.answer_prefix(question, caption) if caption else "",
            n=config.votes,
            temperature=config.temperature if config.votes > 1 else 0.0,
            max_tokens=config.max_tokens,
            seed=sampling_seed(config.seed, item.image_id + question),
        )


def _counted(written: list[list[Completion]], counts: Counter[str]) -> list[list[Completion]]:
    """The replies; their tokens, and how many were cut at the limit, are counted."""
    counts.update(replied(c for samples in written for c in samples))
    return written


def sampling_seed(seed: int, key: str) -> int:
    """A sampling seed that depends on the image alone, not on order, batch or worker."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:4], "big") >> 1


def generate(
    run: Run, sources: Sources, labels: Labels, captions: Step | None, generator: Step, variant: str = "leaml"
) -> Step:
    """Write pseudo pairs for the unlabeled images (all training images but the labeled ones)."""
    config = run.config.generate
    use = captions if config.caption == "teacher" else None
    inputs = [generator, *sources.training, labels_key(labels), *([use] if use else [])]
    step = run.step("generate", config.model_dump(), inputs, version=9, label=f"generate {variant}")

    def work() -> dict[str, Any]:
        refs = training_images(sources).without(labels.image_ids)
        refs = sample_refs(refs, config.max_images, config.seed)
        extras = read_captions(use) if use else {}
        units = make_units("generate", refs, extras, run.config.resources.images_per_unit)
        spec = engine_spec(trained(generator, run.config.model), run.config.resources)
        worker = GenerateWork(config, run.config.caption.prompt or prompts.CAPTION)
        summary = run_step(run, step, units, spec, worker)
        for name, change in filter_set(step.label, step.folder, config.filters, config.seed).items():
            summary[name] = summary.get(name, 0) + change
        return summary

    return run.execute(step, work)


def read_accepted(step: Step) -> list[tuple[str, str, str]]:
    """`(image_id, question, answer)` of accepted pairs only; the one door from pseudo pairs to training."""
    return [
        (row["image_id"], pair["question"], pair["answer"])
        for rows in read_files(step.folder, tables.PSEUDO_QA)
        for row in rows.to_pylist()
        for pair in row["pairs"]
        if pair["accepted"]
    ]
