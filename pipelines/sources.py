"""The data of a run, as steps are given it: its ingested sources, and the labels that may be used."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from leaml.data import tables
from leaml.data.tables import LabeledRow
from pipelines.run import Step


@dataclass(frozen=True)
class Sources:
    """The ingested sources of a run."""

    labeled: Step
    unlabeled: Step | None
    evaluation: Step
    excluded: frozenset[str] = frozenset()
    """Ids of labeled and unlabeled images that are not used."""
    known: bool = True
    """Whether the images can be looked at; False where the steps are only planned."""

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

    @classmethod
    def none(cls, key: str = "") -> Labels:
        """No rows, where they are not known yet."""
        return cls(tables.LABELED.empty_table(), tables.LABELED.empty_table(), key)

    @property
    def image_ids(self) -> frozenset[str]:
        return frozenset(self.train["image_id"].to_pylist()) | frozenset(self.validation["image_id"].to_pylist())

    @property
    def images(self) -> int:
        return len(self.image_ids)

    def rows(self) -> list[tuple[LabeledRow, bool]]:
        """Every row with whether it is held out."""
        return [(r, False) for r in self.train.to_pylist()] + [(r, True) for r in self.validation.to_pylist()]
