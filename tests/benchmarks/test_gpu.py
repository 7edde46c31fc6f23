"""The parts that are prepared for a machine with a GPU: each runs here, on shapes that take seconds."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leaml.training.loop import Trainer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"
PARTS = re.findall(r"(\w+):\d+", re.search(r"^parts=\((.*)\)$", SCRIPT.read_text(), re.M)[1])  # type: ignore[index]


@pytest.mark.parametrize("name", [p for p in PARTS if p != "processor"])
def test_a_part_runs_and_keeps_finite_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, before = tmp_path / "part.json", torch.get_float32_matmul_precision()
    monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", "--tiny", "--json", str(file)])
    steps: list[int] = []
    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda *given: steps.append(given[-1]) or step(*given))
    importlib.import_module(f"benchmarks.gpu.{name}").main()
    torch.set_float32_matmul_precision(before)
    found = json.loads(file.read_text())
    assert found.pop("machine")["device"] == "cpu"
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", json.dumps(found))]
    assert numbers and all(map(math.isfinite, numbers))
    assert "out_of_memory" not in json.dumps(found)
    if name == "steps":
        assert {key.split()[1] for key in found} == {"neurons30", "lora", "full"}
        assert steps == list(range(7)) * 6  # our loop's, two of them warm and one from which the clock goes
        assert all(case["peak_gib"] > 0 and case["tflops"] > 0 for case in found.values())
    if name == "resume":
        assert found["resume"]["relative_difference"] < 1e-6
    if name == "masters":
        exact, held = found["float32 weights"], found["bfloat16 weights, float32 masters"]
        assert held[-1] == pytest.approx(exact[-1], rel=0.02)


@pytest.mark.timeout(120)
def test_the_processor_is_timed_in_processes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu.processor",
        "--device",
        "cpu",
        "--tiny",
        "--json",
        str(tmp_path / "p.json"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=110)
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["1 processes"]["photos_per_s"] > 0 and found["2 processes"]["photos_per_s"] > 0


def test_the_script_runs_every_part_within_ten_minutes_and_goes_on_after_one_that_fails(tmp_path: Path) -> None:
    assert sum(map(int, re.findall(r"\w+:(\d+)", SCRIPT.read_text().split("parts=(")[1].split(")")[0]))) <= 600
    python = tmp_path / "python"
    body = f'echo "$@" >> "{tmp_path}/asked"\n[ "$2" = benchmarks.gpu.masters ] && echo broken && exit 3\nexit 0\n'
    python.write_text(f"#!/bin/sh\n{body}")
    python.chmod(0o755)
    out = tmp_path / "out"
    done = subprocess.run(
        [SCRIPT, "--out", out, "--device", "cpu", "--tiny"],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "masters: FAILED (3): broken" in done.stdout
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"-m benchmarks.gpu.{name} --device cpu --tiny --json {out}/{name}.json" for name in PARTS]
