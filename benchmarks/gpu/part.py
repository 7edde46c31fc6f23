"""What the parts share: arguments, results that are kept as they come, models of real shapes, and measuring."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import PEAK_TFLOPS

PHOTO = (720, 1280)
"""Height and width of the images."""


@dataclass
class Part:
    """The arguments of a part, and its results."""

    device: torch.device
    tiny: bool
    file: Path
    results: dict[str, Any]

    @classmethod
    def from_arguments(cls, what: str) -> Part:
        """Read the command line."""
        parser = argparse.ArgumentParser(description=what)
        parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
        parser.add_argument("--tiny", action="store_true", help="shapes that take seconds on a CPU")
        parser.add_argument("--json", type=Path, required=True, help="where the results go")
        given = parser.parse_args()
        device = torch.device(given.device)
        facts = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__}
        return cls(device, given.tiny, given.json, {"machine": facts})

    def add(self, name: str, found: object) -> None:
        """Keep a result: the part may be stopped at any time."""
        self.results[name] = found
        self.file.write_text(json.dumps(self.results, indent=1))
        print(name, json.dumps(found), flush=True)

    def attempt(self, name: str, measure: Callable[[], object]) -> None:
        """Keep what is measured, or that it does not fit."""
        try:
            self.add(name, measure())
        except torch.OutOfMemoryError as error:
            self.add(name, {"out_of_memory": str(error).split(". ")[0]})
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        """Forget the memory that was taken so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """GiB taken at the height; on a CPU of the whole process so far."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated() / 2**30, 3)
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)

    def seconds(self, step: Callable[[], object], warm: int = 2, times: int = 4) -> float:
        """Median seconds of a step once it is warm."""
        found = []
        for number in range(warm + times):
            self.synchronise()
            began = time.perf_counter()
            step()
            self.synchronise()
            if number >= warm:
                found.append(time.perf_counter() - began)
        return sorted(found)[len(found) // 2]

    def synchronise(self) -> None:
        """Wait for what the device has been told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @property
    def peak_flops(self) -> float | None:
        """Dense bfloat16 products a second of the card, by its data sheet; None: not known here."""
        name = self.results["machine"]["device"]
        return next((1e12 * tera for card, tera in PEAK_TFLOPS.items() if card in name), None)


def model(shape: str, part: Part, attention: str = "sdpa", dtype: torch.dtype = torch.bfloat16) -> Any:
    """A Qwen2.5-VL of a size's true shape with random weights, on the device."""
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    sizes = {  # hidden, intermediate, layers, heads, key-value heads, tied, vision layers
        "2B": (1536, 8960, 28, 12, 2, True, 32),
        "3B": (2048, 11008, 36, 16, 2, True, 32),
        "7B": (3584, 18944, 28, 28, 4, False, 32),
        "tiny": (128, 256, 2, 4, 2, True, 2),
    }
    hidden, inner, layers, heads, keys, tied, vision = sizes[shape]
    narrow = shape == "tiny"
    text: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": 1000 if narrow else 151_936,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6] if narrow else [16, 24, 24]},
        "tie_word_embeddings": tied,
    }
    tower: dict[str, Any] = {"depth": vision, "out_hidden_size": hidden, "fullatt_block_indexes": [7, 15, 23, 31]}
    if narrow:
        tower |= {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=tied)
    if narrow:
        config.image_token_id, config.video_token_id, config.vision_start_token_id = 990, 991, 992
    config._attn_implementation = attention
    torch.manual_seed(0)
    with torch.device(part.device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)


def batch(made: Any, part: Part, examples: int, reply: int = 16) -> dict[str, torch.Tensor]:
    """Examples of one photo, a question and a reply each, as the processor would make them; with labels."""
    side = 56 if part.tiny else 28
    height, width = (side, side) if part.tiny else PHOTO
    rows, columns = height // 14 // 2 * 2, width // 14 // 2 * 2
    image_tokens, config = rows * columns // 4, made.config
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 900, (examples, 40 + reply), generator=generator)
    image = torch.full((examples, image_tokens), config.image_token_id)
    start = torch.full((examples, 1), config.vision_start_token_id)
    ids = torch.cat([text[:, :10], start, image, text[:, 10:]], 1)
    labels = torch.full_like(ids, -100)
    labels[:, -reply:] = ids[:, -reply:]
    pixels = torch.randn(examples * rows * columns, 3 * 2 * 14 * 14, generator=generator)
    grid = torch.tensor([[1, rows, columns]] * examples)
    kinds = (ids == config.image_token_id).long()
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}
    found |= {"image_grid_thw": grid, "mm_token_type_ids": kinds}
    return {name: tensor.to(part.device) for name, tensor in found.items()}
