"""Options that stand in the text of a question, on lettered lines or in one line: "Which? (A) red (B) blue".

Their letters mean what they mean in a list of options, so an answer is checked against them in the same way. What merely looks
so (the initials of names, panels of a figure without texts, numbered lists of things) is none.
"""

from __future__ import annotations

import functools
import itertools
import re
import string
from dataclasses import dataclass

from leaml.data.label_marks import GAP, Label, key_of, labels_inside, letter, mark
from leaml.text.scoring import normalise
from leaml.text.values import UnusableError, shorten

CONTRADICTION = "options that contradict those in the question"
"""Reason for which a row is refused."""

_FEWEST = 2
_REACH = 3
"""Letters behind the one that is due which show that it is missing; those further behind are initials."""
_BEFORE = re.compile(
    r"(?:[?:.!;,，。？：；\n—-]|\b(?:options?|choices?|answers?|from|among|between|of|either|it|is|are|or|und|oder))\s*$", re.I
)
_LETTER_A = re.compile(r"(?<![^\W_])[Aa]\s*[^\w\s]")
_ASKED = re.compile(r"[?？:：]\s*$")
_INITIAL = re.compile(r"(?:^|[\s(])[^\W\d_]\.\s*$")
_JOINED = re.compile(r"[\s,;]*(?:\b(?:and|or|und|oder|et|ou))?[\s,;]*$", re.I)
_INSTRUCTION = re.compile(
    r"(?<=[.?!;\s])\s*\(?\b(?:please|your answer|"
    r"answer|choose|select|reply|respond|pick|give|provide|return|output|write|state|only|just)\b.*$",
    re.I | re.S,
)
_REQUEST = re.compile(r"(?<=[\s。？！；，])\s*请.*$", re.S)
_ANSWER_IS = re.compile(r"\b(?:(?:your|the|correct)\s+)*answer(?:\s+is)?\s*[?？]", re.I)
"""An instruction, though a question mark stands behind it."""
_SENTENCE = re.compile(
    r"(?P<word>\w+)(?P<mark>[.!?。！？;；])\s+(?=[^\W\d_a-zà-ÿ(\[]|[(\[])|(?P<note>\s)(?=[(\[][^)\]]*[)\]][.\s]*$)"
)
"""The end of a sentence with another one behind it, or a note in brackets behind everything."""
_LEADS = re.compile(r"[:：]\s*$")
"""What announces a list: the question may then stand behind it."""


@dataclass(frozen=True)
class ShownOptions:
    """The options in a question.

    Attributes:
        texts: What they say, in the order of their letters.
        last: Whether nothing but an instruction stands behind them; where one is missing, whether they are listed all the same.
        lost: The letter that is missing among them, "" if none is; then `texts` ends before it.
    """

    texts: tuple[str, ...]
    last: bool
    lost: str = ""

    def says(self, options: tuple[str, ...]) -> bool:
        """Whether these are the same options in the same order; behind the last one the question may go on."""
        if len(options) != len(self.texts):
            return False
        pairs = list(zip(map(normalise, self.texts), map(normalise, options), strict=True))
        return all(a == b for a, b in pairs[:-1]) and re.match(rf"{re.escape(pairs[-1][1])}(?!\w)", pairs[-1][0]) is not None

    def contradicts(self, options: tuple[str, ...]) -> bool:
        """Whether these and `options` cannot both be those of the question: it may show other lettered things as well."""
        common = {normalise(text) for text in self.texts} & {normalise(text) for text in options}
        return not self.says(options) and (self.last or bool(common))


@functools.lru_cache(maxsize=1 << 14)  # a data set asks the same questions about many images
def options_in(question: str) -> ShownOptions | None:
    """The options that a question shows; None where it shows none."""
    if question.isascii() and not _LETTER_A.search(question):
        return None
    return _on_lines(question) or _in_line(question)


def known_options(question: str, options: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The options of a question without an answer: those given beside it, or those that it ends in.

    Raises:
        UnusableError: Both are given, and are not the same in the same order; or one is missing among those of the question.
    """
    shown = options_in(question)
    if shown is None:
        return options
    if shown.lost:
        if options is None and shown.last:
            raise gap(question, shown)
        return options
    if options is None:
        return shown.texts if shown.last else None
    if are_letters(options) and len(options) == len(shown.texts):
        return shown.texts
    if shown.contradicts(options):
        raise contradiction(question, options)
    return options


def contradiction(question: str, options: tuple[str, ...]) -> UnusableError:
    """The error for a question that shows other options than are given beside it."""
    fix = "write them once, in the question or in 'options'"
    detail = f"the question {shorten(question)} shows other options than {shorten(options)}; {fix}"
    return UnusableError(CONTRADICTION, detail)


def gap(question: str, shown: ShownOptions) -> UnusableError:
    """The error for a question that shows options without one in between."""
    detail = f"option {shown.lost} is missing in the question {shorten(question)}; write all from A on"
    return UnusableError(GAP, detail)


def are_letters(options: tuple[str, ...]) -> bool:
    """Whether options are letters and nothing else: A, B, C, whose texts stand elsewhere."""
    return [key_of(option) for option in options] == [letter(index) for index in range(len(options))]


def _on_lines(question: str) -> ShownOptions | None:
    lines = question.splitlines()
    marks = [mark(line) for line in lines]
    first = next((n for n, found in enumerate(marks) if found and found.key == "A" and found.text), None)
    if first is None:
        return None

    texts: list[str] = []
    end, lost = first, ""

    for n in range(first, len(lines)):
        found = marks[n]
        if found is None or not found.is_letter():
            continue
        if found.key == letter(len(texts)) and found.text:
            if texts:
                texts[-1] = " ".join([texts[-1], *map(str.strip, lines[end + 1 : n])]).strip()
            texts.append(found.text)
            end = n
        elif found.key in _beyond(len(texts)):
            lost = letter(len(texts))
            break

    if len(texts) < _FEWEST and not lost:
        return None
    if any(_continues(text, index) for index, text in enumerate(texts)):  # several options on a line
        return None

    behind = lines[first:] if lost else lines[end + 1 :]
    return ShownOptions(tuple(map(_trimmed, texts)), _is_instruction("\n".join(behind)), lost)


def _continues(text: str, index: int) -> bool:
    return any(label.key == letter(index + 1) for label in labels_inside(text))


def _in_line(question: str) -> ShownOptions | None:
    labels = labels_inside(question)
    for n, first in enumerate(labels):
        if first.key == "A" and _may_begin(question, first):
            run, lost = _run([label for label in labels[n:] if label.style == first.style])
            if len(run) >= _FEWEST or lost:
                texts, rest = _texts(question, run)
                if all(any(map(str.isalnum, text)) for text in texts):
                    last = _is_list(question, first) if lost else _ends(question[: first.start], rest)
                    return ShownOptions(texts, last, lost)
    return None


def _may_begin(question: str, label: Label) -> bool:
    before = question[: label.start]
    return not before.strip() or label.style[0] is not None or bool(_BEFORE.search(before) and not _INITIAL.search(before))


def _run(labels: list[Label]) -> tuple[list[Label], str]:
    """Labels A, B, C, ... among others, and the letter that is missing, "" if none is."""
    run: list[Label] = []
    for n, label in enumerate(labels):
        due = letter(len(run))
        if label.key == due:
            run.append(label)
        elif label.key in _beyond(len(run)) and all(later.key != due for later in labels[n:]):
            return run, due
    return run, ""


def _beyond(index: int) -> str:
    """Letters behind the one that is due at an index which only a longer list has."""
    return string.ascii_uppercase[index + 1 : index + 1 + _REACH]


def _texts(question: str, run: list[Label]) -> tuple[tuple[str, ...], str]:
    """The texts behind labels, and what stands behind the last one."""
    *_, last = run
    tail = question[last.end :]
    text, newline, rest = tail.partition("\n")
    rest = newline + rest
    if match := _INSTRUCTION.search(text) or _REQUEST.search(text):
        text, rest = text[: match.start()].rstrip(". "), match[0] + rest
    inner = [question[label.end : after.start] for label, after in itertools.pairwise(run)]
    end = _sentence_end(text)
    if end and not any(_sentence_end(part) for part in inner):
        text, rest = text[:end].rstrip(".;。； "), text[end:] + rest
    return tuple(_trimmed(" ".join(part.split())) for part in (*inner, text)), rest


def _sentence_end(text: str) -> int:
    """Where the first sentence of an option ends and something else begins; 0: nowhere. "Dr. Smith" has no such place."""
    for found in _SENTENCE.finditer(text):
        word = found["word"] or "note"
        if found["mark"] != "." or len(word) > 4 or (len(word) > 2 and not word[0].isupper()):
            return found.end()
    return 0


def _trimmed(text: str) -> str:
    """A text without what joins it to the next one, and without the mark that ends the question."""
    return _JOINED.sub("", text.strip()).rstrip("?？").rstrip()


def _is_list(question: str, first: Label) -> bool:
    """Whether what is lettered stands behind the question, and not within it as the parts of a figure do."""
    return _ASKED.search(question[: first.start]) is not None and _is_instruction(question[first.start :])


def _ends(before: str, rest: str) -> bool:
    """Whether options end a question, given what is before and behind them; they may be announced, and the question behind."""
    return ("?" not in before and _LEADS.search(before) is not None) or _is_instruction(rest)


def _is_instruction(rest: str) -> bool:
    return not re.search(r"[?？]", _ANSWER_IS.sub("", rest))
