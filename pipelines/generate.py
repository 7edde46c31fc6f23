"""Generate: the distilled generator writes candidates of question-answer pairs; nothing is accepted or rejected here.

Per image: its caption (the generator's own, greedy; or the teacher's; or none), `pairs_per_image` sampled pairs after it, then
every distinct question, and every given one, is put to the same model, after the caption if there is one, else as a user would
put it. All replies are kept as they are: the step filter (pipelines/filter.py) makes pairs of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from leaml.config import GenerateConfig
from leaml.data import tables
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Completion, Engine, Longest, Request, most_tokens
from leaml.generation import candidates, prompts
from leaml.text import replies
from leaml.text.preambles import without_assent
from pipelines.context import Context
from pipelines.ingest import labels_key, sample_refs, training_images
from pipelines.models import engine_spec, trained
from pipelines.run import Step
from pipelines.shard import make_shards, rows_of_step
from pipelines.shards import Item, replied, run_step
from pipelines.table_rows import CandidateRow, WrittenReply

Captioned = Item[str | None]
"""An image with the teacher's caption, where that is used."""
_BATCH = 65_536
"""Captions that are looked at together."""


class GenerateWork:
    """Caption, sample, answer again: everything that the generator wrote about an image in one row."""

    schema = tables.CANDIDATES

    def __init__(self, config: GenerateConfig, caption_prompt: str, pattern: str | None = None) -> None:
        self.config, self.caption_prompt, self.pattern = config, caption_prompt, pattern

    def __call__(self, engine: Engine, items: list[Captioned]) -> tuple[list[CandidateRow], Counter[str]]:
        counts = Counter[str]()
        captions = self._captions(engine, items, counts)
        rows: list[CandidateRow] = [
            {"image_id": item.image_id, "caption": caption or None, "replies": replies, "answers": [], "base": None}
            for item, caption, replies in zip(items, captions, self._sample(engine, items, captions, counts), strict=True)
        ]
        self._answer(engine, items, rows, counts)
        return rows, counts

    def _captions(self, engine: Engine, items: list[Captioned], counts: Counter[str]) -> list[str]:
        if self.config.caption == "none":
            return [""] * len(items)
        if self.config.caption == "teacher":
            return [str(i.extra or "") for i in items]
        requests = [Request(i.image, i.image_id, self.caption_prompt, max_tokens=self.config.max_tokens) for i in items]
        written = [completion for (completion,) in _counted(engine.generate(requests), counts)]
        texts = [without_assent(c.text) for c in written]
        return [replies.whole_sentences(text) or text if c.cut else text for text, c in zip(texts, written, strict=True)]

    def _sample(
        self, engine: Engine, items: list[Captioned], captions: list[str], counts: Counter[str]
    ) -> list[list[WrittenReply]]:
        config = self.config
        if not config.pairs_per_image:
            return [[] for _ in items]

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
                pattern=self.pattern,
            )
            for item, caption in zip(items, captions, strict=True)
        ]

        # the last images first, as long as the engine has what was made of them for their captions; and so again for answers
        sampled = engine.generate(requests[::-1])[::-1]
        written = [_kept(samples) for samples in _counted(sampled, counts)]
        counts["candidates"] += sum(map(len, written))
        return written

    def _answer(self, engine: Engine, items: list[Captioned], rows: list[CandidateRow], counts: Counter[str]) -> None:
        """Put the given questions and, with `votes`, every distinct generated one to the model; fills in `answers`."""
        given = self.config.questions
        asked: list[tuple[int, str]] = []
        for number, row in enumerate(rows):
            new = candidates.questions(row) if self.config.votes else []
            asked += [(number, question) for question in dict.fromkeys([*given, *new])]
        if not asked:
            return
        requests = [self._question(items[number], rows[number]["caption"] or "", question) for number, question in asked]
        for (number, question), written in zip(asked, _counted(engine.generate(requests), counts), strict=True):
            rows[number]["answers"].append({"question": question, "given": question in given, "replies": _kept(written)})
        counts["candidates"] += len(given) * len(rows)

    def _question(self, item: Captioned, caption: str, question: str) -> Request:
        """A question as a user puts it, or after the caption if there is one."""
        config = self.config
        return Request(
            item.image,
            item.image_id,
            prompts.GENERATE if caption else question,
            prompts.answer_prefix(question, caption) if caption else "",
            n=max(1, config.votes),
            temperature=config.temperature if config.votes > 1 else 0.0,
            max_tokens=config.max_tokens,
            seed=sampling_seed(config.seed, item.image_id + question),
        )


def _kept(replies: list[Completion]) -> list[WrittenReply]:
    return [{"text": reply.text, "mean_logprob": reply.mean_logprob, "cut": reply.cut} for reply in replies]


def _counted(written: list[list[Completion]], counts: Counter[str]) -> list[list[Completion]]:
    """The replies; their tokens, and how many were cut at the limit, are counted."""
    counts.update(replied(c for samples in written for c in samples))
    return written


def sampling_seed(seed: int, key: str) -> int:
    """A sampling seed that depends on the image alone, not on order, batch or worker."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:4], "big") >> 1


def longest_question(config: GenerateConfig) -> Longest:
    """Of requests that put a candidate's question as it is.

    A question that was written is asked again as text, which may be other tokens than it was written in, not twice as many.
    """
    return Longest(max(2 * config.max_tokens, most_tokens(config.questions)), config.max_tokens)


def _longest(config: GenerateConfig, prompt: str, captions: Iterable[str]) -> Longest:
    """Of all requests; `prompt` asks for a caption, and `captions` are the teacher's, as far as they are used."""
    own = 2 * config.max_tokens if config.caption == "self" else 0
    asked = most_tokens([prompts.GENERATE, prompt]) + most_tokens([prompts.answer_prefix("", "")])
    question = longest_question(config)
    return Longest(asked + max(own, most_tokens(captions)) + question.text, question.reply)


def _captions(folder: str) -> Iterator[str]:
    """Those in the table of the step in `folder`; few of them are held at a time."""
    for batch in StepRows(folder).batches(["caption"], _BATCH):
        yield from batch["caption"].to_pylist()


def generate(context: Context) -> Step:
    """Write candidates for the unlabeled images (all training images but the labeled ones)."""
    run, sources, labels, generator = context.run, context.sources, context.labels, context.generator
    config, limits = run.config.generate, run.config.filter
    pattern = prompts.pair_pattern(limits.max_question_chars, limits.max_answer_chars) if config.structured else None
    use = context.captions if config.caption == "teacher" else None
    inputs = [generator, *sources.training, labels_key(labels), *([use] if use else [])]
    engine = run.config.engine
    step = context.step("generate", config.model_dump() | {"pattern": pattern} | engine.identity(), inputs)

    def work() -> dict[str, float]:
        refs = training_images(sources).without(labels.image_ids)
        refs = sample_refs(refs, config.max_images, config.seed)
        extras = rows_of_step(use.folder, refs, "caption") if use else dict[str, object]()
        shards = make_shards("generate", refs, extras, run.config.resources.images_per_shard)
        prompt = run.config.caption.prompt or prompts.CAPTION
        longest = _longest(config, prompt, _captions(use.folder) if use else ())
        spec = engine_spec(trained(generator, run.config.model), run.config.resources, engine, longest)
        worker = GenerateWork(config, prompt, pattern)
        return run_step(run, step, shards, spec, worker)

    return run.execute(step, work)
