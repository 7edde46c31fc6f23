"""Models that a run is refused for before anything is paid for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from leaml.config import Config, parse, resolve_model
from leaml.errors import ModelError
from pipelines import adapt, trial, tune

COMMANDS: dict[str, Callable[[Config], object]] = {"adapt": adapt.adapt, "dry run": trial.refuse, "tune": tune.tune}


@pytest.mark.parametrize("command", COMMANDS)
def test_quantised_weights_are_refused_for_what_is_trained_and_may_teach(tmp_path: Path, command: str) -> None:
    model = Path(shutil.copytree(resolve_model("leaml-tiny"), tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (model / "config.json").write_text(json.dumps(settings))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "qa.jsonl").write_text('{"image": "a.png", "question": "What?", "answer": "red"}\n')
    source = {"format": "jsonl", "path": str(tmp_path / "qa.jsonl")}
    given = {
        "storage": str(tmp_path / "runs"),
        "data": {"labeled": source, "evaluation": source},
        "tune": {"space": {"select.ratio": {"choices": [0.1, 0.2]}}},
    }
    with pytest.raises(ModelError, match=r"are quantised \(gptq\), and such weights are not trained"):
        COMMANDS[command](parse(given | {"model": {"name": str(model)}}))
    adapt.check(parse(given | {"caption": {"teacher": {"name": str(model)}}}))
