"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16 products of NVIDIA's data sheets, without sparsity, by part of the device's name."""


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, and the GPU if it is what is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count()}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
