"""Pictures for tests that compare images."""

import numpy as np
from PIL import Image


def scene(seed: int, size: int = 200) -> Image.Image:
    """A smooth random picture; sizes of one seed are near duplicates of each other."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
