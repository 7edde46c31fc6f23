"""Replies of a stack of models: sampled or greedy, with log-probabilities, in the shape that leaml's engines give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from leaml.engine.interface import Completion, Request
from research.ensemble import model
from research.ensemble.model import Shape, Weights
from research.ensemble.texts import Texts

ROWS = 12_000
"""Replies that are written at a time, over all models: about a megabyte each in float32."""
COMPACT = 8
"""Tokens after which finished replies are left out."""


@dataclass(frozen=True)
class Settings:
    """What the rows of one call share."""

    temperature: float
    top_p: float
    max_tokens: int


class StackedEngine:
    """`generate` of every model of a stack in one call.

    Args:
        weights: (A, *shape) each.
        pixels: uint8 (images, 3, height, width); `Request.image_id` is a row of it, as text.
        seed: Of the sampling. Here it is one stream for all rows, where the pipeline has one for every image.
    """

    def __init__(self, weights: Weights, shape: Shape, texts: Texts, pixels: torch.Tensor, seed: int = 0) -> None:
        self.weights, self.shape, self.texts, self.pixels = weights, shape, texts, pixels
        self.models = len(weights[model.EMBEDDING])
        self.generator = torch.Generator(pixels.device).manual_seed(seed)

    def generate(self, asked: Sequence[Sequence[Request]]) -> list[list[list[Completion]]]:
        """The completions of each model's own requests; a request's seed and pattern are not used."""
        found: list[list[list[Completion]]] = [[[] for _ in requests] for requests in asked]
        groups: dict[Settings, list[list[int]]] = {}
        for number, requests in enumerate(asked):
            for place, r in enumerate(requests):
                if r.prefix:
                    msg = "ensembles write no reply behind a prefix"
                    raise ValueError(msg)
                settings = Settings(r.temperature, r.top_p, r.max_tokens)
                own = groups.setdefault(settings, [[] for _ in asked])[number]
                own += [place] * r.n
        for settings, rows in groups.items():
            size = max(1, ROWS // self.models)
            for begin in range(0, max(map(len, rows)), size):
                part = [r[begin : begin + size] for r in rows]
                for number, completions in enumerate(self._part(asked, part, settings)):
                    for place, completion in zip(part[number], completions, strict=True):
                        found[number][place].append(completion)
        return found

    def _part(self, asked: Sequence[Sequence[Request]], rows: list[list[int]], settings: Settings) -> list[list[Completion]]:
        """Completions of some rows of each model; models with fewer rows write replies that nobody reads."""
        width, device = max(map(len, rows)), self.pixels.device
        prompts = [self.texts.prompts([asked[m][r].text for r in rows[m]]) for m in range(self.models)]
        filler = next(p for ps in prompts for p in ps)
        for ps in prompts:
            ps += [filler] * (width - len(ps))
        length = max(len(p) for ps in prompts for p in ps)
        ids = torch.tensor([[[self.texts.pad] * (length - len(p)) + p for p in ps] for ps in prompts], device=device)
        pads = torch.tensor([[length - len(p) for p in ps] for ps in prompts], device=device)
        images, which = self._images([[int(asked[m][r].image_id) for r in rows[m]] for m in range(self.models)], width)
        tokens, logprobs = self._decode(images, which, ids, pads, settings)
        replies: list[list[Completion]] = []
        for m in range(self.models):
            own = [_cut(t, self.texts.end) for t in tokens[m, : len(rows[m])].tolist()]
            written = self.texts.read([t[:-1] if t[-1] == self.texts.end else t for t in own])
            sums = logprobs[m, : len(rows[m])].tolist()
            replies.append(
                [
                    Completion(text, total / len(t), "stop" if t[-1] == self.texts.end else "length", len(t))
                    for text, total, t in zip(written, sums, own, strict=True)
                ]
            )
        return replies

    def _images(self, wanted: list[list[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens (A, U, tokens, D) of each model's distinct images, and which of them each row shows (A, width)."""
        distinct = [sorted(set(w)) or [0] for w in wanted]
        most = max(map(len, distinct))
        places = [{image: n for n, image in enumerate(d)} for d in distinct]
        which = [[places[m][i] for i in w] + [0] * (width - len(w)) for m, w in enumerate(wanted)]
        table = torch.tensor([d + [0] * (most - len(d)) for d in distinct], device=self.pixels.device)
        size = max(1, ROWS // self.models // 4)
        parts = [model.image_tokens(self.weights, self.shape, self.pixels[t]) for t in table.split(size, 1)]
        return torch.cat(parts, 1), torch.tensor(which, device=self.pixels.device)

    @torch.no_grad()
    def _decode(
        self, images: torch.Tensor, which: torch.Tensor, ids: torch.Tensor, pads: torch.Tensor, settings: Settings
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (A, R, steps), padded behind the end token, and the sums of their log-probabilities (A, R)."""
        models, rows, length = ids.shape
        device, shape, weights = ids.device, self.shape, self.weights
        shown = images.gather(1, which[..., None, None].expand(-1, -1, *images.shape[2:]))
        x = model.embed(weights, ids, shown, self.texts.at + pads)
        width = x.shape[3] // shape.heads
        columns = length + settings.max_tokens
        layers = model.text_layers(weights, shape)
        held = (models * rows, shape.heads, columns, width)
        cache = [(torch.zeros(held, device=device), torch.zeros(held, device=device)) for _ in range(shape.text_layers)]
        alive = torch.arange(rows, device=device).expand(models, rows)  # rows that are still written
        found = torch.full((models, rows, settings.max_tokens), self.texts.pad, device=device)
        sums = torch.zeros(models, rows, device=device)
        done = torch.zeros(models, rows, dtype=torch.bool, device=device)
        column, ends = 0, pads
        for step in range(settings.max_tokens):
            here = torch.arange(column, column + x.shape[2], device=device)
            turned = model.rotation((here - ends[..., None]).clamp(min=0).flatten(0, 1)[:, None], shape, width)
            seen = torch.arange(column + x.shape[2], device=device)
            mask = (seen >= ends[..., None]).flatten(0, 1)[:, None, None] & (seen <= here[:, None])
            mask = mask | (seen == here[:, None])  # a pad sees itself: nothing to see would be not a number
            for own, kept in zip(layers, cache, strict=True):
                x = model.text_layer(own, shape.heads, shape.norm, x, turned, mask, kept, column)
            column += x.shape[2]
            chosen, logprob = self._choose(model.logits(*model.head(weights), shape.norm, x[:, :, -1:])[:, :, 0], settings)
            sums.scatter_add_(1, alive, logprob.masked_fill(done, 0))
            found[:, :, step].scatter_(1, alive, chosen.masked_fill(done, self.texts.pad))
            done = done | (chosen == self.texts.end)
            if step % COMPACT == COMPACT - 1:
                if bool(done.all()):
                    break
                keep = done.int().argsort(dim=1, stable=True)[:, : int((~done).sum(1).max())]
                if keep.shape[1] < 0.8 * done.shape[1]:
                    flat = (keep + done.shape[1] * torch.arange(models, device=device)[:, None]).flatten()
                    cache = [(keys[flat], values[flat]) for keys, values in cache]
                    alive, done, ends, chosen = (t.gather(1, keep) for t in (alive, done, ends, chosen))
            x = model.embed(weights, chosen[..., None], images[:, :1, :0].expand(-1, chosen.shape[1], -1, -1), 0)
        return found.cpu(), sums.cpu()

    def _choose(self, logits: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token (A, R) and its log-probability before temperature, as vLLM reports it."""
        logprobs = logits.float().log_softmax(-1)
        if settings.temperature == 0:
            best, chosen = logprobs.max(-1)
            return chosen, best
        probabilities = (logits.float() / settings.temperature).softmax(-1)
        if settings.top_p < 1:
            ordered, order = probabilities.sort(-1)
            ordered = ordered.masked_fill(ordered.cumsum(-1) <= 1 - settings.top_p, 0)
            probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
        chosen = torch.multinomial(probabilities.flatten(0, 1), 1, generator=self.generator).view(logits.shape[:2])
        return chosen, logprobs.gather(-1, chosen[..., None])[..., 0]


def _cut(tokens: list[int], end: int) -> list[int]:
    """Tokens up to and including the first end token."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
