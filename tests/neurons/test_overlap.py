"""What two selections share, against sets counted by hand and against chance by simulation; tables and pictures."""

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from leaml.errors import DataError, InputError
from leaml.neurons import overlap, plots, selection
from leaml.neurons.overlap import Overlap, Place
from leaml.neurons.scores import Scores
from leaml.neurons.selection import Saved
from leaml.neurons.units import feed_forwards
from leaml.run.records import RunRecord, StepRecord
from pipelines.cli import app

Q0, Q1, FC = "model.text_model.layers.0.self_attn.q_proj", "model.text_model.layers.1.self_attn.q_proj", "model.connector.proj"
SIZES = {Q0: 10, Q1: 10, FC: 4}


def saved(rows: dict[str, list[int]], sizes: dict[str, int] = SIZES, folder: str = "mine") -> Saved:
    modules = {name: {"rows": size, "selected": len(rows.get(name, ()))} for name, size in sizes.items()}
    return Saved(folder, {n: torch.tensor(r) for n, r in rows.items()}, {}, modules, {})


FIRST = saved({Q0: [0, 1, 2, 3], Q1: [5]}, folder="first")
SECOND = saved({Q0: [2, 3, 4], FC: [0, 1]}, folder="second")


def test_overlap_is_counted_by_module_layer_and_kind() -> None:
    found = overlap.compare(FIRST, SECOND)
    assert found == {Q0: Overlap(10, 4, 3, 2, 1.2), Q1: Overlap(10, 1, 0, 0, 0.0), FC: Overlap(4, 0, 2, 0, 0.0)}
    everything = overlap.total(found.values())
    assert everything == Overlap(24, 5, 5, 2, 1.2)
    assert everything.jaccard == 2 / 8
    assert everything.jaccard_by_chance == 1.2 / 8.8
    assert (everything.shared, everything.shared_by_chance) == (2 / 5, 1.2 / 5)
    assert overlap.by_layer(found) == {"language 0": found[Q0], "language 1": found[Q1], "connector": found[FC]}
    assert overlap.by_kind(found) == {"language q_proj": Overlap(20, 5, 3, 2, 1.2), "connector proj": found[FC]}
    assert math.isnan(found[FC].shared)
    assert math.isnan(Overlap(4, 0, 0, 0, 0.0).jaccard)


def test_a_selection_shares_everything_with_itself() -> None:
    everything = overlap.total(overlap.compare(FIRST, FIRST).values())
    assert (everything.jaccard, everything.shared) == (1.0, 1.0)


def test_chance_is_what_random_selections_give() -> None:
    scores = [{Q0: torch.rand(400), Q1: torch.rand(400)} for _ in range(60)]
    sizes = {Q0: 400, Q1: 400}
    chosen = [selection.select(s, 0.3, "global", False) for s in scores]
    selections = [saved({n: r.tolist() for n, r in c.items()}, sizes) for c in chosen]
    pairs = [overlap.total(overlap.compare(a, b).values()) for a, b in zip(selections[::2], selections[1::2], strict=True)]
    mean = sum(p.both for p in pairs) / len(pairs)
    assert mean == pytest.approx(800 * 0.09, rel=0.08)  # about 4 standard errors
    assert sum(p.chance for p in pairs) / len(pairs) == pytest.approx(72, rel=0.02)
    assert sum(p.jaccard for p in pairs) / len(pairs) == pytest.approx(pairs[0].jaccard_by_chance, rel=0.08)


def test_selections_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match=f"{Q0} has 10 rows in first and 12 in second"):
        overlap.compare(FIRST, saved({}, {Q0: 12}, "second"))
    with pytest.raises(DataError, match="no Linear module in common"):
        overlap.compare(FIRST, saved({}, {"elsewhere": 3}))


def test_modules_of_one_selection_only_are_left_out() -> None:
    assert overlap.compare(FIRST, saved({Q0: [0]}, {Q0: 10, "elsewhere": 3})).keys() == {Q0}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (Q1, Place("language", 1, "q_proj")),
        ("model.vision_model.encoder.layers.11.mlp.fc1", Place("vision", 11, "fc1")),
        ("model.visual.merger.mlp.0", Place("connector", -1, "mlp.0")),
        ("elsewhere", Place("other", -1, "elsewhere")),
    ],
)
def test_place_of(name: str, place: Place) -> None:
    assert overlap.place_of(name) == place


def write(folder: Path, scores: Scores, ratio: float, linears: dict[str, nn.Linear], unit: str = "row") -> str:
    facts = {"score": {"method": "squared", "unit": unit}, "select": {"ratio": ratio, "scope": "layer"}, "examples": 8}
    blocks = feed_forwards(linears) if unit == "ffn" else {}
    selection.save(
        selection.select(scores, ratio, "layer", False), scores, folder, selection.model_hash(linears), facts, blocks
    )
    return str(folder)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Score steps of a two-layer model: rows, and feed-forward neurons."""
    torch.manual_seed(0)
    linears: dict[str, nn.Linear] = {}
    for layer in (0, 1):
        prefix = f"model.text_model.layers.{layer}"
        linears[f"{prefix}.self_attn.q_proj"] = nn.Linear(4, 10)
        linears |= {f"{prefix}.mlp.{n}": nn.Linear(4, 8) for n in ("gate_proj", "up_proj")}
        linears[f"{prefix}.mlp.down_proj"] = nn.Linear(8, 4)
    rows = {n: torch.rand(m.out_features) for n, m in linears.items()}
    blocks = feed_forwards(linears)
    neurons = {n: torch.rand(10) for n in linears if "q_proj" in n} | {n: torch.rand(8) for n in blocks}
    return write(tmp_path / "rows", rows, 0.5, linears), write(tmp_path / "ffn", neurons, 0.25, linears, "ffn")


def test_command_prints_tables_and_draws(folders: tuple[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["overlap", *folders, "--plot", str(tmp_path / "both.svg")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    a, b = (selection.read(f) for f in folders)
    everything = overlap.total(overlap.compare(a, b).values())
    numbers = [str(n) for n in (everything.rows, everything.a, everything.b, everything.both)]
    lines = [line.replace("│", " ").split() for line in done.output.splitlines()]
    ratios = (everything.jaccard, everything.jaccard_by_chance, everything.shared, everything.shared_by_chance)
    assert ["all", *numbers, *(f"{r:.3f}" for r in ratios)] in lines
    assert sum(line[:2] in (["language", "0"], ["language", "1"]) for line in lines) == 2
    assert sum(line[:2] == ["language", "gate_proj"] for line in lines) == 1
    assert "2 modules were scored for one of them only" in done.output  # down_proj, chosen by row and by column
    picture = (tmp_path / "both.svg").read_text()
    assert f"share of A in B: {everything.shared:.1%} of all" in picture
    assert f"expected by chance: {everything.shared_by_chance:.1%} of all" in picture
    assert "gate_proj" in picture


@pytest.mark.parametrize("number", [0, 1])
def test_picture_of_one_selection_is_repeatable_and_tells_shares(folders: tuple[str, str], number: int) -> None:
    one = selection.read(folders[number])
    scores = load_file(Path(folders[number]) / "scores.safetensors")
    svg, again = (plots.selection_picture(one, scores, "svg").decode() for _ in range(2))
    assert svg == again
    for name, count in one.modules.items():
        assert f"{count['selected'] / (count.get('rows') or count['columns']):.0%}<" in svg, name
        assert name.rsplit(".", 1)[-1] in svg
    assert "squared, scope layer" in svg
    assert Image.open(io.BytesIO(plots.selection_picture(one, scores, "png"))).width > 400


def test_pictures_without_anything_selected_and_with_many_layers() -> None:
    names = {f"model.text_model.layers.{n}.self_attn.q_proj": 4 for n in range(40)}
    nothing = saved({}, names)
    assert plots.selection_picture(nothing, {n: torch.zeros(4) for n in names}, "svg")
    svg = plots.overlap_picture(overlap.compare(nothing, nothing), "svg").decode()
    assert "share of A in B: A is empty" in svg
    assert ">39<" in svg
    assert svg.count(">1<") == 0  # not every layer has room for its number


def test_other_picture_formats_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'out\.gif'.*\.svg or \.png"):
        plots.check_format("out.gif")
    done = CliRunner().invoke(app, ["overlap", "nowhere", "nowhere", "--plot", str(tmp_path / "out.gif")])
    assert isinstance(done.exception, InputError)
    assert ".svg or .png" in str(done.exception)


def test_no_score_step_in_the_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["overlap", str(tmp_path), str(tmp_path)])
    assert isinstance(done.exception, DataError)
    assert f"{tmp_path} holds no selection" in str(done.exception)


def test_run_without_a_select_step_cannot_be_drawn(tmp_path: Path, folders: tuple[str, str]) -> None:
    from pipelines.overlap import draw_selection

    steps = [StepRecord("select", "random_neurons", folder="ffn")]
    RunRecord("mine", "done", steps=tuple(steps)).write(str(tmp_path))
    with pytest.raises(DataError, match="has selected no neurons"):
        draw_selection(str(tmp_path), str(tmp_path / "out.svg"))
    steps.append(StepRecord("select", "leaml", folder="rows"))
    RunRecord("mine", "done", steps=tuple(steps)).write(str(tmp_path))
    draw_selection(str(tmp_path), str(tmp_path / "out.svg"))
    assert "mean score / mean of all" in (tmp_path / "out.svg").read_text()
