"""One spelling for characters, numbers and units that are written in several ways, before texts are compared.

What NFKC alone would join is kept separate: "10²" is not "102", and "1½" not "11/2".
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_GROUP_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_RAISED = {"⁺": "+", "⁻": "-", "⁽": "(", "⁾": ")"}
_SAME = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–−⁃﹣﹘", "-"),  # the em dash is no hyphen, but punctuation
        **dict.fromkeys("’‘‛ʼ′`´", "'"),
        **dict.fromkeys("“”‟″", '"'),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("。｡", "."),
        "、": ",",
        "٫": ".",
        "٬": ",",
        "٪": "%",
        "×": "x",
        "≥": ">=",
        "≧": ">=",
        "⩾": ">=",
        "≤": "<=",
        "≦": "<=",
        "⩽": "<=",
        "µ": "μ",
    }
)
_THOUSANDS = tuple(
    (mark, re.compile(rf"(?<![\w.,'])(?:{groups})(?![\d,'])"))
    for mark, groups in {
        ",": r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})*,\d{3}",
        "'": r"\d{1,3}(?:'\d{3})+",
        " ": r"[1-9]\d{0,2}(?: \d{3})+",
    }.items()
)
_BARE_FRACTION = re.compile(r"(?<![\w.])\.(?=\d)")
_DECIMAL = re.compile(r"(?<![\w.])(\d+)\.(\d+)(?![\d.])")
_NAME_BEFORE = re.compile(r"([^\W\d_]+)[ .-]{1,2}$")
_AMOUNT_WORDS = {
    *("a", "about", "almost", "and", "approx", "approximately", "are", "around", "at", "be", "between", "by", "ca", "circa"),
    *("costs", "equals", "exactly", "from", "in", "is", "least", "less", "measures", "minus", "more", "most", "nearly", "of"),
    *("or", "over", "plus", "roughly", "than", "the", "to", "under", "up", "was", "x"),
}
"""Words before a number that is a quantity; behind another word it may be a version, a figure or a section."""
_SPACED_SIGN = re.compile(
    r"(^[^\w+±-]*|[=<>≤≥≈~:,;/([{] ?)([+±-]) (?=\.?\d|[$¢-¥₠-⃀∀-⋿]|\((?:\.?\d|[^\W\d_][+*/^-])|[^\W\d_](?:[\W_]*$|[\d+*/^]))"
)
"""A sign with a space before its number or letter: at the start, where no word or number stands that it could be behind."""
_RANGE = re.compile(r"(?<=\d)(?: - | ?~ ?|—)(?=\d)")
_SIGN_SPACE = re.compile(r"(?<=\d) (?=[%‰°])")
_SIGN_AT_END = re.compile(r"(?<=[^\W_]) ?([(\[]?)([+±-](?:/?[+-])*)([)\]]?)(?=[^\w+±()\[\]-]*$)")
_UNITS = "[nμcdkm]?m|um|[nμmk]?g|[μmcd]?l|ms|s|min|h|[kmg]?hz|[kmg]b|px|mmhg|mol|mmol"
_UNIT_SPACE = re.compile(rf"(?<=\d) (?=(?:{_UNITS})\b)")
_UNIT_BEHIND = re.compile(rf" ?(?:(?:{_UNITS})\b|[%‰°])")
_CLOCK_BEHIND = re.compile(r" ?(?:[ap]\.?m\b|o'?clock|uhr\b)")
_PLUS_MINUS = re.compile(r"\+ ?/ ?-(?= ?\.?\d)")
_COMPARED = re.compile(r"(?<![<>=!-])([<>]=|[<>≠]) (?=[+-]?\.?\d)")
_AROUND_SIGN = re.compile(r"(?<=\d) ?([<>]=|[<>±≠]) ?(?=[+-]?\.?\d)")
_PRODUCT = re.compile(r"(?<![\w.])(?!0x)\d+(?:\.\d+)?(?:x\.?\d+(?:\.\d+)?)+")
_PER_CENT = re.compile(r"(?<=\d) ?per ?cent\b")
_CLOCK = re.compile(r"(?<![\w.:])0?(\d{1,2})(?::00(?!:))?((?::\d\d){0,2}) ?([ap])(?:\.m\.?|m)(?![\w.])")
_UNIT_POWER = re.compile(r"(?<![^\W\d_])([nμcdk]?m|mm|in|ft)([23])(?![\w^])")


def one_spelling(text: str) -> str:
    """`text` in lower case, NFKC, with one way to write digits, fractions, dashes, quotes, numbers and units.

    "1,000", "1 000" and "1'000" become "1000", "3.0" and "3" are "3", ".5" is "0.5", "5–10" and "5 - 10" are "5-10", "10 %" is
    "10%", "20 mm" is "20mm", "½" is "1/2", "m²" and "m2" are "m^2", "Rh -" and "Rh (-)" are "Rh-", "- 5" is "-5". A comma is
    never read as a decimal point, and a number with more than one point (a version, a date) stays, as do the zeros of
    "Python 3.10" and "3.30 pm". Signs have one form as well: "≥ 5" is ">=5", "5 +/- 2" is "5±2", "5x3" is "5 x 3", "50 percent"
    is "50%", and "3:00 P.M." is "3pm".
    """
    folded = _INVISIBLE.sub("", text)
    if not folded.isascii():
        folded = _characters(_GROUP_SPACE.sub("", folded))
    folded = " ".join(folded.lower().replace("`", "'").split())
    folded = _SIGN_AT_END.sub(_sign, _SPACED_SIGN.sub(r"\1\2", folded.replace("''", '"')))
    return _numbers(folded) if any(map(str.isdigit, folded)) else folded


def _characters(text: str) -> str:
    """NFKC character by character where that would join a number with what is raised, lowered or a fraction."""
    found: list[str] = []
    raised = False
    text = unicodedata.normalize("NFC", text)

    for position, char in enumerate(text):
        form = unicodedata.decomposition(char).partition(" ")[0]
        before = found[-1][-1:] if found else ""

        if form == "<super>" and (char in _RAISED or unicodedata.category(char) == "No"):
            plain = _RAISED.get(char) or unicodedata.normalize("NFKC", char)
            found.append(plain if raised or not before.isalnum() or _is_charge(text, position) else f"^{plain}")
            raised = True
            continue

        raised = False
        if form == "<sub>" and before.isdigit():
            found.append("_" + unicodedata.normalize("NFKC", char))
        elif form in ("<fraction>", "<circle>") and before.isdigit():
            found.append(" " + unicodedata.normalize("NFKC", char))
        elif char == "º" and before.isdigit():
            found.append("°")
        elif unicodedata.category(char) == "Nd":
            found.append(str(unicodedata.digit(char)))
        else:
            found.append(char.translate(_SAME))
    return unicodedata.normalize("NFKC", "".join(found)).translate(_SAME)


def _is_charge(text: str, position: int) -> bool:
    """Whether what is raised at `position` ends in a sign, as the charge of an ion does, and stands behind a letter."""
    end = position
    while end < len(text) and unicodedata.decomposition(text[end]).startswith("<super>"):
        end += 1
    return text[end - 1] in "⁺⁻" and text[position - 1 : position].isalpha()


def _sign(match: re.Match[str]) -> str:
    return match[2] if match[1] and match[3] else match[2] + match[3] if not match[1] else match[0]


def _decimal(match: re.Match[str]) -> str:
    """A decimal without zeros at its end, which only those of a quantity, or nothing but zeros, can do without."""
    text, digits = match.string, match[2].rstrip("0")
    name = _NAME_BEFORE.search(text, max(0, match.start() - 40), match.start())
    named = name is not None and name[1] not in _AMOUNT_WORDS and not _UNIT_BEHIND.match(text, match.end())
    if digits and (named or _CLOCK_BEHIND.match(text, match.end())):
        return match[0]
    return f"{match[1]}.{digits}".rstrip(".")


def _numbers(text: str) -> str:
    text = _AROUND_SIGN.sub(r"\1", _COMPARED.sub(r"\1", _PLUS_MINUS.sub("±", text.replace("!=", "≠"))))
    text = _PRODUCT.sub(lambda match: match[0].replace("x", " x "), text)
    for mark, numbers in _THOUSANDS:
        if mark in text:
            text = numbers.sub(lambda match: "".join(re.findall(r"\d", match[0])), text)
    text = _BARE_FRACTION.sub("0.", text)
    text = _DECIMAL.sub(_decimal, text)
    text = _RANGE.sub("-", text)
    text = _UNIT_SPACE.sub("", _SIGN_SPACE.sub("", _PER_CENT.sub("%", text)))
    text = _CLOCK.sub(r"\1\2\3m", text)
    return _UNIT_POWER.sub(r"\1^\2", text)
