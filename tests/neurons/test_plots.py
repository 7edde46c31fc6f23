"""Pictures of a selection, and where its modules are in the model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from saved_selections import saved, write_two

from leaml.errors import InputError
from leaml.neurons import plots, selection
from leaml.neurons.module_names import ModuleName, parse_module_name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("model.text_model.layers.1.self_attn.q_proj", ModuleName("language", 1, "q_proj")),
        ("model.vision_model.encoder.layers.11.mlp.fc1", ModuleName("vision", 11, "fc1")),
        ("model.visual.merger.mlp.0", ModuleName("connector", -1, "mlp.0")),
        ("elsewhere", ModuleName("other", -1, "elsewhere")),
    ],
)
def test_parse_module_name(name: str, parsed: ModuleName) -> None:
    assert parse_module_name(name) == parsed


@pytest.mark.parametrize("number", [0, 1])
def test_picture_of_one_selection_is_repeatable_and_tells_shares(tmp_path: Path, number: int) -> None:
    folder = write_two(tmp_path)[number]
    one = selection.read(folder)
    scores = load_file(Path(folder) / "scores.safetensors")
    svg, again = (plots.selection_picture(one, scores, "svg").decode() for _ in range(2))
    assert svg == again
    for name, count in one.modules.items():
        assert f"{count['selected'] / (count.get('rows') or count['columns']):.0%}<" in svg, name
        assert name.rsplit(".", 1)[-1] in svg
    assert "squared, scope layer" in svg
    assert Image.open(io.BytesIO(plots.selection_picture(one, scores, "png"))).width > 400


def test_picture_without_anything_selected_and_with_many_layers() -> None:
    names = {f"model.text_model.layers.{n}.self_attn.q_proj": 4 for n in range(40)}
    svg = plots.selection_picture(saved({}, names), {n: torch.zeros(4) for n in names}, "svg").decode()
    assert ">39<" in svg
    assert svg.count(">1<") == 0  # not every layer has room for its number


def test_other_picture_formats_are_refused() -> None:
    with pytest.raises(InputError, match=r"'out\.gif'.*\.svg or \.png"):
        plots.check_format("out.gif")
