"""What each control shares with the method and what it replaces, and when a changed model makes a step anew."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from leaml.config import ModelConfig, parse, resolve_model
from leaml.data import step_rows, tables
from leaml.data.store import ImageIndex
from leaml.errors import InputError
from leaml.rows import changed
from leaml.run.records import StepRecord
from leaml.training.examples import read_examples
from pipelines import adapt, method
from pipelines.context import Context
from pipelines.distill import distill
from pipelines.finetune import finetune
from pipelines.models import model_key
from pipelines.rows import asked_of_labels, row_step
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.steps import LAST, METHOD, STEPS, StepSpec

CONFIG: dict[str, Any] = {
    "name": "plan",
    "data": {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}},
    "score": {"method": "squared"},
    "select": {"ratio": 0.3},
}


class Plan(Run):
    """A run that notes its steps instead of doing them."""

    def execute(self, step: Step, work: Callable[[], dict[str, Any]]) -> Step:
        self._steps[step.folder] = StepRecord(step.name, step.variant, step.round, step.folder, "planned")
        return step


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], dict[str, str]]:
    """Folder by step name of the method (None) or of a control."""
    monkeypatch.setattr("pipelines.caption.training_images", lambda _: ImageIndex.joined([]))
    sources = Sources(Step("ingest", "labeled", "a" * 12, str(tmp_path)), None, Step("ingest", "evaluation", "b" * 12, "e"))
    rows = [{"image_id": "i", "question": "q?", "answer": "a", "question_type": "open", "options": None}]
    tables.write(f"{tmp_path}/labeled.parquet", tables.table(rows, tables.LABELED))
    empty = pa.Table.from_pylist([], schema=tables.LABELED)
    labels = Labels(empty, empty, "few labels")

    def plan(name: str | None, until: str = LAST) -> dict[str, str]:
        run = Plan(parse(CONFIG | {"storage": str(tmp_path)}))
        last = row_step(run, sources, labels, name) if name else method.method(run, sources, labels, until=until)
        assert (last.name, last.label) == ("finetune", f"finetune {name or 'leaml'}")
        return {s.name: s.folder for s in run.steps()}

    return plan


@pytest.mark.parametrize(
    ("name", "first"), [("random_neurons", {"score"}), ("lowest_neurons", {"score"}), ("all_neurons", set())]
)
def test_neuron_controls_differ_from_scores_or_selection_on(planned: Any, name: str, first: set[str]) -> None:
    ours, control = planned(None), planned(name)
    assert (
        ours.keys() == control.keys() == {"caption", "warmup", "score", "select", "distill", "generate", "filter", "finetune"}
    )
    assert {s for s in ours if ours[s] != control[s]} == first | {"select", "distill", "generate", "filter", "finetune"}


def test_without_captions_nothing_is_captioned_scored_or_distilled(planned: Any) -> None:
    ours, control = planned(None), planned("no_captions")
    assert control.keys() == {"warmup", "generate", "filter", "finetune"}
    assert control["warmup"] == ours["warmup"]
    assert control["generate"] != ours["generate"]


def test_mixed_captions_share_the_captions_and_nothing_else(planned: Any) -> None:
    ours, control = planned(None), planned("captions_mixed")
    assert control.keys() == {"caption", "finetune"}
    assert control["caption"] == ours["caption"]
    assert control["finetune"] != ours["finetune"]


def test_self_training_asks_the_labeled_questions_of_the_model_of_the_labels(planned: Any) -> None:
    assert planned("self_training").keys() == {"generate", "filter", "finetune"}
    row = {"image_id": "i", "question": "q?", "answer": "a", "question_type": "open", "options": None}
    twice = pa.Table.from_pylist([row, row | {"image_id": "j"}], schema=tables.LABELED)
    asked = asked_of_labels(parse(CONFIG), Labels(twice, twice.slice(0, 0), "")).generate
    assert (asked.questions, asked.pairs_per_image) == (["q?"], 0)


def test_full_labels_only_trains_on_every_label(planned: Any) -> None:
    control = planned("full_labels")
    assert control.keys() == {"finetune"}
    assert control["finetune"] != planned(None)["finetune"]


@pytest.mark.parametrize(
    ("control", "changed", "new"),
    [
        ("full_labels", {"start": "base"}, set()),
        ("full_labels", {"label_share": 0.5}, set()),
        ("full_labels", {"steps": 7}, {"finetune"}),
        ("captions_mixed", {"start": "base"}, set()),
        ("captions_mixed", {"label_share": 0.5}, {"finetune"}),
        (None, {"start": "base"}, {"finetune"}),
    ],
)
def test_a_control_is_trained_anew_only_for_what_it_depends_on(
    planned: Any, monkeypatch: pytest.MonkeyPatch, control: str | None, changed: dict[str, Any], new: set[str]
) -> None:
    before = planned(control)
    monkeypatch.setitem(CONFIG, "finetune", changed)
    after = planned(control)
    assert {name for name in before if before[name] != after[name]} == new


def test_second_round_begins_at_the_model_that_the_first_adapted(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG, "rounds", 2)
    made: dict[str, Step] = {}
    monkeypatch.setattr(Plan, "execute", lambda self, step, work: made.setdefault(step.label, step))
    planned(None)
    folders = {label: step.folder.rsplit("/", 1)[-1] for label, step in made.items()}
    first = [f"{name} leaml round 1" for name in ("score", "select", "distill", "generate", "filter", "finetune")]
    second = [label.removesuffix(" round 1") for label in first]
    assert list(made) == ["caption", "warmup round 1", *first, "warmup", *second]
    assert len(set(folders.values())) == len(folders)
    assert folders["finetune leaml round 1"] in made["warmup"].inputs
    assert folders["warmup"] in made["score leaml"].inputs
    assert folders["finetune leaml round 1"] not in made["finetune leaml"].inputs


def test_what_all_rounds_share_is_made_before_the_first_one_trains(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG, "rounds", 2)
    made: list[str] = []
    monkeypatch.setattr(Plan, "execute", lambda self, step, work: made.append(step.label) or step)
    with pytest.raises(method.StopHereError):
        planned(None, until="caption")
    assert made == ["caption"]


@pytest.mark.parametrize(("start", "model"), [("base", "leaml-tiny"), ("generator", "{folder}/distill-{hash}/model")])
def test_fine_tuning_begins_with_the_base_or_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, model: str
) -> None:
    jobs = []
    pair = {"question": "q?", "answer": "a", "accepted": True, "reason": ""}
    folder = f"{tmp_path}/filter-{'c' * 12}"
    step_rows.write(folder, [{"image_id": "i", "pairs": [pair]}], tables.PSEUDO_QA, {"accepted": 1})
    monkeypatch.setattr("pipelines.finetune.run_training", lambda label, job, resources: jobs.append(job) or {})
    rows = [{"image_id": "i", "question": "q?", "answer": "a", "question_type": "open", "options": None}]
    labels = Labels(tables.table(rows, tables.LABELED), tables.table([], tables.LABELED), "one label")
    sources = Sources(Step("ingest", "labeled", "a" * 12, str(tmp_path)), None, Step("ingest", "evaluation", "b" * 12, "e"))
    with Run(parse(CONFIG | {"storage": str(tmp_path), "finetune": {"start": start}})) as run:
        made = {name: Step(name, "leaml", "c" * 12, f"{tmp_path}/{name}-{'c' * 12}") for name in ("distill", "filter")}
        finetune(Context(run, sources, labels, made=made))
    assert jobs[0].model.name == model.format(folder=tmp_path, hash="c" * 12)


def captioned(folder: Path, captions: dict[str, str]) -> None:
    """Finish the caption step of `made_before`."""
    rows = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    step_rows.write(f"{folder}/caption", rows, tables.CAPTIONS)


def made_before(folder: Path) -> dict[str, Step]:
    """What distillation reads."""
    return {name: Step(name, "", "c" * 12, f"{folder}/{name}") for name in ("caption", "warmup", "select")}


def test_shares_and_weights_of_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    captioned(tmp_path, {"i": "A red circle is at the top left.", "j": "Blue."})
    monkeypatch.setattr("pipelines.distill.run_training", lambda label, job, resources, callbacks: jobs.append(job) or {})
    sources = Sources(Step("ingest", "labeled", "a" * 12, str(tmp_path)), None, Step("ingest", "evaluation", "b" * 12, "e"))
    given = {"qa_weight": 0.2, "qa_share": 0.125, "check_share": 0.25, "cloze_share": 0.5, "check_weight": 0.3}
    with Run(parse(CONFIG | {"storage": str(tmp_path), "distill": given})) as run:
        distill(Context(run, sources, Labels.none(), made=made_before(tmp_path)))
    found = {task.name: (task.share, task.weight) for task in jobs[0].tasks}
    made = {"captions": (1.0, 1.0), "checks": (0.25, 0.3), "clozes": (0.5, 0.3)}
    assert found == made | {"pairs": (0.125, 0.2), "answers": (0.125, 0.2)}
    (asked,) = {(e.request.split("?")[0], e.image_id) for e in read_examples(jobs[0].tasks[2].file)}
    assert asked == ("what is missing", "i")


def test_without_a_training_of_neurons_none_are_scored_or_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    captioned(tmp_path, {"i": "A red circle is at the top left."})
    monkeypatch.setattr("pipelines.distill.run_training", lambda label, job, resources, callbacks: jobs.append(job) or {})
    sources = Sources(Step("ingest", "labeled", "a" * 12, str(tmp_path)), None, Step("ingest", "evaluation", "b" * 12, "e"))
    config = parse(CONFIG | {"storage": str(tmp_path), "distill": {"method": "lora"}})
    made = made_before(tmp_path)
    del made["select"]
    with Run(config) as run:
        distill(Context(run, sources, Labels.none(), made=made))
    assert jobs[0].selection is None

    def steps(changes: dict[str, Any]) -> set[str]:
        return {"score", "select"} & {spec.name for spec in METHOD if spec.when(parse(CONFIG | changes))}

    lora = {"distill": {"method": "lora"}}
    assert steps(lora) == set()
    assert steps({}) == steps(lora | {"finetune": {"method": "neurons"}}) == {"score", "select"}
    with pytest.raises(InputError, match=r"neither distill.method nor finetune.method is neurons, so this run has no select"):
        adapt.adapt(config, until="select")


def test_a_step_that_the_configuration_leaves_out_is_refused_with_its_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sizes", "tags"):
        monkeypatch.setitem(STEPS, name, StepSpec(name, "", "driver", "data", when=lambda config: config.rounds > 1))
    monkeypatch.setitem(STEPS, "tags", replace(STEPS["tags"], why_not=lambda config: "rounds is 1"))
    skipped = {"distill": {"skip": True}}
    for name, changes, said in (
        ("caption", skipped, "distill.skip is true, so this run has no caption step"),
        ("score", skipped, "distill.skip is true, so this run has no score step"),
        (
            "score",
            {"distill": {"method": "lora"}},
            "neither distill.method nor finetune.method is neurons, so this run has no score",
        ),
        ("sizes", {}, r"the configuration leaves out sizes \(section data\), so this run has no sizes step; change that"),
        ("tags", {}, "^rounds is 1, so this run has no tags step"),
    ):
        with pytest.raises(InputError, match=said):
            adapt.adapt(parse(CONFIG | {"storage": str(tmp_path)} | changes), until=name)


def test_captions_that_give_no_questions_are_distilled_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = []
    captioned(tmp_path, {"i": "Teal.", "j": "Blue.", "k": "Red."})
    monkeypatch.setattr("pipelines.distill.run_training", lambda label, job, resources, callbacks: jobs.append(job) or {})
    sources = Sources(Step("ingest", "labeled", "a" * 12, str(tmp_path)), None, Step("ingest", "evaluation", "b" * 12, "e"))
    with Run(parse(CONFIG | {"storage": str(tmp_path), "distill": {"qa_weight": 0}})) as run:
        distill(Context(run, sources, Labels.none(), made=made_before(tmp_path)))
    assert [task.name for task in jobs[0].tasks] == ["captions", "checks"]
    assert "no clozes can be made of these 3 captions" in capsys.readouterr().out


def test_control_settings() -> None:
    config = parse(CONFIG)
    assert changed(config, "random_neurons").score.method == "random"
    assert changed(config, "random_neurons").select.ratio == config.select.ratio
    assert changed(config, "all_neurons").select.ratio == 1.0
    alone = changed(config, "no_captions")
    assert alone.distill.skip and alone.warmup.steps == config.warmup.steps
    longer = parse(CONFIG | {"evaluate": {"baselines": {"no_captions_warmup": 900}}})
    assert changed(longer, "no_captions").warmup.steps == 900 and longer.warmup.steps == config.warmup.steps
    with pytest.raises(InputError, match=r"'nothing' is no row that is .*; those are random_neurons, "):
        changed(config, "nothing")


def test_a_retrained_model_in_the_same_folder_is_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_model("leaml-tiny"), folder)
    model = ModelConfig(name=str(folder))
    first = model_key(model)
    assert model_key(model) == first
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_key(model)["files"] != first["files"]
    (folder / "README.md").write_text("another card")
    assert model_key(model)["files"] != first["files"]
    assert "files" not in model_key(ModelConfig(name="somebody/model", revision="abc"))


def test_the_size_of_images_is_part_of_what_a_model_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), "somebody/model"):
        plain = model_key(ModelConfig(name=name))
        assert not {"max_image_pixels", "image_tiles"} & set(plain)  # steps of runs before these keys keep their folders
        assert model_key(ModelConfig(name=name, max_image_pixels=9000)) == plain | {"max_image_pixels": 9000}
        assert model_key(ModelConfig(name=name, image_tiles=False)) == plain | {"image_tiles": False}


def test_a_step_that_the_run_does_not_have_is_refused(tmp_path: Path) -> None:
    config = parse(CONFIG | {"storage": str(tmp_path), "distill": {"skip": True}})
    with pytest.raises(InputError, match=r"distill.skip is true, so this run has no score step"):
        adapt.adapt(config, until="score")
    assert not (tmp_path / "plan").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("beside", [False, True])
def test_controls_are_made_two_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    together, happened = threading.Barrier(2), list[Any]()

    def made(run: Run, sources: Sources, labels: Labels, name: str) -> Step:
        if beside and name != "all_neurons":
            together.wait(30)
        happened.append(name)
        return Step("finetune", name, "c" * 12, str(tmp_path))

    def predicted(run: Run, sources: Sources, models: Mapping[str, Any]) -> dict[str, Any]:
        happened.append(list(models))
        return {name: (step, name) for name, (_, step) in models.items()}

    monkeypatch.setattr(adapt, "row_step", made)
    monkeypatch.setattr(adapt, "predict", predicted)
    names = ["all_neurons", "random_neurons", "no_captions"]
    config = parse(CONFIG | {"storage": str(tmp_path), "evaluate": {"controls": names}})
    adapted = Step("finetune", "leaml", "d" * 12, str(tmp_path))
    found: dict[str, Any] = adapt.method_steps(Run(config), None, None, adapted, beside)  # type: ignore[arg-type]
    assert list(found) == ["leaml", *names]
    assert all(step.label == f"finetune {name}" and name == asked for name, (step, asked) in found.items())
    if not beside:  # one pool of engines for all, when nothing is trained any more
        assert happened == [*names, ["leaml", *names]]


def test_control_that_fails_beside_another_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(run: Run, sources: Sources, labels: Labels, name: str) -> Step:
        msg = f"{name} cannot be trained"
        raise InputError(msg)

    monkeypatch.setattr(adapt, "row_step", failing)
    monkeypatch.setattr(adapt, "predict", lambda run, sources, models: time.sleep(1) or {})
    config = parse(CONFIG | {"storage": str(tmp_path), "evaluate": {"controls": ["all_neurons"]}})
    with pytest.raises(InputError, match="all_neurons cannot be trained"):
        adapt.method_steps(Run(config), None, None, Step("finetune", "f", "d" * 12, str(tmp_path)), True)  # type: ignore[arg-type]


def test_a_step_reads_what_its_declaration_names() -> None:
    run: Any = SimpleNamespace(step=lambda name, *_: name)
    nothing: Any = None
    context = Context(run, nothing, nothing)
    warmed, scored = (Step(name, "", "0", f"runs/{name}") for name in ("warmup", "score"))
    assert context.step("score", {}, [warmed]) == "score"
    with pytest.raises(ValueError, match="the step score reads score; name it among the inputs of its StepSpec"):
        context.step("score", {}, [warmed, scored])
    other = Step("finetune", "", "0", "runs/finetune")  # as the generator of self_training
    assert context.with_made(warmup=other).step("score", {}, [other]) == "score"
