"""`leaml adapt` from end to end on clinicians' questions about CT, MR and X-ray images, and the memory that it takes.

    python -m benchmarks.radiology --json FILE [--data FOLDER] [--model MODEL] [--shape FOLDER] [--runs FOLDER] [--steps 3]

DATA is VQA-RAD: vqa_rad.json and images/. Its published split asks about nearly all test images in training too, so a fifth of
the images is held out here. MODEL is a name as `model.name` takes it; by default a model with random weights of the shape in
SHAPE (configuration, processor and tokenizer of SmolVLM-256M), so that no accuracy means anything, but time and memory do.
Each image's caption is its organ, since there is no teacher. The recipe is `config` below: bfloat16, tiles off, four or five
examples a step, few steps.

JSON: `peak_gib`, of all processes of the run together, sampled (of memory that processes share, each has its share);
`peak_processes`, who had it then; `seconds`; `steps`, seconds of each; `accuracy` of each row.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from benchmarks import random_models

SHARED = Path(__file__).parents[2] / "shared"
ORGANS = {"HEAD": "the head", "CHEST": "the chest", "ABD": "the abdomen"}
EVERY = 0.5
"""Seconds between samples."""


def write_data(data: Path, folder: Path) -> None:
    """The label rows of both parts as JSONL, and captions: `train.jsonl`, `test.jsonl`, `captions.jsonl`."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    organs: dict[str, str] = {}
    for row in json.loads((data / "vqa_rad.json").read_text()):
        name = row["image_name"]
        part = "test" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5 == 0 else "train"
        kind = str(row["answer_type"]).strip().lower()
        texts = {"question": str(row["question"]).strip(), "answer": str(row["answer"]).strip(), "question_type": kind}
        lines[part].append(json.dumps({"image": name} | texts))
        organs[name] = ORGANS[row["image_organ"]]
    for part, rows in lines.items():
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    captions = [json.dumps({"image": name, "caption": f"An image of {organ}."}) for name, organ in organs.items()]
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")


def write_model(shape: Path, folder: Path) -> None:
    """A model of this shape with random weights, in bfloat16."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(shape, folder)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(shape), dtype=torch.bfloat16)
    model.save_pretrained(folder)


def config(data: Path, folder: Path, model: str, runs: Path, steps: int) -> dict[str, object]:
    """The recipe."""
    images = str(data / "images")
    training = {"steps": steps, "batch_size": 4, "lr": 1e-4}
    return {
        "name": "radiology",
        "storage": str(runs),
        "model": {"name": model, "dtype": "bfloat16", "image_tiles": False},
        "data": {
            "labeled": {"format": "jsonl", "path": str(folder / "train.jsonl"), "images": images},
            "evaluation": {"format": "jsonl", "path": str(folder / "test.jsonl"), "images": images},
            "budget": {"count": 40},
            "evaluation_questions": 80,
        },
        "caption": {"file": str(folder / "captions.jsonl"), "complete": False, "max_images": 60},
        "warmup": training,
        "score": {"samples": 8, "batch_size": 4},
        "distill": training | {"batch_size": 5},  # a slot for each of its kinds of examples
        "generate": random_models.GENERATE | {"questions": ["Which organ is shown?", "Is the image normal?"], "max_images": 32},
        "filter": random_models.FILTER,
        "finetune": training,
        "evaluate": {"leave_out": ["finetune_labels", "lora_labels"], "bootstrap": 200, "max_tokens": 8},
    }


def family(process: psutil.Process) -> dict[str, int]:
    """Bytes of a process and all below it, by what they are called; of what is shared, each has its share."""
    found: dict[str, int] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                name = (each.cmdline() or [each.name()])[0].rpartition("/")[2][:40]
                found[name] = found.get(name, 0) + int(each.memory_full_info().pss)
    return found


def run(file: Path, log: Path) -> tuple[float, dict[str, int]]:
    """Seconds of `leaml adapt`, and what its processes took when together they took most. Raises SystemExit where it fails."""
    began, peak = time.monotonic(), dict[str, int]()
    with log.open("w") as output:
        command = [sys.executable, "-m", "pipelines.cli", "adapt", str(file)]
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1])
        process = psutil.Process(started.pid)
        while started.poll() is None:
            if sum((now := family(process)).values()) > sum(peak.values()):
                peak = now
            time.sleep(EVERY)
    if started.returncode:
        msg = f"leaml adapt ended with {started.returncode}:\n{log.read_text()[-3000:]}"
        raise SystemExit(msg)
    return time.monotonic() - began, peak


def main() -> None:
    """Make data and model, adapt, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "vqa_rad")
    parser.add_argument("--model", help="random weights of --shape")
    parser.add_argument("--shape", type=Path, default=SHARED / "zoo" / "smolvlm256m_shape")
    parser.add_argument("--runs", type=Path, help="where the run is kept; else it is not")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    for folder in (options.data, *([] if options.model else [options.shape])):
        if not folder.is_dir():
            parser.error(f"the folder {folder} does not exist; give one as --data or --shape")
    with tempfile.TemporaryDirectory(prefix="radiology-") as scratch:
        folder = Path(scratch)
        runs = options.runs or folder / "runs"
        write_data(options.data, folder)
        if not options.model:
            write_model(options.shape, folder / "model")
        file = folder / "radiology.yaml"
        model = options.model or str(folder / "model")
        file.write_text(json.dumps(config(options.data, folder, model, runs.absolute(), options.steps)))  # JSON is YAML
        seconds, peak = run(file, folder / "log")
        options.json.write_text(json.dumps(summary(runs / "radiology", seconds, peak), indent=1) + "\n")
    print(options.json.read_text())


def summary(run_folder: Path, seconds: float, peak: dict[str, int]) -> dict[str, object]:
    """What is written of a run that has ended."""
    rows = json.loads((run_folder / "evaluation" / "metrics.json").read_text())["rows"]
    steps = json.loads((run_folder / "status.json").read_text())["steps"]
    gib = {name: round(size / 2**30, 2) for name, size in sorted(peak.items(), key=lambda item: -item[1])}
    return {
        "peak_gib": round(sum(peak.values()) / 2**30, 2),
        "peak_processes": {name: size for name, size in gib.items() if size >= 0.05},
        "seconds": round(seconds),
        "steps": {step["label"]: step["seconds"] for step in steps},
        "accuracy": {name: row["accuracy"] for name, row in rows.items()},
    }


if __name__ == "__main__":
    main()
