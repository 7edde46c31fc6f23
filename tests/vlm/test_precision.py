"""The type that a forward pass computes in."""

from __future__ import annotations

import pytest
import torch

from leaml.training.loop import task_loss
from leaml.vlm import precision


@pytest.mark.parametrize(
    ("asked", "fast", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, asked: precision.Precision, fast: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device_type: fast)
    seen: list[torch.dtype] = []

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> object:
            logits = torch.ones(2, 3, 4) @ torch.ones(4, 5)
            seen.append(logits.dtype)
            return type("Output", (), {"logits": logits})

    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "labels": torch.ones(2, 3, dtype=torch.int64)}
    vlm = type("Vlm", (), {"model": Model()})
    task_loss(vlm, batch, torch.zeros(2, dtype=torch.int64), [1.0], asked, [4])  # type: ignore[arg-type]

    assert seen == [expected]
