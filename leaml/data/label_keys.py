"""Keys of label rows: those that are read, those misspelt, and names of other data sets for the same things.

Nothing is read under another name: what `label` or `text` means differs between data sets. The known name is suggested.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping

from leaml.text.values import is_missing

COLUMNS = ("question", "answer", "question_type", "options")
"""Keys of a label row besides those of its image."""
IMAGE_KEYS = ("image", "images")
CHAT_KEYS = ("conversations", "messages")
"""Keys of a list of turns, in which questions and answers alternate."""
ROUNDS_KEY = "texts"
"""Key of a list of rounds, as in The Cauldron; elsewhere it may hold any texts."""
_ROUND = ("user", "assistant")

_NEAR = 0.8
"""Likeness, 0 to 1, from which on an unknown key is taken for a known one misspelt: that of "anwser" is 0.83."""
_OTHERS = {
    "image": "img imgs image_path img_path image_file image_name img_name image_url image_uri file_name filename "
    "file_path filepath file path picture photo frame",
    "question": "q query ques prompt instruction problem question_text input_text text_input request",
    "answer": "a ans answers response reply completion solution ground_truth groundtruth gt gt_answer gold gold_answer "
    "correct_answer answer_text target text_output output label direct_answers correct_choice_idx correct_idx answer_idx "
    "answer_index correct_option",
    "caption": "captions text description descriptions desc sentence title alt alt_text txt summary report long_caption "
    "short_caption detailed_caption image_caption",
    "conversations": "conversation turns dialog dialogue dialogues chat chats",
}
_LISTS = ("annotations", "qas", "qa", "qa_pairs", "qa_list", "question_answer_pairs", "questions", "vqa", "pairs")
"""Keys of lists of questions in one entry."""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


_KNOWN_OF = {other: known for known, others in _OTHERS.items() for other in others.split()}


@functools.lru_cache(maxsize=1024)  # the rows of a file have few different sets of keys
def near_keys(names: tuple[str, ...], known: tuple[str, ...] = COLUMNS) -> tuple[tuple[str, str], ...]:
    """Unknown keys, each with the known key that it is like: one that the row lacks, or one of the same letters."""
    absent = [key for key in known if key not in names]
    found = []
    for name in names:
        if name in known:
            continue
        if near := difflib.get_close_matches(_plain(name), absent, 1, _NEAR):
            found.append((name, near[0]))
        elif turned := [key for key in known if sorted(_plain(name)) == sorted(key) and _plain(name) != key]:
            found.append((name, turned[0]))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def suggested(names: tuple[str, ...], known: tuple[str, ...] = COLUMNS) -> tuple[tuple[str, str], ...]:
    """Unknown keys, each with the known key that the row lacks and that it stands for, misspelt or by another name."""
    near = dict(near_keys(names, known))
    for name in names:
        other = _KNOWN_OF.get(_plain(name))
        if name not in known and other in known and other not in names:
            near.setdefault(name, other)
    return tuple((name, near[name]) for name in names if name in near)


def hint(pairs: Iterable[tuple[str, str]]) -> str:
    """What `near_keys` or `suggested` found, for a message."""
    return ", ".join(f"key {name!r}: did you mean {known!r}?" for name, known in pairs)


def is_round(turn: object) -> bool:
    """Whether a turn holds what the user says and the reply: {"user": ..., "assistant": ...}."""
    return isinstance(turn, Mapping) and all(key in turn for key in _ROUND)


def chat_keys(row: Mapping[str, object]) -> list[str]:
    """The keys of a row that hold a chat."""
    found = [key for key in CHAT_KEYS if not is_missing(row.get(key))]
    rounds = row.get(ROUNDS_KEY)
    if isinstance(rounds, Mapping):  # lists by key, as `datasets` stores a list of objects
        return [*found, ROUNDS_KEY] if is_round(rounds) else found
    return [*found, ROUNDS_KEY] if isinstance(rounds, list) and any(map(is_round, rounds)) else found


@functools.lru_cache(maxsize=1024)
def labels_elsewhere(names: tuple[str, ...]) -> str:
    """Where the labels of a row without question and answer seem to be, and how to write them; empty: nowhere."""
    if chat := [name for name in names if _plain(name) in CHAT_KEYS]:
        return f"key {chat[0]!r}: conversations are read by format: conversations, as a list of turns"
    if rounds := [name for name in names if _plain(name) == ROUNDS_KEY]:
        return f"key {rounds[0]!r}: format: conversations reads it, as a list of objects with the keys 'user' and 'assistant'"
    if lists := [name for name in names if _plain(name) in _LISTS]:
        return f"key {lists[0]!r}: write a row with 'question' and 'answer' for each of its entries"
    pairs = suggested(names, ("question", "answer", "conversations"))
    known = {known for _, known in pairs}
    return hint(pairs) if known & {"question", "conversations"} else ""


def doubled(names: Iterable[str], known: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are one of `known` but for case and blanks: which of them counts?"""
    seen: dict[str, str] = {}
    for name in names:
        if (plain := _plain(name)) in known:
            if plain in seen:
                return seen[plain], name
            seen[plain] = name
    return None
