"""How often the shipped teacher names the right colour and shape on easy-VQA's training images, which it has never seen.

    python -m research.teacher_captions [--images 4000] [--json FILE]

The truth comes from easy-VQA's own questions; an image whose questions do not tell its colour (or shape) is left out there.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from leaml.config import ModelConfig, ResourcesConfig, SourceConfig
from leaml.data import registry, tables
from leaml.data.records import Question
from leaml.engine.interface import Request
from leaml.generation import prompts
from leaml.images import decode
from pipelines.models import engine_spec

COLOURS = ("red", "green", "blue", "teal", "black", "gray", "yellow", "brown")
SHAPES = ("circle", "rectangle", "triangle")


def truth(questions: tuple[Question, ...], words: tuple[str, ...]) -> str | None:
    """The one of `words` that is true of an image by its questions and answers, or None if they do not tell."""
    for q in questions:
        if q.answer in words:
            return q.answer
        asked = re.findall(r"[a-z]+", q.question)
        named = [w for w in asked if w in words]
        negated = "not" in asked or "no" in asked
        if named and q.answer in ("yes", "no") and (q.answer == "yes") != negated:
            return named[0]
    return None


def measure(images: int) -> dict[str, float]:
    """Shares of captions with the right colour, shape and both."""
    records = list(registry.read(SourceConfig(format="easy_vqa", split="train", limit=images)))
    engine = engine_spec(ModelConfig(name="leaml-tiny-teacher"), ResourcesConfig()).build()
    data = [r.data or b"" for r in records]
    requests = [Request(decode(d), tables.image_id(d), prompts.CAPTION, max_tokens=48) for d in data]
    captions = [c.text for (c,) in engine.generate(requests)]
    right: dict[str, list[bool]] = {"colour": [], "shape": [], "both": []}
    for record, caption in zip(records, captions, strict=True):
        colour, shape = truth(record.questions, COLOURS), truth(record.questions, SHAPES)
        said = re.findall(r"[a-z]+", caption)
        if colour:
            right["colour"].append(colour in said)
        if shape:
            right["shape"].append(shape in said)
        if colour and shape:
            right["both"].append(colour in said and shape in said)
    return {"images": len(records), **{k: round(sum(v) / len(v), 4) for k, v in right.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.images)
    print(" ".join(f"{k} {v}" for k, v in result.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
