"""The all-reduce of the training loop carries the selected rows and nothing else, between real processes."""

import json

import pytest

from benchmarks import all_reduce, random_models
from benchmarks.training_arms import FULL, Arm


def test_bytes_are_those_of_the_trained_parameters(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(all_reduce, "ARMS", [FULL, Arm("ours", 0.1)])
    all_reduce.main(["--quick", "--steps", "1", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    linears = random_models.language_linears(
        random_models.build(random_models.small(random_models.SHAPES["135m"]), "meta", None)
    )
    rows = sum(round(0.1 * m.out_features) * m.in_features for m in linears.values())
    assert found["ours 0.1"]["bytes_all_reduced"] == 4 * rows == 4 * found["ours 0.1"]["parameters"]
    assert found["full"]["bytes_all_reduced"] == 4 * found["full"]["parameters"] > 40 * rows
    # with two workers each sends about as much as it hands over; other traffic of the machine comes on top
    assert found["ours 0.1"]["bytes_on_wire"] >= found["ours 0.1"]["bytes_all_reduced"]
    assert "| ours 0.1 | " in capsys.readouterr().out
