"""Word checks: true, balanced, about words that tell images apart, the same for the same seed."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

import pytest

from leaml.generation.caption_tasks import BLANK, PER_CAPTION, clozes, word_checks

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


def test_the_draw_of_a_seed_stays_what_it_is() -> None:
    captions = {"b": "A red ball left of a dog.", "a": "A blue cube. It is big.", "c": "A red cone and a cat."}
    asked = [("a", "big", True), ("a", "ball", False), ("b", "ball", True), ("b", "is", False), ("c", "and", True)]
    assert list(word_checks(captions, seed=7)) == [*asked, ("c", "big", False)]
    blanks = [("It ___ big.", "is"), ("A ___.", "blue cube"), ("___ is big.", "It"), ("A ___ cube.", "blue")]
    assert [cloze[1:] for cloze in clozes(captions, seed=7)][:4] == blanks


def test_checks_of_many_captions_take_little_memory() -> None:
    draw = random.Random(0)
    captions = {f"{n:032x}": " ".join(f"word{draw.randrange(300)}" for _ in range(40)) for n in range(600)}
    tracemalloc.start()
    made = sum(1 for _ in word_checks(captions, seed=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (made, peak < 600 * len(captions)) == (1200, True)


def test_clozes_leave_out_what_the_caption_says_there() -> None:
    sports, sides = ("golf", "polo", "judo"), ("left", "right")
    captions = {
        f"i{n}": f"A picture of {sports[n % 3]}. A {COLOURS[n % 4]} {SHAPES[n % 3]} is at the {sides[n % 2]}."
        for n in range(240)
    }
    found = list(clozes(captions, seed=1))
    for cloze in found:
        assert cloze.sentence.count(BLANK) == 1
        sentence = cloze.sentence.replace(BLANK, cloze.words)
        assert sentence in captions[cloze.image_id].replace(". ", ".\n").split("\n")
        assert len(cloze.words.split()) <= 2
    assert max(Counter(cloze.image_id for cloze in found).values()) == PER_CAPTION
    asked = Counter(cloze.words for cloze in found)
    telling = {*COLOURS, *SHAPES, *sports, *sides}
    assert {word for words in asked for word in words.split()} == telling  # never "picture" or "is": all captions have them
    assert {words for words in asked if " " in words} == {f"{COLOURS[n % 4]} {SHAPES[n % 3]}" for n in range(12)}
    assert found == list(clozes(dict(reversed(captions.items())), seed=1)) != list(clozes(captions, seed=2))


def test_a_sentence_of_one_word_has_no_cloze() -> None:
    assert list(clozes({"a": "Golf.", "b": "Judo!", "c": "Polo"}, seed=0)) == []


@pytest.mark.parametrize("captions", [{}, {"a": "a red ring"}, {"a": "a red ring", "b": "a red ring"}, {"a": "", "b": ""}])
def test_captions_that_do_not_differ_give_no_check(captions: dict[str, str]) -> None:
    assert list(word_checks(captions, seed=0)) == []
