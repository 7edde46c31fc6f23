"""A filter of pseudo pairs: answers of one word alone."""

from leaml.config import FilterConfig
from leaml.generation.candidates import Candidate


def one_word(candidate: Candidate, config: FilterConfig) -> str | None:
    """The answer has more than one word."""
    return "more than a word" if len(candidate.answer.split()) > 1 else None
