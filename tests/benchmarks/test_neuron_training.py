"""The training benchmark compares like with like: same modules, same rows, exact counts; and runs with few packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import neuron_training, random_models, training_arms
from benchmarks.training_arms import ARMS, FULL, MODULES, Arm, Plan

QUICK = Plan("135m", "cpu", "float32", 2, 16, 1, False, quick=True, threads=1, warmup=0, steps=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(arm: Arm, plan: Plan = QUICK, steps: int = 0) -> torch.nn.Module:
    """The small model as `arm` trains it, after some steps."""
    model = training_arms.prepare(arm, random_models.build(plan.sizes, "cpu", plan.dtype), plan)
    batch = random_models.random_batch(plan.sizes, plan.batch, plan.length, plan.images, "cpu", plan.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        training_arms.step(model, batch, parameters, optimizer, plan)
    return model


def test_quick_run_reports_every_method_with_exact_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    neuron_training.main(["--quick", "--threads", "1", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    facts = {"model", "hardware", "software", "date", "settings"}
    assert found.keys() == facts | {"full", "full_modules", "hook_masked", "lora", "shira", "ours"}
    assert [*found["ours"]] == [*found["lora"]] == [*found["shira"]] == ["0.01", "0.05", "0.1", "0.3"]
    model = random_models.build(QUICK.sizes, "meta", torch.float32)
    linears = random_models.language_linears(model).values()
    modules = sum(m.weight.numel() for m in linears)
    full = sum(p.numel() for p in model.parameters())
    assert found["full_modules"]["trained_parameters"] == found["hook_masked"]["0.1"]["trained_parameters"] == modules
    assert found["full"]["trained_parameters"] == full
    assert found["full"]["flops_per_step"] > found["full_modules"]["flops_per_step"] > found["ours"]["0.1"]["flops_per_step"]
    for ratio, ours in found["ours"].items():
        rows = [round(float(ratio) * m.out_features) for m in linears]
        count = sum(k * m.in_features for k, m in zip(rows, linears, strict=True))
        assert ours["trained_parameters"] == count
        assert ours["state_bytes"] == 12 * count + 4 * len(linears)  # gradient, two moments; AdamW's counters
        expected = ours["state_bytes"] / (12 * modules + 4 * len(linears))
        assert ours["state_bytes_vs_full_modules"] == pytest.approx(expected, abs=1e-5)
        expected = ours["state_bytes"] / (12 * full + 4 * len(list(model.parameters())))
        assert ours["state_bytes_vs_full"] == pytest.approx(expected, abs=1e-5)
        for numbers in (ours, found["lora"][ratio], found["shira"][ratio]):
            assert numbers.keys() == found["hook_masked"]["0.1"].keys() == ours.keys()
            low, high = numbers["step_time_vs_full_range"]
            assert 0 < low <= numbers["step_time_vs_full"] <= high
            assert min(numbers[k] for k in ("step_time_vs_lora", "peak_memory_vs_full", "peak_memory_vs_lora")) > 0
    assert 0 < found["ours"]["0.1"]["state_bytes_vs_full"] <= 0.12
    out, err = capsys.readouterr()
    assert [line.split("|")[1].strip() for line in out.splitlines()[-15:]][:3] == ["full", "full_modules", "lora 0.01"]
    assert f"[{3 * len(ARMS)}/{3 * len(ARMS)}, " in err


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != FULL], ids=str)
def test_every_method_trains_the_same_modules(arm: Arm) -> None:
    model = trained(arm)
    expected = random_models.language_linears(random_models.build(QUICK.sizes, "meta", torch.float32))
    names = [n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad]
    assert {next((e for e in expected if n.startswith(f"{e}.")), n) for n in names} == set(expected)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3])
def test_lora_has_as_many_parameters_as_the_rows(ratio: float) -> None:
    counts = [sum(p.numel() for p in trained(Arm(m, ratio)).parameters() if p.requires_grad) for m in ("ours", "lora", "shira")]
    assert counts[1] == pytest.approx(counts[0], rel=0.01)
    assert counts[2] == pytest.approx(counts[0], rel=0.15)  # one rank for all modules


def test_masked_gradients_and_rows_train_to_the_same_weights() -> None:
    masked = dict(trained(Arm("hook_masked", 0.1), steps=4).named_parameters())
    ours = dict(trained(Arm("ours", 0.1), steps=4).merge_and_unload().named_parameters())
    start = dict(trained(MODULES).named_parameters())
    for name, value in masked.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert sum(bool((ours[name] != start[name]).any()) for name in start) == 14
    name = "model.layers.0.self_attn.q_proj.weight"
    assert int((ours[name] != start[name]).any(1).sum()) == 13


@pytest.mark.parametrize("precision", ["bfloat16", "mixed"])
@pytest.mark.parametrize("arm", [MODULES, *(Arm(method, 0.1) for method in ("hook_masked", "lora", "shira", "ours"))], ids=str)
def test_vision_language_model_in_half_precision(precision: str, arm: Arm) -> None:
    plan = Plan("2b", "cpu", precision, 2, 16, 2, checkpointing=True, quick=True, threads=1, warmup=0, steps=1)
    found = training_arms.turn(arm, plan, count=True)
    assert found.state_bytes == (6 if precision == "bfloat16" else 12) * found.parameters + 4 * (
        28 if arm.method == "lora" else 14
    )
    assert found.flops


def test_flops_are_those_of_the_products() -> None:
    full, ours = (training_arms.turn(arm, QUICK, count=True) for arm in (MODULES, Arm("ours", 0.1)))
    rows = 2 * QUICK.batch * QUICK.length  # FLOPs of a product per weight
    assert full.flops and ours.flops
    assert full.flops - ours.flops == rows * (full.parameters - ours.parameters)


def test_images_that_leave_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="4 images take 16 tokens, which leaves no text in a length of 16"):
        random_models.random_batch(random_models.small(random_models.SHAPES["2b"]), 1, 16, 4, "cpu", torch.float32)


def test_program_needs_torch_transformers_and_peft_alone() -> None:
    program = "import sys, benchmarks.neuron_training; print(*(m for m in sys.modules if m.startswith('leaml.')))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    parts = ("", ".config", ".layer", ".lora", ".model")
    assert set(found.stdout.split()) == {
        *("leaml._compat", "leaml.errors", "leaml.neurons"),
        *(f"leaml.neurons.peft{part}" for part in parts),
    }
