"""The report of a run: one HTML page that needs nothing else, for people who were not there.

The page loads nothing from outside (its content security policy forbids it) and holds no script. Every value from the run is
escaped. Equal data give an equal page, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from leaml.evaluation.comparisons import SIGNIFICANT
from leaml.report import sections
from leaml.report.content import ReportData
from leaml.report.formats import FILTERS
from leaml.report.verdict import judge


@dataclass(frozen=True)
class ReportSection:
    """A section of the page.

    Attributes:
        name: Of its template, `templates/<name>.html`; the page's links point at it.
        heading: Above it and in the links.
        content: What the template is given as `content`, of the report's data.
    """

    name: str
    heading: str
    content: Callable[[ReportData], object]


SECTIONS = (
    ReportSection("accuracy", "Accuracy", sections.accuracy),
    ReportSection("wrong", "Wrong answers", sections.wrong_answers),
    ReportSection("confidence", "Confidence", sections.confidence),
    ReportSection("data", "Data", sections.sources),
    ReportSection("samples", "Samples", sections.samples),
    ReportSection("filters", "Pseudo pairs", sections.filters),
    ReportSection("neurons", "Selected neurons", sections.neurons),
    ReportSection("training", "Training", sections.training),
    ReportSection("steps", "Steps", sections.steps),
    ReportSection("quarantine", "Quarantine", sections.quarantine),
    ReportSection("facts", "Facts", sections.facts),
)
"""In the page's order. To add one: a function in sections.py, a template of its name, a line here."""

_ENVIRONMENT = Environment(
    loader=PackageLoader("leaml.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(FILTERS)
_ENVIRONMENT.tests["finite"] = math.isfinite
_ENVIRONMENT.globals["SIGNIFICANT"] = SIGNIFICANT


def write_report(data: ReportData) -> str:
    """The page as text; write it as UTF-8 to `report/index.html`."""
    contents = [(section, section.content(data)) for section in SECTIONS]
    return _ENVIRONMENT.get_template("report.html").render(
        report=data, verdict=judge(data.metrics), warnings=data.metrics.get("warnings") or [], sections=contents
    )
