"""What becomes of one label row."""

from __future__ import annotations

from typing import Any

from leaml.data.label_rows import check, parse
from leaml.data.records import Question, RefusedRow
from leaml.text.scoring import answer_text


def made(**row: Any) -> Question | RefusedRow | None:
    """A row as the registry gives it."""
    return check(parse({"question": "which?", "answer": "A"} | row, "labels.jsonl:7"))


def words(**row: Any) -> str | None:
    """The right answer in words; None where the row is refused."""
    found = made(**row)
    if not isinstance(found, Question):
        assert isinstance(found, RefusedRow) and found.where == "labels.jsonl:7" and found.reason
        return None
    return answer_text({"question": found.question, "answer": found.answer, "options": list(found.options or ())})
