"""Word checks: true, balanced, about words that tell images apart, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from leaml.checks import word_checks

COLOURS, SHAPES = ("red", "teal", "gray", "blue"), ("circle", "ring", "bar")
CAPTIONS = {f"i{n}": f"A {COLOURS[n % 4]} {SHAPES[n % 3]}, on a plain background." for n in range(240)}


def test_checks_are_true_and_balanced() -> None:
    checks = list(word_checks(CAPTIONS, seed=1))
    assert len(checks) == 2 * len(CAPTIONS)
    for check in checks:
        assert (check.word in CAPTIONS[check.image_id].lower().replace(",", " ").split()) == check.present, check
    assert Counter(c.present for c in checks) == {True: 240, False: 240}
    asked = Counter((c.word, c.present) for c in checks)
    assert {w for w, _ in asked} == {*COLOURS, *SHAPES}  # never "a", "on", "plain": all captions have them
    for word in COLOURS:
        assert asked[word, True] > 10
        assert asked[word, False] > 10


def test_the_seed_decides_not_the_order() -> None:
    first = list(word_checks(CAPTIONS, seed=1))
    assert first == list(word_checks(dict(reversed(CAPTIONS.items())), seed=1))
    assert first != list(word_checks(CAPTIONS, seed=2))


@pytest.mark.parametrize("captions", [{}, {"a": "a red ring"}, {"a": "a red ring", "b": "a red ring"}, {"a": "", "b": ""}])
def test_captions_that_do_not_differ_give_no_check(captions: dict[str, str]) -> None:
    assert list(word_checks(captions, seed=0)) == []
