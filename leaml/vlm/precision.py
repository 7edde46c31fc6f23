"""The type that a forward pass computes in."""

from __future__ import annotations

from typing import Literal

import torch

from leaml import _compat

Precision = Literal["auto", "float32", "bfloat16"]


def fast_bfloat16(device_type: str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices: GPUs from Ampere on, CPUs with AVX-512 or Arm's bf16.

    Elsewhere torch computes them value by value: on a CPU with AVX2 alone a training step takes some 30 times as long.
    A GPU that is planned for, and not seen by this process, counts as one of those.
    """
    if device_type == "cuda":
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return _compat.cpu_multiplies_bfloat16()
    return False


def computing_in(precision: Precision, device_type: str) -> torch.autocast:
    """The context of a forward pass: autocast to `compute_dtype`, or nothing where that is float32."""
    dtype = compute_dtype(precision, device_type)
    return torch.autocast(device_type, dtype, enabled=dtype != torch.float32)


def compute_dtype(precision: Precision, device_type: str) -> torch.dtype:
    """The autocast type of `precision` on "cpu" or "cuda"; "auto" is bfloat16 where that is fast and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if fast_bfloat16(device_type) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
