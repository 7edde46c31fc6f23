"""Which architectures are loaded, labelled, scored, trained and merged, cell by cell.

    python -m benchmarks.zoo --json FILE [--folder FOLDER] [--models qwen3_vl llava15]

FOLDER holds small checkpoints, one a folder; by default `shared/zoo` beside the repository, as in the tests. For every model:

| cell | ok when |
|---|---|
| load | it passes the check that a run makes, and loads |
| labels | of a batch, the labels that carry loss are the answer and its end token, and nothing else |
| score | the gradients of two rows score its neurons, all finite |
| adapter | one step of an adapter on a tenth of the neurons changes the loss |
| merge | the merged model has the names and shapes of the checkpoint on disk, and the same loss when it is loaded again |

A cell is "ok", "refused: MESSAGE" (an error that LEAML raises on purpose), "failed: ERROR" or "not tried": a cell needs the
ones before it, but labels and score do not need each other.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from leaml.config import ModelConfig
from leaml.errors import LeamlError
from leaml.neurons import scores
from leaml.neurons.peft import NeuronConfig
from leaml.training.loop import Example
from leaml.training.objectives import reply_logits
from leaml.vlm import checkpoint, load
from leaml.vlm.collate import IGNORED, Collator, Turn

ZOO = Path(__file__).parents[2] / "shared" / "zoo"
CELLS = ("load", "labels", "score", "adapter", "merge")
NOT_TRIED = "not tried"
ANSWERS = ("red", "a blue circle")


class Tried:
    """One model on its way through the cells; each method is one."""

    def __init__(self, folder: Path) -> None:
        self.config = ModelConfig(name=str(folder))
        self.images = {name: Image.new("RGB", (96, 64), name) for name in ("red", "blue")}
        self.turns = [Turn(i, "What is it?", answer) for i, answer in zip(self.images.values(), ANSWERS, strict=True)]

    def load(self) -> None:
        load.check(self.config, trained=True)
        torch.manual_seed(0)
        self.vlm = load.load(self.config)

    def labels(self) -> None:
        collator = Collator(self.vlm.processor)
        end = collator.tokenizer.decode([collator.chat.end], skip_special_tokens=False)
        for row, answer in zip(collator(self.turns)["labels"].tolist(), ANSWERS, strict=True):
            trained = collator.tokenizer.decode([i for i in row if i != IGNORED], skip_special_tokens=False)
            wanted = answer + end
            assert trained.strip() == wanted, f"trained {trained!r}, and not {wanted!r}"

    def score(self) -> None:
        examples = [Example(name, turn.request, turn.reply) for name, turn in zip(self.images, self.turns, strict=True)]
        collate = scores.vlm_batches(self.vlm, self.images.__getitem__, "cpu")
        linears = scores.all_linears(self.vlm.model)
        found = scores.score(linears, "squared", scores.Data(examples, collate, batch_size=1))
        assert found, "no neuron has a score"
        assert any(bool(each.any()) for each in found.values()), "every score is zero"

    def adapter(self) -> None:
        from peft import get_peft_model

        torch.manual_seed(0)
        self.model: Any = get_peft_model(self.vlm.model, NeuronConfig(selection="random", ratio=0.1))
        before = self._loss(self.model)
        before.backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        after = self._loss(self.model)
        assert bool(after.isfinite()), f"the loss is {after.item()} after a step"
        assert after.item() != before.item(), "a step changes nothing"

    def merge(self) -> None:
        trained = self._loss(self.model).item()
        merged = self.model.merge_and_unload()
        source = checkpoint.shapes(self.config, self.config.name)
        with tempfile.TemporaryDirectory() as folder:
            load.save(merged, self.vlm.processor, folder)
            saved = self.config.model_copy(update={"name": folder})
            different = sorted(set(checkpoint.shapes(saved, folder).items()) ^ set(source.items()))
            self.vlm = load.load(saved)
        again = self._loss(self.vlm.model).item()
        assert not different, f"saved otherwise than its checkpoint: {different[:4]}"
        assert abs(again - trained) < 1e-4, f"the loss is {again} after loading, and {trained} before"

    def _loss(self, model: Any) -> torch.Tensor:
        batch = Collator(self.vlm.processor)(self.turns)
        labels = batch.pop("labels")
        return reply_logits(model, batch, labels).mean_by_row(len(labels)).mean()


def outcome(cell: Callable[[], None]) -> str:
    """What became of a cell."""
    try:
        cell()
    except LeamlError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever a model's own code raises is a result
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return "ok"


def row(folder: Path) -> dict[str, str]:
    """Cell -> what became of it."""
    tried = Tried(folder)
    found: dict[str, str] = {}
    for cell in CELLS:
        needed = {"labels": "load", "score": "load", "adapter": "labels", "merge": "adapter"}.get(cell)
        found[cell] = outcome(getattr(tried, cell)) if needed is None or found[needed] == "ok" else NOT_TRIED
    return found


def main() -> None:
    """Print a line for every model, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=ZOO)
    parser.add_argument("--models", nargs="*", help="names of folders; all")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"the folder {options.folder} does not exist; give one with checkpoints as --folder")
    table = {}
    for folder in sorted(f for f in options.folder.iterdir() if f.is_dir()):
        if not options.models or folder.name in options.models:
            table[folder.name] = row(folder)
            print(
                folder.name, *(f"{cell}: {found[:160]}" for cell, found in table[folder.name].items()), sep="\n  ", flush=True
            )
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
    options.json.write_text(json.dumps({"versions": versions, "models": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
