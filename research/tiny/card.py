"""Writes the model card beside a shipped model from its `training.json`.

python -m research.tiny.card DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from research.tiny import world

_TEXT = """# {title}

A tiny Idefics3 ({parameters:,} parameters, bfloat16), trained on the procedural world in `research/tiny/world.py` alone.
{role}

| fact | value |
|---|---|
| seed | {seed} |
| images rendered | {images:,}, {size} x {size} pixels, one object on a plain pale background |
{text_phase}| vision tower with probes for colour, shape, place, size and mask{aligned} | {vision_steps} steps of {batch_size} |
| everything, token cross-entropy on replies | {steps} steps of {batch_size} |
| time | {seconds} s on {threads} CPU thread(s) of a busy 2-core machine |
| colours seen | {colours} |
| shapes seen | {shapes} |

Accuracy on 1,000 scenes not trained on (every token of the reply right, teacher forced):

| task | accuracy |
|---|---|
{accuracy}
{measured}
Reproduce: `make models`, or
`python -m research.tiny.train {model} --out DIR --seed {seed} --text-steps {text_steps} --vision-steps {vision_steps}
--steps {steps}`.
Licence: Apache-2.0, as the project.
"""

_MEASURED = """
Captions of easy-VQA's {images:,} training images, none of them trained on: colour right in {colour:.3f}, shape right in
{shape:.3f}, both in {both:.3f} of those whose questions tell (`python -m research.teacher_captions`).
"""
_FACTS = ("model", "parameters", "seed", "images", "vision_steps", "steps", "batch_size", "seconds", "threads")
_ROLE = {
    "base": (
        "It is the model that the demo adapts. It has never seen the demo's target: no easy-VQA image or question, none of\n"
        "its colours teal, gray, black and brown, no rectangle, no triangle, and none of its question templates."
    ),
    "teacher": (
        "It is the demo's caption teacher. It knows more shapes and colours than the base, easy-VQA's among them, but it has\n"
        "seen no easy-VQA image and no question at all: it can only describe."
    ),
}


def card(record: dict[str, Any]) -> str:
    """The model card's Markdown; `record` is the content of training.json."""
    w = world.BASE if record["model"] == "base" else world.TEACHER
    easy_vqa = record.get("easy_vqa_captions")
    measured = ""
    if easy_vqa:
        measured = _MEASURED.format(**easy_vqa)
    text_steps = record.get("text_steps", 0)
    phase = f"| language model alone, questions about descriptions | {text_steps} steps of {record['batch_size']} |\n"
    return _TEXT.format(
        text_steps=text_steps,
        text_phase=phase if text_steps else "",
        aligned=", connector aligned with the words' embeddings" if text_steps else "",
        title="leaml-tiny" if record["model"] == "base" else "leaml-tiny-teacher",
        role=_ROLE[record["model"]],
        size=world.SIZE,
        colours=", ".join(w.colours),
        shapes=", ".join(w.shapes),
        accuracy="\n".join(f"| {task} | {value:.3f} |" for task, value in record["accuracy"].items()),
        measured=measured,
        **{fact: record[fact] for fact in _FACTS},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "README.md").write_text(card(json.loads((folder / "training.json").read_text())))


if __name__ == "__main__":
    main()
