"""Rows of other packages: what can be used is a row like others, and what cannot is refused with its package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from leaml import plugins, rows
from leaml.config import parse
from leaml.errors import ConfigError

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
neither = Row("neither", "Neither", "control", optional=True)
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
        ("neither", "must have either a change of the configuration or a function"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "good", name)
    with pytest.raises(ConfigError, match=rf"the row '{name}' \(their_rows:{name}\) {why}"):
        rows.rows()


SOURCE = {"format": "easy_vqa", "split": "train"}


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
