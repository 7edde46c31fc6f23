"""Templates of questions: variable parts are masked, what is asked about stays, and there are never too many."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from leaml.evaluation.templates import LIMIT, MASK, OTHER, templates

COLOURS = ["red", "green", "blue", "teal", "black", "grey", "brown", "yellow", "white", "pink", "cyan", "gold", "violet"]
SHAPES = ["circle", "square", "triangle"]
FINDINGS = ["polyp", "lesion", "ulcer", "mass", "cyst", "vessel", "stone", "node", "wall", "fold", "vein", "duct", "scar"]


def kinds(questions: list[str]) -> Counter[str]:
    return Counter(templates(questions).values())


def test_few_questions_are_their_own_templates() -> None:
    assert templates(["Is there a polyp?", "is there  a polyp", "How many?"]) == {
        "Is there a polyp?": "is there polyp",
        "is there  a polyp": "is there polyp",
        "How many?": "how many",
    }


def test_the_parts_that_vary_most_are_masked_and_what_is_asked_stays_apart() -> None:
    questions = [f"What is the {a} of the {f}?" for a in ("colour", "size", "shape") for f in FINDINGS]
    questions += [f"Is there a {f} in the image?" for f in FINDINGS]
    assert kinds(questions) == {
        **{f"what is {a} of …": 13 for a in ("colour", "size", "shape")},
        "is there … in image": 13,
    }


def test_two_parts_that_vary_beside_each_other_are_one() -> None:
    questions = [f"Is there a {c} {s} in the picture?" for c in COLOURS for s in FINDINGS]
    questions += [f"Is there a {s} in the picture?" for s in FINDINGS] + ["How many shapes are there?"]
    assert kinds(questions) == {"is there … in picture": 14 * 13, "how many shapes are there": 1}


def test_numbers_and_quotes_are_masked() -> None:
    questions = [f"How many frames after {n}:0{n % 7} show “player {n}”?" for n in range(40)]
    assert kinds(questions) == {"how many frames after … show …": 40}


def test_free_questions_go_by_their_first_words() -> None:
    draw = random.Random(0)
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(300)]
    questions = [f"{draw.choice(('what', 'why'))} {' '.join(draw.choices(words, k=draw.randint(4, 12)))}" for _ in range(500)]
    assert set(kinds(questions)) == {f"what {MASK}", f"why {MASK}"}
    many = [f"{word} {' '.join(draw.choices(words, k=9))}" for word in words[:40] for _ in range(3)]
    found = kinds([*many, *(f"word {' '.join(draw.choices(words, k=9))}" for _ in range(9))])
    assert len(found) == LIMIT
    assert (found[f"word {MASK}"], found[OTHER]) == (9, 129 - 9 - 3 * (LIMIT - 2))


@pytest.mark.parametrize("seed", range(4))
def test_every_question_has_one_of_a_few_templates_in_any_order(seed: int) -> None:
    draw = random.Random(seed)
    questions = [" ".join(draw.choices([*COLOURS, *SHAPES, "", "7", "?", "…"], k=draw.randint(0, 6))) for _ in range(200)]
    found = templates(questions)
    assert set(found) == set(questions)
    assert len(set(found.values())) <= LIMIT
    assert templates(draw.sample(questions, len(questions))) == found
