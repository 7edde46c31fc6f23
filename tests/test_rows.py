"""Rows of other packages: what can be used is a row like others, and what cannot is refused with its package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leaml import plugins, rows
from leaml.config import parse
from leaml.errors import ConfigError
from leaml.report import verdict
from pipelines import adapt, priors
from pipelines.rows import predict_without_model
from pipelines.run import Step

MODULE = """
from leaml.config import Config
from leaml.rows import Row


def change(config: Config) -> Config:
    return config


good = Row("good", "Good", "control", optional=True, change=change)
made = Row("made", "Made", "baseline", optional=True, make="somewhere:train")
text = "a row"
other_name = Row("another", "Another", "control", optional=True, change=change)
all_neurons = Row("all_neurons", "Mine", "control", optional=True, change=change)
ours = Row("ours", "Ours", "ours", optional=True, change=change)
never = Row("never", "Never", "reference", change=change)
told = Row("told", "Told", "reference", optional=True, predict="their_rows:answers", note="Told", warning="It was told")
neither = Row("neither", "Neither", "control", optional=True)
both = Row("both", "Both", "control", optional=True, make="somewhere:train", predict="their_rows:answers")


def answers(run, sources, labels, row):
    return f"{row.name} of {labels}"
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "their_rows.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield
    forget()
    sys.modules.pop("their_rows", None)


def forget() -> None:
    rows.rows.cache_clear()
    rows.titles.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    group = rows.PLUGINS.group
    found = EntryPoints(EntryPoint(name, f"their_rows:{name}", group) for name in names)
    monkeypatch.setattr(plugins, "entry_points", found.select)


def test_rows_of_a_package_come_last_and_are_made_where_controls_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "good", "made")
    assert [*rows.rows()][-2:] == ["good", "made"]
    assert rows.titles()["made"] == "Made"
    assert "made" in rows.names_of("baseline")  # the method is tested against it
    assert "made" not in {row.name for row in rows.BUILTIN}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("text", "is no leaml.rows.Row, but 'a row'"),
        ("missing", "cannot be imported: .*missing"),
        ("other_name", "calls itself 'another'"),
        ("all_neurons", "has the name of another row"),
        ("ours", "has the role 'ours'"),
        ("never", "would never be made; set optional=True"),
        ("neither", "must have one of change, make and predict"),
        ("both", "must have one of change, make and predict"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "good", name)
    with pytest.raises(ConfigError, match=rf"the row '{name}' \(their_rows:{name}\) {why}"):
        rows.rows()


SOURCE = {"format": "easy_vqa", "split": "train"}


@pytest.mark.parametrize("controls", [[], ["told"]])
def test_a_row_that_no_model_answers_is_asked_where_controls_name_it(
    controls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "told")
    for prior in ("blind_prior", "letter_prior", "source_prior"):
        monkeypatch.setattr(priors, prior, lambda *given: None)
    config = parse({"data": {"labeled": SOURCE, "evaluation": SOURCE}})
    run = SimpleNamespace(
        config=config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"controls": controls})})
    )
    given: Any = (run, None, "three labels")
    assert predict_without_model(*given) == dict.fromkeys(controls, "told of three labels")

    monkeypatch.setattr(adapt, "predict", lambda run, sources, models: {name: name for name in models})
    step: Any = Step("finetune", "leaml", "d" * 12, "")
    assert list(adapt.method_steps(*given, step)) == ["leaml"]  # no step of it, trained or evaluated


def test_the_report_says_of_a_row_what_its_declaration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "told")
    found: Any = {name: {"accuracy": share} for name, share in (("leaml", 0.5), ("zero_shot", 0.4), ("told", 0.6))}
    comparison = {"best_baseline": "zero_shot", "difference": 0.1, "ci95": [0.0, 0.2], "p_value": 0.01}
    judged = verdict.judge({"rows": found, "comparison": comparison})  # type: ignore[typeddict-item]
    assert judged is not None
    assert judged.warning == ("It was told", 0.6)
    assert [note.replace("\u00a0", " ") for note in verdict.row_notes(found)] == ["Told: 60.0 %."]


@pytest.mark.parametrize(("controls", "learned"), [([], False), (["self_training"], False), (["captions_mixed"], True)])
def test_a_row_may_learn_from_captions_where_the_method_does_not(controls: list[str], learned: bool) -> None:
    found = parse(
        {
            "data": {"labeled": SOURCE, "evaluation": SOURCE},
            "distill": {"skip": True},
            "evaluate": {"controls": controls},
            "finetune": {"method": "full"},
        }
    )
    assert found.learns_captions is learned


def test_a_row_of_other_neurons_is_refused_where_none_are_trained() -> None:
    changes = {"distill": {"method": "full"}, "finetune": {"method": "full"}, "evaluate": {"controls": ["all_neurons"]}}
    with pytest.raises(ConfigError, match=r"\['all_neurons'\] select other neurons, but no training moves selected ones"):
        parse({"data": {"labeled": SOURCE, "evaluation": SOURCE}, **changes})
