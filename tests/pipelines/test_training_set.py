"""What a training learns from: drawn by seed and example alone, as much as its steps read, or everything."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from leaml.config import TrainConfig
from leaml.data import step_rows, tables
from leaml.training.examples import Example, read_examples
from pipelines import training_set
from pipelines.run import Step
from pipelines.training_set import PAIRS, draw

IMAGES, PER_IMAGE = 1500, 3


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """A filter step that has accepted two of each three pairs."""
    folder = str(tmp_path_factory.mktemp("filter"))
    pairs = [{"question": f"q{n}?", "answer": "yes", "accepted": n != 1, "reason": ""} for n in range(PER_IMAGE)]
    step_rows.write(folder, [{"image_id": f"i{n}", "pairs": pairs} for n in range(IMAGES)], tables.PSEUDO_QA)
    return Step("filter", "", "0", folder)


def drawn(filtered: Step, folder: Path, steps: int, seed: int = 0) -> list[Example]:
    config = TrainConfig(steps=steps, batch_size=20)
    count = draw("finetune", filtered, PAIRS, 2 * IMAGES, config, seed, f"{folder}/drawn")
    found = list(read_examples(f"{folder}/drawn"))
    assert len(found) == count
    return found


def test_all_are_taken_in_order_where_the_steps_read_as_many(filtered: Step, tmp_path: Path) -> None:
    found = drawn(filtered, tmp_path, steps=150)
    assert [(e.image_id, e.request) for e in found] == [(f"i{n}", f"q{p}?") for n in range(IMAGES) for p in (0, 2)]
    assert found[0] == Example("i0", "q0?", "yes")


def test_no_fewer_are_drawn_than_are_read_and_hardly_more(
    filtered: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = set(drawn(filtered, tmp_path, steps=150))
    counts = []
    for seed in range(12):
        found = drawn(filtered, tmp_path, steps=10, seed=seed)
        assert everything.issuperset(found) and len(set(found)) == len(found)
        counts.append(len(found))
    assert 200 <= min(counts) < max(counts) < 360
    assert f"finetune: {counts[-1]} of 3000 examples are drawn, as 10 steps read no more" in capsys.readouterr().out
    assert {e.request for e in found} == {"q0?", "q2?"}  # what was rejected is never learned


def test_the_draw_depends_on_the_seed_and_not_on_the_parts(filtered: Step, tmp_path: Path) -> None:
    found = drawn(filtered, tmp_path, steps=10)
    assert found == drawn(filtered, tmp_path, steps=10) != drawn(filtered, tmp_path, steps=10, seed=1)

    share, parts = (200 + 4 * 200**0.5 + 16) / (2 * IMAGES), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_set, "PART", 400)
        for start in range(0, IMAGES, 400):
            part = training_set._drawn(str(start), filtered.folder, PAIRS, share, 0)
            parts += pa.ipc.open_stream(part).read_all().to_pylist()
    assert [Example(**row) for row in parts] == found
