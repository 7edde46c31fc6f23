"""Counts of tokens are those of the batches that training makes, and the context is the one that vLLM takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from leaml import _compat
from leaml.config import ModelConfig, resolve_model
from leaml.io import files
from leaml.vlm import load
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.lengths import Lengths, context


@pytest.mark.parametrize("size", [(64, 64), (200, 90)])
def test_counts_are_those_of_a_batch(made: Any, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    lengths = Lengths(made.processor)
    for request, reply in (("what is it?", "a cat"), ("which?\nA. red\nB. blue", "B")):
        batch = Collator(made.processor)([Turn(image, request, reply)])
        found = lengths.of(request, reply, size)
        assert found.image + found.text + found.reply == batch["input_ids"].shape[1]
        assert found.reply == int((batch["labels"] != -100).sum())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {"full": {"rope_type": "linear", "factor": 8.0}},
                "model_type": "gemma3_text",
            },
            4096,
        ),
        (
            {"max_position_embeddings": 9, "rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 4},
            4,
        ),
        ({}, None),
    ],
)
def test_the_context_is_read_from_the_configuration(
    monkeypatch: pytest.MonkeyPatch, text: dict[str, Any], expected: int | None
) -> None:
    found = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**({"model_type": "llama"} | text)))
    monkeypatch.setattr(load, "from_small_files", lambda *_: found)
    assert context(ModelConfig(name="any")) == expected


def test_the_context_of_a_shipped_model() -> None:
    assert context(ModelConfig(name="leaml-tiny")) == 1024


def test_of_a_model_on_s3_no_weights_are_fetched(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in Path(resolve_model("leaml-tiny")).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files.upload_tree(str(tmp_path), f"{bucket}/tiny")
    read, read_bytes = [], files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    here, there = ModelConfig(name="leaml-tiny"), ModelConfig(name=f"{bucket}/tiny")
    assert context(there) == context(here)
    assert Lengths.of_model(there).of("what?", "red", (64, 64)) == Lengths.of_model(here).of("what?", "red", (64, 64))
    assert load.special_tokens(there) == load.special_tokens(here)
    assert read
    assert not [uri for uri in read if uri.endswith(".safetensors")]


def test_a_processor_is_believed_once_it_has_counted_rightly(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(64, 64), (200, 90), (90, 200), (300, 300), (64, 300), (500, 64), (64, 500)]
    processor = tiny("idefics3-tiles").processor
    expected = {size: Lengths(processor)._made(size) for size in sizes}
    made: list[tuple[int, int]] = []
    counts = Lengths(processor)
    monkeypatch.setattr(counts, "_made", lambda size: made.append(size) or expected[size])
    assert {size: counts.image(size) for size in sizes} == expected
    assert len(made) < len(sizes)
    monkeypatch.setattr(_compat, "image_tokens", lambda processor, size: 7)
    wrong, made[:] = Lengths(processor), []
    monkeypatch.setattr(wrong, "_made", lambda size: made.append(size) or expected[size])
    assert {size: wrong.image(size) for size in sizes} == expected
    assert made == sizes
