"""Thoughts that have no marks: a reply that speaks about its task, or about the one who asks, instead of the image."""

from __future__ import annotations

import re

_DESCRIBE = (
    r"(?:describ\w+|caption\w*|answer\w*|writ(?:e|ing)|provid\w+|generat\w+|creat(?:e|ing)|analy[sz]\w+|identify\w*"
    r"|summari[sz]\w+"
    r"|explain\w*|produce|list|mention|focus|note|start|begin|look|figure out|determine|examine|consider|giv(?:e|ing) an?)"
)
_ABOUT_THE_USER = re.compile(
    r"(?:\bthe |^(?:\W*\w+:)?\W*)user(?:'s)? (?:\w+ )?(?:wants?\b|asks?\b|asked|requests?\b|requested|needs?\b|provide"
    r"|upload|uploaded|sent"
    r"|would like|prompt|query"
    r"|is (?:asking|requesting|looking for|seeking)"
    r"|has (?:asked|provided|given|uploaded|shared|sent|requested))",
    re.I,
)
_PLAN = re.compile(
    r"^\W*(?:(?:okay|ok|alright|all right|right|well|so|now|hmm+|uh|um|wait|got it|understood|first|first off)\b[\s,.!…]*)*"
    r"(?:hmm+\b|wait,|let me (?:think|see|look|analy|examine|start|describe|try|break)"
    r"|let's (?:think|see|look|analy|start|break|describe)"
    r"|(?:i|we) (?:need|have|should|must|want|will|am going|'ll|are going|can start|'m going)\b(?: to)?|i'll |i'm going to "
    r"|(?:i|we)(?:'m| am| was|'re| are|'ve been| have been) (?:being |now )?(?:asked|told|given|tasked|instructed"
    r"|requested|prompted"
    r"|supposed|expected) "
    r"|(?:my|our|the|your) (?:task|job|goal|aim|objective|assignment|instructions?) (?:here )?(?:is|was"
    rf"|are)(?: to)? {_DESCRIBE}"
    r"|this (?:task|question|prompt|instruction)? ?(?:is|asks|wants|says|requires|requests)\b(?: (?:me|us|for"
    rf"|to))+ (?:{_DESCRIBE})"
    r"|the (?:task|question|prompt|instruction) (?:is|asks|wants|says)\b"
    r"|(?:looking|look|glancing) at (?:the|this) \w+,? (?:i|we) (?:should|need|must|will|have to|am|are|'ll)\b"
    r"|(?:i|we) (?:first |then )?(?:look|start|begin|think|note|consider|analy[sz]e|examine) (?:at|by|with|that|the|about)\b)",
    re.I,
)
_HEADED = re.compile(
    r"^[^\w\n]*(?:(?:my|the|internal|step[- ]by[- ]step) )*(?:thinking|thoughts?|reasoning|chain[- ]of[- ]thought|rationale"
    r"|scratchpad|monologue)"
    r"(?: process)?[*_]*(?: ?[:：]| [-–—]|[*_]*\s*\n)"
    rf"|^[^\w\n]*(?:plan|approach|strategy|analysis|steps?|step \d+|task|instructions?|goal)[*_]*(?: ?[:：.]| [-–—])[*_]*\s*"
    rf"(?:first,? |i |we |let's |let me |to )?{_DESCRIBE}\b",
    re.I,
)
"""The heading of a thought, or of a plan that says what to do."""


def is_musing(sentence: str) -> bool:
    """Whether the first sentence of a reply is part of a thought. Apostrophes are straight ones."""
    return any(rule.search(sentence) for rule in (_ABOUT_THE_USER, _PLAN, _HEADED))
