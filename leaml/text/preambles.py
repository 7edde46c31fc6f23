"""What chat models write before what was asked for: "Sure, here is the description: A polyp." is "A polyp."."""

from __future__ import annotations

import re

from leaml.text.closing_offers import without_offer

_YES = (
    r"(?:sure(?: thing)?|of course|certainly|absolutely|definitely|okay|ok|alright|all right|no problem|got it|understood|noted"
    r"|as (?:requested|you (?:asked|requested|wished))|per your request)"
)
_GREETING = rf"(?:{_YES}|great|gladly|hello|hi(?: there)?|hey|yes|thanks|thank you)"
_PAUSE = r"\s*(?:[,.!…—–]+|-+(?=\s))[\s*_]*"
_HERE = r"(?:here(?:['’]s| is| are)|below (?:is|are)|(?:the )?following (?:is|are)|(?:this|what follows) is)\b"
_REPLY = (
    r"(?:descriptions?|captions?|summary|overview|analysis|breakdown|interpretation|explanation|responses?|reply"
    r"|answers?|report"
    r"|questions?|pairs?|how i(?:['’]d| would) describe|what (?:i|we) (?:can )?(?:see|observe)"
    r"|what (?:the|this|your) (?:image|picture|photo|frame) (?:shows|depicts|contains))"
)
"""What was asked for, in words that no description begins with: a polyp is none."""
_IMAGE = r"(?:image|picture|photo|photograph|frame|scene|figure|screenshot)"
_TEXT = r"[^.!?:：\n]"
_COLON = r"[*_]*[:：](?!\d)[*_]*"
_PREAMBLE = re.compile(
    rf"^[^\w\n]*(?:"
    rf"(?:{_GREETING}{_PAUSE})+{_HERE}{_TEXT}{{0,120}}{_COLON}"
    rf"|(?:{_GREETING}{_PAUSE})*{_HERE}(?<!this is){_TEXT}{{0,60}}?\b{_REPLY}\b{_TEXT}{{0,80}}{_COLON}"
    rf"|(?:{_GREETING}{_PAUSE})*{_HERE} (?:an?|the|my|your) (?:[\w-]+ ){{0,3}}?{_REPLY}"
    rf"(?: (?:of|for|about) (?:the|this|your|that|an?) (?:[\w-]+ ){{0,3}}?{_IMAGE}s?)?(?: you (?:asked for|requested))?[.!]+"
    rf")\s*(?=[^\W_]|[\"“«'‘*(\[#-])",
    re.I,
)
_YES_ALONE = re.compile(rf"^[^\w\n]*(?:{_YES}{_PAUSE})*{_YES}\s*[,.!…—–]+\s*(?=[*_\"“«]*[^\W_])", re.I)


ANNOUNCEMENT = re.compile(
    rf"[^\w\n]*(?:{_GREETING}{_PAUSE})*{_HERE}(?: (?:an?|the|my|your))?(?: [\w-]+){{0,3}}? {_REPLY}"
    rf"(?: (?:of|for|about) (?:the|this|your|that|an?) (?:[\w-]+ ){{0,3}}?{_IMAGE}s?)?(?: you (?:asked for|requested))?\W*",
    re.I,
)
"""A sentence that announces what does not come."""

_WHAT = (
    r"captions?|descriptions?|alt[- ]?text|summary|bildbeschreibung|bildunterschrift|beschreibung|l[ée]gende|descripción"
    r"|leyenda|descrição|legenda|descrizione|didascalia|beschrijving|onderschrift|описание|подпись"
    r"|(?:图片|图像)?(?:描述|说明|标题)|説明|キャプション|설명|캡션"
)
_LABEL = re.compile(
    r"^[^\w\n]*(?:(?:the|this|one|final|short|brief|detailed|one-sentence|suggested|revised|possible|proposed|improved"
    rf"|corrected|alternative|generated|best) )*(?:{_IMAGE} )?(?:{_WHAT})"
    rf"(?: of (?:the|this) {_IMAGE})?[*_]*(?: ?[:：][*_]*\s*|[*_#]*\s*\n\s*)(?=\S)",
    re.I,
)
"""What was asked for, as a label or a heading of the reply."""


def without_preamble(text: str) -> str:
    """A reply without the sentence that announces it; "Here is a polyp." announces nothing."""
    return _PREAMBLE.sub("", text, count=1)


def without_assent(text: str) -> str:
    """A description without a preamble, and without "Sure!" or "Certainly," in front, which may be all of a short answer.

    Nor does it keep a label in front ("Caption: A polyp.") or an offer at its end.
    """
    return without_offer(_LABEL.sub("", _YES_ALONE.sub("", without_preamble(text), count=1), count=1))
