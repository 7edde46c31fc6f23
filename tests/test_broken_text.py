"""Damaged texts are told from rare ones."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaml.broken_text import is_broken
from leaml.config import FilterConfig
from leaml.filters import Candidate, apply


@pytest.mark.parametrize(
    "text",
    [
        "is there not a??eo a red shape",
        "caf?s",
        "a \ufffd shape",
        "re\x00d",
        "red\x1b[0m",
        "\ue000",
        "blue\udc80",
        "caf\u00c3\u00a9",
        "it\u00e2\u20ac\u2122s",
        "po##lyp",
    ],
)
def test_damaged_texts(text: str) -> None:
    assert is_broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "is there a red shape?",
        "What is this? And that?",
        "HER2-positive, T2-weighted, C5-C6",
        "C++ or C#?",
        "e.g. 3/4, 10:30, 2:1, 5%, 37.5 °C, µm, 10⁻³",
        "N,N-dimethyltryptamine; (2R,3S)-3-hydroxy",
        "l'hémorragie, Müller, naïve",
        "是否有息肉？",
        "有息肉吗?没有",
        "هل يوجد ورم؟",
        "क्या लाल है?",
        "see https://example.org/?q=polyp??x or www.example.org/a?b=c",
        "yes/no",
        "well... maybe",
        "🙂 a face",
        "line one\n\tline two",
        "ooo",
    ],
)
def test_rare_texts_are_not_damaged(text: str) -> None:
    assert not is_broken(text)


@given(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=40).filter(lambda t: len(set(t)) == len(t)))
def test_letters_and_numbers_of_every_script_are_text(text: str) -> None:
    assert not is_broken("".join(c for c in text if c not in "\u00c2\u00c3\u00e2\u00ef"))


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=20), st.sampled_from("\ufffd\x00\x07\ue123"))
def test_one_character_that_is_no_text_is_enough(text: str, bad: str) -> None:
    assert is_broken(text + bad)


def test_pairs_with_broken_text_are_rejected_by_default_and_taken_where_the_filter_is_off() -> None:
    pairs = [Candidate("is there not a??eo a red shape", "yes", -0.1), Candidate("is there a red shape?", "y\ufffds", -0.1)]
    assert [d["reason"] for d in apply(pairs, FilterConfig())] == ["broken text"] * 2
    assert all(d["accepted"] for d in apply(pairs, FilterConfig(broken_text=False)))


def test_no_text_of_real_data_is_damaged(shared_folder: Path) -> None:
    with (shared_folder / "data" / "kvasir_vqa_rows.csv").open(encoding="utf-8") as file:
        texts = {value for row in csv.reader(file) for value in row}
    assert len(texts) > 100
    assert [text for text in texts if is_broken(text)] == []
