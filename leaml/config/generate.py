"""Pseudo pairs: how their candidates are sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from leaml.config.base import Section


class GenerateConfig(Section):
    """The generator writes candidates of question-answer pairs for the unlabeled images."""

    pairs_per_image: int = Field(8, ge=0, description="Sampled pairs per image, before filters; 0: given questions only.")
    questions: list[str] = Field(
        default_factory=list, description="Known questions of the domain, answered about every image beside the sampled pairs."
    )
    caption: Literal["none", "self", "teacher"] = Field(
        "none", description="What stands before the pair: nothing, the generator's own caption, or the teacher's."
    )
    temperature: float = Field(1.0, ge=0, le=2, description="Sampling temperature of the questions.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus sampling mass.")
    votes: int = Field(
        1, ge=0, description="Times each generated question is answered again; 1 is one greedy answer, 0 none at all."
    )
    max_tokens: int = Field(96, gt=0, description="Longest reply, in tokens.")
    structured: bool = Field(
        False,
        description="Let vLLM only sample replies that hold a pair (structured outputs), no longer than "
        "filter.max_question_chars and max_answer_chars; cut ones may still not.",
    )
    max_images: int | None = Field(None, gt=0, description="Use at most this many unlabeled images; none: all.")
    seed: int = Field(0, ge=0, description="Sampling seed; every image has its own stream, independent of order and workers.")

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
