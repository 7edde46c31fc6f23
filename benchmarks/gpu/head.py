"""Memory of a head of 152,000 words: logits of all tokens, and of reply tokens alone as training makes them."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.gpu.part import Part
from leaml.training.objectives import reply_logits


class Head(nn.Module):
    """Nothing but embeddings and a head."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed, self.lm_head = nn.Embedding(words, width), nn.Linear(width, words, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        """As models of transformers have it."""
        return self.lm_head

    def forward(self, input_ids: torch.Tensor) -> object:
        """Logits of all tokens that the head sees."""
        return type("Output", (), {"logits": self.lm_head(self.embed(input_ids))})


def measure(part: Part, everything: bool) -> dict[str, float]:
    """Forward and backward over 8 x 1,200 tokens with 16 of reply in each row."""
    words, length = (1000, 60) if part.tiny else (151_936, 1200)
    part.reset_peak()
    with torch.device(part.device):
        made = Head(words, 64 if part.tiny else 2048).to(torch.bfloat16)
        ids = torch.randint(0, words, (8, length))
    labels = torch.full_like(ids, -100)
    labels[:, -16:] = ids[:, -16:]

    def step() -> None:
        if everything:
            logits = made(ids).logits[:, :-1].flatten(0, 1).float()
            nn.functional.cross_entropy(logits, labels[:, 1:].flatten()).backward()
        else:
            reply_logits(made, {"input_ids": ids}, labels).losses().mean().backward()

    return {"s_per_step": round(part.seconds(step, 1, 3), 4), "peak_gib": part.peak_gib()}


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    part.attempt("reply tokens", lambda: measure(part, False))
    part.attempt("all tokens", lambda: measure(part, True))


if __name__ == "__main__":
    main()
