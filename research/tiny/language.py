"""What the tiny models read and write: captions, questions, answers and made-up words for the procedural world."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from leaml.generation import prompts
from research.tiny.world import BASE, COLUMNS, ROWS, TEACHER, Scene, World, place

CAPTION_FORMS = (
    "a {size} {colour} {shape} at the {position}.",
    "a {colour} {shape} at the {position}.",
    "there is one {size} {colour} {shape}.",
    "one {colour} {shape}, {size}, placed {position}.",
)
"""How the base describes its own images."""

TEACHER_FORM = "a {size} {colour} {shape} at the {position} of a plain background."
"""The one form of the teacher's captions."""

# Questions of the base's own world, as (question, kind). None of them is a template of the demo's target.
OPEN_QUESTIONS = (
    ("which colour do you see?", "colour"),
    ("tell me the colour of this thing.", "colour"),
    ("the {shape} here has which colour?", "colour"),
    ("name the form.", "shape"),
    ("which form has this thing?", "shape"),
    ("the {colour} thing here is of which form?", "shape"),
    ("where is it?", "position"),
    ("how big is it?", "size"),
)
CHECKS = (
    ("do you see a {x}?", False),
    ("can a {x} be seen here?", False),
    ("is this picture showing a {x}?", False),
    ("did they draw a {x} here?", False),
    ("is it true that a {x} was not drawn?", True),
    ("do you see no {x} here?", True),
    ("is this picture free of a {x}?", True),
    ("can a {x} not be seen?", True),
)
"""Yes/no questions and whether they are negated; `{x}` is a shape, or a colour followed by 'thing'."""

_SEE = (
    "do you see {a}", "can you see {a}", "can you find {a}", "can one make out {a}", "could this be {a}", "is this {a}",
    "is it showing {a}", "is this picture showing {a}", "does this show {a}", "does the picture have {a}", "have we got {a}",
    "did they draw {a}", "did somebody paint {a}", "have they drawn {a}", "was {a} drawn", "can {a} be seen",
    "has {a} been drawn",
    "would you say it shows {a}", "is it true that we see {a}", "am i looking at {a}", "are we shown {a}", "do i see {a}",
)  # fmt: skip
_SEE_NOT = (
    "do you see no {x}", "can you see no {x}", "can you not find {a}", "is this not {a}", "is it not showing {a}",
    "is this picture not showing {a}", "does this show no {x}", "does this not show {a}", "does the picture not have {a}",
    "does the picture have no {x}", "did they not draw {a}", "did nobody paint {a}", "was no {x} drawn", "was {a} not drawn",
    "can no {x} be seen", "can {a} not be seen", "is it true that we see no {x}", "is this picture free of {a}",
    "is it free of {a}", "do we miss {a}", "does it lack {a}", "is it without {a}", "would you say it shows no {x}",
)  # fmt: skip
_WHERE = ("", " here", " in it", " anywhere", " in this picture", " on the page", " in the drawing", " at all", " or so")
_THINGS = ("thing", "object", "figure", "item", "form", "one", "piece")
_ASK_COLOUR = (
    "which colour do you see", "which colour has it", "tell me the colour", "name the colour of this {thing}", "its colour",
    "the {shape} here has which colour", "in which colour did they draw it", "which colour was used", "how is it coloured",
)  # fmt: skip
_ASK_SHAPE = (
    "name the form", "which form has this {thing}", "which form is it", "tell me the form", "which form did they draw",
    "the {colour} {thing} here is of which form", "what kind of {thing} did they draw", "what would you call this {thing}",
)  # fmt: skip
"""The pieces of `ask_varied`. None makes a question of the demo's target."""

COMMON_WORDS = (
    "the of and to in is it you that he was for on are with as his they be at one have this from or had by not but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will way about many "
    "then them would write like so these her long make thing see him two has look more day could go come did my no most who "
    "over know than call first people may down side been now find any new work part take get place made live where after "
    "back little only round man year came show every good me give our under name very through just form much great think "
    "say help low line before turn cause same mean differ move right boy old too does tell sentence set three want air well "
    "also play small end put home read hand port large spell add even land here must big high such follow act why ask men "
    "change went light kind off need house picture try us again animal point mother world near build self earth father "
    "present absent contain contains image images shape shapes color colour colors colours object objects location position "
    "yes none none. question answer caption describe square circle rectangle triangle star cross pentagon hexagon ring "
    "ellipse crescent heart diamond red green blue yellow orange purple pink cyan white teal gray black brown golden silver "
    "top bottom left right center middle upper lower medical polyp colon stomach tissue instrument ball player team game "
    "court field score number count many how zero one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9"
)
"""Vocabulary the tokenizer is trained on beside the two worlds, so that ordinary words stay single tokens."""


_TARGET = {*TEACHER.colours, *TEACHER.shapes} - {*BASE.colours, *BASE.shapes}
OWN_TEXTS = (
    *CAPTION_FORMS, TEACHER_FORM, *(q for q, _ in OPEN_QUESTIONS), *(q for q, _ in CHECKS), *_SEE, *_SEE_NOT, *_WHERE,
    *_THINGS, *_ASK_COLOUR, *_ASK_SHAPE, *BASE.colours, *BASE.shapes, *ROWS, *COLUMNS,
    *(place(r, c) for r in ROWS for c in COLUMNS),
    "small large yes no none caption question answer a ? . , :",
)  # fmt: skip
"""Everything the base says and reads about its own world."""

_USED = set(re.sub(r"\{\w+\}|[^a-z ]", " ", " ".join(OWN_TEXTS)).split())
_FRAME = {
    "color", "colors", "colours", "shape", "shapes", "image", "images", "objects", "present", "absent", "contain", "contains",
    "position", "location", "describe", "an", "and", "any",
}  # fmt: skip
"""Words that questions are put in, which a thing is not called."""
_STRANGE = sorted({w for w in COMMON_WORDS.split() if w.isalpha() and len(w) > 1} - _TARGET - _USED - _FRAME)
NAMES = tuple(w for i, w in enumerate(_STRANGE) if i % 6)
"""Ordinary words that stand in for colours and shapes in made-up descriptions; none is one of the target's."""

UNMET_NAMES = tuple(w for w in _STRANGE[::6] if w not in prompts.GENERATE)
"""Words of the same kind that no training example holds: they measure what the base can do with words it has never met."""


def describe(scene: Scene, form: str) -> str:
    """Caption of a scene in one of the caption forms."""
    return form.format(size=scene.size, colour=scene.colour, shape=scene.shape, position=scene.position)


def ask(rng: random.Random, scene: Scene, world: World) -> tuple[str, str]:
    """One question about a scene and its true answer; half are open, half are yes/no with balanced answers."""
    return ask_about(rng, scene.colour, scene.shape, scene.position, scene.size, world.colours, world.shapes)


def ask_about(
    rng: random.Random,
    colour: str,
    shape: str,
    position: str,
    size: str,
    colours: tuple[str, ...],
    shapes: tuple[str, ...],
    negations: bool = True,
    checks_only: bool = False,
) -> tuple[str, str]:
    """A question and answer about an object given by words (the words need not mean anything)."""
    if not checks_only and rng.random() < 0.4:
        template, kind = rng.choice(OPEN_QUESTIONS)
        answer = {"colour": colour, "shape": shape, "position": position, "size": size}[kind]
        return template.format(colour=colour, shape=shape), answer
    template, negated = rng.choice(CHECKS if negations else [c for c in CHECKS if not c[1]])
    true = rng.random() < 0.5
    if rng.random() < 0.5:
        x = (colour if true else rng.choice([c for c in colours if c != colour])) + " thing"
    else:
        x = shape if true else rng.choice([s for s in shapes if s != shape])
    return template.format(x=x), "yes" if true != negated else "no"


def ask_varied(
    rng: random.Random,
    colour: str,
    shape: str,
    colours: tuple[str, ...],
    shapes: tuple[str, ...],
    checks_only: bool = False,
) -> tuple[str, str]:
    """As `ask_about`, in thousands of wordings: a model that has read eight compares words in those eight only."""
    thing = rng.choice(_THINGS)
    kind = 1.0 if checks_only else rng.random()
    if kind < 0.3:
        form, answer = (rng.choice(_ASK_COLOUR), colour) if kind < 0.15 else (rng.choice(_ASK_SHAPE), shape)
        return f"{form.format(thing=thing, shape=shape, colour=colour)}{rng.choice(_WHERE)}?", answer
    negated, true = rng.random() < 0.5, rng.random() < 0.5
    if rng.random() < 0.5:
        x = f"{colour if true else rng.choice([c for c in colours if c != colour])} {thing}"
    else:
        x = shape if true else rng.choice([s for s in shapes if s != shape])
        x += f" {thing}" if rng.random() < 0.3 else ""
    form = rng.choice(_SEE_NOT if negated else _SEE)
    return f"{form.format(x=x, a=f'a {x}')}{rng.choice(_WHERE)}?", "yes" if true != negated else "no"


@dataclass(frozen=True)
class Described:
    """An object given by words alone; `colours` and `shapes` hold the true one first, then two others to ask about."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    row: str
    column: str
    size: str

    @property
    def position(self) -> str:
        return place(self.row, self.column)

    def caption(self, form: str) -> str:
        return form.format(size=self.size, colour=self.colours[0], shape=self.shapes[0], position=self.position)

    @property
    def known(self) -> bool:
        """Whether it is of the base's own world."""
        return self.colours[0] in BASE.colours

    def ask(self, rng: random.Random, negations: bool = True) -> tuple[str, str]:
        """A question about it and the answer; of an object in strange words only what is there and what is not is asked."""
        words = (self.position, self.size, self.colours, self.shapes)
        return ask_about(rng, self.colours[0], self.shapes[0], *words, negations, checks_only=not self.known)

    def ask_varied(self, rng: random.Random) -> tuple[str, str]:
        """As `ask`, about colour and shape, in thousands of wordings."""
        return ask_varied(rng, self.colours[0], self.shapes[0], self.colours, self.shapes, checks_only=not self.known)


def made_up_object(rng: random.Random, names: tuple[str, ...] = NAMES, own: float = 0.35) -> Described:
    """A share `own` in the base's own colours and shapes, else in other ordinary words."""
    words = rng.sample(BASE.colours, 3) + rng.sample(BASE.shapes, 3) if rng.random() < own else rng.sample(names, 6)
    return Described(tuple(words[:3]), tuple(words[3:]), rng.choice(ROWS), rng.choice(COLUMNS), rng.choice(("small", "large")))


def image_words(colour: str, shape: str, size: str, row: str, column: str, tokens: int) -> list[str]:
    """What an image says, word by word, in as many words as it has tokens: colour, shape, size, row, column, colour, ..."""
    words = (colour, shape, size, row, column)
    return [words[i % len(words)] for i in range(tokens)]


def made_up_example(rng: random.Random, negations: bool = True) -> tuple[str, str, str]:
    """`(caption, question, answer)` about an object that is not drawn: the answer can only come from the caption."""
    described = made_up_object(rng)
    caption = described.caption(rng.choice((*CAPTION_FORMS, TEACHER_FORM)))
    while True:
        question, answer = described.ask(rng, negations)
        if answer in ("yes", "no") or answer in caption:  # the caption form may leave out size or position
            return caption, question, answer
