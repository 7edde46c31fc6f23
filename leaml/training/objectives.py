"""Losses. Labels are token ids, `IGNORED` where a token carries no loss.

Logits are made for reply tokens alone: of 1,200 tokens of a photo and a question two or three are predicted, and logits of all
of them with a vocabulary of 150,000 would take 360 MB an example, and as much again for their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leaml.errors import ModelError
from leaml.vlm.collate import IGNORED


@dataclass(frozen=True)
class ReplyLogits:
    """What a model says of the reply tokens of a batch, row by row.

    Attributes:
        logits: (tokens, vocabulary), any float type.
        targets: (tokens,) int64, the reply's tokens.
        rows: (tokens,) int64, the row of the batch that each of them is in.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor

    def losses(self) -> torch.Tensor:
        """(tokens,): `-log softmax(logits)[target]`, in float32 (float64 where the logits are)."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        return functional.cross_entropy(logits, self.targets, reduction="none")

    def mean_by_row(self, count: int) -> torch.Tensor:
        """float32 (count,): each row's mean loss, `L_b = 1 / n_b sum_t -log p(y_bt | ...)`; 0 for a row without reply."""
        losses = self.losses()
        counts = torch.bincount(self.rows, minlength=count).clamp(min=1)
        return torch.zeros(count, dtype=losses.dtype, device=losses.device).index_add(0, self.rows, losses) / counts

    def right_by_row(self, count: int) -> torch.Tensor:
        """bool (count,): whether every reply token of a row is the model's first choice."""
        wrong = self.logits.argmax(-1) != self.targets
        return torch.bincount(self.rows, weights=wrong.float(), minlength=count) == 0


def reply_logits(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor, call: Any = None) -> ReplyLogits:
    """The logits that predict the reply tokens.

    Args:
        model: A model of transformers, or PEFT's around one.
        inputs: What it is called with, without labels.
        labels: (batch, length) int64, `IGNORED` where no loss is wanted; not shifted.
        call: What is called instead of the model, a wrapper around it.

    Raises:
        ModelError: The model makes another number of hidden states than there are tokens.
    """
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    with _head_sees(model, wanted) as selected:
        logits = (call or model)(**inputs).logits
    if not selected:  # a model without a head of its own
        logits = logits[:, :-1][wanted.to(logits.device)]
    return ReplyLogits(logits, targets[wanted].to(logits.device), wanted.nonzero()[:, 0].to(logits.device))


@contextmanager
def _head_sees(model: Any, wanted: torch.Tensor) -> Iterator[list[bool]]:
    """Hand the hidden states before the `wanted` (batch, length - 1) tokens to the head, and no others.

    Yields a list that is empty until that has happened.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    selected: list[bool] = []

    def select(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, *others = arguments
        if hidden.dim() != 3 or hidden.shape[0] != wanted.shape[0] or hidden.shape[1] != wanted.shape[1] + 1:
            msg = (
                f"the model's head sees hidden states of the shape {tuple(hidden.shape)} for {wanted.shape[0]} examples of "
                f"{wanted.shape[1] + 1} tokens, so that its loss cannot be told; use a model of transformers that has one "
                "hidden state for each token of its input"
            )
            raise ModelError(msg)
        selected.append(True)
        return (hidden[:, :-1][wanted.to(hidden.device)], *others)

    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        yield selected
    finally:
        if handle is not None:
            handle.remove()
