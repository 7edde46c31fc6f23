"""True captions of the sports set, and how many of a model's captions are right."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

KINDS = {"sport": ("picture of",), "ball": ("ball", "puck"), "people": ("player", "paddle"), "numbers": ("visible",)}
"""What the sentences of a caption are about, by words in them; the first kind that fits counts."""


def parts(caption: str) -> dict[str, frozenset[str]]:
    """The sentences of a caption by kind; others (a basket) are "rest"."""
    found: dict[str, set[str]] = {kind: set() for kind in (*KINDS, "rest")}
    for sentence in caption.replace(". ", ".\n").splitlines():
        kind = next((kind for kind, words in KINDS.items() if any(word in sentence for word in words)), "rest")
        found[kind].add(sentence.strip())
    return {kind: frozenset(sentences) for kind, sentences in found.items()}


def right(captions: list[str], truths: list[str]) -> dict[str, float]:
    """Share of captions whose sentences of a kind are the true ones, of those where either has any; "all": the whole."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for caption, truth in zip(captions, truths, strict=True):
        said, true = parts(caption), parts(truth)
        for kind in true:
            if said[kind] or true[kind]:
                hits[kind].append(said[kind] == true[kind])
        hits["all"].append(said == true)
    return {kind: round(sum(found) / len(found), 4) for kind, found in hits.items()}


def read_captions(folder: Path, split: str) -> dict[Path, str]:
    """True captions of the frames of one split."""
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    return {folder / row["image"]: row["caption"] for row in rows if f"/{split}/" in row["image"]}
