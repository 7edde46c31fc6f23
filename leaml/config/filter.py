"""Which candidates become pseudo pairs."""

from __future__ import annotations

from pydantic import Field, field_validator

from leaml.config.base import Section
from leaml.plugins import Plugins

PLUGINS = Plugins("leaml.filters", "filter")


class FilterConfig(Section):
    """Candidates become accepted or rejected pairs, each with its reason. None or false switches a filter off."""

    max_question_chars: int | None = Field(200, gt=0, description="Reject longer questions, in characters.")
    max_answer_chars: int | None = Field(100, gt=0, description="Reject longer answers, in characters.")
    broken_text: bool = Field(
        True,
        description="Reject pairs with replacement or control characters, marks inside words, or text in a wrong encoding.",
    )
    min_mean_logprob: float | None = Field(None, description="Reject pairs whose mean token log-probability is lower.")
    round_trip: bool = Field(True, description="Reject pairs whose answer a second reading of the image does not give.")
    correct_above: float | None = Field(
        0.97,
        gt=0,
        le=1,
        description="Per-token probability from which an answer to a generated question that no sampled pair gives makes a "
        "pair; none: off.",
    )
    min_votes: float | None = Field(
        0.6, ge=0, le=1, description="Reject pairs whose answer wins fewer of the re-answers; none: off."
    )
    duplicates: bool = Field(True, description="Keep one pair per question and image.")
    similar_questions: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Jaccard similarity of 3-grams from which two questions count as one, for duplicates (per image) and for "
        "max_per_question and max_answer_share (over all images); none: the same normalised text.",
    )
    hardness: bool = Field(
        False,
        description="Reject pairs whose answer the base gives too, as MPA does; the base answers every generated question.",
    )
    max_per_question: int | None = Field(
        None, gt=0, description="Keep about this many pairs of a question over all images, drawn by hash; none: all."
    )
    max_answer_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Thin the most common answers to a question over all images until none is more than this share of them, "
        "but not below 20 pairs; none: off.",
    )
    seed: int = Field(0, ge=0, description="Seed of the hash that draws pairs for max_per_question and max_answer_share.")
    plugins: list[str] = Field(
        default_factory=list,
        description="Filters of other packages to ask behind LEAML's own, in this order: names of entry points of the group "
        "leaml.filters.",
    )

    @field_validator("plugins")
    @classmethod
    def _are_installed(cls, names: list[str]) -> list[str]:
        known = PLUGINS.names if names else []
        for name in names:
            if name not in known:
                there = f"installed are {', '.join(sorted(known))}" if known else "none is installed"
                msg = f"no installed package has the filter {name!r} ({there}); pip install the one that does"
                raise ValueError(msg)
        return names
