"""Kvasir-VQA (arXiv 2409.01437): the 19 question templates, their six types, and what its answers need.

The data set has no train and test parts, only `raw`; `records.hash_split` of the image id makes them, because all questions
of one image share its source and so must stay on one side.
"""

from __future__ import annotations

from collections.abc import Iterable

from leaml.data.records import Question
from leaml.text.values import marks_missing

COLUMNS = {"source", "question", "answer", "img_id"}
"""Columns besides the image."""

# Exact strings of the data set, misspellings included
QUESTION_TYPES = {
    "Have all polyps been removed?": "yes_no",
    "Is this finding easy to detect?": "yes_no",
    "Is there a green/black box artefact?": "yes_no",
    "Is there text?": "yes_no",
    "Does this image contain any finding?": "yes_no",
    "What type of polyp is present?": "single_choice",
    "What type of procedure is the image taken from?": "single_choice",
    "What is the size of the polyp?": "single_choice",
    "Are there any abnormalities in the image? Check all that are present.": "multiple_choice",
    "Are there any anatomical landmarks in the image? Check all that are present.": "multiple_choice",
    "Are there any instruments in the image? Check all that are present.": "multiple_choice",
    "What color is the abnormality? If more than one separate with ;": "color",
    "What color is the anatomical landmark? If more than one separate with ;": "color",
    "Where in the image is the abnormality?": "location",
    "Where in the image is the instrument?": "location",
    "Where in the image is the anatomical landmark?": "location",
    "How many findings are present?": "count",
    "How many instrumnets are in the image?": "count",
    "How many polyps are in the image?": "count",
}


def recognises(columns: Iterable[str], questions: Iterable[object]) -> bool:
    """Whether a data set is Kvasir-VQA, by its columns and different questions: others may have the columns, but not ask so."""
    asked = {str(question).strip() for question in questions} if set(columns) >= COLUMNS else set()
    return len(asked & QUESTION_TYPES.keys()) > len(asked) / 2


def parse(question: str, answer: str | None) -> Question | None:
    """The pair with its type (None for an unknown template); None where the answer is missing, or a mark of that such as "nan".

    Answers with several parts stay the text of the data set ("pink; red"): comparing them as sets is the metric's work.
    """
    text = (answer or "").strip()
    if not text or marks_missing(text):
        return None
    return Question(question.strip(), text, QUESTION_TYPES.get(question.strip()))
