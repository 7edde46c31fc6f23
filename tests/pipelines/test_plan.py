"""`leaml plan` and `leaml adapt --dry-run`: the run's own steps and addresses, what they cost, and no trace left."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from leaml.config import Config, load, parse
from leaml.data.kvasir import QUESTION_TYPES
from leaml.data.readers.sportu import shuffled
from leaml.errors import InputError
from leaml.evaluation.priors import BlindPrior
from leaml.run.records import DoneRecord
from leaml.text.scoring import is_correct
from pipelines import adapt, cli, plan
from pipelines.amounts import Requests
from pipelines.estimates import MODELS, signature
from pipelines.ingest import draw_labels, ingest
from pipelines.plan_totals import Prices, Sum, Total
from pipelines.rehearsal import Planned, measure, rehearse
from pipelines.run import Run
from pipelines.steps import ENGINE_REQUESTS, FILTER_REQUESTS, INGEST, STEPS, StepSpec, kind_of
from pipelines.trial import refuse

CONFIGS = Path(cli.__file__).parent / "configs"
DATA = {"labeled": {"format": "easy_vqa", "split": "train", "limit": 12}, "evaluation": {"format": "easy_vqa", "split": "test"}}
METHOD = ["caption", "warmup", "score", "select", "distill", "generate", "filter", "finetune"]


def config(folder: Path, **changes: Any) -> Config:
    data = DATA | {"budget": {"count": 4}, "evaluation": {"format": "easy_vqa", "split": "test", "limit": 5}}
    return parse({"name": "planned", "storage": str(folder), "data": data, **changes})


def shown(found: Config, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(plan, "console", Console(file=stream, soft_wrap=True, width=200))
    plan.show(found, *arguments)
    return stream.getvalue().splitlines()


def total(lines: list[str]) -> list[str]:
    """The last row of the totals."""
    rows = lines[lines.index("estimated total of what is not finished, not promised") + 2 :]
    return re.split(r"  +", next(text for text, after in pairwise(rows) if not re.match(r"  [\du]", after)).strip())


def line(lines: list[str], *words: str) -> str:
    return next(text for text in lines if all(word in text for word in words))


def test_steps_come_in_order_and_those_that_rows_share_once(tmp_path: Path) -> None:
    run, _, _ = rehearse(config(tmp_path, evaluate={"controls": ["random_neurons", "full_labels"]}))
    labels = [p.step.label for p in run.planned.values()]
    assert labels[:3] == ["ingest labeled", "ingest evaluation", "caption"]
    names = [p.step.name for p in run.planned.values()]
    assert names[2:10] == METHOD
    assert [x for x in labels if x.startswith("evaluate")] == [
        f"evaluate {row}" for row in ("zero_shot", "finetune_labels", "lora_labels", "leaml", "random_neurons", "full_labels")
    ]
    assert labels.count("warmup") == 1
    assert {"distill random_neurons", "finetune full_labels"} <= set(labels)
    assert not list(tmp_path.iterdir())


def test_baselines_that_are_left_out_are_neither_trained_nor_asked(tmp_path: Path) -> None:
    run, _, _ = rehearse(config(tmp_path, evaluate={"leave_out": ["lora_labels"]}))
    labels = [p.step.label for p in run.planned.values()]
    assert [x for x in labels if x.startswith(("evaluate", "finetune"))] == [
        *("finetune leaml", "finetune finetune_labels", "evaluate zero_shot", "evaluate finetune_labels", "evaluate leaml")
    ]


def test_addresses_are_those_of_the_run_before_and_after_ingest(tmp_path: Path) -> None:
    """Before, what depends on the captioned images has one as soon as they are known; captions are the first of that."""
    found = config(tmp_path, caption={"max_images": 6}, evaluate={"controls": ["full_labels"]})
    captioned = refuse(found).amounts.captioned
    unknown, before = rehearse(found)[0].planned, list(rehearse(found, captioned)[0].planned)
    with Run(found) as run:
        sources = ingest(run)
        run.finish()
    made = sorted(str(folder) for folder in (tmp_path / "planned").glob("ingest-*"))
    assert sorted(before[:2]) == made
    after, again, labels = rehearse(found)
    assert list(after.planned) == before
    assert len(unknown) == len(before)
    assert unknown.keys() & set(before) == {p.step.folder for p in unknown.values() if not p.step.hash.endswith("?")}
    assert next(p.step.label for p in unknown.values() if p.step.hash.endswith("?")) == "caption"
    assert again == sources
    assert labels.images == 4


def test_the_plan_prints_counts_states_resources_and_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path, caption={"max_images": 6})
    lines = shown(found, monkeypatch)
    assert not list(tmp_path.iterdir())
    assert "12 images, " in line(lines, "labeled ", "easy_vqa train")
    assert "4 images, draw 0: 4 images, " in line(lines, "labels ")
    assert line(lines, "ingest labeled").split()[:2] == ["to", "run"]
    assert "6 images" in line(lines, " caption ", "caption-?")
    assert any("folders with ? depend on the images" in text for text in lines)
    assert not any("?" in text for text in shown(found, monkeypatch, refuse(found).amounts))
    assert "8 images; 8 pairs an image" in line(lines, " generate leaml ")
    assert "5 images, " in line(lines, " evaluate leaml ")
    assert line(lines, " generate leaml ", " 64 pairs ", "1 engine x 0 GPU", "unknown", "GiB")
    assert line(lines, " ingest labeled ", "CPU tasks")
    assert line(lines, " filter leaml ", "CPU tasks")
    assert line(lines, " select leaml ", "driver")
    assert line(lines, "requests: 3 PUTs and 11 GETs a shard of 256 images", "1 and 5 for 1,024 images in filter")
    assert total(lines)[:5] == ["8", "unknown", "none", "none", "none"]
    assert any("no step asks for a GPU" in text for text in lines)
    assert any("on CPUs, and no earlier run in this storage measured it" in text for text in lines)


def test_the_row_of_a_step_of_ones_own_is_from_its_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = STEPS["generate"].work
    told = {"describe": lambda tree, amounts: f"of {amounts.training}", "makes": "kept", "each": lambda tree: 2}
    for spec in (
        StepSpec("deduplicate", "", "data", "filter", work=pairs, requests=Requests(shard=(1, 2)), **told),
        StepSpec("translate", "", "engine", "generate", work=pairs, engines=lambda tree: (3, 2.0), model="caption.teacher"),
    ):
        monkeypatch.setitem(STEPS, spec.name, spec)
    run, sources, labels = rehearse(config(tmp_path))
    amounts, tree = measure(run, sources, labels), run.config.model_dump(mode="json")
    data, engine = (
        plan._step(run, Planned(run.step(name, {}, []), tree), amounts, {}, {"caption.teacher": 777, "model": 5})
        for name in ("deduplicate", "translate")
    )
    assert (data.puts, data.gets, data.made) == (1, 2, 16)
    assert plan._row(data)[3:6] == ("8 images; of 12", "16 kept", "CPU tasks")
    assert plan._row(engine)[5] == "3 engines x 2 GPU"
    assert "x 777 tokens" in engine.cost.how or "827 tokens" in engine.cost.how


def test_finished_steps_are_reused_and_their_rates_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path)
    with Run(found) as run:
        ingest(run)
        run.finish()
    rehearsed = {p.step.label: p.step for p in rehearse(found)[0].planned.values()}
    for label, summary in (
        ("warmup", {"lr": 1e-3, "seconds": 100.0, "peak_memory": 2**33}),
        ("caption", {"images": 12, "images_per_engine_s": 4.0, "engine_seconds": 3.0}),
    ):
        folder = Path(rehearsed[label].folder)
        folder.mkdir()
        DoneRecord(label, "", 0, (), 136.0, 1, "x", summary).write(str(folder))
        (folder / "config.yaml").write_text(yaml.safe_dump(found.model_dump(mode="json")))
    Path(rehearsed["generate leaml"].folder).mkdir()
    lines = shown(found, monkeypatch)
    for label in ("ingest labeled", "warmup ", "caption "):
        assert line(lines, label, "-").split()[0] == "finished"
        assert line(lines, label, "-").split()[-1] == "reused"
    assert re.search(r" 8\.0 GiB measured +measured +~0\.04 ", line(lines, " finetune leaml "))
    assert line(lines, " generate leaml ").split()[0] == "begun"
    assert "measured in warmup-" in line(lines, "finetune leaml", "steps / 2 per s + 36 s start")
    other = shown(found.model_copy(update={"name": "another"}), monkeypatch)
    assert "measured in caption-" in line(other, "caption: 12 images / 4 per s + 133 s start")


def test_a_small_run_measures_the_rates_of_the_whole_one(tmp_path: Path) -> None:
    """The footnote of a plan says how to run it: other names and fewer images, and rates that count for the same steps."""
    recipe = CONFIGS / "kvasir_vqa.yaml"
    small = ["name=small", "caption.max_images=500", "generate.max_images=500"]
    whole, part = (
        {
            p.step.label: signature(p.step.name, p.step.variant, p.tree)
            for p in rehearse(load(recipe, [f"storage={tmp_path}", *overrides]))[0].planned.values()
            if kind_of(p.step.name) in MODELS
        }
        for overrides in ([], small)
    )
    assert whole == part


def test_ten_times_the_images_are_ten_times_the_work_of_engines_and_no_more_training(tmp_path: Path) -> None:
    found = load(CONFIGS / "kvasir_vqa.yaml", [f"storage={tmp_path}"])
    few, many = plan.make(found, frames=[10**5, 10**6]).totals
    assert (few.images, many.images) == (10**5, 10**6)
    assert few.fixed == many.fixed
    assert few.fixed_hours == many.fixed_hours
    grown = [each.gpu_hours.known - each.fixed.known for each in (few, many)]
    assert grown[1] / grown[0] == pytest.approx(10, rel=0.05)
    shards = 10**6 // found.resources.images_per_shard
    steps = ENGINE_REQUESTS.shard[0] * 2  # captions and candidates
    stored = INGEST.requests.of(10**6, found.resources.images_per_shard)[0] if INGEST.requests else 0
    assert stored > 0
    filtered = FILTER_REQUESTS.of(10**6, found.resources.images_per_shard)[0]
    assert many.puts == pytest.approx(steps * shards + filtered + stored, rel=0.05)
    assert many.gets > 10**6  # each image is read in
    assert not list(tmp_path.iterdir())


def test_the_page_on_operations_has_what_the_plan_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    frames = [10**5, 10**6, 10**7]
    totals = plan.make(load(CONFIGS / "kvasir_vqa.yaml", [f"storage={tmp_path}"]), frames=frames).totals
    for power, one in zip((5, 6, 7), totals, strict=True):
        hours, gpu_hours, fixed = one.hours.known, one.gpu_hours.known, one.fixed.known
        row = [f"10^{power}", f"{hours:,.0f}", f"{gpu_hours:,.0f}", f"{fixed:,.0f}", f"{one.nodes(Prices())}"]
        row += [f"{one.puts:,}", f"{one.gets:,}", f"{one.money(Prices()):,.0f}"]
        assert f"| {' | '.join(row)} |" in page


def test_nodes_are_those_that_keep_the_deadline() -> None:
    one = Total(1000, Sum(90, True), Sum(750, True), Sum(50, True), Sum(4, True), puts=2_000_000, gets=10_000_000)
    prices = Prices(gpu_hour=2.0, puts=0.005, gets=0.0004, node_gpus=8, deadline=24.0)
    assert one.nodes(prices) == 5  # 700 / 20 h = 35 GPUs
    assert one.money(prices) == pytest.approx(750 * 2 + 10 + 4)
    assert one.nodes(Prices(deadline=4.0)) is None
    unknown = replace(one, gpu_hours=Sum(50, False))
    assert (unknown.money(prices), unknown.nodes(prices)) == (None, None)


def test_the_plan_of_many_images_says_where_its_numbers_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(CONFIGS / "kvasir_vqa.yaml", [f"storage={tmp_path}"])
    lines = shown(recipe, monkeypatch, None, [10**5, 10**7], Prices(deadline=0.5))
    assert total(lines)[0] == "10,000,000"
    assert total(lines)[4] == "not in time"
    line(lines, "caption: 10,000,100 images / ")
    line(lines, "assumed: 312 TFLOP/s")
    line(lines, "assumed  ", "label rows 300", "only ingest can tell")


def test_what_is_finished_counts_for_its_own_images_only(tmp_path: Path) -> None:
    found = config(tmp_path)
    with Run(found) as run:
        ingest(run)
        run.finish()
    states = [{s.label: s.state for s in plan.make(found, frames=each).steps} for each in ((), [1000])]
    assert [each["ingest labeled"] for each in states] == ["finished", "to run"]


def test_numbers_that_are_known_are_not_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path)
    for _ in range(2):  # before and after they are ingested
        lines = shown(found, monkeypatch, None, [1000])
        labels = line(lines, "labels  ")
        assert " 4 images, " in labels and "5 images, " in line(lines, " evaluate leaml ")
        assert not any("assumed" in text for text in lines)
        with Run(found) as run:
            ingest(run)
    assert f"4 images, {len(draw_labels(run, ingest(run)).rows())} rows" in labels


def test_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 frames cannot be planned; give a number above 0"):
        plan.make(config(tmp_path), frames=[10, 0])


def test_programs_get_the_plan_as_json(tmp_path: Path) -> None:
    command = ["plan", str(CONFIGS / "kvasir_vqa.yaml"), f"storage={tmp_path}", "--frames", "1000", "--json"]
    found = json.loads(CliRunner().invoke(cli.app, command).stdout)
    captioned = next(step for step in found["steps"] if step["name"] == "caption")
    assert (captioned["state"], captioned["made"], captioned["makes"], captioned["workers"]) == ("to run", 1100, "captions", 2)
    assert captioned["cost"]["rate"] == "assumed"
    assert captioned["memory"]["weights"] == 72e9 * 2
    assert found["totals"][0]["gpu_hours"]["whole"]
    assert found["totals"][0]["nodes"] == 1


def test_the_plan_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generate.caption is 'self'"):
        rehearse(config(tmp_path, generate={"caption": "self"}))


def test_dry_run_of_the_command_line_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "adapt", lambda *_: pytest.fail("the run was started"))
    done = CliRunner().invoke(cli.app, ["adapt", str(CONFIGS / "demo.yaml"), f"storage={tmp_path}", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "plan of demo" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["kvasir_vqa", "sportu"])
def test_recipes_of_the_papers_domains_are_planned_without_their_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(CONFIGS / f"{name}.yaml", [f"storage={tmp_path}/runs"])
    lines = shown(recipe, monkeypatch)
    assert "unknown until ingest" in line(lines, "labeled ")
    assert "2 engines x 4 GPU" in line(lines, " caption ", "caption-")
    assert "8 workers x 1 GPU" in line(lines, " warmup ", "warmup-")
    assert any("per 1,000: 1,000 images" in text and "72B" in text for text in lines)
    images, hours, gpu_hours, *_ = total(lines)
    assert images == "unknown"
    assert float(gpu_hours.removeprefix("at least ")) > float(hours.removeprefix("at least ")) > 0
    assert "weights 134.1, " in line(lines, " caption ", " assumed ")  # 72 B of two bytes
    assert any("for measured rates, " in text for text in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["kvasir_vqa", "sportu"])
@pytest.mark.parametrize("of", ["images", "rows"])
def test_recipes_take_one_percent_of_images_or_rows(name: str, of: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert f"budget: {{fraction: 0.01, of: {of}, seed: 0}}" in text
    recipe = load(CONFIGS / f"{name}.yaml", [f"data.budget.of={of}"])
    assert (recipe.data.labeled.split, recipe.data.evaluation.split) == ("train", "test")
    assert recipe.data.budget.fraction == 0.01
    assert recipe.caption.teacher.name == "Qwen/Qwen2.5-VL-72B-Instruct"
    found = recipe.resources
    for engines, gpus in (
        (found.engines, found.engine_gpus),
        (found.teacher.engines, found.teacher.engine_gpus),
        (found.train_workers, found.train_gpus),
    ):
        assert engines * gpus == 8


def test_the_kvasir_recipe_asks_the_19_questions_and_leaves_room_for_the_longest_answer() -> None:
    recipe = load(CONFIGS / "kvasir_vqa.yaml")
    assert recipe.generate.questions == list(QUESTION_TYPES)
    cells = [f"{row}-{column}" for row in ("upper", "lower") for column in ("left", "center", "right")]
    longest = "; ".join(["center", "center-left", "center-right", *cells])
    assert recipe.filter.max_answer_chars > len(longest) == 111


def test_letter_and_text_priors_see_shuffled_options_differently() -> None:
    """What the SPORTU recipe says: shuffling ends the habit of the letter, not that of the text."""
    options = {"A": "push", "B": "trip", "C": "hold", "D": "none of the above"}
    rows = [("Which foul?", *shuffled(f"soccer_{n}", options, "D" if n % 2 else "A")) for n in range(400)]
    prior = BlindPrior.fit([r[0] for r in rows], [r[2] for r in rows], options=[r[1] for r in rows])
    share = {
        by: sum(is_correct(prior.predict(q, options=o, by=by), a, options=o) for q, o, a in rows) / len(rows)
        for by in ("letter", "text")
    }
    assert share["text"] == 0.5
    assert 0.25 <= share["letter"] < 0.4
