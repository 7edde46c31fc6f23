"""Step 1, caption: the teacher describes the images of the domain."""

from __future__ import annotations

from collections import Counter
from typing import Any

from leaml import prompts, tables
from leaml.config import CaptionConfig, resolve_model
from leaml.engine import Engine, Request
from pipelines.ingest import Labels, Sources, sample_refs, training_images
from pipelines.models import engine_spec, model_key
from pipelines.run import Run, Step
from pipelines.unit import make_units
from pipelines.units import Item, read_output, run_step


class CaptionWork:
    """One greedy caption per image."""

    schema = tables.CAPTIONS

    def __init__(self, config: CaptionConfig) -> None:
        self.prompt, self.max_tokens = config.prompt or prompts.CAPTION, config.max_tokens
        self.model = config.teacher.name

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        requests = [Request(i.image, i.image_id, self.prompt, max_tokens=self.max_tokens) for i in items]
        rows, counts = [], Counter[str]()
        for item, (completion,) in zip(items, engine.generate(requests), strict=True):
            rows.append(
                {
                    "image_id": item.image_id,
                    "caption": completion.text,
                    "model": self.model,
                    "mean_logprob": completion.mean_logprob,
                    "finish_reason": completion.finish_reason,
                }
            )
            counts["tokens"] += completion.tokens
        return rows, counts


def caption(run: Run, sources: Sources, labels: Labels) -> Step:
    """Caption every training image (or `caption.max_images` of them, and always the labeled ones)."""
    config = run.config.caption
    settings = config.model_dump() | {"teacher": model_key(config.teacher)}
    settings |= {"labels": None if config.max_images is None else labels.key}
    step = run.step("caption", settings, sources.training)

    def work() -> dict[str, Any]:
        refs = sample_refs(training_images(sources), config.max_images, run.config.seed, always=labels.image_ids)
        resources = run.config.resources.teacher
        units = make_units("caption", refs, {}, resources.images_per_unit)
        spec = engine_spec(config.teacher, resources, config.url)
        summary = run_step(run, step, units, spec, CaptionWork(config), resources)
        return summary | {"teacher": resolve_model(config.teacher.name).rsplit("/", 1)[-1]}

    return run.execute(step, work)


def read_captions(step: Step) -> dict[str, str]:
    """Captions by image id; empty ones are left out."""
    table = read_output(step.folder, tables.CAPTIONS)
    return {i: c for i, c in zip(table["image_id"].to_pylist(), table["caption"].to_pylist(), strict=True) if c}
