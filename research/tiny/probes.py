"""Throw-away parts of the tiny models' vision phase: probes that see the object, and the alignment with word embeddings."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from research.tiny import build, world


class Probes(nn.Module):
    """Linear probes on the connector's output, used in the vision phase only and then thrown away.

    Beside colour, shape, row, column and size of the object they predict its mask: every image token the 16 x 16 pixels it
    stands for. The mask is dense supervision about outlines and shortens the search for shape features.
    """

    TILE = 2 * build.PATCH
    MASK_WEIGHT = 4.0

    def __init__(self, w: world.World) -> None:
        super().__init__()
        self.world = w
        self.mask = nn.Linear(build.HIDDEN, self.TILE**2)
        sizes = {"colour": len(w.colours), "shape": len(w.shapes), "row": 3, "column": 3, "size": 2}
        width = build.IMAGE_TOKENS * build.HIDDEN
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})

    def targets(self, scenes: list[world.Scene]) -> dict[str, torch.Tensor]:
        values = {
            "colour": [self.world.colours.index(s.colour) for s in scenes],
            "shape": [self.world.shapes.index(s.shape) for s in scenes],
            "row": [world.ROWS.index(s.row) for s in scenes],
            "column": [world.COLUMNS.index(s.column) for s in scenes],
            "size": [int(s.size == "large") for s in scenes],
        }
        return {name: torch.tensor(v) for name, v in values.items()}

    def object_mask(self, scenes: list[world.Scene], pixels: torch.Tensor) -> torch.Tensor:
        """Float (batch, tokens, 256): 1 where a pixel differs from the plain background."""
        background = torch.tensor([s.background for s in scenes]).view(-1, 3, 1, 1)
        mask = ((pixels.float() - background).abs().sum(1) > 60).float()
        n = world.SIZE // self.TILE
        return mask.view(-1, n, self.TILE, n, self.TILE).permute(0, 1, 3, 2, 4).reshape(len(scenes), n * n, -1)

    def forward(
        self, features: torch.Tensor, targets: dict[str, torch.Tensor], mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, list[float]]]:
        """Summed loss and right/wrong per attribute; `features` is (batch, tokens, hidden)."""
        flat = features.flatten(1).float()
        loss = self.MASK_WEIGHT * nn.functional.binary_cross_entropy_with_logits(self.mask(features.float()), mask)
        rates = {}
        for name, head in self.heads.items():
            logits = head(flat)
            loss = loss + nn.functional.cross_entropy(logits, targets[name])
            rates[name] = (logits.argmax(-1) == targets[name]).float().tolist()
        return loss, rates


class WordAlignment:
    """Makes the image tokens look like the words that describe the image, one word a token (`language.image_words`).

    Per token: cross-entropy over the words of its kind with the dot product with the word's unit embedding (fixed here) as
    score, plus one minus the cosine to the right word. A language model that can compare words can then compare an image with a
    word; from answers alone that does not form.
    """

    TEMPERATURE = 0.1

    def __init__(self, tokenizer: PreTrainedTokenizerFast, embeddings: torch.Tensor, w: world.World) -> None:
        self.embedding_norm = embeddings.norm(dim=1).mean().item()
        self.feature_norm: float | None = None
        self.last_norm = self.embedding_norm
        self.words = {
            "colour": w.colours,
            "shape": w.shapes,
            "size": ("small", "large"),
            "row": world.ROWS,
            "column": world.COLUMNS,
        }
        unit = nn.functional.normalize(embeddings.detach(), dim=1)
        self.units = {name: unit[[_token(tokenizer, word) for word in words]] for name, words in self.words.items()}

    def __call__(self, features: torch.Tensor, scenes: list[world.Scene], rates: dict[str, list[float]]) -> torch.Tensor:
        """Loss for `features` (batch, tokens, hidden); adds right/wrong per kind of word to `rates`."""
        self.last_norm = features.detach().float().norm(dim=-1).mean().item()
        self.feature_norm = self.feature_norm or self.last_norm
        loss = torch.zeros(())
        scaled = features.float() / self.feature_norm
        for place, (name, words) in enumerate(self.words.items()):
            target = torch.tensor([words.index(getattr(s, name)) for s in scenes])
            tokens = scaled[:, place :: len(self.words)]
            scores = tokens @ self.units[name].T / self.TEMPERATURE
            loss = loss + nn.functional.cross_entropy(scores.flatten(0, 1), target.repeat_interleave(scores.shape[1]))
            right = nn.functional.cosine_similarity(tokens, self.units[name][target][:, None], dim=-1)
            loss = loss + (1 - right).mean()
            rates[f"word {name}"] = (scores.mean(1).argmax(-1) == target).float().tolist()
        return loss

    @torch.no_grad()
    def rescale(self, connector: nn.Module) -> None:
        """Bring the (linear) connector's output from its own scale to that of word embeddings, once trained."""
        for weight in connector.parameters():
            weight.mul_(self.embedding_norm / self.last_norm)


def _token(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    (token,) = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return int(token)
