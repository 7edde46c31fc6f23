"""What chat models write behind what was asked for: "A polyp. Let me know if you need anything else!" is "A polyp."."""

from __future__ import annotations

import re

_MORE = (
    r"(?:more|further|additional|other|another|else|specific|questions?|help|assistance|clarif\w+|elaborat\w+|changes?|details?"
    r"|let me|feel free|ask|i(?:'m|'ll|'d| am| can| could| will| would))\b"
)
_S = r"[^.!?\n]*"
"""The rest of a sentence."""
_ASKED = rf"{_S}\?(?!\W*\w)"
_ENGLISH = (
    r"(?:please |also |and |so )*(?:let me know|feel free|(?:don't|do not) hesitate)\b",
    r"(?:if|should) you(?:'d| would| had)?(?: (?:ever|still|also|should|could))? (?:need|want|like|have|wish|require|prefer)\b"
    rf"{_S}\b{_MORE}",
    rf"if there(?:'s| is| are) (?:any|some)\b{_S}\b(?:you|i|me)\b",
    rf"if there(?:'s| is) (?:any|some)thing\b{_S}\b(?:you|i|me|{_MORE})\b",
    rf"(?:would|do|did) you (?:like|want|need|have|wish|prefer)\b{_ASKED}",
    rf"is there (?:any|some)thing\b{_S}\b(?:you|{_MORE})",
    r"(?:is|was) (?:this|that|it) (?:what|the \w+) you\b",
    rf"(?:how|what) (?:else |more )?(?:can|may|could|should|would|do) (?:i|you)\b{_ASKED}",
    r"(?:any|some) (?:other |further |more )?questions\?",
    rf"(?:i )?hope (?:this|that|it|you|the \w+)\b{_S}\b(?:help\w*|useful|enjoy|meets?|answers?|clear|looking for|works?)\b",
    r"i(?:'m|'d|'ll| am| can| could| would| will)\b (?:also |always |gladly |be )*"
    r"(?:here|happy|glad|able|provide|describe|elaborate|help|assist|go into|give)\b",
    r"(?:just )?(?:ask|tell me|say so) (?:if|for|me|about|what)\b|(?:just )?ask(?: me)? (?:any|away)",
    r"(?:thank you|thanks) for (?:sharing|your|the (?:image|picture|photo|question)|asking|using)\b|you(?:'re| are) welcome\b",
)
_OTHER_LANGUAGES = (
    r"lass(?:en sie| es)? mich (?:gerne? )?wissen|ich hoffe,? (?:das|dies|diese)\b",
    r"kann ich (?:ihnen |dir )?(?:sonst|noch|weiter)",
    rf"(?:wenn|falls|sollten) (?:sie|du) {_S}(?:frag|hilf|detail|weiter|mehr|brauch|benötig)",
    rf"(?:möchten|wünschen|brauchen) sie\b{_ASKED}",
    r"n'h[ée]site[sz]? pas|j'esp[èe]re que (?:cel?a|cette)|puis-je\b",
    r"si (?:vous|tu) (?:avez|as|souhaite[sz]|veux|voulez|d[ée]sire[sz])\b",
    r"(?:souhaite[sz]|veux|voulez|d[ée]sire[sz])-(?:vous|tu)\b",
    r"si (?:necesitas?|tienes?|deseas?|quieres?|hay algo)\b|no dud[ea]s? en\b|(?:te|le) gustaría\b",
    r"espero que (?:esto|esta|te|le|isso|isto|ajude)\b|(?:se|caso) (?:precisar|quiser|tiver|desejar)\b|gostaria\b",
    r"se (?:hai|ha|vuoi|desideri|avete) (?:bisogno|altre|ulteriori|domande)\b|spero che (?:questo|ti)\b|fammi sapere\b",
    rf"(?:если|надеюсь|дайте знать|хотите)\b{_S}(?:вопрос|помо|знать|нужн|подробн)",
    r"(?:如果|如需|若)(?:您|你)?[^。！？\n]*(?:帮助|問題|问题|需要|告诉|詢問|提问)|希望(?:这|以上|能|對|对)[^。！？\n]*(?:帮助|幫助|帮到)",
    r"(?:请问)?(?:您|你)?(?:还|還)?(?:有|需要)(?:什么|其他|任何)[^。！？\n]*(?:吗|嗎)",
    r"(?:他に|何か|ご不明|ほかに)[^。！？\n]*(?:ください|ですか|ますか)|お役に立て",
    rf"(?:더|다른|추가로|궁금){_S}(?:말씀|질문|알려|물어|까요)|도움이 되",
)
_OFFER = re.compile(
    r"(?:(?<=[.!?…*_\"”’)\]])\s|(?<=[。！？\n]))[^\w\n\"“«「']*+"
    rf"(?:{'|'.join((*_ENGLISH, *_OTHER_LANGUAGES))})"
    r"[^.!?。！？\n\"”»」]*+[.!?。！？…]*+[^\w\"”»」]*+$",
    re.I,
)
"""The last sentence of a reply, said to the one who asked; not one that stands in quotes. Apostrophes are straight ones."""
_MOST = 4


def is_offer(text: str) -> bool:
    """Whether a reply is a sentence that offers more, and nothing else."""
    match = _OFFER.search("\n" + text.replace("’", "'"))
    return match is not None and match.start() <= 1


def without_offer(text: str) -> str:
    """A reply without the sentences at its end that offer more; a reply of nothing else stays."""
    plain = text.replace("’", "'")  # as long as `text`
    for _ in range(_MOST):
        match = _OFFER.search(plain)
        if match is None or not re.search(r"\w", plain[: match.start()]):
            break
        plain = plain[: match.start()].rstrip()
        above, _, last = plain.rpartition("\n")
        plain = above.rstrip() if not last.strip("-*_=~ ") else plain  # a rule between description and offer
    return text[: len(plain)]
