"""Which rows are taken, in which scope, and that a selection belongs to one model."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from leaml.errors import ConfigError, DataError, ModelError
from leaml.neurons import selection
from leaml.neurons.selection import Selection
from leaml.neurons.units import FeedForward, combine, expand, feed_forwards

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
    assert rows(selection.load(str(tmp_path), model()).rows) == rows(found)
    facts = json.loads((tmp_path / "selection.json").read_text())
    assert facts["score"] == {"ratio": 0.5}
    assert facts["modules"] == {
        A: {"rows": 4, "selected": 3},
        B: {"rows": 2, "selected": 2},
        C: {"rows": 4, "selected": 0},
    }


def test_saved_scores_are_read_back_in_their_order(tmp_path: Path) -> None:
    blocks = {B: FeedForward((f"{B}.gate_proj", f"{B}.up_proj"), f"{B}.down_proj")}
    selection.save_scores(SCORES, tmp_path, "owner", {"examples": 3}, blocks)
    found, owner, facts, found_blocks = selection.read_scores(str(tmp_path))
    assert list(found) == list(SCORES)  # ties are broken by this order
    assert all(torch.equal(found[name], values) for name, values in SCORES.items())
    assert (owner, facts, found_blocks) == ("owner", {"examples": 3}, blocks)


def test_empty_selection_is_read_back(tmp_path: Path) -> None:
    selection.save({}, SCORES, tmp_path, selection.model_hash(model()), {})
    assert selection.load(str(tmp_path), model()).rows == {}


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


def test_hash_covers_every_bit_and_the_type_of_the_weights() -> None:
    plain = selection.model_hash(model())
    assert selection.model_hash(dict(reversed(model().items()))) == plain
    assert selection.model_hash({n: m.bfloat16() for n, m in model().items()}) != plain
    other = model()
    other[A].weight.data[0, 0] = torch.nextafter(other[A].weight[0, 0], torch.tensor(9.0))
    assert selection.model_hash(other) != plain


def test_folder_without_a_selection_is_named(tmp_path: Path) -> None:
    for read in (selection.read, lambda folder: selection.load(folder, model())):
        with pytest.raises(DataError, match=f"{tmp_path} holds no selection.*folder of a select step"):
            read(str(tmp_path))


GATED = {"layers.0.mlp.gate_proj": (3, 8), "layers.0.mlp.up_proj": (3, 8), "layers.0.mlp.down_proj": (8, 3)}
PLAIN = {"layers.1.mlp.fc1": (3, 5), "layers.1.mlp.fc2": (5, 3)}


def linears(*shapes: dict[str, tuple[int, int]]) -> dict[str, nn.Linear]:
    return {name: nn.Linear(*shape) for part in shapes for name, shape in part.items()}


def test_feed_forward_blocks_are_found_by_their_modules() -> None:
    found = feed_forwards(linears({"layers.0.q_proj": (3, 3)}, GATED, PLAIN))
    assert found == {
        "layers.0.mlp": FeedForward(("layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"), "layers.0.mlp.down_proj"),
        "layers.1.mlp": FeedForward(("layers.1.mlp.fc1",), "layers.1.mlp.fc2"),
    }


@pytest.mark.parametrize("left_out", [*GATED, *PLAIN])
def test_incomplete_block_is_refused(left_out: str) -> None:
    modules = linears(GATED, PLAIN)
    del modules[left_out]
    parent, _, leaf = left_out.rpartition(".")
    with pytest.raises(ConfigError, match=f"score.unit ffn: '{parent}' has .* but not {leaf} among the modules"):
        feed_forwards(modules)


def test_model_without_feed_forward_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of the 1 modules is a feed-forward block"):
        feed_forwards(linears({"layers.0.gate_up_proj": (3, 3)}))


def test_block_is_scored_and_chosen_as_one() -> None:
    """Rows of gate and up and columns of down have the same indices; modules outside the block keep their own rows."""
    blocks = feed_forwards(linears({"layers.0.q_proj": (3, 4)}, GATED))
    parts = {
        "layers.0.q_proj": torch.tensor([9.0, 1.0, 2.0, 3.0]),
        "layers.0.mlp.gate_proj": torch.tensor([5.0, 0, 0, 0, 0, 0, 0, 0]),
        "layers.0.mlp.up_proj": torch.tensor([0, 0, 0, 4.0, 0, 0, 0, 0]),
        "layers.0.mlp.down_proj": torch.tensor([0, 6.0, 0, 0, 0, 3.0, 0, 0]),
    }
    scores = combine(parts, blocks)
    assert list(scores) == ["layers.0.q_proj", "layers.0.mlp"]
    assert scores["layers.0.mlp"].tolist() == [5, 6, 0, 4, 0, 3, 0, 0]
    by_rows, by_columns = expand(selection.select(scores, 0.25, "module", False), blocks)
    assert rows(by_rows) == {"layers.0.q_proj": [0], "layers.0.mlp.gate_proj": [0, 1], "layers.0.mlp.up_proj": [0, 1]}
    assert rows(by_columns) == {"layers.0.mlp.down_proj": [0, 1]}
    assert rows(selection.select(scores, 1 / 3, "layer", False)) == {"layers.0.q_proj": [0], "layers.0.mlp": [0, 1, 3]}


@pytest.mark.parametrize("scope", ["module", "layer", "global"])
def test_ties_among_blocks_go_to_the_earlier_neuron(scope: str) -> None:
    blocks = feed_forwards(linears(GATED, {n.replace("0", "2"): s for n, s in GATED.items()}))
    found = selection.select({name: torch.ones(100) for name in blocks}, 0.5, scope, True)
    expected = {"layers.0.mlp": list(range(100))}
    if scope != "global":
        expected = {name: list(range(50)) for name in blocks}
    assert rows(found) == expected


def test_columns_are_saved_apart_from_rows(tmp_path: Path) -> None:
    modules = linears({"layers.0.q_proj": (3, 4)}, GATED)
    blocks = feed_forwards(modules)
    scores = {"layers.0.q_proj": torch.arange(4.0), "layers.0.mlp": torch.arange(8.0)}
    chosen = selection.select(scores, 0.25, "module", False)
    selection.save(chosen, scores, tmp_path, selection.model_hash(modules), {}, blocks)
    trained = {"layers.0.q_proj": [3], "layers.0.mlp.gate_proj": [6, 7], "layers.0.mlp.up_proj": [6, 7]}
    saved = selection.load(str(tmp_path), modules)
    assert rows(saved.rows) == trained
    assert rows(saved.columns) == {"layers.0.mlp.down_proj": [6, 7]}
    assert saved.modules == {
        "layers.0.q_proj": {"rows": 4, "selected": 1},
        "layers.0.mlp.gate_proj": {"rows": 8, "selected": 2},
        "layers.0.mlp.up_proj": {"rows": 8, "selected": 2},
        "layers.0.mlp.down_proj": {"columns": 8, "selected": 2},
    }
