"""Photos a second that 1, 4 and 16 processes decode and cut for a model of SmolVLM's kind (tiles of 512 pixels)."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.gpu.part import PHOTO, Part

if TYPE_CHECKING:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil


class Photos(Dataset[int]):
    """Decodes a JPEG and runs the image processor; gives the number of values it made."""

    def __init__(self, count: int, pixels: tuple[int, int]) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (pixels[0] // 8, pixels[1] // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((pixels[1], pixels[0])).save(buffer, "JPEG")
        self.count, self.data = count, buffer.getvalue()
        self.processor: Idefics3ImageProcessorPil | None = None  # made in the process that uses it

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        if self.processor is None:
            from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

            sizes = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
            self.processor = Idefics3ImageProcessorPil(**sizes)
        image = Image.open(io.BytesIO(self.data)).convert("RGB")
        return int(self.processor([image], return_tensors="pt")["pixel_values"].numel())


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    torch.set_num_threads(1)
    for processes in (1, 2) if part.tiny else (1, 4, 16):
        each = 3 if part.tiny else 24
        photos = Photos(each * processes + 2 * processes, (128, 160) if part.tiny else PHOTO)
        loader = DataLoader(photos, batch_size=None, num_workers=processes, multiprocessing_context="spawn")
        made = iter(loader)
        for _ in range(2 * processes):  # they start, and import
            next(made)
        began = time.perf_counter()
        done = sum(1 for _ in made)
        part.add(f"{processes} processes", {"photos_per_s": round(done / (time.perf_counter() - began), 2)})


if __name__ == "__main__":
    main()
