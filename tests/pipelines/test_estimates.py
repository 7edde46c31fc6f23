"""GPU-hours of a plan: the arithmetic, where a measured rate replaces the assumed one, and what is called unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from leaml.config import parse
from leaml.run.records import DoneRecord
from pipelines.amounts import Requests, Workload
from pipelines.estimates import Rates, earlier, estimate, memory, parameters, requests, workers
from pipelines.steps import STEPS, StepSpec

SOURCE = {"format": "easy_vqa", "split": "train"}


def tree(**changes: Any) -> dict[str, Any]:
    sections = {
        "model": {"name": "somebody/small-2B"},
        "caption": {"teacher": {"name": "somebody/large-72B"}, "max_tokens": 100},
        "resources": {
            "engine_gpus": 1,
            "engines": 8,
            "teacher_engines": 2,
            "teacher_gpus": 4,
            "train_workers": 8,
            "train_gpus": 1,
        },
        "data": {"labeled": SOURCE, "evaluation": SOURCE},
    }
    return parse(sections | changes).model_dump(mode="json")


def finished(
    folder: Path, name: str, variant: str, summary: dict[str, Any], config: dict[str, Any], seconds: float = 60
) -> str:
    folder.mkdir(parents=True)
    DoneRecord(name, variant, 0, (), 60.0, 1, "x", summary).write(str(folder))
    (folder / "config.yaml").write_text(yaml.safe_dump({"leaml_version": "x", **config}))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct", 72e9),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.2e9),
        ("HuggingFaceTB/SmolVLM-256M-Instruct", 256e6),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 3e9),
        ("somebody/model", None),
    ],
)
def test_size_of_a_hub_model_is_read_from_its_name(name: str, size: float | None) -> None:
    assert parameters(name) == size


def test_parameters_of_a_local_model_are_counted() -> None:
    assert parameters("leaml-tiny") == pytest.approx(1.5e6, rel=0.6)


def test_caption_by_hand() -> None:
    rates = Rates(tflops=300, reading=0.5, writing=0.1, image_tokens=950, text_tokens=50, engine_start_s=360)
    found = estimate("caption", "", tree(), Workload(images=10_000), {}, rates)
    seconds = 2 * 72e9 * (1000 / 0.5 + 100 / 0.1) / (4 * 300e12)  # of an image on one engine
    assert found.hours == pytest.approx((10_000 * seconds / 2 + 360) / 3600)
    assert found.gpu_hours == pytest.approx(8 * found.hours)
    assert "10,000 images" in found.how
    assert "assumed: 2 x 72B" in found.how


def test_training_by_hand_counts_every_rate_of_a_sweep() -> None:
    rates = Rates(tflops=300, training=0.25, image_tokens=950, text_tokens=50, training_start_s=0)
    config = tree(finetune={"steps": 100, "batch_size": 16, "lr": [1e-5, 2e-5]})
    found = estimate("finetune", "leaml", config, Workload(), {}, rates)
    assert found.hours == pytest.approx(3 * 100 * 16 * 6 * 2e9 * 1000 / 0.25 / (8 * 300e12) / 3600)
    assert found.gpu_hours == pytest.approx(8 * found.hours)
    lora = estimate("finetune", "lora_labels", config, Workload(), {}, rates)
    assert "600 steps" in lora.how  # two rates and the final training of 200


def test_a_measured_rate_comes_first_and_is_a_median(tmp_path: Path) -> None:
    config = tree()
    folders = [
        finished(tmp_path / f"caption-{n}", "caption", "", {"images_per_engine_s": rate, "engine_seconds": 80.0}, config)
        for n, rate in enumerate((1.0, 2.0, 50.0))
    ]
    other = tree(caption={"teacher": {"name": "somebody/other-72B"}, "max_tokens": 100})
    folders.append(
        finished(tmp_path / "caption-other", "caption", "", {"images_per_engine_s": 9.0, "engine_seconds": 1.0}, other)
    )
    folders.append(finished(tmp_path / "old", "caption", "", {"images_per_engine_s": 9.0}, {"caption": {}}))
    found = estimate("caption", "", config, Workload(images=7200), earlier([*folders, str(tmp_path / "gone")]), Rates())
    assert "measured in caption-0 and 2 more" in found.how
    assert found.hours == pytest.approx((7200 / 2.0 / 2 + 60 - 80 / 2) / 3600)


def test_steps_per_second_of_earlier_trainings(tmp_path: Path) -> None:
    config = tree(finetune={"steps": 100, "batch_size": 64}, warmup={"steps": 200, "batch_size": 64})
    summary = {"lr": 1e-5, "sweep": [], "seconds": 50.0}
    known = earlier([finished(tmp_path / "finetune-1", "finetune", "leaml", summary, config)])
    found = estimate("warmup", "", config, Workload(), known)
    assert found.hours == pytest.approx((200 / 2.0 + 10) / 3600)
    assert "assumed" in estimate("distill", "leaml", config, Workload(), known).how  # moves neurons only


def test_what_is_not_known_is_not_invented() -> None:
    config = tree()
    unknown = estimate("generate", "leaml", config, Workload(), {})
    assert (unknown.hours, unknown.gpu_hours) == (None, None)
    assert "number of images unknown; per 1,000:" in unknown.how
    nameless = tree(model={"name": "somebody/model"})
    assert "tells no number of parameters" in estimate("warmup", "", nameless, Workload(), {}).how
    url = tree(caption={"url": "http://teacher/v1"})
    assert "whose GPUs are not counted" in estimate("caption", "", url, Workload(images=5), {}).how
    cpus = tree(resources={})
    found = estimate("warmup", "", cpus, Workload(), {})
    assert (found.hours, found.gpu_hours) == (None, 0.0)
    assert "no earlier run in this storage measured it" in found.how
    assert estimate("select", "leaml", config, Workload(), {}).gpu_hours == 0.0


def test_requests_of_steps() -> None:
    config = tree(resources={"images_per_shard": 100})
    assert requests("caption", "", config, Workload(1000)) == (30, 110 + 3)  # ten shards of one fragment of images
    assert requests("generate", "", config, Workload(1000)) == (30, 110 + 3)
    assert requests("filter", "", config, Workload(1000)) == (1, 5)
    assert requests("ingest", "", config, Workload(1000)) == (27, 1006)
    assert requests("distill", "", config, Workload()) == (0, 2 * config["distill"]["steps"] * config["distill"]["batch_size"])
    assert requests("score", "", config, Workload(256)) == (0, 2 * 256)  # an image for each labeled row
    own = config["evaluate"]["baselines"]["lora_labels"] | {"steps": 30, "batch_size": 8, "lr": [1e-3, 1e-4]}
    config["evaluate"]["baselines"]["lora_labels"] = own
    assert requests("finetune", "lora_labels", config, Workload()) == (0, 2 * 3 * 30 * 8)  # two rates, then the best
    assert requests("finetune", "lora_labels", config, Workload(held_out=False)) == (0, 2 * 30 * 8)


def test_memory_by_hand() -> None:
    config = tree(model={"name": "somebody/small-2B", "dtype": "bfloat16"}, select={"ratio": 0.25})
    one = 32 * config["data"]["max_pixels"]  # of an image that is decoded
    found = {
        name: memory(name, "leaml", config, {}) for name in ("caption", "distill", "finetune", "score", "generate", "select")
    }
    weights = {name: each.weights for name, each in found.items() if each}
    assert weights == {"caption": 72e9 * 4, "distill": 12e9, "finetune": 32e9, "score": 4e9, "generate": 4e9}
    assert found["generate"] and found["generate"].images == one + 2 * 256 * 4e6  # two shards of images of a megapixel
    assert found["finetune"] and found["finetune"].images == one + 8 * 4e6  # its part of a batch of 64
    assert memory("caption", "", tree(caption={"url": "http://teacher/v1"}), {}) is None
    experts = memory("generate", "leaml", tree(model={"name": "Qwen/Qwen3-VL-30B-A3B-Instruct"}), {})
    assert experts and experts.weights == 30e9 * 4  # all of them, though 3 B are active


def test_what_a_step_of_ones_own_takes_is_in_its_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = {"model": "caption.teacher", "engines": lambda tree: (3, 2.0)}
    for spec in (
        StepSpec("translate", "", "engine", "generate", **teacher),
        StepSpec("asked", "", "engine", "generate", **teacher, url=lambda tree: "http://translator/v1"),
        StepSpec("deduplicate", "", "data", "filter", requests=Requests(shard=(1, 2), image=(0, 1))),
        StepSpec("probe", "", "gradients", "warmup"),
        StepSpec("align", "", "train", "finetune"),
    ):
        monkeypatch.setitem(STEPS, spec.name, spec)
    config = tree(warmup={"batch_size": 16}, finetune={"steps": 7, "batch_size": 64})
    work = Workload(1000)
    assert requests("deduplicate", "", config, work) == (4, 8 + 1000)
    assert requests("translate", "", config, work) == requests("generate", "", config, work) != (0, 0)
    assert requests("probe", "", config, work) == (0, 2000)
    assert requests("align", "", config, work) == (0, 2 * 7 * 64)
    assert [workers(name, config) for name in ("translate", "deduplicate", "probe")] == [(3, 2.0), (0, 0.0), (8, 1)]
    found = memory("translate", "", config, {})
    assert found and found.weights == 72e9 * 4
    assert "2 x 72B" in estimate("translate", "", config, work, {}).how
    assert memory("asked", "", config, {}) is None
    assert "asked of http://translator/v1" in estimate("asked", "", config, work, {}).how
    probed = memory("probe", "", config, {})
    assert probed and probed.images == 32 * config["data"]["max_pixels"] + 16 * 4e6
    assert "7 steps" in estimate("align", "", config, Workload(), {}).how
