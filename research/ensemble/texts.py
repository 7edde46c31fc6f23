"""Token ids of requests and replies, as `leaml.vlm.collate` lays them out, by the tokenizer file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from research.tiny.tokens import ASSISTANT, END, FAKE, GLOBAL, IMAGE, IMAGE_TOKENS, PAD, USER


class Texts:
    """Prompts, replies and their text again, for the tokenizer of a tiny model."""

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.no_padding()
        known = self.tokenizer.get_vocab()
        self.pad, self.end, self.image = known[PAD], known[END], known[IMAGE]
        self.before = f"{USER}{FAKE}{GLOBAL}{IMAGE * IMAGE_TOKENS}{FAKE}"
        self.known: dict[str, list[int]] = {}
        self.at = self.ids(self.before).index(self.image)

    def ids(self, text: str) -> list[int]:
        found = self.known.get(text)
        if found is None:
            found = self.known[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def prompts(self, requests: Sequence[str]) -> list[list[int]]:
        """What stands before the replies; new texts are encoded side by side."""
        texts = [f"{self.before}{request}{ASSISTANT}" for request in requests]
        new = list({text for text in texts if text not in self.known})
        encoded = self.tokenizer.encode_batch(new, add_special_tokens=False)
        self.known.update(zip(new, (e.ids for e in encoded), strict=True))
        return [self.known[text] for text in texts]

    def reply(self, text: str) -> list[int]:
        """A reply with the token that ends it."""
        return [*self.ids(text), self.end]

    def read(self, replies: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids, special tokens left out."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(r) for r in replies])]
