"""The last filter of step 5, when switched on: pairs that the base already answers right teach nothing and are rejected.

As in MPA (arXiv 2509.16633), where the small model's own answer decides. It needs a second engine, so it is a map step of its
own over the generate step's rows; everything after it reads its rows instead.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from leaml import scoring, tables
from leaml.data import store
from leaml.engine import Engine, Request
from pipelines.ingest import Sources, training_images
from pipelines.models import engine_spec, model_key
from pipelines.run import Run, Step
from pipelines.unit import make_units
from pipelines.units import Item, replied, run_step

REASON = "base answers it"


class HardnessWork:
    """Greedy answers of the base to the questions of accepted pairs; `Item.extra` is the image's row of the generate step."""

    schema = tables.PSEUDO_QA

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        asked = [(item, pair) for item in items for pair in item.extra["pairs"] if pair["accepted"]]
        requests = [Request(i.image, i.image_id, pair["question"], max_tokens=self.max_tokens) for i, pair in asked]
        counts = Counter[str]()
        for (_, pair), (completion,) in zip(asked, engine.generate(requests) if requests else [], strict=True):
            counts.update(replied([completion]))
            if scoring.is_correct(completion.text, pair["answer"]):
                pair |= {"accepted": False, "reason": REASON}
        pairs = [pair for item in items for pair in item.extra["pairs"]]
        counts["pairs"], counts["accepted"] = len(pairs), sum(bool(p["accepted"]) for p in pairs)
        counts.update(f"rejected: {p['reason']}" for p in pairs if not p["accepted"])
        return [item.extra for item in items], counts


def hardness(run: Run, sources: Sources, generated: Step, variant: str = "leaml") -> Step:
    """Reject what the base answers right; returns the step that holds the rows of all pairs."""
    config, base = run.config.generate, run.config.model
    settings = {"model": model_key(base), "max_tokens": config.max_tokens}
    step = run.step("hardness", settings, [generated, *sources.training], label=f"hardness {variant}")

    def work() -> dict[str, Any]:
        rows = store.index(generated.path("rows"))
        refs = training_images(sources).only(rows.ids)
        units = make_units("hardness", refs, {}, run.config.resources.images_per_unit, rows.places_of(refs.ids))
        spec = engine_spec(base, run.config.resources)
        work = HardnessWork(config.max_tokens)
        return run_step(run, step, units, spec, work)

    return run.execute(step, work)
