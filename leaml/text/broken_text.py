"""Whether a text is damaged: bytes that were no text, marks inside words, text read in another encoding, pieces of a tokenizer.

The rules look at characters, not at a language's words, so they hold for every script and reject no rare word. Of words that
are none they see those that nobody can say ("xqzvbn"), and not those that could be one ("blorptan").
"""

from __future__ import annotations

import html.entities
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

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
_EDGES = re.compile(rf"^{_EDGE}|(?<!{_EDGE[:-1]}){_EDGE}$")
_LETTER = r"[^\W\d_]"
_REPLACED = re.compile(
    # a character that stands for those that were lost
    "[\ufffc\ufffd\ufdd0-\ufdef⁇]|锟斤拷|烫烫"
    # question marks in place of letters: "a??eo", "r1??d", "a ??eo", "red ????"
    r"|\w\?{2,}(?=[^\W_])(?![A-Z])|(?<!\S)\?{2,}(?=\w|\s|$)"
    # boxes and the blocks of old screens inside words or in a row: "re□d", "caf├⌐"; a lone one may be shown in the image
    rf"|{_LETTER}[\u2500-\u259f□▯▮]|[\u2500-\u259f□▯▮]{_LETTER}|[□▯▮]{{2,}}"
)
_CASED = "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0587]"
_OTHER_QUESTION_MARK = re.compile(rf"(?<={_CASED})[?？﹖⸮؟¿⁈⁉]+(?={_CASED})")
"""A question mark of any kind between letters of scripts that have a space behind one."""
_ONE_LOST = re.compile(rf"(?<!{_LETTER})({_LETTER}+)\?(?=({_LETTER}+))")
"""A question mark between letters: a letter that was lost, or the end of a question without a space behind it."""
_WHOLE_WORDS = {"yes", "no", "or", "and", "not", "maybe", "true", "false", "left", "right", "none", "both"}
_RUN = re.compile(rf"({_LETTER})([!?;,:#$%*=<>|~^]{{2,}})({_LETTER})")
_OPERATORS = {
    "==",
    "===",
    "!=",
    "!==",
    "<=",
    ">=",
    "=>",
    "<>",
    "||",
    "**",
    "::",
    ":=",
    "+=",
    "*=",
    "<<",
    ">>",
    "|:",
    "#,",
    "#;",
    "#:",
}
"""Runs of marks that stand between letters in code and formulas."""
_PIECES = re.compile(
    # of sentence pieces, bytes and words: "re▁d", "<0xE2>", "po@@ lyp", "##lyp", "red</w>"
    r"▁\w|\w▁|<0x[0-9A-Fa-f]{2}>|\w@@(?=\s|$)|(?<!\S)##(?=[a-z])|</w>"
)
_BYTE_PIECES = re.compile(rf"[ĠĊ]{_LETTER}|{_LETTER}[ĠĊ]")
"""Spaces and line breaks of byte-pair pieces: "Ġred"; they are letters of Maltese too."""
_MALTESE = re.compile("[ġċħżĦŻ]")
_ESCAPED = re.compile(
    r"&(#\d+|#x[0-9a-f]+|[a-z]+\d*);|(?:%[89a-f][0-9a-f]){2}|\\u[0-9a-f]{4}(?![0-9a-z])|(?:\\x[0-9a-f]{2}){2}", re.I
)
"""Characters written as entities of HTML, in addresses or in code."""
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|\b[A-Za-z]:\\\S*")
_UNSPEAKABLE = re.compile(r"(?<![^\W_])(?!https)[B-DF-HJKMNP-QSTVXZb-df-hjkmnp-qstvxz][b-df-hjkmnp-qstvxz]{4,}(?![^\W_])")
"""Five letters and more, small but for the first, and none a vowel or what languages have in place of one (l, r, w, y)."""
_MUTE = re.compile(r"(?<![^\W_])[b-df-hj-np-tv-xz]{4,}(?![^\W_])(?: [b-df-hj-np-tv-xz]{4,}(?![^\W_])){2,}")
"""Three words in a row without a vowel."""
_CYRILLIC = re.compile("(?:[РС][\u0402-\u040f\u0452-\u045f\u0490\u0491ёЁ‚„…†‡€‰‹‘’“”•–—™›\xa0¤¦§©«¬\xad®°±µ¶·№»]){2}")
_OTHER_SYSTEMS = re.compile("√[©®°¢£§•¶ß™´¨≠±¶∏]|‚Ä[ôúùìîòö¶¢]|Γ[Çé][^\\W\\d_]|├[^\\w\\s]")
"""UTF-8 that was read as Windows-1251, and as the encodings of the Macintosh and of DOS."""
_CODE_PAGES = ("cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "cp437", "cp850", "cp866", "koi8_r", "mac_roman", "iso8859_2")


def _forms(characters: str) -> Iterator[str]:
    """What characters of UTF-8 become where they are read as text of another encoding."""
    for page, character in itertools.product(_CODE_PAGES, characters):
        form = character.encode().decode(page, "ignore")
        if len(form) == len(character.encode()) and form.isprintable():
            yield form


def _any_of(forms: Iterable[str]) -> str:
    return "|".join(sorted({re.escape(form) for form in forms}))


_ACCENTED = {
    form for form in _forms("àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßÀÁÂÄÅÆÇÈÉÊËÌÍÎÑÒÓÔÕÖØÙÚÛÜ") if form not in {"√π", "√∞", "√Ω"}
}
_BEGINNINGS = {form for form in _ACCENTED if "A" <= form[0] < "\u0250" and form[1].islower()}
"""A capital and a small letter, as words begin."""
_MISREAD = re.compile(
    # the replacement character and the quotes and dashes of print: three signs that no language has in a row
    rf"{_any_of(_forms(chr(0xFFFD) + '‘’“”–—…'))}"
    # accented letters: two signs beside a small letter of the Latin script, and not those that begin words (Ăştia)
    rf"|(?<=[a-z])(?:{_any_of(_ACCENTED)})|(?:{_any_of(_ACCENTED - _BEGINNINGS)})(?=[a-z])"
)
"""UTF-8 that was read in an encoding of other languages: "caf√©", "cafГ©", "MĂĽller"."""
_CLOSING, _LETTERS = set("»”“’‘…–—™®²³¹·«\xa0\xad"), set("šœžŠŒŽŸƒµºª")
"""What also stands behind an accented letter in sound text, of the characters that UTF-8 becomes in Windows-1252. Behind
"Â" and "Ã", which begin most misread letters, no word has the letters."""


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


def says_something(text: str) -> bool:
    """Whether a text has a letter, a digit or a sign that stands for something, and not marks alone."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def stripped(text: str) -> str:
    """A text without blanks at its ends, those without width (a byte order mark, U+200B) among them."""
    return _EDGES.sub("", text)


def is_broken(text: str) -> bool:
    """Whether a text holds what no text holds: replacement or control characters, marks inside words, mistaken encodings."""
    if _NO_TEXT.search(text):
        return True
    plain = _OTHER_QUESTION_MARK.sub(lambda found: "?" * len(found[0]), _ADDRESS.sub(" ", text))
    if any(rule.search(plain) for rule in (_REPLACED, _PIECES)) or _has_escapes(plain) or _has_marks_inside(plain):
        return True
    return not plain.isascii() and _was_read_in_another_encoding(plain)


def is_unspeakable(text: str) -> bool:
    """Whether a text has a word that no language has: "is the xqzvbn red"; not "hmmmm", nor what is written in capitals."""
    plain = _ADDRESS.sub(" ", text)
    return any(len(set(word.lower())) > 3 for word in _UNSPEAKABLE.findall(plain)) or _MUTE.search(plain) is not None


def _has_escapes(text: str) -> bool:
    named = (found.group(1) for found in _ESCAPED.finditer(text))
    return any(name is None or name[0] == "#" or f"{name};" in html.entities.html5 for name in named)


def _has_marks_inside(text: str) -> bool:
    """Scripts without upper and lower case often have no space behind a mark, and a sentence begins with an upper one."""

    def cased(letter: str) -> bool:
        return letter.lower() != letter.upper()

    for left, right in _ONE_LOST.findall(text):
        whole = left.lower() in _WHOLE_WORDS and right.lower() in _WHOLE_WORDS
        if cased(left[-1]) and cased(right[0]) and not right[0].isupper() and not whole:
            return True
    return any(
        cased(left) and cased(right) and marks not in _OPERATORS and not (right.isupper() and set(marks) <= set("!?"))
        for left, marks, right in _RUN.findall(text)
    )


def _was_read_in_another_encoding(text: str) -> bool:
    """Of a text of characters beyond ASCII: there is none among the forms of a mistaken encoding that is without."""
    if any(rule.search(text) for rule in (_CYRILLIC, _OTHER_SYSTEMS, _MISREAD)):
        return True
    if _BYTE_PIECES.search(text) and not _MALTESE.search(text):
        return True
    return _is_misread(text)


def _is_misread(text: str) -> bool:
    """Whether UTF-8 was read as Windows-1252 or Latin-1: "cafÃ©", "itâ€™s", "Å‚", "ä¸­".

    The characters of a misread letter are an accented letter and one to three signs. An accented letter may end a word in
    quotes («MAÇÃ»), so signs that close something prove it behind a lower-case letter, or before a letter, alone.
    """
    position = 0
    while position < len(text):
        count = _length(text[position])
        signs = text[position + 1 : position + count]
        if count and _decodes(text[position : position + count]):
            before, behind = text[position - 1 : position], text[position + count : position + count + 1]
            inside = before.islower() and text[position].isupper()
            sound = set(signs) <= (_CLOSING if text[position] in "ÂÃ" else _CLOSING | _LETTERS)
            if not sound or (inside and signs != "’") or (set(signs) <= set("»”") and behind.isalpha()):
                return True
        position += 1
    return False


def _length(first: str) -> int:
    """Bytes of the UTF-8 character that begins with this one, 0 where none does."""
    code = ord(first)
    return 2 if 0xC2 <= code <= 0xDF else 3 if 0xE0 <= code <= 0xEF else 4 if 0xF0 <= code <= 0xF4 else 0


def _decodes(text: str) -> bool:
    data = b""
    for character in text:
        try:
            data += character.encode("cp1252")
        except UnicodeEncodeError:
            if ord(character) > 0xFF:
                return False
            data += bytes([ord(character)])
    try:
        return len(data.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False
