"""Pictures for tests that compare images, and folders of them with labels."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def scene(seed: int, size: int = 200) -> Image.Image:
    """A smooth random picture; sizes of one seed are near duplicates of each other."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def labeled(folder: Path, seeds: Iterable[int], answer: str) -> None:
    """A new folder of scenes with `rows.jsonl`: one question about each; `{}` in the answer is its seed."""
    folder.mkdir()
    rows = []
    for seed in seeds:
        scene(seed).save(folder / f"{seed}.png")
        rows.append({"image": f"{seed}.png", "question": "what?", "answer": answer.format(seed)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
