"""Conversations of one image, one request and one reply, made into training batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from leaml.errors import DataError
from leaml.vlm.chat import Chat, adds_special_tokens, chat_of, processor_text
from leaml.vlm.processor import Processor

IGNORED = -100
"""Label of a token that carries no loss."""

CACHE = 200_000
"""Texts whose token ids are kept."""
_TOKEN_KEYS = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Turn:
    """One training example: `prefix` is the forced beginning of the reply and carries no loss; `reply` follows it as it is."""

    image: Image.Image | None
    request: str
    reply: str
    prefix: str = ""


@dataclass
class _Row:
    """Token ids of one example, `context` + `reply`, and per-token extras of the context, by name."""

    context: list[int]
    reply: list[int]
    extras: dict[str, list[int]]


def prompt(processor: Processor, request: str, prefix: str = "", image: bool = True) -> str:
    """What the model is asked: the text to hand to vLLM as `prompt` (and to `processor(text=[...])`) together with the image.

    It is the model's own chat template with one image part, then the text part, the generation prompt and `prefix`; the image
    placeholder stands unexpanded. A beginning-of-text token that the tokenizer adds by itself is left out of the text.

    Args:
        processor: of the model.
        request: the question or instruction.
        prefix: forced beginning of the reply.
        image: False for a request without an image.

    Raises:
        ModelError: the processor has no usable chat template (PaliGemma needs none).
        DataError: the text contains the image placeholder, or the model cannot do without an image.
    """
    return chat_of(processor).prompt(request, prefix, image)


class Collator:
    """Makes a batch of a list of turns: the same token layout as at generation time, loss on the reply and its end token.

    Prompt and reply are tokenised separately and their ids concatenated. Tokenising the whole conversation at once can merge
    the last characters of the prompt with the first of the reply into one token (`:` + ` red`, or a newline run), a token that
    does not exist at generation time, where the model is given exactly the prompt's ids and continues from there.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.chat: Chat = chat_of(processor)
        pad = self.tokenizer.pad_token_id
        self.pad = pad if pad is not None else self.chat.end
        self._contexts: dict[str, list[int]] = {}
        self._replies: dict[str, list[int]] = {}
        after = self.chat.image[1]
        self._anchors = [(a, self._ids(a)) for a in (after, "\n") if a]

    def __call__(self, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `labels` (each int64 (batch, length), padded right) and the model's image tensors.

        An image object that occurs in several turns is processed once and its tensors are repeated. Text-only turns add no
        image tensors.

        Raises:
            DataError: an empty batch or an empty reply.
        """
        if not turns:
            msg = "a batch needs at least one turn; the data that feeds the collator is empty"
            raise DataError(msg)
        prompts = [self.chat.prompt(t.request, t.prefix, t.image is not None) for t in turns]
        contexts, extras, images = self._read(turns, prompts)
        replies = [self.reply_ids(turn.reply, turn.prefix, turn.request) for turn in turns]
        rows = [_Row(*parts) for parts in zip(contexts, replies, extras, strict=True)]
        return {**self._pad(rows), **images}

    def _read(
        self, turns: Sequence[Turn], prompts: list[str]
    ) -> tuple[list[list[int]], list[dict[str, list[int]]], dict[str, torch.Tensor]]:
        """Context ids and extras of every turn, and the image tensors, images in the order of the turns."""
        pictures = {i: t.image for i, t in enumerate(turns) if t.image is not None}
        shown = list(pictures)
        contexts = [self._context(p) for p in prompts]
        extras: list[dict[str, list[int]]] = [{} for _ in turns]
        if not shown:
            return contexts, extras, {}

        order: dict[int, int] = {}
        for i in shown:
            order.setdefault(id(pictures[i]), i)
        first = list(order.values())
        position = {key: n for n, key in enumerate(order)}
        which = [position[id(pictures[i])] for i in shown]

        ids, types, tensors = self._process([pictures[i] for i in first], [prompts[i] for i in first])
        spans = [self._span(contexts[i], ids[n]) for n, i in enumerate(first)]
        repeated = tensors if len(first) == len(shown) else _repeat(tensors, which, len(first))
        if repeated is None or None in spans:  # an unknown layout: let the processor see every row
            ids, types, repeated = self._process([pictures[i] for i in shown], [prompts[i] for i in shown])
            for n, i in enumerate(shown):
                contexts[i], extras[i] = ids[n], {k: v[n] for k, v in types.items()}
            return contexts, extras, repeated

        for n, i in zip(which, shown, strict=True):
            start, length = spans[n] or (0, 0)
            at = contexts[i].index(self.chat.placeholder_id)
            after = len(contexts[i]) - at - 1
            extras[i] = {k: [0] * at + v[n][start : start + length] + [0] * after for k, v in types.items()}
            contexts[i] = contexts[i][:at] + ids[n][start : start + length] + contexts[i][at + 1 :]
        return contexts, extras, repeated

    def _process(
        self, images: list[Image.Image], texts: list[str]
    ) -> tuple[list[list[int]], dict[str, list[list[int]]], dict[str, torch.Tensor]]:
        """One processor call: unpadded ids and per-token extras of every row, and the image tensors."""
        keywords = {} if adds_special_tokens(self.processor) else {"add_special_tokens": False}
        rgb = [[i if i.mode == "RGB" else i.convert("RGB")] for i in images]
        texts = [processor_text(self.processor, t) for t in texts]
        out = dict(self.processor(images=rgb, text=texts, padding=True, return_tensors="pt", **keywords))
        mask = out.pop("attention_mask").bool()
        out.pop("labels", None)
        ids = [row[keep].tolist() for row, keep in zip(out.pop("input_ids"), mask, strict=True)]
        types = {k: [row[keep].tolist() for row, keep in zip(out.pop(k), mask, strict=True)] for k in _TOKEN_KEYS if k in out}
        return ids, types, {k: v for k, v in out.items() if isinstance(v, torch.Tensor)}

    def _span(self, context: list[int], ids: list[int]) -> tuple[int, int] | None:
        """`(start, length)` of what the processor put in place of the placeholder, None if it changed anything else."""
        if context.count(self.chat.placeholder_id) != 1:
            return None
        at = context.index(self.chat.placeholder_id)
        after = context[at + 1 :]
        length = len(ids) - at - len(after)
        if length < 1 or ids[:at] != context[:at] or ids[at + length :] != after:
            return None
        return at, length

    def _context(self, text: str) -> list[int]:
        """Ids of a prompt with the image still unexpanded."""
        found = self._contexts.get(text)
        if found is None:
            found = self._ids(self._paligemma(text)) if self.chat.plain else list(self.tokenizer(text)["input_ids"])
            _keep(self._contexts, text, found)
        return found

    def _paligemma(self, text: str) -> str:
        """The text that PaliGemma's processor makes of a prompt: image, beginning of text, request, newline."""
        return self.chat.placeholder + str(self.tokenizer.bos_token) + text + "\n"

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def reply_ids(self, reply: str, prefix: str = "", request: str = "") -> list[int]:
        """Ids of a reply as it is trained: behind the prompt, with its end token.

        Args:
            reply: The text.
            prefix: Forced beginning of the reply, part of the prompt.
            request: Named in the error.

        Raises:
            DataError: The reply is empty or holds the image placeholder.
        """
        text = self.chat.reply(reply, prefix)
        found = self._replies.get(text)
        if found is None:
            found = self._reply_ids(text)
            if not found or self.chat.placeholder_id in found:
                msg = f"the reply {reply[:80]!r} to {request[:80]!r} is empty or holds the image placeholder; remove it"
                raise DataError(msg)
            found = [*found, self.chat.end]
            _keep(self._replies, text, found)
        return found

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of `prompt`'s text with one placeholder for the image, to hand to vLLM with ids of a reply behind them."""
        if self.chat.plain:  # vLLM puts the image in front by itself
            first = self.tokenizer.bos_token_id
            return [*([] if first is None else [first]), *self._ids(text + "\n")]
        return list(self.tokenizer(text)["input_ids"])

    def _reply_ids(self, text: str) -> list[int]:
        """Ids of a reply that stands behind a prompt.

        SentencePiece tokenizers put a space before the first word of a text: tokenised behind an anchor (the end of the
        prompt, or a newline) the reply gets none. An anchor that merges with the reply cannot be used.
        """
        for anchor, ids in self._anchors:
            both = self._ids(anchor + text)
            if both[: len(ids)] == ids:
                return both[len(ids) :]
        return self._ids(text)

    def _pad(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        """Token tensors of all rows, padded right."""
        width = max(len(r.context) + len(r.reply) for r in rows)
        shape = (len(rows), width)
        ids = torch.full(shape, self.pad, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        names = {name for r in rows for name in r.extras}
        extras = {name: torch.zeros(shape, dtype=torch.int64) for name in sorted(names)}
        for n, row in enumerate(rows):
            start, end = len(row.context), len(row.context) + len(row.reply)
            ids[n, :start], ids[n, start:end] = torch.tensor(row.context), torch.tensor(row.reply)
            labels[n, start:end] = ids[n, start:end]
            mask[n, :end] = 1
            for name, values in row.extras.items():
                extras[name][n, :start] = torch.tensor(values)
            if self.chat.plain and "token_type_ids" in extras:
                extras["token_type_ids"][n, start:] = 1  # PaliGemma: 0 sees all of the prompt, 1 is causal
        return {"input_ids": ids, "attention_mask": mask, **extras, "labels": labels}


def _keep(cache: dict[str, list[int]], text: str, ids: list[int]) -> None:
    if len(cache) >= CACHE:
        cache.clear()
    cache[text] = ids


def _repeat(tensors: dict[str, torch.Tensor], which: list[int], count: int) -> dict[str, torch.Tensor] | None:
    """Image tensors of `count` images, repeated in the order of `which`; None if a tensor's layout is not known."""
    index = torch.tensor(which)
    grid = tensors.get("image_grid_thw")
    repeated = {}
    for name, tensor in tensors.items():
        if grid is not None and name == "pixel_values" and tensor.shape[0] == int(grid.prod(1).sum()):
            parts = tensor.split(grid.prod(1).tolist())  # Qwen: all patches of all images in one dimension
            repeated[name] = torch.cat([parts[i] for i in which])
        elif tensor.shape[0] == count:
            repeated[name] = tensor[index]
        else:
            return None
    return repeated
