"""Pseudo pairs: how they are sampled, and the filters that they pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from leaml.config.base import Section


class FilterConfig(Section):
    """Filters of the pseudo pairs; each rejected pair keeps its reason. None or false switches a filter off."""

    max_question_chars: int | None = Field(200, gt=0, description="Reject longer questions, in characters.")
    max_answer_chars: int | None = Field(100, gt=0, description="Reject longer answers, in characters.")
    broken_text: bool = Field(
        True,
        description="Reject pairs with replacement or control characters, marks inside words, or text in a wrong encoding.",
    )
    min_mean_logprob: float | None = Field(None, description="Reject pairs whose mean token log-probability is lower.")
    round_trip: bool = Field(True, description="Reject pairs whose answer a second reading of the image does not give.")
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
        False, description="Reject pairs whose answer the base gives too, as MPA does; the base answers all accepted pairs."
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


class GenerateConfig(Section):
    """Step 5: the generator writes pseudo question-answer pairs for the unlabeled images."""

    pairs_per_image: int = Field(8, ge=0, description="Sampled pairs per image, before filters; 0: given questions only.")
    questions: list[str] = Field(
        default_factory=list, description="Known questions of the domain, answered about every image beside the sampled pairs."
    )
    caption: Literal["none", "self", "teacher"] = Field(
        "none", description="What stands before the pair: nothing, the generator's own caption, or the teacher's."
    )
    temperature: float = Field(1.0, ge=0, le=2, description="Sampling temperature of the questions.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus sampling mass.")
    votes: int = Field(1, ge=1, description="Times each generated question is answered again; 1 is one greedy answer.")
    correct_above: float | None = Field(
        0.97,
        gt=0,
        le=1,
        description="Per-token probability from which an answer that fails the round trip makes a pair; none: off.",
    )
    max_tokens: int = Field(96, gt=0, description="Longest reply, in tokens.")
    structured: bool = Field(
        False, description="Let vLLM only sample replies that hold a pair (structured outputs); cut ones may still not."
    )
    max_images: int | None = Field(None, gt=0, description="Use at most this many unlabeled images; none: all.")
    seed: int = Field(0, ge=0, description="Sampling seed; every image has its own stream, independent of order and workers.")
    filters: FilterConfig = Field(default_factory=lambda: FilterConfig(), description="Filters.")

    @field_validator("questions")
    @classmethod
    def _are_questions(cls, value: list[str]) -> list[str]:
        plain = [" ".join(q.split()) for q in value]
        if wrong := sorted({q for q in plain if not q or plain.count(q) > 1}):
            msg = f"empty or repeated questions {wrong}; give each once"
            raise ValueError(msg)
        if wrong := [q for q in plain if "<image>" in q]:
            msg = f"questions with <image> {wrong}; leave it out, the image is shown anyway"
            raise ValueError(msg)
        return plain

    @model_validator(mode="after")
    def _makes_pairs(self) -> GenerateConfig:
        if not self.pairs_per_image and not self.questions:
            msg = "pairs_per_image is 0 and questions is empty, so no pair would be made; raise one or fill the other"
            raise ValueError(msg)
        return self
