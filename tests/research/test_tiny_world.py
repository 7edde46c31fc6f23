"""The procedural world: nothing of the target in the base's world, answers true, rendering right."""

from __future__ import annotations

import random

import numpy as np
import pytest
from easy_vqa import get_train_questions

from leaml.generation import prompts
from research.tiny import language, train, world

TARGET_COLOURS = {"teal", "gray", "black", "brown"}
TARGET_SHAPES = {"rectangle", "triangle"}


def base_texts(count: int) -> list[str]:
    rng = random.Random(5)
    texts = []
    for _ in range(count):
        scene = world.sample_scene(rng, world.BASE)
        texts += [*language.ask(rng, scene, world.BASE), language.describe(scene, rng.choice(language.CAPTION_FORMS))]
        texts += language.ask_varied(rng, scene.colour, scene.shape, world.BASE.colours, world.BASE.shapes)
    return texts


def template(question: str) -> str:
    """The question with every colour and shape replaced by X."""
    names = {*world.BASE.colours, *world.BASE.shapes, *TARGET_COLOURS, *TARGET_SHAPES}
    return " ".join("X" if w in names else w for w in question.rstrip("?").split())


def test_the_base_never_reads_a_word_or_question_of_the_target() -> None:
    words = {w.strip(".,?") for text in base_texts(3000) for w in text.split()}
    assert not words & (TARGET_COLOURS | TARGET_SHAPES | {"square"})
    assert "circle" in words
    target = {template(q) for q in get_train_questions()[0]}
    assert "is there a X shape" in target
    assert not target & {template(t) for t in base_texts(20_000)}


def test_varied_questions_are_answered_truly_in_many_wordings() -> None:
    rng = random.Random(2)
    wordings, answers = set(), []
    for _ in range(4000):
        scene = world.sample_scene(rng, world.BASE)
        question, answer = language.ask_varied(rng, scene.colour, scene.shape, world.BASE.colours, world.BASE.shapes)
        words = question.rstrip("?").split()
        wordings.add(template(question))
        if answer not in ("yes", "no"):
            assert answer in (scene.colour, scene.shape)
            continue
        answers.append(answer)
        negated = any(w in words for w in ("no", "not", "nobody", "free", "miss", "lack", "without"))
        named = scene.colour in words or scene.shape in words
        assert (answer == "yes") == (named != negated), (scene, question, answer)
    assert len(wordings) > 1500
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_made_up_examples_hold_no_target_word() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        caption, question, answer = language.made_up_example(rng)
        assert not set(f"{caption} {question} {answer}".replace(".", " ").split()) & (TARGET_COLOURS | TARGET_SHAPES)


def test_words_that_measure_strangeness_are_in_no_example() -> None:
    rng = random.Random(4)
    pool = train.render_pool(rng, world.BASE, 20)
    examples = [train.text_example(rng, negations=True) for _ in range(3000)]
    examples += [train.base_example(rng, i % 20, pool.scenes[i % 20]) for i in range(3000)]
    words = {w.strip(".,?") for e in examples for w in f"{e.request} {e.prefix} {e.reply}".split()}
    assert set(language.NAMES[:40]) & words
    assert len(language.UNMET_NAMES) > 20
    assert not words & {*language.UNMET_NAMES, *TARGET_COLOURS, *TARGET_SHAPES}


@pytest.mark.parametrize("w", [world.BASE, world.TEACHER])
def test_rendered_object_has_its_colour_and_place(w: world.World) -> None:
    rng = random.Random(3)
    for _ in range(200):
        scene = world.sample_scene(rng, w)
        pixels = np.asarray(world.render(scene)).astype(int)
        assert pixels.shape == (world.SIZE, world.SIZE, 3)
        mask = np.abs(pixels - np.array(scene.rgb)).sum(-1) < 12
        assert mask.sum() >= 6, scene
        ys, xs = np.nonzero(mask)
        assert abs(xs.mean() - scene.x) < scene.radius + 2
        assert abs(ys.mean() - scene.y) < scene.radius + 2


def test_answers_are_true_and_balanced() -> None:
    rng = random.Random(0)
    answers = []
    for _ in range(2000):
        scene = world.sample_scene(rng, world.BASE)
        question, answer = language.ask(rng, scene, world.BASE)
        answers.append(answer)
        if answer in ("yes", "no"):
            negated = any(question == t.format(x=x) for t, n in language.CHECKS if n for x in _things())
            named = scene.shape in question.split() or f"a {scene.colour} thing" in question or f"no {scene.colour}" in question
            named = named or f"{scene.shape}?" in question or f"{scene.shape} " in question
            assert (answer == "yes") == (named != negated), (scene, question, answer)
        else:
            assert answer in (scene.colour, scene.shape, scene.position, scene.size)
    assert 0.8 < answers.count("yes") / answers.count("no") < 1.25


def _things() -> list[str]:
    return [*world.BASE.shapes, *(f"{c} thing" for c in world.BASE.colours)]


def test_made_up_answers_follow_from_the_caption() -> None:
    rng = random.Random(2)
    for _ in range(500):
        caption, question, answer = language.made_up_example(rng)
        assert answer in ("yes", "no") or answer in caption
        reply = prompts.qa_reply(question, answer, caption)
        assert prompts.parse_qa(reply) == (question, answer)
