"""What the shipped model answers outside of the endpoint, and an adapter of it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import get_peft_model

from leaml import images
from leaml.config import ModelConfig, ResourcesConfig
from leaml.neurons.peft import NeuronConfig
from leaml.vlm import load
from pipelines.evaluate import AnswerWork
from pipelines.models import engine_spec
from pipelines.shards import Item


def evaluated(asked: list[tuple[bytes, str]], max_tokens: int) -> list[str]:
    """What `leaml evaluate` writes for these questions."""
    engine = engine_spec(ModelConfig(name="leaml-tiny"), ResourcesConfig()).build()
    rows = [{"question": q, "answer": "", "question_type": None, "options": None} for _, q in asked]
    items = [Item(str(n), images.decode(data), [row]) for n, ((data, _), row) in enumerate(zip(asked, rows, strict=True))]
    answers, _ = AnswerWork(max_tokens)(engine, items)
    return [row["answers"][0]["prediction"] for row in answers]


def neuron_adapter(folder: Path) -> str:
    """An adapter on a few rows of every Linear of the language model, which changes answers."""
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    generator = torch.Generator().manual_seed(0)
    linears = load.language_linears(vlm.model)
    rows = {name: torch.randperm(m.out_features, generator=generator)[:12] for name, m in linears.items()}
    model = get_peft_model(vlm.model, NeuronConfig(rows=rows, train_bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=generator)
    model.save_pretrained(str(folder))
    return str(folder)
