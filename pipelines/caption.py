"""Caption: the teacher describes the images of the domain, but for those that come with a caption."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable

from leaml.config import CaptionConfig, Config, resolve_model
from leaml.data import captions as ready
from leaml.data import store, tables
from leaml.data.step_rows import StepRows
from leaml.data.store import ImageIndex
from leaml.engine.interface import Engine, Longest, Request, most_tokens
from leaml.errors import DataError, StepError
from leaml.generation import prompts
from leaml.io import files
from leaml.text import replies
from leaml.text.values import shorten
from pipelines.context import Context
from pipelines.given import Given
from pipelines.ingest import sample_refs, training_images
from pipelines.models import engine_spec, model_key
from pipelines.quarantine import refused
from pipelines.run import UNKNOWN, Run, Step
from pipelines.shard import make_shards
from pipelines.shards import Item, replied, run_step
from pipelines.sources import Labels, Sources
from pipelines.steps import STEPS
from pipelines.table_rows import OutputRow

CUT_BACK = "captions cut back to whole sentences"
SAME = "images of a shard with the one caption"
"""What most refusals and failures have in common, whatever their words: they are the same for every image."""
_SAME_AT_LEAST, _SAME_SHARE = 8, 0.2
"""Images of a shard, in number and as a share of it, from which on one caption is too much alike."""
LEFT_OUT = "images left out without a caption"
_HASHED = 1 << 16
"""Ids of images that are hashed at a time."""


class CaptionWork:
    """One greedy caption per image; a reply that is none quarantines its image."""

    schema = tables.CAPTIONS

    def __init__(self, config: CaptionConfig) -> None:
        self.prompt, self.max_tokens = config.prompt or prompts.CAPTION, config.max_tokens
        self.model = config.teacher.name

    def __call__(self, engine: Engine, items: list[Item[None]]) -> tuple[list[OutputRow], Counter[str]]:
        requests = [Request(i.image, i.image_id, self.prompt, max_tokens=self.max_tokens) for i in items]
        rows: list[OutputRow] = []
        counts = Counter[str]()

        for item, (completion,) in zip(items, engine.generate(requests), strict=True):
            counts.update(replied([completion]))
            text, reason = completion.text, completion.error
            if not reason:
                text, reason = replies.caption(text, completion.finish_reason, self.prompt)
            if reason:
                rows.append(refused(item.image_id, reason))
                continue
            counts[CUT_BACK] += completion.cut
            rows.append(
                {
                    "image_id": item.image_id,
                    "caption": text,
                    "model": self.model,
                    "mean_logprob": None if math.isnan(completion.mean_logprob) else completion.mean_logprob,
                    "finish_reason": completion.finish_reason,
                }
            )

        written = Counter(str(row["caption"]) for row in rows if row.get("caption"))
        for text, images in written.items():
            if images >= max(_SAME_AT_LEAST, _SAME_SHARE * len(items)):
                counts[f"{SAME} {shorten(text)}"] = images
        return rows, +counts


def caption(context: Context) -> Step:
    """Caption every training image (or `caption.max_images` of them, and always the labeled ones).

    The step depends on these images and on nothing of their labels, so that a corrected answer pays for no caption again.
    """
    run, sources, labels = context.run, context.sources, context.labels
    config, step = run.config.caption, caption_step(run, sources, labels)

    def work() -> dict[str, float | str]:
        refs = captioned(run.config, sources, labels)
        images = len(refs)
        if config.file:
            given = Given(ready.read(config.file, config.column), sources.image_folders, refs)
            given.publish(step.folder)
            refs = refs if config.complete else given.described
        resources = run.config.resources.teacher
        if config.url:
            resources = resources.model_copy(update={"engine_gpus": 0.0})  # the server has them
        shards = make_shards("caption", refs, {}, resources.images_per_shard)
        longest = Longest(most_tokens([config.prompt or prompts.CAPTION]), config.max_tokens)
        engine = run.config.teacher_engine
        spec = engine_spec(config.teacher, resources, engine, longest, "caption.engine", config.url, config.client)
        summary = run_step(run, step, shards, spec, CaptionWork(config), resources)
        if not summary.get("images"):
            msg = f"{step.label}: none of {images} images has a caption; see {step.folder}/quarantine for the reasons"
            raise StepError(msg)
        if len(refs) < images:
            summary[LEFT_OUT] = images - len(refs)
        return {**summary, "teacher": resolve_model(config.teacher.name).rsplit("/", 1)[-1]}

    return run.execute(step, work)


def caption_step(run: Run, sources: Sources, labels: Labels) -> Step:
    """The step, whether it is finished or not.

    Args:
        run: Its `captioned` stands for the images where the sources are planned only.
        sources: Whose images are captioned.
        labels: Their images are captioned in any case.
    """
    images_key = (captioned_key(run.config, sources, labels) if sources.known else run.captioned) or UNKNOWN
    made_from = tuple(folder for source in sources.training for folder in (source.name_of_folder, *source.also))
    images = Step("images", "", images_key, "", also=made_from)
    return run.step("caption", _settings(run.config), [images], STEPS["caption"].version)


def refuse_unusable_url(run: Run, sources: Sources, labels: Labels) -> str | None:
    """Try `caption.url` with one request where captions are still to be asked for.

    Args:
        run: Whose teacher it is.
        sources: Tell, with `labels`, whether the step is finished.
        labels: Their images are captioned in any case.

    Returns:
        What is doubtful about the server; None: nothing, or it is not asked.

    Raises:
        ModelError: Nobody listens there, or the key is refused.
    """
    config = run.config.caption
    if not config.url or not config.complete or not run.config.learns_captions:
        return None
    if run.done(caption_step(run, sources, labels)) or (config.file and _all_given(run.config, sources, labels)):
        return None
    from leaml.engine.openai_check import check  # the client takes a second to import

    return check(config.url, config.teacher.name)


def _all_given(config: Config, sources: Sources, labels: Labels) -> bool:
    """Whether no image is left for the teacher."""
    refs = captioned(config, sources, labels)
    given = Given(ready.read(str(config.caption.file), config.caption.column), sources.image_folders, refs)
    try:
        return given.count() == len(refs)
    except DataError:  # the file names other images; who reads it says so
        return False


def captioned(config: Config, sources: Sources, labels: Labels) -> ImageIndex:
    """The images that are to have a caption, in table order.

    Args:
        config: `caption.max_images` limits them, and the seed chooses.
        sources: The labeled and the unlabeled one; what they exclude is left out.
        labels: Their images are always among them, also beyond the limit.
    """
    return sample_refs(training_images(sources), config.caption.max_images, config.seed, always=labels.image_ids)


def captioned_key(config: Config, sources: Sources, labels: Labels) -> str:
    """Hash of the images that are to have a caption, in order.

    Where captions are given by name (`caption.file`), names of images and of copies count too.

    Args:
        config: As of `captioned`.
        sources: Ingested, since their images are read.
        labels: As of `captioned`.
    """
    ids = captioned(config, sources, labels).ids
    named = [store.names(folder, ids.to_pylist()) for folder in sources.image_folders] if config.caption.file else []
    digest = hashlib.sha256()
    for start in range(0, len(ids), _HASHED):  # all of ten million texts at once would take a gigabyte
        part = ids.slice(start, _HASHED).to_pylist()
        for column in (part, *([names.get(image_id, "") for image_id in part] for names in named)):
            digest.update(json.dumps(column).encode())
    for part in (part for folder in sources.image_folders if named for part in store.copies(folder)):
        digest.update(json.dumps(part.to_pylist()).encode())
    return digest.hexdigest()


def _settings(whole: Config) -> dict[str, object]:
    """What captions depend on: not how patient the client is, nor anything of it without a URL."""
    config = whole.caption
    patience = {"concurrency", "timeout", "retries"} if config.url else True
    found = config.model_dump(exclude={"client": patience, "engine": True}) | {"teacher": model_key(config.teacher)}
    found |= {} if config.url else whole.teacher_engine.identity()
    return found | (
        {"content": files.fingerprint(config.file, edited=True)} if config.file and files.exists(config.file) else {}
    )


def captions_of(step: Step, ids: Iterable[str]) -> dict[str, str]:
    """Captions of images with these ids, by id; images without one are not in it."""
    return {row["image_id"]: row["caption"] for row in StepRows(step.folder).of(ids, ["image_id", "caption"]) if row["caption"]}
