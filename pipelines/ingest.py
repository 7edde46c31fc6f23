"""Step 0, ingest: sources become contract tables (images with encoded bytes, labeled rows), checked image by image."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape

from leaml import tables
from leaml.config import SourceConfig
from leaml.data import budget, files, store
from leaml.data.ingest import ingest as ingest_source
from leaml.data.store import ImageIndex
from leaml.errors import DataError
from leaml.vlm import load
from pipelines.progress import Bar, say
from pipelines.run import Run, Step


@dataclass(frozen=True)
class Sources:
    """The ingested sources of a run."""

    labeled: Step
    unlabeled: Step | None
    evaluation: Step

    @property
    def training(self) -> list[Step]:
        """Every source whose images may be captioned and trained on."""
        return [s for s in (self.labeled, self.unlabeled) if s is not None]

    @property
    def image_folders(self) -> list[str]:
        return [s.path("images") for s in self.training]


@dataclass(frozen=True)
class Labels:
    """The labeled rows a method may use, `validation` being the part held out to choose learning rates."""

    train: pa.Table
    validation: pa.Table
    key: str

    @property
    def image_ids(self) -> frozenset[str]:
        return frozenset(self.train["image_id"].to_pylist()) | frozenset(self.validation["image_id"].to_pylist())

    @property
    def images(self) -> int:
        return len(self.image_ids)

    def rows(self) -> list[tuple[dict[str, str], bool]]:
        """Every row with whether it is held out."""
        return [(r, False) for r in self.train.to_pylist()] + [(r, True) for r in self.validation.to_pylist()]


def ingest(run: Run) -> Sources:
    """Ingest the labeled, unlabeled and evaluation sources; refuses images that are in evaluation and elsewhere."""
    sources = source_steps(run)
    tested = store.index(sources.evaluation.path("images"))
    for step in sources.training:
        shared = store.index(step.path("images")).only(tested.ids)
        if shared:
            msg = (
                f"{len(shared)} evaluation images are also in the {step.label.split()[-1]} source (for example "
                f"{shared[0].image_id}); the evaluation would be worthless. Remove them from one side"
            )
            raise DataError(msg)
    refuse_special_tokens(run, sources)
    return sources


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


def source_steps(run: Run) -> Sources:
    """Ingest each source, without looking at what came out."""
    data = run.config.data
    labeled = _ingest_one(run, data.labeled, "labeled")
    unlabeled = _ingest_one(run, data.unlabeled, "unlabeled") if data.unlabeled else None
    return Sources(labeled, unlabeled, _ingest_one(run, data.evaluation, "evaluation"))


def _ingest_one(run: Run, source: SourceConfig, role: str) -> Step:
    """Ingest a source. Another content of its file makes it anew; what lies in a folder is not looked at."""
    data = run.config.data
    settings = {
        "source": source.model_dump() | _content(source),
        "max_pixels": data.max_pixels,
        "max_quarantined": data.max_quarantined,
    }
    step = run.step("ingest", settings, [], version=2, label=f"ingest {role}")

    def work() -> dict[str, object]:
        with Bar(step.label, source.limit or 0, "images") as bar:
            result = ingest_source(
                source,
                step.path("images"),
                step.path("labeled.parquet"),
                data.max_pixels,
                data.max_quarantined,
                source.split or role,
                progress=bar.update,
                labels_matter=role != "unlabeled",
            )
        if role != "unlabeled":
            for line in result.labels.lines():
                say(escape(f"{step.label}: {line}"))
        if result.images == 0:
            msg = f"data.{role}: no readable image in {source.path or source.format!r}"
            raise DataError(msg)
        if role != "unlabeled" and result.rows == 0:
            msg = f"data.{role}: {source.path or source.format!r} has images but no questions; use a reader that gives them"
            raise DataError(msg)
        counts = {"images": result.images, "rows": result.rows, "quarantined": len(result.quarantined)}
        return counts | {"labels": result.labels.summary()}

    return run.execute(step, work)


def _content(source: SourceConfig) -> dict[str, str]:
    if source.path and files.exists(source.path) and files.is_file(source.path):
        return {"content": files.fingerprint(source.path)}
    return {}


def draw_labels(run: Run, sources: Sources, everything: bool = False) -> Labels:
    """The label budget's rows; with `everything` all labeled rows (the full_labels control)."""
    config = run.config.data.budget
    if everything:
        config = config.model_copy(update={"count": None, "fraction": None})
    key = hashlib.sha256(json.dumps([sources.labeled.hash, config.model_dump()], sort_keys=True).encode()).hexdigest()
    if run.dry and not run.done(sources.labeled):
        return Labels(tables.LABELED.empty_table(), tables.LABELED.empty_table(), key)
    rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED)
    drawn = budget.draw(rows, config)
    return Labels(drawn.train, drawn.validation, key)


def labels_key(labels: Labels) -> Step:
    """The drawn labels as an input of steps: only the hash matters."""
    return Step("labels", "labels", labels.key, "")


def training_images(sources: Sources) -> ImageIndex:
    """Every image that may be captioned, each id once."""
    parts: dict[str, ImageIndex] = {}
    for step in sources.training:
        folder = step.path("images")
        found = store.index(folder)
        for part in parts.values():
            found = found.without(part.ids)
        parts[folder] = found
    return ImageIndex.joined(parts[folder] for folder in sorted(parts))


def sample_refs(refs: ImageIndex, count: int | None, seed: int, always: frozenset[str] = frozenset()) -> ImageIndex:
    """At most `count` images, chosen by hash of seed and id, and those in `always`; in table order."""
    if count is None or len(refs) <= count:
        return refs
    hashed = ((hashlib.sha256(f"{seed}:{r.image_id}".encode()).digest(), place) for place, r in enumerate(refs))
    chosen = {place for _, place in heapq.nsmallest(count, hashed)}
    chosen |= {place for place, r in enumerate(refs) if r.image_id in always}
    return refs.take(sorted(chosen))
