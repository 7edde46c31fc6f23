"""Thoughts that have no marks: a reply that speaks about its task, or about the one who asks, instead of the image."""

from __future__ import annotations

import re

_DESCRIBE = (
    r"(?:describ\w+|caption\w*|answer\w*|writ(?:e|ing)|provid\w+|generat\w+|creat(?:e|ing)|analy[sz]\w+|identify\w*"
    r"|summari[sz]\w+|explain\w*|produce|list|mention|focus|note|start|begin|look|figure out|determine|examine|consider"
    r"|giv(?:e|ing) an?)"
)
_SPEAKER = r"(?:i|i'[a-z]+|me|my|we|we'[a-z]+|us|our|you|you'[a-z]+|your|let's)"
_TASK = r"(?:describ\w+|descriptions?|caption(?:s|ed|ing)?|prompts?|instruct\w*|tasks?|requests?|requested|answer(?:s|ing)?)"
_ABOUT_THE_TASK = re.compile(rf"\b{_SPEAKER}\b[^.!?]*\b{_TASK}\b|\b{_TASK}\b[^.!?]*\b{_SPEAKER}\b", re.I)
"""One who speaks, or is spoken to, and the task, in one sentence: "To describe the image, I look at its colours first."."""
_ABOUT_THE_USER = re.compile(
    r"(?:\bthe |^(?:\W*\w+:)?\W*)user(?:'s)? (?:\w+ )?(?:wants?\b|asks?\b|asked|requests?\b|requested|needs?\b|provide|upload"
    r"|uploaded|sent|would like|prompt|query|is (?:asking|requesting|looking for|seeking)"
    r"|has (?:asked|provided|given|uploaded|shared|sent|requested))",
    re.I,
)
_MUSED = (
    r"(?:okay|ok|alright|all right|right|well|so|now|hmm+|uh|um|wait|actually|got it|understood|first of all|first off"
    r"|first|next"
    r"|then)"
)
_PLAN = re.compile(
    rf"^\W*(?:(?:{_MUSED}\b[\s,.!…]*)+(?:i|we) |(?:{_MUSED}\b[\s,.!…]*)*(?:hmm+\b|wait\b[,.!]|let me |let us |let's "
    r"|(?:i|we) (?:need|have|should|must|want|will|am going|'ll|are going|can start|'m going)\b(?: to)?|i'll |i'm going to "
    r"|(?:i|we)(?:'m| am| was|'re| are|'ve been| have been) (?:being |now )?(?:asked|told|given|tasked|instructed"
    r"|requested|prompted|supposed|expected) "
    r"|(?:my|our|the|your) (?:task|job|goal|aim|objective|assignment|instructions?|request) (?:here )?(?:is|was"
    rf"|are)(?: to)? {_DESCRIBE}"
    r"|this (?:task|question|prompt|instruction)? ?(?:is|asks|wants|says|requires|requests)\b(?: (?:me|us|for"
    rf"|to))+ {_DESCRIBE}"
    r"|the (?:task|question|prompt|instruction) (?:is|asks|wants|says)\b"
    r"|(?:looking|look|glancing) at (?:the|this) \w+,? (?:i|we) (?:should|need|must|will|have to|am|are|'ll)\b"
    r"|(?:i|we) (?:first |then )?(?:look|start|begin|think|note|consider|analy[sz]e|examine) (?:at|by|with|that|the|about)\b"
    # instructions that were handed on
    r"|you are an? (?:\w+ ){0,3}(?:assistant|expert|ai|bot|captioner|model|professional|annotator)\b))",
    re.I,
)
_HEADED = re.compile(
    r"^[^\w\n]*(?:here(?:'s| is|'re| are) )?(?:(?:my|the|internal|step[- ]by[- ]step) )*(?:thinking|thoughts?|reasoning"
    r"|chain[- ]of[- ]thought|rationale|scratchpad|monologue|(?:system |user )?prompt"
    r"|(?:draft|version|option|attempt|variant|alternative)s?(?: \d+| [A-C])?)"
    r"(?: process)?[*_]*(?: ?[:：]| [-–—]|[*_]*\s*\n)"
    rf"|^[^\w\n]*(?:plan|approach|strategy|analysis|steps?|step \d+|task|instructions?|goal)[*_]*(?: ?[:：.]| [-–—])[*_]*\s*"
    rf"(?:first,? |i |we |let's |let me |to )?{_DESCRIBE}\b",
    re.I,
)
"""The heading of a thought, of one draft among others, or of a plan that says what to do."""


def is_musing(sentence: str) -> bool:
    """Whether the first sentence of a reply is part of a thought. Apostrophes are straight ones."""
    return any(rule.search(sentence) for rule in (_ABOUT_THE_USER, _ABOUT_THE_TASK, _PLAN, _HEADED))
