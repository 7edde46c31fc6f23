"""Beside generate, when `filter.hardness` is on: the base answers the questions of all candidates.

Pairs that the base answers right teach nothing, as in MPA (arXiv 2509.16633), where the small model's own answer decides. Here
it is asked once and its answers are kept beside the candidates; whether a pair goes for it is the step filter's decision.
"""

from __future__ import annotations

from collections import Counter

from leaml.data import store, tables
from leaml.engine.interface import Engine, Request
from leaml.generation import candidates
from pipelines.context import Context
from pipelines.generate import longest_question
from pipelines.ingest import training_images
from pipelines.models import engine_spec, model_key
from pipelines.run import Step
from pipelines.shard import make_shards
from pipelines.shards import Item, replied, run_step
from pipelines.table_rows import BaseAnswer, CandidateRow


class HardnessWork:
    """Greedy answers of the base to the questions of candidates; `Item.extra` is the image's row of the generate step."""

    schema = tables.CANDIDATES

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, engine: Engine, items: list[Item[CandidateRow]]) -> tuple[list[CandidateRow], Counter[str]]:
        asked = [(item, question) for item in items for question in candidates.questions(item.extra)]
        requests = [Request(i.image, i.image_id, question, max_tokens=self.max_tokens) for i, question in asked]
        counts, answers = Counter[str](), {item.image_id: list[BaseAnswer]() for item in items}
        for (item, question), (completion,) in zip(asked, engine.generate(requests) if requests else [], strict=True):
            counts.update(replied([completion]))
            counts["questions"] += 1
            answers[item.image_id].append({"question": question, "answer": completion.text})
        return [{**item.extra, "base": answers[item.image_id]} for item in items], counts


def hardness(context: Context) -> Step:
    """Ask the base; the step holds the candidates with its answers."""
    run, generated, training = context.run, context.made["generate"], context.sources.training
    config, base = run.config.generate, run.config.model
    settings = {"model": model_key(base), "max_tokens": config.max_tokens} | run.config.engine.identity()
    step = context.step("hardness", settings, [generated, *training])

    def work() -> dict[str, float]:
        rows = store.index_rows(generated.path("rows"))
        refs = training_images(context.sources).only(rows.ids)
        shards = make_shards("hardness", refs, {}, run.config.resources.images_per_shard, rows.with_ids(refs.ids))
        spec = engine_spec(base, run.config.resources, run.config.engine, longest_question(config))
        return run_step(run, step, shards, spec, HardnessWork(config.max_tokens))

    return run.execute(step, work)
