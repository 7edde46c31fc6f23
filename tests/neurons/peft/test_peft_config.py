"""Which rows: how they are written down, what is refused, and rows read from the folder of a select step."""

import json
from pathlib import Path

import pytest
import torch
from nets import Net
from peft import get_peft_model
from torch import nn

from leaml.errors import ConfigError, DataError, ModelError
from leaml.neurons import scores, selection
from leaml.neurons.peft import NeuronConfig
from leaml.neurons.peft.config import format_indices, parse_indices


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([7], "7"),
        ([7, 4, 5, 6, 0], "0,4-7"),
        (torch.tensor([3, 2]), "2-3"),
        (torch.tensor([9, 1], dtype=torch.int32), "1,9"),
        (range(100), "0-99"),
        ("0,4-5", "0,4-5"),
    ],
)
def test_rows_as_text(rows: object, text: str) -> None:
    assert format_indices(rows, "m") == text
    assert parse_indices(text, "m") == sorted(parse_indices(rows, "m") if isinstance(rows, str) else map(int, rows))


def test_text_takes_a_few_bytes_a_row() -> None:
    rows = torch.randperm(8960, generator=torch.Generator().manual_seed(0))[:896]
    assert len(format_indices(rows, "m")) < 5 * 896
    assert NeuronConfig(rows={"m": rows}).indices("m").tolist() == rows.sort().values.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([-1, 2], r"rows of 'm': \[-1\] are no indices"),
        ([1.0], r"\[1.0\] are no indices"),
        (torch.tensor([True, False]), r"\[True, False\] are no indices"),
        ([3, 1, 3], r"\[3\] are given more than once"),
        ("1,1-2", r"\[1\] are given more than once"),
        ("1-", "'1-' is neither"),
        ("5-3", "'5-3' is neither"),
        ("a", "'a' is neither an index nor a range"),
    ],
)
def test_wrong_rows_are_refused(rows: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NeuronConfig(rows={"m": rows})


def test_other_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="delta_dtype 'int8' is not one of"):
        NeuronConfig(rows={}, delta_dtype="int8")
    with pytest.raises(ConfigError, match="rows must be a dict of module name -> row indices or the folder of a select step"):
        NeuronConfig(rows=[1, 2])
    with pytest.raises(ConfigError, match="columns must be a dict of module name -> column indices, not"):
        NeuronConfig(columns=[1, 2])
    with pytest.raises(ConfigError, match=r"columns of 'm': \[3\] are given more than once"):
        NeuronConfig(columns={"m": [3, 3]})
    with pytest.raises(ConfigError, match="columns beside the folder 'x', which brings its own"):
        NeuronConfig(rows="x", columns={"m": [3]})


def test_saved_configuration_comes_back(tmp_path: Path) -> None:
    config = NeuronConfig(
        rows={"a.b": [4, 5, 6, 9], "c": []},
        columns={"a.b": [2, 1]},
        train_bias=False,
        delta_dtype="float32",
        modules_to_save=["norm"],
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["rows"], saved["columns"]) == ({"a.b": "4-6,9"}, {"a.b": "1-2"})
    assert NeuronConfig.from_pretrained(tmp_path) == config


class Wrapped(nn.Module):
    """A model with a part that the selection knows as its language model."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.text_model(x)


def test_rows_from_the_folder_of_a_score_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = Wrapped(), Wrapped()
    linears = scores.all_linears(model)
    found = {name: torch.rand(m.out_features) for name, m in linears.items()}
    chosen = selection.select(found, 0.3, "module", False)
    selection.save(chosen, found, tmp_path, selection.model_hash(linears), {})
    with pytest.raises(ModelError, match="made for model"):
        get_peft_model(other, NeuronConfig(rows=str(tmp_path)))
    adapted = get_peft_model(model, NeuronConfig(rows=str(tmp_path)))
    config = adapted.peft_config["default"]
    assert {name: config.indices(name).tolist() for name in config.rows} == {n: r.tolist() for n, r in chosen.items()}
    with pytest.raises(DataError, match="holds no selection"):
        get_peft_model(other, NeuronConfig(rows=str(tmp_path / "none")))
