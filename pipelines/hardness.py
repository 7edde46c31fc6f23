"""Beside generate, when `filter.hardness` is on: the base answers the questions of all candidates.

Pairs that the base answers right teach nothing, as in MPA (arXiv 2509.16633), where the small model's own answer decides. Here
it is asked once and its answers are kept beside the candidates; whether a pair goes for it is the step filter's decision.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pyarrow.compute as pc

from leaml.data import tables
from leaml.data.store import ImageIndex
from leaml.engine.interface import Engine, Request
from leaml.generation import candidates
from pipelines.context import Context
from pipelines.generate import longest_question
from pipelines.ingest import training_images
from pipelines.models import engine_spec, model_key
from pipelines.run import Step
from pipelines.shard import RowsOfStep, make_shards, rows_of_step
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
        refs, rows = with_candidates(generated.folder, training_images(context.sources))
        shards = make_shards("hardness", refs, rows, run.config.resources.images_per_shard)
        spec = engine_spec(base, run.config.resources, run.config.engine, longest_question(config))
        return run_step(run, step, shards, spec, HardnessWork(config.max_tokens))

    return run.execute(step, work)


def with_candidates(generated: str, refs: ImageIndex) -> tuple[ImageIndex, RowsOfStep]:
    """The images of which the generate step in the folder `generated` has a row, and these rows."""
    found = rows_of_step(generated, refs)
    there = pc.indices_nonzero(pc.is_valid(found.rows))
    return refs.take(there), replace(found, rows=found.rows.drop_null())
