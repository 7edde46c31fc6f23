"""What the report page shows, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from leaml.data.tables import PairRow
from leaml.evaluation.metrics import Calibration, Metrics
from leaml.run.records import StepRecord


@dataclass
class Sample:
    """One unlabeled image with what was made of it.

    Attributes:
        image: Encoded bytes.
        teacher_caption: The teacher's caption, if it was captioned.
        generator_caption: The caption the generator wrote before its pairs, if any.
        pairs: Rows of `leaml.data.tables.PAIR`.
    """

    image: bytes
    teacher_caption: str | None = None
    generator_caption: str | None = None
    pairs: list[PairRow] = field(default_factory=list)


@dataclass(frozen=True)
class WrongAnswer:
    """An evaluation question that the adapted model answered wrongly.

    Attributes:
        image: Encoded bytes.
        question: As it was asked, with its options.
        answer: The right answer.
        prediction: What the adapted model said.
        kind: Question type; empty without one.
        baseline: What the best baseline said, and whether that is right; None where it was not asked.
    """

    image: bytes
    question: str
    answer: str
    prediction: str
    kind: str = ""
    baseline: tuple[str, bool] | None = None


@dataclass
class ReportData:
    """Everything the page shows, as plain Python data; a part that is empty is said to be missing.

    Attributes:
        run: Name of the run.
        dataset: Name of the evaluation data.
        labels: Size of the label budget, as `labels` in `metrics.json`.
        metrics: Content of `metrics.json`; empty before evaluation.
        samples: Images to show.
        wrong: Wrong answers to show.
        sources: Per source (and for the labels used) what its ingest counted: numbers by name, counts of reasons nested.
        selection: Per Linear: `module`, `layer`, `name`, `rows` (neurons) and `selected`.
        losses: `(step, loss)` points per training run, by its name.
        steps: Of the run.
        filters: Generated pairs per reason, `accepted` included.
        quarantine: Images set aside per reason.
        facts: Versions, models, settings.
        calibration: Content of `calibration.json`; empty without log-probabilities.
    """

    run: str
    dataset: str
    labels: int
    metrics: Metrics = field(default_factory=Metrics)
    samples: list[Sample] = field(default_factory=list)
    wrong: list[WrongAnswer] = field(default_factory=list)
    sources: dict[str, dict[str, object]] = field(default_factory=dict)
    selection: list[dict[str, str | int]] = field(default_factory=list)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    steps: Sequence[StepRecord] = ()
    filters: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
