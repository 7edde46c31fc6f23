"""Whether a text is damaged: bytes that were no text, marks inside words, text read in another encoding.

The rules look at characters, not at a language's words, so they hold for every script and reject no rare word.
"""

from __future__ import annotations

import re
import unicodedata

_NO_TEXT = {"Cc", "Co", "Cn", "Cs"}
"""Control, private and unassigned characters, and halves of a pair (Unicode's general categories)."""
_LETTER = r"[^\W\d_]"
_INSIDE_A_WORD = re.compile(rf"({_LETTER})(?:\?+|[!?;,:#$%*=<>|~^\"\\]{{2,}})({_LETTER})")
"""A question mark or a run of marks between two letters, as in "a??eo"; one mark alone may belong there ("e.g.", "C#m")."""
_OTHER_ENCODING = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00ef\u00bb\u00bf")
"""UTF-8 that was read as Latin-1 or Windows-1252: "cafÃ©", "itâ€™s"."""
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")


def is_broken(text: str) -> bool:
    """Whether a text holds what no text holds: replacement or control characters, marks inside words, mistaken encodings."""
    if "\ufffd" in text or any(unicodedata.category(c) in _NO_TEXT and not c.isspace() for c in text):
        return True
    if _OTHER_ENCODING.search(text):
        return True
    # scripts without upper and lower case often have no space behind a mark
    inside = _INSIDE_A_WORD.finditer(_ADDRESS.sub(" ", text))
    return any(all(letter.lower() != letter.upper() for letter in found.groups()) for found in inside)
