"""The script behind the shipped models: deterministic, learns, and lays tokens out as the processor does."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leaml.config import BUILTIN, ModelConfig, resolve_model
from leaml.generation import prompts
from leaml.vlm import load
from leaml.vlm.collate import Collator, Turn
from research.tiny import build, language, train, world
from research.tiny.card import card
from research.tiny.probes import WordAlignment


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make these small operations many times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    """As many as trainings of some steps draw from; 30,000 take longer to render than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "POOL", 2000)
        patch.setattr(train, "measure", functools.partial(train.measure, size=50))
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("teacher")
    return train.train("teacher", out, seed=3, vision_steps=30, steps=40, batch_size=32), out


def test_loss_falls_in_both_phases(short: tuple[dict, Path]) -> None:
    record, _ = short
    assert record["vision_loss"][0] > 6
    assert record["loss"][0] > 5
    assert record["final_vision_loss"] < 0.75 * record["vision_loss"][0]
    assert record["final_loss"] < 0.5 * record["loss"][0]


@pytest.mark.research
def test_the_same_seed_gives_the_same_model(short: tuple[dict, Path], tmp_path: Path) -> None:
    first, again = (train.train("teacher", tmp_path / n, seed=3, vision_steps=3, steps=3, batch_size=8) for n in "ab")
    assert first["final_loss"] == again["final_loss"]
    other = train.train("teacher", tmp_path / "c", seed=4, vision_steps=3, steps=3, batch_size=8)
    assert other["final_loss"] != first["final_loss"]
    a, b = ((tmp_path / n / "model.safetensors").read_bytes() for n in "ab")
    assert a == b


def short_base(out: Path) -> dict:
    return train.train("base", out, seed=5, vision_steps=4, steps=3, batch_size=16, text_steps=12)


@pytest.mark.research
def test_a_killed_training_goes_on_after_its_last_finished_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = short_base(tmp_path / "whole")
    assert whole["text_loss"][0] > 5
    assert not (tmp_path / "whole" / "phases").exists()

    def killed(*_: object) -> list[float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(train, "train_language", killed)
        with pytest.raises(KeyboardInterrupt):
            short_base(tmp_path / "again")
    assert sorted(f.name for f in (tmp_path / "again" / "phases").iterdir()) == ["text.pt", "vision.pt"]
    with monkeypatch.context() as m:
        m.setattr(train, "train_text", killed)
        m.setattr(train, "train_vision", killed)
        again = short_base(tmp_path / "again")
    assert again["final_loss"] == whole["final_loss"]
    assert again["accuracy"] == whole["accuracy"]
    a, b = (hashlib.sha256((tmp_path / n / "model.safetensors").read_bytes()).hexdigest() for n in ("whole", "again"))
    assert a == b


def embedding_rows(words: list[str]) -> list[int]:
    return [build.build_tokenizer()(f" {w}", add_special_tokens=False)["input_ids"][0] for w in words]


@pytest.mark.research
def test_words_that_are_not_of_its_world_keep_the_embedding_they_were_drawn_with() -> None:
    tokenizer = build.build_tokenizer()
    torch.manual_seed(1)
    model = build.build_model(tokenizer)
    build.initialise_text(model)
    build.freeze_strange_words(model, tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    train.train_text(model, train.Encoder(tokenizer), random.Random(0), steps=3, batch_size=8)
    moved = (model.get_input_embeddings().weight != before).any(1)
    assert not moved[embedding_rows(["teal", "gray", "triangle", "polyp", "house", language.UNMET_NAMES[0]])].any()
    assert moved[embedding_rows(["red", "circle", "left", "see", "thing"])].all()


def test_the_shipped_base_can_tell_words_apart_that_it_never_met() -> None:
    weights = load.load(ModelConfig(name="leaml-tiny")).model.get_input_embeddings().weight
    unit = nn.functional.normalize(weights[embedding_rows(["teal", "gray", "brown", "black", "rectangle", "triangle"])], dim=1)
    assert (unit @ unit.T - torch.eye(6)).abs().max() < 0.5


def test_alignment_makes_image_tokens_look_like_the_words() -> None:
    tokenizer = build.build_tokenizer()
    torch.manual_seed(0)
    embeddings = torch.randn(len(tokenizer), build.HIDDEN)
    rng = random.Random(1)
    pool = train.render_pool(rng, world.BASE, 64)
    alignment = WordAlignment(tokenizer, embeddings, world.BASE)
    connector = nn.Linear(4, build.HIDDEN, bias=False)
    features = torch.randn(64, 5, build.HIDDEN, requires_grad=True)
    rates: dict[str, list[float]] = {}
    first = alignment(features, pool.scenes, rates)
    optimizer = torch.optim.Adam([features], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        loss = alignment(features, pool.scenes, {})
        loss.backward()
        optimizer.step()
    last = alignment(features, pool.scenes, rates)
    assert last < 0.2 * first
    assert sum(rates["word colour"]) == sum(rates["word shape"]) == 64
    red = tokenizer(" red", add_special_tokens=False)["input_ids"]
    seen = [i for i, s in enumerate(pool.scenes) if s.colour == "red"]
    other = [i for i, s in enumerate(pool.scenes) if s.colour != "red"]
    similar = torch.cosine_similarity(features.detach()[:, 0], embeddings[red], dim=-1)
    assert similar[seen].min() > similar[other].max()
    before = connector.weight.norm().item()
    alignment.rescale(connector)
    expected = before * embeddings.norm(dim=1).mean().item() / features.detach().norm(dim=-1).mean().item()
    assert connector.weight.norm().item() == pytest.approx(expected, rel=1e-4)


def test_layout_equals_the_processors(short: tuple[dict, Path]) -> None:
    _, folder = short
    vlm = load.load(ModelConfig(name=str(folder)))
    scene = world.sample_scene(random.Random(0), world.TEACHER)
    image = world.render(scene)
    example = train.Example(0, prompts.GENERATE, "Caption: a red ring.", " Question: which? Answer: red")
    ours = train.Encoder(vlm.processor.tokenizer).batch([example])
    theirs = Collator(vlm.processor)([Turn(image, example.request, example.reply, example.prefix)])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["labels"], theirs["labels"])
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    assert torch.allclose(train.normalise(pixels), theirs["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_shipped_models_load_small_and_documented(name: str) -> None:
    folder = Path(resolve_model(name))
    vlm = load.load(ModelConfig(name=name))
    assert vlm.model.dtype == torch.float32
    record = json.loads((folder / "training.json").read_text())
    assert (folder / "README.md").read_text() == card(record)
    total = sum(f.stat().st_size for n in BUILTIN for f in Path(resolve_model(n)).glob("*.safetensors"))
    assert total < 12_000_000


@pytest.mark.parametrize(("name", "kind"), [("leaml-tiny", "base"), ("leaml-tiny-teacher", "teacher")])
def test_shipped_models_are_as_accurate_as_their_cards_say(name: str, kind: str) -> None:
    vlm = load.load(ModelConfig(name=name))
    claimed = json.loads((Path(resolve_model(name)) / "training.json").read_text())["accuracy"]
    measured = train.measure(kind, vlm.model, train.Encoder(vlm.processor.tokenizer), seed=11, size=400)
    assert measured == pytest.approx(claimed, abs=0.09)  # 400 scenes: three standard errors are at most 0.075


def test_tokenizer_is_reproduced() -> None:
    shipped = load.load(ModelConfig(name="leaml-tiny")).processor.tokenizer
    assert build.build_tokenizer().get_vocab() == shipped.get_vocab()
