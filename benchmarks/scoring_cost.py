"""What scoring the neurons costs, relative to one training epoch over the same rows.

    python -m benchmarks.scoring_cost [--rounds 5] [--threads 1] [--json FILE]

The epoch is forward and backward with gradients of all weights, without the optimizer; same rows, batches, precision (float32).
`one_by_one` scores as it is usually written: one example at a time, dense weight gradients. Every round times the epoch and all
kinds of scoring one after the other; ratios are taken within a round, and their median, smallest and largest are reported.
Two models: the shipped leaml-tiny on easy-VQA (vision tower, connector and language model scored), and a LLaMA of 110 M random
weights on text of unequal lengths.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from leaml.config import ModelConfig, SourceConfig
from leaml.data import registry, tables
from leaml.generation import prompts
from leaml.images import decode
from leaml.neurons import scores
from leaml.neurons.gradients import ExampleBatch
from leaml.neurons.units import feed_forwards
from leaml.training.batches import Example
from leaml.training.objectives import reply_logits
from leaml.vlm import load
from leaml.vlm.collate import IGNORED


@dataclass
class Setting:
    """A model with the rows to score it on; `batches` are as the scoring and the epoch see them."""

    model: nn.Module
    linears: dict[str, nn.Linear]
    rows: int
    batches: list[ExampleBatch]
    singles: list[ExampleBatch]


def tiny(rows: int = 64, batch_size: int = 16) -> Setting:
    """leaml-tiny on easy-VQA: half of the rows write a pair, half answer its question, as the QA loss has it."""
    vlm = load.load(ModelConfig(name="leaml-tiny"))
    images, examples = {}, []
    for record in registry.read(SourceConfig(format="easy_vqa", split="train", limit=rows // 2)):
        name = tables.image_id(record.data or b"")
        images[name] = decode(record.data or b"")
        question = record.questions[0]
        examples.append(Example(name, prompts.GENERATE, prompts.qa_reply(question.question, question.answer)))
        examples.append(Example(name, question.question, question.answer))
    collate = scores.vlm_batches(vlm, images.__getitem__, "cpu")
    return _setting(vlm.model, scores.all_linears(vlm.model), examples, collate, batch_size)


def llama(rows: int = 16, batch_size: int = 8) -> Setting:
    """A LLaMA of 110 M random weights on rows of 32 to 96 random tokens, the last quarter of them reply."""
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = LlamaConfig(**shape, num_key_value_heads=12, vocab_size=32000, tie_word_embeddings=True)  # type: ignore[arg-type]
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    lengths = torch.randint(32, 97, (rows,)).tolist()

    def collate(part: Any) -> ExampleBatch:
        ids = torch.zeros(len(part), max(part), dtype=torch.int64)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, length in enumerate(part):
            ids[row, :length] = torch.randint(0, 32000, (length,))
            labels[row, 3 * length // 4 : length] = ids[row, 3 * length // 4 : length]
            mask[row, :length] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        return ExampleBatch(len(part), lambda: reply_logits(model, inputs, labels).mean_by_row(len(part)))

    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    return _setting(model, linears, lengths, collate, batch_size)


def _setting(model: nn.Module, linears: dict[str, nn.Linear], rows: list[Any], collate: Any, size: int) -> Setting:
    batches = [collate(rows[i : i + size]) for i in range(0, len(rows), size)]
    return Setting(model, linears, len(rows), batches, [collate([row]) for row in rows])


def epoch(setting: Setting) -> None:
    """One training epoch: gradients of all weights, batch by batch."""
    setting.model.requires_grad_(True)
    for batch in setting.batches:
        batch.losses().mean().backward()
        setting.model.zero_grad(set_to_none=True)


def scoring(setting: Setting, method: str = "squared", unit: str = "row") -> scores.Scores:
    """Scores of all neurons over all batches, sums over the rows divided by the number of batches."""
    setting.model.requires_grad_(False)
    blocks = feed_forwards(setting.linears) if unit == "ffn" else {}
    data = scores.Data(setting.batches, lambda part: part[0], 1)  # the batches are made before the clock runs
    return scores.score(setting.linears, method, data, blocks)


def one_by_one(setting: Setting) -> scores.Scores:
    """Squared row scores of one example after the other, from dense weight gradients; sums over the rows."""
    setting.model.requires_grad_(False)
    weights = [m.weight.requires_grad_(True) for m in setting.linears.values()]
    totals = [torch.zeros(len(w)) for w in weights]
    for single in setting.singles:
        gradients = torch.autograd.grad(single.losses()[0], weights, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.square().sum(1)
    return dict(zip(setting.linears, totals, strict=True))


KINDS: dict[str, Callable[[Setting], object]] = {
    "squared": scoring,
    "squared_ffn": lambda setting: scoring(setting, unit="ffn"),
    "absolute": lambda setting: scoring(setting, "absolute"),
    "one_by_one": one_by_one,
}


def _seconds(work: Callable[[Setting], object], setting: Setting) -> float:
    began = time.perf_counter()
    work(setting)
    return time.perf_counter() - began


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Seconds of the epoch, and of every kind of scoring relative to it."""
    work = {"epoch": epoch, **KINDS}
    for kind in work.values():  # memory is allocated once
        kind(setting)
    taken = [{name: _seconds(kind, setting) for name, kind in work.items()} for _ in range(rounds)]
    ratios = {name: sorted(t[name] / t["epoch"] for t in taken) for name in KINDS}
    return {
        "parameters": sum(p.numel() for p in setting.model.parameters()),
        "rows": setting.rows,
        "batch_size": setting.batches[0].size,
        "epoch_s": round(statistics.median(t["epoch"] for t in taken), 3),
        "ratio": {n: round(statistics.median(r), 3) for n, r in ratios.items()},
        "range": {n: [round(r[0], 3), round(r[-1], 3)] for n, r in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "models": {},
        "torch": torch.__version__,
        "threads": arguments.threads,
        "cpu": platform.processor(),
    }
    for name, make in (("leaml-tiny", tiny), ("llama-110m", llama)):
        found = result["models"][name] = measure(make(), arguments.rounds)
        head = f"{found['parameters'] / 1e6:.1f} M parameters, {found['rows']} rows in batches of {found['batch_size']}"
        print(f"{name}: {head}; one epoch {found['epoch_s']:.2f} s")
        for kind, ratio in found["ratio"].items():
            low, high = found["range"][kind]
            print(f"  {kind:12} {ratio:.2f} x the epoch ({low:.2f} to {high:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
