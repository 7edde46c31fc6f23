"""Scores of other packages: what cannot be used is refused with its name and the reason."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from leaml import plugins, score_methods
from leaml.errors import ConfigError

MODULE = """
from leaml.score_methods import ScoreMethod

text = "a score"
other = ScoreMethod("another", "max |g|", "gradients", lambda d, w: d.abs().amax(-1))
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("text", "is no leaml.score_methods.ScoreMethod, but 'a score'"),
        ("other", "calls itself 'another'"),
        ("missing", "cannot be imported: .*missing"),
    ],
)
def test_a_score_that_cannot_be_used_is_refused(name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = EntryPoints([EntryPoint(name, f"their_scores:{name}", score_methods.PLUGINS.group)])
    monkeypatch.setattr(plugins, "entry_points", found.select)
    monkeypatch.setattr(score_methods, "NAMES", (*score_methods.NAMES, name))
    with pytest.raises(ConfigError, match=rf"the score method '{name}' \(their_scores:{name}\) {why}"):
        score_methods.method(name)


def test_an_unknown_score_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown method 'best'; use one of squared, absolute"):
        score_methods.method("best")
