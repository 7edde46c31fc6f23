"""Ingest: sources become contract tables (images with encoded bytes, labeled rows), checked image by image."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape

from leaml.config import Config, SourceConfig, relative_to
from leaml.data import budget, changes, store, tables
from leaml.data.ingest import (
    IngestResult,
    QuarantineError,
    check_limits,
    forget_parts,
    in_this_process,
    quarantine_file,
    reasons,
)
from leaml.data.ingest import ingest as ingest_source
from leaml.data.store import ImageIndex
from leaml.data.tables import QuarantineRow
from leaml.errors import DataError, InputError
from leaml.io import files
from leaml.run.records import COPIES, QUARANTINED, copies_text, quarantine_text
from leaml.vlm import load
from pipelines.ingest_job import on_cluster
from pipelines.progress import Bar, say
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.steps import INGEST, LABELS
from pipelines.summaries import IngestSummary, excluded_counts

EXCLUDED = "excluded.parquet"
"""In the folder of a step that leaves images out: which, and why."""
READ = "read.json"
"""Of a read that was refused because too much was unusable: its summary and the state of the data, for a higher limit."""
SHOWN = 10
"""Images that a message names."""


def ingest(run: Run, verbose: bool = False) -> Sources:
    """Ingest the labeled, unlabeled and evaluation sources; refuse or leave out images that are in evaluation and elsewhere.

    A large source is read on the cluster; if Ray has to be started for that, `verbose` shows its logs. Raises DataError naming
    the files.
    """
    sources = source_steps(run, verbose)
    for step in sources.training if not run.config.data.exclude_evaluation else []:
        shared = _shared(step, sources.evaluation)
        if shared:
            role = role_of(step)
            same = _same_source(run.config, role)
            refuse_shared(step, f"{len(shared)} evaluation images are also in the {role} source{same}", shared)
    refuse_special_tokens(run, sources)
    return sources


def _same_source(config: Config, role: str) -> str:
    """That a source is the evaluation's, with the same split or with none, and the fix; empty: it is another."""
    data = config.data
    source = data.labeled if role == "labeled" else data.unlabeled
    if source is None or source.path is None or (source.path, source.split) != (data.evaluation.path, data.evaluation.split):
        return ""
    which = "no split" if source.split is None else f"split {source.split!r}"
    return (
        f" (both read {source.path} with {which}; give another file, or a split to each: data.{role}.split=train "
        "data.evaluation.split=test)"
    )


def refuse_shared(step: Step, what: str, names: list[str]) -> None:
    """Raise DataError for images of a source that must not be in it: `what` is wrong with them, and their names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    msg = (
        f"{what}, so the evaluation would be worthless: {', '.join(names[:SHOWN])}{more}. Remove them from one side, split by "
        f"video or patient, or leave them out of the {role_of(step)} images with data.exclude_evaluation=true"
    )
    raise DataError(msg)


def role_of(step: Step) -> str:
    """labeled, unlabeled or evaluation."""
    return step.variant


def _shared(step: Step, evaluation: Step) -> list[str]:
    """Names of the images of a source that are evaluation images too, each with its other name where that differs."""
    ids = store.index(step.path("images")).only(store.index(evaluation.path("images")).ids).ids.to_pylist()
    here, there = (store.names(s.path("images"), ids) for s in (step, evaluation))
    return sorted(here[i] if here[i] == there[i] else f"{here[i]} (evaluation: {there[i]})" for i in ids)


def refuse_special_tokens(run: Run, sources: Sources) -> None:
    """Refuse labels that hold a special token of the model, before captions are made that such a training would waste.

    The tokens are the model's, and ingest knows no model, so that another one does not read the data again.

    Raises:
        DataError: With file and line of the first rows.
    """
    tokens = load.special_tokens(run.config.model)
    if not tokens:
        return
    pattern = "|".join(re.escape(token) for token in tokens)
    for step in (sources.labeled, sources.evaluation):
        rows = tables.read(step.path("labeled.parquet"), tables.LABELED)
        joined = pc.binary_join(pc.fill_null(rows["options"], []), "\n")
        texts = pc.binary_join_element_wise(rows["question"], rows["answer"], joined, "\n")
        bad = rows.filter(pc.match_substring_regex(texts, pattern))
        if bad.num_rows:
            first = bad.slice(0, 1).to_pylist()[0]
            found = re.search(pattern, "\n".join([first["question"], first["answer"], *(first["options"] or [])]))
            msg = (
                f"{bad.num_rows} label rows hold a special token of the model {run.config.model.name!r}, for example "
                f"{found[0] if found else ''!r}: {'; '.join(str(w) for w in bad['where'].to_pylist()[:5])}; remove it from them"
            )
            raise DataError(msg)


def source_steps(run: Run, verbose: bool = False) -> Sources:
    """Ingest each source; what is in the evaluation too is left out, where the configuration says so, else not looked at."""
    data = run.config.data
    labeled = _ingest_one(run, data.labeled, "labeled", verbose)
    unlabeled = _ingest_one(run, data.unlabeled, "unlabeled", verbose) if data.unlabeled else None
    sources = Sources(labeled, unlabeled, _ingest_one(run, data.evaluation, "evaluation", verbose))
    sources = replace(sources, known=all(run.done(step) for step in sources.training))
    return _without_evaluation(run, sources) if data.exclude_evaluation else sources


def _without_evaluation(run: Run, sources: Sources) -> Sources:
    """The sources without the images that are evaluation images too; a step of its own, which holds the list of them."""
    step = run.step("exclude", {}, [sources.evaluation, *sources.training])

    def work() -> dict[str, object]:
        tested = store.index(sources.evaluation.path("images")).ids
        found = {s: store.index(s.path("images")).only(tested).ids.to_pylist() for s in sources.training}
        return publish_excluded(step, found, "also in the evaluation")

    return excluding(run, sources, run.execute(step, work))


def publish_excluded(step: Step, found: dict[Step, list[str]], reason: str) -> dict[str, object]:
    """Write what is left out of each source; returns the counts for the step's summary."""
    counts: dict[str, object] = {}
    rows: list[dict[str, object]] = []
    for source, ids in found.items():
        names, role = store.names(source.path("images"), ids), role_of(source)
        rows += [{"image_id": i, "uri": names[i], "step": step.name, "reason": f"{role}: {reason}"} for i in ids]
        counts[role] = len(ids)
    tables.write(step.path(EXCLUDED), tables.table(rows, tables.QUARANTINE))
    return {"excluded": counts}


def excluding(run: Run, sources: Sources, step: Step) -> Sources:
    """The sources without the images that `step` has found; what is made from them is made anew when it finds others."""
    ids: list[str] = []
    found = run.done(step)
    if found:  # else the steps are only planned
        ids = tables.read(step.path(EXCLUDED), tables.QUARANTINE)["image_id"].to_pylist()
        for role, count in excluded_counts(run.summary(step)).items():
            say(f"{role}: {count} images left out ({step.label}{f'; {step.path(EXCLUDED)}' if run.lasts(step) else ''})")

    def left(source: Step) -> Step:
        digest = hashlib.sha256(f"{source.hash}:{step.hash}".encode()).hexdigest()[:12]
        return replace(source, hash=digest, also=(*source.also, step.name_of_folder))

    unlabeled = None if sources.unlabeled is None else left(sources.unlabeled)
    excluded, known = sources.excluded | frozenset(ids), sources.known and found
    return Sources(left(sources.labeled), unlabeled, sources.evaluation, excluded, known)


def _ingest_one(run: Run, source: SourceConfig, role: str, verbose: bool) -> Step:
    """Ingest a source. Another content of its file makes it anew; what lies in a folder is not looked at."""
    data = run.config.data
    settings = {
        "source": _identity(source, run.config.storage) | _content(source),
        "max_pixels": data.max_pixels,
        "copy": data.copy,
    }
    step = run.step("ingest", settings, [], INGEST.version, role)

    kept = step.path(READ)

    def work() -> dict[str, object]:
        before = json.loads(files.read_bytes(kept)) if files.exists(kept) else {}
        if "state" in before and IngestSummary.of(before["summary"]).within(data.max_quarantined, role):
            if before["state"] == _state(run, step, source):
                say(f"{step.label}: read before, under a lower data.max_quarantined; nothing is read again")
                return dict(before["summary"])
            say(f"{step.label}: the data have changed since they were refused; they are read again")
        try:
            return _read(run, step, source, role, verbose)
        except QuarantineError as error:
            found = {"summary": _summary(error.result), "state": _state(run, step, source)}
            files.write_bytes(kept, json.dumps(found).encode())
            raise

    was_done = run.done(step)
    run.execute(step, work)
    if run.done(step):
        if not was_done:
            forget_parts(step.path("images"))
        _check_quarantined(run, step, source)
    return step


def _read(run: Run, step: Step, source: SourceConfig, role: str, verbose: bool) -> dict[str, object]:
    """Read a source into the step's tables. Raises DataError."""
    data = run.config.data
    with Bar(step.label, source.limit or 0, "images") as bar, named(f"data.{role}"):
        result = ingest_source(
            source,
            step.path("images"),
            step.path("labeled.parquet"),
            data.max_pixels,
            data.max_quarantined,
            source.split or role,
            progress=bar.update,
            first=run.first,
            copy=data.copy and run.first is None,
            keep_refused=True,
            labels_matter=role != "unlabeled",
            mapped=in_this_process if run.first is not None else on_cluster(step.label, run.config.resources, verbose),
        )

    if role != "unlabeled":
        for line in result.labels.lines():
            say(escape(f"{step.label}: {line}"))

    if result.images == 0 and result.complete:
        msg = f"data.{role}: no readable image in {source.path or source.format!r}"
        raise DataError(msg)

    if role != "unlabeled" and result.rows == 0 and result.complete:
        msg = f"data.{role}: {source.path or source.format!r} has images but no questions; use a reader that gives them"
        raise DataError(msg)
    return _summary(result) | ({} if result.complete else {"first": run.first})


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Errors of the input with the key of the configuration in front that they are about."""
    try:
        yield
    except QuarantineError:  # names its source, and holds what was found
        raise
    except InputError as error:
        msg = f"{key}: {error}"
        raise type(error)(msg) from None


def _summary(result: IngestResult) -> dict[str, object]:
    counts: dict[str, object] = {
        "images": result.images,
        "rows": result.rows,
        "seen": result.seen,
        "quarantined": len(result.quarantined),
        "largest": [list(size) for size in result.largest],
    }
    counts |= {f"{QUARANTINED}{reason}": count for reason, count in reasons(result.quarantined).items()}
    return counts | ({COPIES: result.copies} if result.copies else {}) | {"labels": result.labels.summary()}


def _check_quarantined(run: Run, step: Step, source: SourceConfig) -> None:
    """Say what was quarantined. Raises QuarantineError where a step of before is over a limit of now."""
    summary, limit = run.summary(step), run.config.data.max_quarantined
    file = quarantine_file(step.path("images"), step.path("labeled.parquet"))
    found, rows = IngestSummary.of(summary), list[QuarantineRow]()
    if found.quarantined:
        rows = tables.read(file, tables.QUARANTINE).to_pylist()
        which = f"which: {file}" if run.lasts(step) else f"the first: {rows[0]['uri']}: {rows[0]['reason']}"
        say(escape(f"{step.label}: {quarantine_text(summary)}; {which}"))
    if COPIES in summary:
        say(f"{step.label}: {copies_text(summary)}")
    if found.first is None:
        result = IngestResult(found.images, found.rows, rows, found.labels, found.seen)
        check_limits(result, limit, source, labels_matter=role_of(step) != "unlabeled")


def _identity(source: SourceConfig, storage: str) -> dict[str, object]:
    """A source as a setting: what lies beside the storage keeps its address when both move together."""
    found = source.model_dump()
    if not files.is_remote(storage):
        near = relative_to(Path(files.absolute(storage)).parent)
        found |= {key: near(found[key], False) for key in ("path", "images") if found[key]}
    return found


def _state(run: Run, step: Step, source: SourceConfig) -> str:
    """State of the images that could not be used, and of everything in the source where that is a folder."""
    quarantined = tables.read(quarantine_file(step.path("images"), step.path("labeled.parquet")), tables.QUARANTINE)
    folder = source.path if source.path and files.exists(source.path) and not files.is_file(source.path) else None
    return changes.state(quarantined["uri"].to_pylist(), folder, without=files.absolute(run.config.storage))


def _content(source: SourceConfig) -> dict[str, str]:
    if source.path and files.exists(source.path) and files.is_file(source.path):
        return {"content": files.fingerprint(source.path, edited=True)}
    return {}


def draw_labels(run: Run, sources: Sources, everything: bool = False) -> Labels:
    """The label budget's rows; with `everything` all labeled rows (the full_labels control)."""
    config = run.config.data.budget
    if everything:
        config = config.model_copy(update={"count": None, "fraction": None})
    key = hashlib.sha256(json.dumps([sources.labeled.hash, config.model_dump()], sort_keys=True).encode()).hexdigest()
    if run.dry and not run.done(sources.labeled):
        return Labels.none(key)
    rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED)
    if sources.excluded:
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], value_set=pa.array(sorted(sources.excluded), pa.string()))))
        if not rows.num_rows:
            msg = "data.labeled: every labeled image is an evaluation image too, so none is left; give other labels"
            raise DataError(msg)
    drawn = budget.draw(rows, config)
    return Labels(drawn.train, drawn.validation, key)


def refuse_nothing_to_generate(config: Config, sources: Sources, labels: Labels) -> None:
    """Raise DataError if no image is left for pseudo pairs that fine-tuning is to learn from."""
    if config.finetune.label_share == 1 or len(training_images(sources).without(labels.image_ids)):
        return
    excluded = f", and {len(sources.excluded)} others are left out (data.exclude_evaluation)" if sources.excluded else ""
    msg = (
        f"no image is left to generate pairs for: all {labels.images} images are labeled ones{excluded}; give other images in "
        "data.unlabeled, or take fewer labels with data.budget"
    )
    raise DataError(msg)


def labels_key(labels: Labels) -> Step:
    """The drawn labels as an input of steps: only the hash matters."""
    return Step(LABELS, "", labels.key, "")


def training_images(sources: Sources) -> ImageIndex:
    """Every image that may be captioned, each id once: the labeled source's, then the others of the unlabeled one."""
    parts: list[ImageIndex] = []
    for step in sources.training:
        folder = step.path("images")
        found = store.index(folder).without(sources.excluded) if sources.excluded else store.index(folder)
        for part in parts:
            found = found.without(part.ids)
        parts.append(found)
    return ImageIndex.joined(parts)


def sample_refs(refs: ImageIndex, count: int | None, seed: int, always: frozenset[str] = frozenset()) -> ImageIndex:
    """At most `count` images and those in `always`, in table order; `count` None: all images.

    They are chosen by a hash of seed and id, so the same ones whatever the order of the table.
    """
    if count is None or len(refs) <= count:
        return refs
    hashed = ((hashlib.sha256(f"{seed}:{r.image_id}".encode()).digest(), index) for index, r in enumerate(refs))
    chosen = {index for _, index in heapq.nsmallest(count, hashed)}
    chosen |= {index for index, r in enumerate(refs) if r.image_id in always}
    return refs.take(sorted(chosen))
