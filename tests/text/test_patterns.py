"""Phrases in one regular expression: what is looked for once in place of many times is found all the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leaml.text.patterns import any_of, either
from leaml.text.refusals import _ENGLISH, REFUSAL
from leaml.text.refusals_by_language import NOT_AVAILABLE, OTHER_LANGUAGES

REPLIES = [line for file in sorted(Path(__file__).parent.glob("replies/*.txt")) for line in file.read_text().split("\n")]


@pytest.mark.parametrize(
    ("alternatives", "pattern"),
    [
        ([r"\bno\b", r"\byes|\bmaybe"], r"\b(?:no\b|yes|maybe)"),
        ([r"^[^\w\n]*a|b", r"\b(?:c|d)"], r"^[^\w\n]*(?:a)|\b(?:(?:c|d))|(?:b)"),
        ([either(r"\ba", either(r"\bb|c", r"[|(]d"))], r"\b(?:a|b)|(?:c|[|(]d)"),
        ([r"(?:a)(?:b|c)", r"(?:a)|(?:b)", r"\(|x\)"], r"(?:(?:a)(?:b|c)|a|b|\(|x\))"),
    ],
)
def test_what_phrases_begin_with_stands_before_them_once(alternatives: list[str], pattern: str) -> None:
    assert any_of(alternatives) == pattern


def test_refusals_are_those_of_their_phrases_one_by_one() -> None:
    assert len(REPLIES) > 1000
    plain = re.compile("|".join((*_ENGLISH, *OTHER_LANGUAGES, *NOT_AVAILABLE)), re.I | re.M)
    found = [bool(plain.search(reply)) for reply in REPLIES]
    assert found == [bool(REFUSAL.search(reply)) for reply in REPLIES]
    assert 200 < sum(found) < len(REPLIES) - 200
