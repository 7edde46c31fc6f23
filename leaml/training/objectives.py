"""Losses. Labels are token ids, `IGNORED` where a token carries no loss."""

from __future__ import annotations

import torch
from torch.nn import functional

from leaml.vlm.collate import IGNORED


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every position's next token: `-log softmax(logits[b, t])[labels[b, t + 1]]`, 0 where ignored.

    Only the positions that carry loss are converted to float32, since a vocabulary of 150 000 makes the full copy large.

    Args:
        logits: (batch, length, vocabulary), any float type.
        labels: (batch, length) int64, `IGNORED` where no loss is wanted; not shifted.

    Returns:
        float32 (batch, length - 1).
    """
    targets = labels[:, 1:].to(logits.device)
    wanted = targets != IGNORED
    losses = functional.cross_entropy(logits[:, :-1][wanted].float(), targets[wanted], reduction="none")
    return torch.zeros(targets.shape, dtype=torch.float32, device=logits.device).masked_scatter(wanted, losses)


def per_example_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean token cross-entropy of each row: `L_b = 1 / n_b sum_t -log p(y_bt | ...)`, 0 for a row without reply tokens.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length), `IGNORED` where no loss is wanted; not shifted.

    Returns:
        float32 (batch,), differentiable.
    """
    counts = (labels[:, 1:] != IGNORED).sum(1).clamp(min=1).to(logits.device)
    return token_loss(logits, labels).sum(1) / counts
