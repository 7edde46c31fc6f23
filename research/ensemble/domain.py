"""One configuration's data as arrays: what experiments on ensembles read, made by the pipeline's own ingest and draws."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from leaml import config
from leaml.config import Config
from leaml.data import tables
from leaml.data.tables import LabeledRow
from leaml.errors import InputError
from pipelines.sources import Labels


@dataclass(frozen=True)
class Case:
    """One draw of the labels: places in `Domain.labeled`, and what the priors that look at no image answer right."""

    name: str
    budget: float
    draw: int
    train: list[int]
    validation: list[int]
    priors: dict[str, list[bool]]


@dataclass(frozen=True)
class Domain:
    """Images are named by their place in `pixels`, as text, in every row and list here.

    Attributes:
        config: The configuration, resolved.
        names: The ids of the images, which decide draws.
        pixels: uint8 (images, 3, height, width).
        labeled: Rows of the labeled source; what a case does not list is known to the judge alone.
        asked: The evaluation questions.
        training: Images that may be captioned and asked about.
        cases: Draws of the labels by name; "full" has all of them.
    """

    config: Config
    names: list[str]
    pixels: np.ndarray
    labeled: list[LabeledRow]
    asked: list[LabeledRow]
    training: list[str]
    cases: dict[str, Case]

    def labels(self, case: Case) -> Labels:
        """The labels of a case, as a run draws them."""
        train, validation = ([self.labeled[p] for p in places] for places in (case.train, case.validation))
        return Labels(tables.table(train, tables.LABELED), tables.table(validation, tables.LABELED), case.name)

    def save(self, file: Path) -> None:
        facts = {
            "config": self.config.model_dump(),
            "names": self.names,
            "labeled": self.labeled,
            "asked": self.asked,
            "training": self.training,
            "cases": [vars(c) for c in self.cases.values()],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, pixels=self.pixels, facts=np.array(json.dumps(facts)))

    @classmethod
    def read(cls, file: Path) -> Domain:
        with np.load(file) as found:
            pixels, facts = found["pixels"], json.loads(str(found["facts"]))
        cases = {c["name"]: Case(**c) for c in facts["cases"]}
        parsed = Config.model_validate(facts["config"])
        return cls(parsed, facts["names"], pixels, facts["labeled"], facts["asked"], facts["training"], cases)


def make(file: Path, overrides: list[str], budgets: dict[float, int], size: int = 64) -> Domain:
    """The data of a configuration with `budgets` (share of the labeled images -> number of draws), and all labels as "full".

    Raises InputError for images of another size than the model's: here nothing is resized.
    """
    from leaml.data.store import ImageStore
    from pipelines.evaluate import evaluation_rows
    from pipelines.ingest import draw_labels, ingest, training_images
    from pipelines.rows import predict_without_model
    from pipelines.run import Run

    loaded = config.load(file, ["name=ensemble", *overrides])
    run = Run(loaded)
    sources = ingest(run)
    labeled = draw_labels(run, sources, everything=True)
    asked = evaluation_rows(run, sources)
    training = training_images(sources).ids.to_pylist()
    ids = [*training, *sorted({row["image_id"] for row in asked})]
    store = ImageStore([*sources.image_folders, sources.evaluation.path("images")], loaded.data.max_pixels)
    pictures = [np.asarray(store.get(i).convert("RGB")) for i in ids]
    if wrong := {p.shape for p in pictures} - {(size, size, 3)}:
        msg = f"{file} has images of {sorted(wrong)}; ensembles take {size} x {size} alone"
        raise InputError(msg)
    place = {image: str(n) for n, image in enumerate(ids)}
    known = {json.dumps(row, sort_keys=True): n for n, (row, _) in enumerate(labeled.rows())}

    def places(rows: pa.Table) -> list[int]:
        return [known[json.dumps(row, sort_keys=True)] for row in rows.to_pylist()]

    def case(name: str, budget: float, draw: int, fraction: float | None = None) -> Case:
        update = {"count": None, "fraction": fraction, "seed": draw}
        data = loaded.data.model_copy(update={"budget": loaded.data.budget.model_copy(update=update)})
        drawn = run.variant(loaded.model_copy(update={"data": data}))
        labels = draw_labels(drawn, sources)
        priors = {n: t["correct"].to_pylist() for n, t in predict_without_model(drawn, sources, labels).items()}
        return Case(name, budget, draw, places(labels.train), places(labels.validation), priors)

    cases = [case("full", 1.0, 0)]
    cases += [case(f"{100 * b:g} % {d}", b, d, b) for b, count in budgets.items() for d in range(count)]
    named = [row | {"image_id": place[row["image_id"]]} for row, _ in labeled.rows()]
    questions = [row | {"image_id": place[row["image_id"]]} for row in asked]
    pixels = np.stack(pictures).transpose(0, 3, 1, 2)
    images, by_name = [place[i] for i in training], {c.name: c for c in cases}
    return Domain(loaded, ids, np.ascontiguousarray(pixels), named, questions, images, by_name)
