"""What each architecture can do here, cell by cell: loaded, labelled, scored, trained, merged, served, adapted.

    python -m benchmarks.zoo --json FILE [--folder FOLDER] [--models qwen3_vl llava15] [--cells load merge] [--add]

FOLDER holds small checkpoints, one a folder; by default `shared/zoo` beside the repository, as in the tests. For every model:

| cell | ok when |
|---|---|
| load | it passes the check that a run makes, and loads |
| labels | of a batch, the labels that carry loss are the answer and its end token alone; the ids before it are those that the
  processor makes of a chat; each row has the loss that it has by itself |
| score | the gradients of two rows score its neurons, all finite |
| adapter | one step of an adapter on a tenth of the neurons changes the loss |
| merge | the merged model has the names and shapes of the checkpoint on disk, and the same loss when it is loaded again |
| vllm | our engine writes the tokens that transformers writes with the merged model, with the same log-probabilities |
| adapt | `leaml adapt` goes to its end, on 12 labeled images, captions given; two steps a training, but the warm-up goes on
  until random weights know the three answers: half of PaliGemma's tokens are names like `<unused1>`, refused in pairs |
| serve | the adapted model answers through /v1/vqa |

A cell is "ok", "refused: MESSAGE" (an error that LEAML raises on purpose), "failed: ERROR", "not tried" (a cell needs the ones
before it, see NEEDS) or, of vllm, "differs: NUMBERS": the model attends both ways over its prompt, vLLM on a CPU does not, and
otherwise they are equal. A model has passed when every cell is ok or differs. `--cells` runs these and what they need, `--add`
keeps what FILE says of other models and cells.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import random_models
from benchmarks.zoo_engines import ANSWERS, QUESTION, Said, computed, images
from leaml.config import ModelConfig
from leaml.errors import LeamlError, ModelError
from leaml.neurons import scores
from leaml.neurons.peft import NeuronConfig
from leaml.training.loop import Example
from leaml.training.objectives import reply_logits
from leaml.vlm import architecture, checkpoint, load
from leaml.vlm.collate import IGNORED, Collator, Turn

ZOO = Path(__file__).parents[2] / "shared" / "zoo"
NEEDS = {
    "load": "",
    "labels": "load",
    "score": "load",
    "adapter": "labels",
    "merge": "adapter",
    "vllm": "merge",
    "adapt": "load",
    "serve": "adapt",
}
"""Cell -> the one that must be ok before it."""
CELLS = tuple(NEEDS)
NOT_TRIED = "not tried"
SAME = 2e-3
"""Log-probabilities that differ by less, in float32, differ by rounding."""
ROOT = Path(__file__).parents[1]
SECONDS = {"engine": 1200, "adapt": 2400}
"""After which a process is ended."""


class Tried:
    """One model on its way through the cells; each method is one.

    Args:
        folder: The checkpoint.
        scratch: Where its files go.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.config, self.scratch = ModelConfig(name=str(folder)), scratch
        self.images = images()
        self.turns = [Turn(image, QUESTION, ANSWERS[name]) for name, image in self.images.items()]

    def load(self) -> None:
        load.check(self.config, trained=True)
        torch.manual_seed(0)
        self.vlm = load.load(self.config)

    def labels(self) -> None:
        collator = Collator(self.vlm.processor)
        end = collator.tokenizer.decode([collator.chat.end], skip_special_tokens=False)
        for row, answer in zip(collator(self.turns)["labels"].tolist(), ANSWERS.values(), strict=True):
            trained = collator.tokenizer.decode([i for i in row if i != IGNORED], skip_special_tokens=False)
            wanted = answer + end
            assert trained.strip() == wanted, f"trained {trained!r}, and not {wanted!r}"
        for turn in self.turns:
            alone = collator([turn])
            before, own = alone["input_ids"][alone["labels"] == IGNORED].tolist(), self._chat(turn)
            assert before == own, f"the ids before an answer are {before}, and of the processor {own}"
        with torch.no_grad():
            batch, single = self._losses(self.turns), torch.cat([self._losses([turn]) for turn in self.turns])
        assert torch.allclose(batch, single, atol=1e-4), f"the losses of a batch are {batch.tolist()}, alone {single.tolist()}"

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
        before = self._losses(self.turns, self.model).mean()
        before.backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
        after = self._losses(self.turns, self.model).mean()
        assert bool(after.isfinite()), f"the loss is {after.item()} after a step"
        assert after.item() != before.item(), "a step changes nothing"

    def merge(self) -> None:
        with torch.no_grad():
            trained = self._losses(self.turns, self.model).mean().item()
        merged = self.model.merge_and_unload()
        source = checkpoint.shapes(self.config, self.config.name)
        load.save(merged, self.vlm.processor, self.scratch / "merged")
        saved = self.config.model_copy(update={"name": str(self.scratch / "merged")})
        different = sorted(set(checkpoint.shapes(saved, saved.name).items()) ^ set(source.items()))
        self.vlm = load.load(saved)
        with torch.no_grad():
            again = self._losses(self.turns).mean().item()
        assert not different, f"saved otherwise than its checkpoint: {different[:4]}"
        assert abs(again - trained) < 1e-4, f"the loss is {again} after loading, and {trained} before"

    def vllm(self) -> str | None:
        found = [Said(**said) for said in self._process("written", self.scratch / "merged")]
        apart = _difference(found, computed(self.vlm))
        if not architecture.attends_both_ways(self.config):
            assert apart < SAME, f"vLLM and transformers differ by {apart:.3g} nats a token"
            return None
        causal = _difference(found, computed(self.vlm, causal=True))
        assert causal < SAME, f"vLLM and transformers, attending causally, differ by {causal:.3g} nats a token"
        return (
            "differs: attends both ways over the prompt in training, causally in vLLM on a CPU; there it is"
            f" {apart:.2g} nats a token from transformers, and {causal:.2g} from transformers attending causally"
        )

    def adapt(self) -> None:
        file = adapt_config(self.config.name, self.scratch)
        done = run(["-m", "pipelines.cli", "adapt", str(file)], SECONDS["adapt"])
        assert "leaml" in json.loads((self.scratch / "runs/zoo/evaluation/metrics.json").read_text())["rows"], done

    def serve(self) -> None:
        for reply in self._process("served", self.scratch / "runs/zoo"):
            assert reply["status"] == 200 and isinstance(reply["answer"], str), reply

    def _process(self, what: str, source: Path) -> list[dict[str, Any]]:
        """What benchmarks/zoo_engines.py has found of a model."""
        file = self.scratch / f"{what}.json"
        run(["-m", "benchmarks.zoo_engines", what, str(source), str(file)], SECONDS["engine"])
        found: list[dict[str, Any]] = json.loads(file.read_text())
        return found

    def _losses(self, turns: Sequence[Turn], model: Any = None) -> torch.Tensor:
        """Of each row of a batch."""
        batch = Collator(self.vlm.processor)(turns)
        labels = batch.pop("labels")
        return reply_logits(model or self.vlm.model, batch, labels).mean_by_row(len(labels))

    def _chat(self, turn: Turn) -> list[int]:
        """Ids that the processor itself makes of a question, without any code of ours."""
        processor: Any = self.vlm.processor
        if processor.chat_template is None:
            return list(processor(images=[turn.image], text=[f"<image>{turn.request}"])["input_ids"][0])
        content = [{"type": "image", "image": turn.image}, {"type": "text", "text": turn.request}]
        made = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(made["input_ids"][0])


def _difference(found: Sequence[Said], expected: Sequence[Said]) -> float:
    return max(a.differs(b) for a, b in zip(found, expected, strict=True))


def run(arguments: list[str], seconds: float) -> str:
    """Output of a program of this repository. Raises ModelError for one that says itself what is wrong."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if re.match(r"(leaml\.errors\.|error:)", line)), "")
        if said:
            raise ModelError(said)
        raise RuntimeError(" | ".join(lines[-6:]))
    return done.stdout


def adapt_config(model: str, folder: Path) -> Path:
    """The smallest run of `leaml adapt`: a file of it, with the data beside it."""
    colours = ("red", "blue", "green")
    rows: dict[str, list[str]] = {"train": [], "test": [], "captions": []}
    for name, numbers in (("train", range(24)), ("test", range(24, 33))):
        for number in numbers:
            colour = colours[number % 3]
            image = Image.new("RGB", (96 + number, 64), colour)
            image.save(folder / f"{name}{number}.png")
            shown = {"image": f"{name}{number}.png"}
            rows[name].append(json.dumps(shown | {"question": QUESTION, "answer": colour}))
            if name == "train":
                rows["captions"].append(json.dumps(shown | {"caption": f"A picture that is {colour} all over."}))
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    training = {"steps": 2, "lr": 1e-3, "batch_size": 2}
    config = {
        "name": "zoo",
        "storage": str(folder / "runs"),
        "model": {"name": model},
        "data": {
            "labeled": {"format": "jsonl", "path": str(folder / "train.jsonl")},
            "evaluation": {"format": "jsonl", "path": str(folder / "test.jsonl")},
            "budget": {"count": 12},
        },
        "caption": {"file": str(folder / "captions.jsonl"), "complete": False},
        "warmup": {"steps": 40, "lr": 1e-2, "batch_size": 6},
        "score": {"samples": 4, "batch_size": 2},
        "distill": training | {"batch_size": 5},  # a slot for each kind of its examples
        "generate": random_models.GENERATE | {"questions": [QUESTION]},
        "filter": random_models.FILTER,
        "finetune": training,
        "evaluate": {"leave_out": ["finetune_labels", "lora_labels"], "bootstrap": 50, "max_tokens": 4},
    }
    file = folder / "zoo.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return file


def outcome(cell: Callable[[], str | None]) -> str:
    """What became of a cell."""
    try:
        return cell() or "ok"
    except LeamlError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever a model's own code raises is a result
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:800]}"


def row(folder: Path, cells: Sequence[str] = CELLS) -> dict[str, str]:
    """Cell -> what became of it, of these and what they need."""
    wanted = set(cells)
    for cell in reversed(CELLS):
        if cell in wanted and NEEDS[cell]:
            wanted.add(NEEDS[cell])
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        tried = Tried(folder, Path(scratch))
        for cell in (cell for cell in CELLS if cell in wanted):
            needed = NEEDS[cell]
            found[cell] = outcome(getattr(tried, cell)) if not needed or found[needed] == "ok" else NOT_TRIED
    return found


def passed(row: dict[str, str]) -> bool:
    """Whether there is every cell, and each is ok, or differs where that is known and measured."""
    return set(row) == set(CELLS) and all(found == "ok" or found.startswith("differs: ") for found in row.values())


def main() -> None:
    """Print a line for every cell, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=ZOO)
    parser.add_argument("--models", nargs="*", help="names of folders; all")
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=CELLS, help="all")
    parser.add_argument("--add", action="store_true", help="keep what the file says of other models and cells")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"the folder {options.folder} does not exist; give one with checkpoints as --folder")
    table = json.loads(options.json.read_text())["models"] if options.add and options.json.is_file() else {}
    folders = sorted(f for f in options.folder.iterdir() if list(f.glob("*.safetensors")))
    for folder in folders:
        if not options.models or folder.name in options.models:
            found = row(folder, options.cells)
            print(folder.name, *(f"{cell}: {said[:200]}" for cell, said in found.items()), sep="\n  ", flush=True)
            table[folder.name] = table.get(folder.name, {}) | found
            write(options.json, table, len(folders))


def write(file: Path, table: dict[str, dict[str, str]], of: int) -> None:
    """The table, how many models have passed, and with which versions."""
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
    ordered = {name: {cell: table[name][cell] for cell in CELLS if cell in table[name]} for name in sorted(table)}
    counts = {"passed": sum(map(passed, ordered.values())), "of": of}
    file.write_text(json.dumps(counts | {"versions": versions, "models": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
