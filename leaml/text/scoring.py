"""Whether a predicted answer is right: normalised exact match, order-insensitive for lists, by letter for options.

The rules follow the VQA evaluation (articles, number words, punctuation) with the deviations named at `normalise`. Half of
Kvasir-VQA's list answers differ only in their order ("pink; red" and "red; pink"), hence the comparison as sets.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaml.errors import DataError
from leaml.text.boxes import final_answer
from leaml.text.spelling import one_spelling

SET_TYPES = frozenset({"multiple_choice", "color", "colour", "location"})
"""Question types whose answers are lists, also when separated by commas."""

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split(" "))}
_LEAD = re.compile(
    r"^\s*(?:(?:so|therefore|both|only)[\s,]+)?(?:(?:the\s+|my\s+)?(?:final\s+|correct\s+|right\s+)?"
    r"(?:answers?|options?|choices?|letters?)\s*(?:(?:is|are)\b|[:=])?\s*[:=]?\s*(?:both\s+|only\s+)?)*"
    r"(?:I(?:['’]d|\s+would)?\s+(?:choose|pick|select|say|think|believe)(?:\s+that)?(?:\s+(?:it|the\s+answer)(?:['’]s|\s+is))?"
    r"(?:\s+(?:option|choice|answer|letter))?\s+)?(?:it(?:['’]s|\s+is)\s+)?"
    r"(?:(?:所以|因此|故|正确|最终|我|应该|的)*(?:本题|本題)?(?:答案|选项|選項|选择|回答|应选|應選|选|選|答え|答)\s*(?:应该|應該|应|應)?[是为為选]?\s*[:=]?\s*)*"
    r"(?:(?:정답|답)\s*[은는이가]?\s*[:=]?\s*|(?:正解|正答|解答|答え)\s*は\s*[:=]?\s*)?"
    r"(?:(?:(?:die|la|a|el|il)\s+)?(?:(?:richtige|korrekte|bonne)\s+)?(?:antwort|réponse|respuesta|resposta|risposta|ответ"
    r"|antwoord|svar|cevap|odpowiedź|đáp\s+án)"
    r"(?:\s+(?:correcte|correcta|correta|corretta))?\s*(?:[:=]|\b(?:ist|est|es|é|è)\b)\s*[:=]?\s*)?",
    re.I,
)
_TAIL = re.compile(
    r"\s*(?:\b(?:is|are)\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answers?|options?|choices?))?|\b(?:only|both)"
    r"|(?:选项|项)?(?:都)?是?(?:正确|对)的?|选项|项|입니다|이다|이에요|예요|です|である)"
    r"\s*[.!]*\s*$",
    re.I,
)
_MARKDOWN = re.compile(r"^\s*#+\s+|[*_]{2}")
_ALONE = re.compile(r"[(\[]?[A-Za-z][)\].:]*")
"""A letter on a line of its own, with the reason for it on the next ones."""
_AROUND = " \t\n.,;:!?()[]{}'\"*_`~$\\【】「」『』《》〈〉〔〕"
"""What may stand around a letter; not "#", "-" and "+", which belong to C#, A- and A+."""
_LETTER_WITH_TEXT = re.compile(r"^[(\[*]*([A-Za-z])(?:\**[)\].:][*)\].:]*|\s+-(?=\s))(?:\s+|(?=[^\x00-\x7f]))(\S.*)$", re.S)
_LETTER_AT_TEXT = re.compile(r"^[(\[*]*([A-Za-z])[)\].:]+(\S.*)$", re.S)
"""As "B.blue", which only counts where the text is that of the option: "a.m." is none."""
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_BETWEEN = re.compile(r"[;,&\n]|(?<=\w)\s*\+\s*(?=\w)|\b(?:and|und|et)\b|和|与|與|及|跟|와|과|と|\)\s*\(")
"""What stands between options that are all meant; "B/C" is one of the two, and names neither."""
_ATTACHED = frozenset("-#*'\"")
"""Marks that belong to the word or number they end: A-, HER2-, C#, A*, 5', 5"."""
_SIGNS = frozenset("+-/±")
_PRIMED = 2
"""Letters of the longest name that a prime can stand behind (f', AB'): behind a word it is a quote that was left over."""
_WIDE = str.maketrans("；，、،؛", ";,,,;")
_PLAIN = str.maketrans("、。｡—–‐‑−", ",..-----")
_LIST = re.compile(r"(?<!\d),|,(?!\d{3}(?!\d))")
"""A comma that does not group the digits of a number."""


@functools.lru_cache(maxsize=1 << 16)  # a data set has many more rows than different questions and answers
def normalise(text: str) -> str:
    """Canonical form of a short answer or question.

    Lower case and one spelling of characters, numbers and units (`spelling`), punctuation stripped at both ends, spaces
    collapsed, articles dropped, `zero`..`twenty` as digits. Deviations from the VQA evaluation keep different answers apart:
    an article at the end stays ("hepatitis A", option "A"), as do "%", the minus of a number, and marks that belong to
    what they end ("A-", "C#", 5', f' and 5") or begin (".NET", "-x"); a text of punctuation alone stays as it is.
    """
    folded = one_spelling(text)
    start, end = 0, len(folded)
    while start < end and _strippable(folded[start]) and not _is_prefix(folded, start):
        start += 1
    opened = folded[:start]
    while end > start and _strippable(folded[end - 1]) and not _is_attached(folded, end - 1, opened):
        end -= 1
    words = (folded[start:end] or folded).split()
    kept = [word for position, word in enumerate(words) if word not in _ARTICLES or position == len(words) - 1]
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def canonical(text: str, question_type: str | None = None) -> frozenset[str]:
    """The set of normalised items of an answer; two answers agree when their sets are equal.

    Items are separated by ";", and by "," too where `question_type` is one of `SET_TYPES`. A plain answer is a set of one,
    an empty answer the empty set. Thoughts of the model are no part of its answer (`leaml.text.boxes`).
    """
    kind = re.sub(r"[\s-]+", "_", (question_type or "").strip().lower())
    plain = final_answer(text).translate(_WIDE)
    items = [item for part in plain.split(";") for item in (_LIST.split(part) if kind in SET_TYPES else [part])]
    return frozenset(item for item in map(normalise, items) if item)


def option_letters(n: int) -> list[str]:
    """The letters of `n` options: A, B, C, ... Raises DataError outside 0..26."""
    if not 0 <= n <= len(string.ascii_uppercase):
        msg = f"{n} options cannot be lettered A to Z; give 0 to 26"
        raise DataError(msg)
    return list(string.ascii_uppercase[:n])


def ask(row: Mapping[str, Any]) -> str:
    """The request for a labeled row: its question, and its options, where it has some, on lettered lines.

    A question that shows its options itself stays as it is.
    """
    options = row.get("options")
    if not options or _shows(str(row["question"]), options):
        return str(row["question"])
    lines = [f"{letter}. {option}" for letter, option in zip(option_letters(len(options)), options, strict=True)]
    return "\n".join([str(row["question"]), *lines])


def _shows(question: str, options: Sequence[str]) -> bool:
    """Whether a question has all the options behind their letters."""
    asked, *texts = (" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in (question, *options))
    if not all(text in asked for text in texts):
        return False
    position = 0
    for letter, text in zip(string.ascii_lowercase, texts, strict=False):
        found = re.compile(rf"(?<![^\W_]){letter}[\W_]{{1,8}}?{re.escape(text)}(?!\w)").search(asked, position)
        if found is None:
            return False
        position = found.end()
    return True


def chosen_letters(text: str, options: Sequence[str]) -> frozenset[str] | None:
    """Letters of the options a reply names, or None when it names none of them or contradicts itself.

    Accepts "B", "b.", "(B)", "answer: B", "B. offside", the option's text, and several of them: "A, C", "A and C", "AC"; also
    in full-width letters, with Chinese punctuation, in a LaTeX box, and behind thoughts. "C. dog" contradicts itself where dog
    is another option than C.
    """
    plain = final_answer(text).strip()
    reply = unicodedata.normalize("NFKC", plain).translate(_PLAIN)
    said = _LEAD.sub("", reply)
    unmarked = _LEAD.sub("", _MARKDOWN.sub("", reply))
    first, _, why = unmarked.strip().partition("\n")
    alone = (first,) if len(why.split()) > 2 and _ALONE.fullmatch(first.strip()) else ()
    for candidate in dict.fromkeys((plain, reply, said, _TAIL.sub("", said), unmarked, *alone)):
        found = _read_letters(candidate, options)
        if found:
            return found
    return None


def texts_of(letters: Iterable[str], options: Sequence[str]) -> list[str]:
    """The texts behind the letters of options, in the order of the letters."""
    return [options[string.ascii_uppercase.index(letter)] for letter in sorted(letters)]


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer of a labeled row in words: where it has options, the texts of the right ones instead of their letters."""
    options = row.get("options")
    letters = chosen_letters(row["answer"], options) if options else None
    return "; ".join(texts_of(letters, options)) if options and letters else str(row["answer"])


def answer_key(answer: str, question_type: str | None = None, options: Sequence[str] | None = None) -> frozenset[str]:
    """What an answer means: the options it names, in words, else its items.

    Equal for answers that say the same. The order of the options is nothing that an answer says.

    Args:
        answer: A text, or with options also a letter or several.
        question_type: One of `SET_TYPES` makes "," a separator of items beside ";".
        options: The texts behind the letters A, B, ...; None: the question has none.
    """
    letters = chosen_letters(answer, options) if options else None
    return frozenset(map(normalise, texts_of(letters, options or ()))) if letters else canonical(answer, question_type)


def is_correct(prediction: str, answer: str, question_type: str | None = None, options: Sequence[str] | None = None) -> bool:
    """Whether `prediction` gives the `answer`.

    Args:
        prediction: The model's reply; an empty one is always wrong.
        answer: The reference. With `options`, a letter, several letters or the option's text.
        question_type: One of `SET_TYPES` makes "," a separator of items beside ";".
        options: The texts behind the letters A, B, ...; both sides are then compared by letter. If the answer is none of the
            options (a fault of the data), the texts are compared instead.
    """
    if options:
        wanted = chosen_letters(answer, options)
        if wanted is not None:
            return chosen_letters(prediction, options) == wanted
    given = canonical(prediction, question_type)
    return bool(given) and given == canonical(answer, question_type)


def _strippable(char: str) -> bool:
    return char.isspace() or char == "`" or (unicodedata.category(char).startswith("P") and char not in "%‰‱")


def _is_prefix(text: str, position: int) -> bool:
    """Whether the mark at `position` belongs to what follows: the minus of -5 and -x, the point of .NET."""
    following = text[position + 1 : position + 2]
    if text[position] == ".":
        return following.isalpha() and text[position - 1 : position] != "."
    is_sign = following.isdigit() or following == "(" or unicodedata.category(following or " ") in ("Sc", "Sm")
    return text[position] == "-" and (is_sign or (following.isalpha() and not text[position + 2 : position + 3].isalpha()))


def _is_attached(text: str, position: int, opened: str) -> bool:
    """Whether the mark at `position` belongs to the word before it: not where it closes one of `opened`, the marks in front."""
    mark, before = text[position], text[position - 1 : position]
    if mark not in _ATTACHED or mark in opened:
        return False
    if mark in "'\"":
        word = re.search(r"[^\W_]*$", text[:position])
        return before.isdigit() or (word is not None and 0 < len(word[0]) <= _PRIMED)
    return before.isalnum() or before == mark or (mark == "-" and before in _SIGNS)


def _read_letters(reply: str, options: Sequence[str]) -> frozenset[str] | None:
    letters = option_letters(len(options))
    by_text = {normalise(option): letter for letter, option in reversed(list(zip(letters, options, strict=True)))}
    if one := _read_one(reply, letters, by_text):
        return frozenset({one})
    if several := _read_several(reply, letters, by_text):
        return several
    match = _LETTER_WITH_TEXT.match(reply)  # a letter with an explanation, unless that names other options
    if match and match[1].upper() in letters and not _texts(match[2], by_text):
        told = _mentioned(match[2], by_text)
        return frozenset({match[1].upper()}) if not told or match[1].upper() in told else None
    return None


def _mentioned(text: str, by_text: Mapping[str, str]) -> set[str]:
    """Letters of the options whose words stand in a text, in the singular or plural; the longest option first."""
    words, found = f" {_stems(normalise(text))} ", set()
    for option, letter in sorted(by_text.items(), key=lambda pair: -len(pair[0])):
        stems = _stems(option)
        # Chinese and Japanese have no spaces between words
        sought = f" {stems} " if stems.isascii() or " " in stems or not _IDEOGRAPH.search(stems) else stems
        if stems and sought in words:
            found.add(letter)
            words = words.replace(sought, " | ")
    return found


def _stems(text: str) -> str:
    """The words of a text without punctuation between them and without the endings of plurals."""
    return " ".join(map(_stem, re.findall(r"[^\s.,;:!?()\[\]\"]+", text)))


def _stem(word: str) -> str:
    if len(word) < 4 or word.endswith("ss"):
        return word
    stem = word.removesuffix("s").removesuffix("e")
    return f"{stem[:-1]}i" if stem.endswith("y") else stem


def _read_one(item: str, letters: list[str], by_text: dict[str, str]) -> str | None:
    return _bare_letter(item, letters) or _letter_of_text(item, by_text)


def _bare_letter(item: str, letters: list[str]) -> str | None:
    bare = item.strip(_AROUND).upper()
    return bare if bare in letters else None


def _letter_of_text(item: str, by_text: dict[str, str]) -> str | None:
    """The letter of an option's text, or of a letter with its text."""
    if letter := by_text.get(normalise(item)):
        return letter
    match = _LETTER_WITH_TEXT.match(item.strip()) or _LETTER_AT_TEXT.match(item.strip())
    return match[1].upper() if match and by_text.get(normalise(match[2])) == match[1].upper() else None


def _texts(reply: str, by_text: dict[str, str]) -> bool:
    """Whether a text is that of an option, or a list of them."""
    return all(normalise(item) in by_text for item in _BETWEEN.split(reply)) or normalise(reply) in by_text


def _read_several(reply: str, letters: list[str], by_text: dict[str, str]) -> frozenset[str] | None:
    joined = reply.strip(" .()")
    if re.fullmatch(r"[A-Z]{2,}", joined) and set(joined) <= set(letters):
        return frozenset(joined)
    items = [item for item in _BETWEEN.split(reply) if item.strip(_AROUND)]
    if len(items) == 1:
        items = reply.split()
    bare = [_bare_letter(item, letters) for item in items]
    texts = [_letter_of_text(item, by_text) for item, letter in zip(items, bare, strict=True) if letter is None]
    if not items or None in texts:
        return None
    named, told = frozenset(filter(None, bare)), frozenset(filter(None, texts))
    # "C, dog" gives a letter and a text: they must say the same
    return None if named and told and named != told else named | told
