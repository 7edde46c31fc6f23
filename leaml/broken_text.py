"""Whether a text is damaged: bytes that were no text, marks inside words, text read in another encoding.

The rules look at characters, not at a language's words, so they hold for every script and reject no rare word.
"""

from __future__ import annotations

import re

_NO_TEXT = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0xF0000, 0x10000))
    + "]"
)
"""Control characters but blanks, halves of a pair, private characters, and what Unicode keeps from being one."""
_HIDDEN = re.compile("[\xad\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Nobody sees these, and no script needs them for its words, as some need joiners (U+200C, U+200D)."""
_UNSEEN = re.compile(
    r"[\s\0-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
"""Blanks of every kind, the joiners and fillers of scripts among them."""
_EDGE = r"[\s\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]+"
_EDGES = re.compile(rf"^{_EDGE}|{_EDGE}$")
_LETTER = r"[^\W\d_]"
_INSIDE_A_WORD = re.compile(rf"({_LETTER})(?:\?+|[!?;,:#$%*=<>|~^\"\\]{{2,}})({_LETTER})")
"""A question mark or a run of marks between two letters, as in "a??eo"; one mark alone may belong there ("e.g.", "C#m")."""
_OTHER_ENCODING = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00ef\u00bb\u00bf")
"""UTF-8 that was read as Latin-1 or Windows-1252: "cafÃ©", "itâ€™s"."""
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")


def refusal(text: str) -> str | None:
    """What in a text no tokenizer or table can hold, or nobody can see, to follow its name in a message; None: nothing."""
    if found := _NO_TEXT.search(text):
        return f"holds {found[0]!r}, which is half of a character or none; remove it"
    if found := _HIDDEN.search(text):
        return f"holds {found[0]!r}, which nobody sees; remove it"
    return None


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: blanks, characters without width, fillers."""
    return _UNSEEN.sub("", text) == ""


def stripped(text: str) -> str:
    """A text without blanks at its ends, those without width (a byte order mark, U+200B) among them."""
    return _EDGES.sub("", text)


def is_broken(text: str) -> bool:
    """Whether a text holds what no text holds: replacement or control characters, marks inside words, mistaken encodings."""
    if "\ufffd" in text or _NO_TEXT.search(text):
        return True
    if _OTHER_ENCODING.search(text):
        return True
    # scripts without upper and lower case often have no space behind a mark
    inside = _INSIDE_A_WORD.finditer(_ADDRESS.sub(" ", text))
    return any(all(letter.lower() != letter.upper() for letter in found.groups()) for found in inside)
