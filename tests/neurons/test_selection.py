"""Which rows are taken, in which scope, and that a selection belongs to one model."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from leaml.errors import ModelError
from leaml.neurons import selection
from leaml.neurons.selection import Selection

A, B, C = "model.layers.0.q", "model.layers.0.k", "model.layers.1.q"
SCORES = {
    A: torch.tensor([1.0, 4.0, 2.0, 3.0]),
    B: torch.tensor([50.0, 60.0]),
    C: torch.tensor([0.1, 0.2, 0.3, 0.4]),
}


def rows(found: Selection) -> dict[str, list[int]]:
    return {name: indices.tolist() for name, indices in found.items()}


@pytest.mark.parametrize("scope", ["module", "layer", "global"])
@pytest.mark.parametrize("normalise", [True, False])
def test_ratio_zero_takes_nothing_and_one_everything(scope: str, normalise: bool) -> None:
    assert rows(selection.select(SCORES, 0.0, scope, normalise)) == {}
    assert rows(selection.select(SCORES, 1.0, scope, normalise)) == {A: [0, 1, 2, 3], B: [0, 1], C: [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("scope", "normalise", "expected"),
    [
        ("module", False, {A: [1, 3], B: [1], C: [2, 3]}),
        ("layer", False, {A: [1], B: [0, 1], C: [2, 3]}),
        ("global", False, {A: [1, 2, 3], B: [0, 1]}),  # the layer with the larger scores takes all
        # layer 0 has mean 20, layer 1 mean 0.25: B 2.5 and 3, C up to 1.6 against A's 0.2
        ("global", True, {B: [0, 1], C: [1, 2, 3]}),
    ],
)
def test_scope_says_where_the_top_half_is_taken(scope: str, normalise: bool, expected: dict[str, list[int]]) -> None:
    assert rows(selection.select(SCORES, 0.5, scope, normalise)) == expected


@pytest.mark.parametrize("scope", ["module", "layer"])
def test_normalising_changes_nothing_within_a_module_or_layer(scope: str) -> None:
    assert rows(selection.select(SCORES, 0.5, scope, True)) == rows(selection.select(SCORES, 0.5, scope, False))


def test_normalising_works_on_negative_scores() -> None:
    """The control `lowest` has negative scores; the scale must not turn their order round."""
    lowest = {name: -value for name, value in SCORES.items()}
    assert rows(selection.select(lowest, 0.2, "global", True)) == {A: [0, 2]}


def test_scores_of_zero_do_not_break_normalising() -> None:
    zero = {A: torch.zeros(4), C: SCORES[C]}
    assert rows(selection.select(zero, 0.5, "global", True)) == {C: [0, 1, 2, 3]}


@pytest.mark.parametrize("scope", ["module", "layer", "global"])
def test_ties_go_to_the_earlier_row(scope: str) -> None:
    ties = {A: torch.ones(400), C: torch.ones(400)}
    found = selection.select(ties, 0.25, scope, False)
    expected = {A: list(range(200))} if scope == "global" else {A: list(range(100)), C: list(range(100))}
    assert rows(found) == expected


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.language_model.layers.11.mlp.up_proj", "model.language_model.layers.11"),
        ("model.layers.0.experts.3.up", "model.layers.0"),
        ("connector.proj", "connector.proj"),
        ("blocks.2", "blocks.2"),
    ],
)
def test_layer_of(name: str, layer: str) -> None:
    assert selection.layer_of(name) == layer


def model() -> dict[str, nn.Linear]:
    torch.manual_seed(0)
    return {A: nn.Linear(3, 4), B: nn.Linear(3, 2), C: nn.Linear(4, 4, bias=False)}


def saved(folder: Path) -> Selection:
    found = selection.select(SCORES, 0.5, "global", False)
    selection.save(found, SCORES, folder, selection.model_hash(model()), {"score": {"ratio": 0.5}})
    return found


def test_saved_selection_is_read_back(tmp_path: Path) -> None:
    found = saved(tmp_path)
    assert rows(selection.load(str(tmp_path), model())) == rows(found)
    facts = json.loads((tmp_path / "selection.json").read_text())
    assert facts["score"] == {"ratio": 0.5}
    assert facts["modules"] == {
        A: {"rows": 4, "selected": 3},
        B: {"rows": 2, "selected": 2},
        C: {"rows": 4, "selected": 0},
    }


def test_empty_selection_is_read_back(tmp_path: Path) -> None:
    selection.save({}, SCORES, tmp_path, selection.model_hash(model()), {})
    assert selection.load(str(tmp_path), model()) == {}


@pytest.mark.parametrize("change", ["weight", "shape", "name"])
def test_selection_of_another_model_is_refused(tmp_path: Path, change: str) -> None:
    saved(tmp_path)
    other = model()
    if change == "weight":
        with torch.no_grad():
            other[C].weight[3, 3] += 1e-6
    elif change == "shape":
        other[B] = nn.Linear(3, 3)
    else:
        other["model.layers.1.k"] = other.pop(C)
    with pytest.raises(ModelError, match=f"{tmp_path}.*score this model again"):
        selection.load(str(tmp_path), other)
