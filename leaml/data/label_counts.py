"""What became of the label rows of a source: how many came in, are used, were refused and why, and what is odd about them."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from leaml.data.label_rows import TEXT_ONLY
from leaml.data.records import HIDDEN, NO_QUESTION, NOT_READ, Question, RefusedRow
from leaml.errors import DataError
from leaml.text.values import shorten

EXAMPLES = 5
"""Rows that are named of each reason."""

DUPLICATE, CONFLICT = "equal rows, kept once", "questions of one image with different answers"
NO_IMAGE = "its image cannot be used"
_NO_FAULT = {NO_IMAGE, TEXT_ONLY, NO_QUESTION, NOT_READ, HIDDEN}
"""Reasons that do not count against the labels: images have a limit of their own, and some rows are no labels."""


class LabelSummary(TypedDict):
    """`LabelCounts` as JSON holds it, in the summary of an ingest."""

    rows: int
    used: int
    refused: dict[str, int]
    warnings: dict[str, int]
    examples: dict[str, list[str]]


@dataclass
class LabelCounts:
    """Counts of the label rows of one source.

    Attributes:
        rows: Rows that came in.
        used: Rows that are labels now.
        refused: Reason to number of rows that are not used.
        warnings: What is odd about rows that are used, or that were equal to others, to number of rows.
        examples: Reason or warning to the first rows with it, as `file:line: detail`.
    """

    rows: int = 0
    used: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, row: RefusedRow) -> None:
        """Count a row that is not used."""
        self.rows += 1
        self.refused[row.reason] += 1
        self._note(row.reason, f"{row.where}: {row.detail}" if row.detail else row.where)

    def use(self, question: Question, where: str, new: bool, conflicting: bool) -> None:
        """Count a row that can be used.

        Args:
            question: What the row says.
            where: File and line of the row.
            new: Whether no row before it was equal.
            conflicting: Whether its question had another answer before; counts for a new row.
        """
        self.rows += 1
        if not new:
            self._warn(DUPLICATE, where)
            return
        self.used += 1
        detail = f"{where}: answer {shorten(question.answer)}"
        if conflicting:
            self._warn(CONFLICT, f"{detail} to {shorten(question.question)}")
        if question.options:
            detail += f", options {shorten(list(question.options))}"
        for doubt in question.doubts:
            self._warn(doubt, detail)

    def too_many(self, most: float) -> bool:
        """Whether more than the share `most` of the rows is refused for a fault of its own, or every row."""
        bad, total = self.faulty()
        return bad > 0 and (bad > most * total or bad == total)

    def faulty(self) -> tuple[int, int]:
        """Rows that are refused for a fault of their own, and rows of which that is a share."""
        return sum(self._faults().values()), self._total()

    def check(self, most: float, source: str) -> None:
        """Raise DataError if there are `too_many` refused rows."""
        if not self.too_many(most):
            return
        faults, (bad, total) = self._faults(), self.faulty()
        shown = "\n".join(f"  {n} {reason}: {self._shown(reason)}" for reason, n in sorted(faults.items(), key=lambda i: -i[1]))
        msg = (
            f"{bad} of {total} label rows of {source} cannot be used, over the limit of {most:.0%} (data.max_quarantined); "
            f"correct them or raise the limit, and the others are used:\n{shown}"
        )
        raise DataError(msg)

    def _faults(self) -> dict[str, int]:
        return {reason: n for reason, n in self.refused.items() if reason not in _NO_FAULT}

    def _total(self) -> int:
        return self.rows - sum(self.refused[reason] for reason in _NO_FAULT)

    def lines(self) -> list[str]:
        """The counts for the log: one line, and one for each reason and warning with the first rows."""
        if not self.rows:
            return []
        lost = sum(self.refused.values())
        equal = self.rows - self.used - lost
        found = [
            f"{self.rows:,} label rows, {self.used:,} used, {lost:,} refused"
            + (f", {equal:,} equal to others" if equal else "")
        ]
        for kind, counts in (("refused", self.refused), ("warning", self.warnings)):
            found += [f"{kind}: {n:,} {reason}: {self._shown(reason)}" for reason, n in counts.most_common()]
        return found

    def summary(self) -> LabelSummary:
        """The counts as JSON holds them."""
        return {
            "rows": self.rows,
            "used": self.used,
            "refused": dict(self.refused.most_common()),
            "warnings": dict(self.warnings.most_common()),
            "examples": self.examples,
        }

    @classmethod
    def of(cls, summary: LabelSummary) -> LabelCounts:
        """The counts that `summary` holds."""
        refused, warnings = Counter(summary["refused"]), Counter(summary["warnings"])
        return cls(summary["rows"], summary["used"], refused, warnings, dict(summary["examples"]))

    def _warn(self, warning: str, example: str) -> None:
        self.warnings[warning] += 1
        self._note(warning, example)

    def _note(self, key: str, example: str) -> None:
        noted = self.examples.setdefault(key, [])
        if len(noted) < EXAMPLES:
            noted.append(example)

    def _shown(self, key: str) -> str:
        noted = self.examples[key]
        more = (self.refused[key] or self.warnings[key]) - len(noted)
        return "; ".join(noted) + (f"; and {more:,} more" if more > 0 else "")


class RefusedFile:
    """All refused rows as a CSV file that people can read, written while the source is read."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = str(path), 0
        self._stream = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(("where", "reason", "detail"))

    def add(self, row: RefusedRow) -> None:
        """Write one row."""
        self._writer.writerow((row.where, row.reason, row.detail))
        self.rows += 1

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()
