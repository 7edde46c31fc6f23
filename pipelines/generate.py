"""Step 5, generate: the distilled generator writes pseudo question-answer pairs; filters accept or reject each with a reason.

Per image: its caption (the generator's own, greedy; or the teacher's; or none), `pairs_per_image` sampled pairs after it, then
every distinct question is put to the same model again, after the caption if there is one, else as a user would put it: a pair
whose answer does not come back is rejected, and an answer the model is sure of becomes a pair of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from leaml import filters, prompts, tables
from leaml.config import GenerateConfig
from leaml.engine import Engine, Request
from pipelines.caption import read_captions
from pipelines.ingest import Labels, Sources, labels_key, sample_refs, training_images
from pipelines.models import engine_spec, trained
from pipelines.run import Run, Step
from pipelines.units import Item, make_units, read_output, run_units


class GenerateWork:
    """Caption, sample, answer again, filter: all pairs of an image in one row, rejected ones included."""

    schema = tables.PSEUDO_QA

    def __init__(self, config: GenerateConfig, caption_prompt: str) -> None:
        self.config, self.caption_prompt = config, caption_prompt

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        captions = self._captions(engine, items)
        candidates = self._sample(engine, items, captions)
        self._answer_again(engine, items, captions, candidates)
        rows, counts = [], Counter[str]()
        for item, caption, found in zip(items, captions, candidates, strict=True):
            pairs = filters.apply(found, self.config.filters)
            rows.append({"image_id": item.image_id, "caption": caption or None, "pairs": pairs})
            counts["pairs"] += len(pairs)
            counts["accepted"] += sum(bool(p["accepted"]) for p in pairs)
            counts.update(f"rejected: {p['reason']}" for p in pairs if not p["accepted"])
        return rows, counts

    def _captions(self, engine: Engine, items: list[Item]) -> list[str]:
        if self.config.caption == "none":
            return [""] * len(items)
        if self.config.caption == "teacher":
            return [str(i.extra or "") for i in items]
        requests = [Request(i.image, i.image_id, self.caption_prompt, max_tokens=self.config.max_tokens) for i in items]
        return [completion.text for (completion,) in engine.generate(requests)]

    def _sample(self, engine: Engine, items: list[Item], captions: list[str]) -> list[list[filters.Candidate]]:
        config = self.config
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
                seed=_seed(config.seed, item.image_id),
            )
            for item, caption in zip(items, captions, strict=True)
        ]
        return [
            [filters.Candidate.from_reply(c.text, c.mean_logprob) for c in samples] for samples in engine.generate(requests)
        ]

    def _answer_again(
        self, engine: Engine, items: list[Item], captions: list[str], candidates: list[list[filters.Candidate]]
    ) -> None:
        """Fill in `reanswers`: every distinct question, answered `votes` times; add the corrections they make."""
        config = self.config
        if not (config.filters.round_trip or config.filters.min_votes):
            return
        asked: dict[tuple[int, str], list[filters.Candidate]] = {}
        for number, found in enumerate(candidates):
            for candidate in found:
                if candidate.question:
                    asked.setdefault((number, candidate.question), []).append(candidate)
        requests = []
        for number, question in asked:
            requests.append(
                Request(
                    items[number].image,
                    items[number].image_id,
                    prompts.GENERATE if captions[number] else question,
                    prompts.answer_prefix(question, captions[number]) if captions[number] else "",
                    n=config.votes,
                    temperature=config.temperature if config.votes > 1 else 0.0,
                    max_tokens=config.max_tokens,
                    seed=_seed(config.seed, items[number].image_id + question),
                )
            )
        for (number, _), same, answers in zip(asked, asked.values(), engine.generate(requests), strict=True):
            for candidate in same:
                candidate.reanswers.extend(a.text for a in answers)
            if config.filters.round_trip and config.correct_above:
                logprobs = [a.mean_logprob for a in answers]
                candidates[number].extend(filters.correction(same, logprobs, config.correct_above))


def _seed(seed: int, key: str) -> int:
    """A sampling seed that depends on the image alone, not on order, batch or worker."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:4], "big") >> 1


def generate(
    run: Run, sources: Sources, labels: Labels, captions: Step | None, generator: Step, variant: str = "leaml"
) -> Step:
    """Write pseudo pairs for the unlabeled images (all training images but the labeled ones)."""
    config = run.config.generate
    use = captions if config.caption == "teacher" else None
    inputs = [generator, *sources.training, labels_key(labels), *([use] if use else [])]
    step = run.step("generate", config.model_dump(), inputs, version=3, label=f"generate {variant}")

    def work() -> dict[str, Any]:
        refs = [r for r in training_images(sources) if r.image_id not in labels.image_ids]
        refs = sample_refs(refs, config.max_images, config.seed)
        extras = read_captions(use) if use else {}
        units = make_units("generate", refs, extras, run.config.resources.images_per_unit)
        spec = engine_spec(trained(generator, run.config.model), run.config.resources)
        worker = GenerateWork(config, run.config.caption.prompt or prompts.CAPTION)
        return run_units(step.label, units, spec, worker, step.folder, run.config.resources, run.config.data.max_pixels)

    return run.execute(step, work)


def read_accepted(step: Step) -> list[tuple[str, str, str]]:
    """`(image_id, question, answer)` of accepted pairs only; the one door from pseudo pairs to training."""
    rows = read_output(step.folder, tables.PSEUDO_QA).to_pylist()
    return [(r["image_id"], p["question"], p["answer"]) for r in rows for p in r["pairs"] if p["accepted"]]
