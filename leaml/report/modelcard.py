"""The card of a model as plain data: which run made it, from what, with how many labels, and how well it did."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from leaml import __version__
from leaml.config import BUILTIN, HUB, ModelConfig, resolve_model
from leaml.errors import DataError
from leaml.evaluation.metrics import Comparison, Metrics
from leaml.io import files
from leaml.report.formats import row_title
from leaml.rows import titles
from leaml.run.model_source import ModelSource, find

_LICENCE = re.compile(r"^licen[cs]e:\s*[\"']?([^\s\"'#][^\"'#\n]*)", re.M | re.I)
_BARE = "This model is not of a run: nothing is known here about its training, and it has no evaluation."
_UNEVALUATED = "This model has not been evaluated yet."


def card(source: str | ModelSource) -> dict[str, object]:
    """The model's card, of values that JSON has.

    Args:
        source: As for `leaml.run.model_source.find`, or what that returned.

    Returns:
        Always `kind` ("run" or "model"), `name`, `base_model` (`name`, `revision`, `dtype` and, where they are
        set, `max_image_pixels` and `image_tiles`), `licence` of the base where it is
        known, `code_version` and `note`. Of a run also `run`, `run_id` (the step that made the model), `method`, `data`
        (`labeled`, `unlabeled`, `evaluation` in words, without the folders of this machine), `labels` (`images`, `questions`),
        `evaluation` (`dataset`, `rows` with `name`, `title`, `accuracy`, `ci95`, `n`, `by_type`, `ours`, and the `comparison`
        with the best baseline and `warnings`, where it means little), `calibration` and `date`; None where something is not
        known.

    Raises:
        InputError: As `find`.
    """
    found = find(source) if isinstance(source, str) else source
    return _run_card(found) if found.run else _folder_card(found)


def _folder_card(found: ModelSource) -> dict[str, object]:
    return {
        "kind": "model",
        "name": found.name,
        "base_model": _model(found.model),
        "licence": licence(found.model.name),
        "code_version": __version__,
        "note": _BARE,
    }


def _run_card(found: ModelSource) -> dict[str, object]:
    config, metrics = found.config, found.metrics
    base = ModelConfig.model_validate(config.get("model") or {})
    data, score, select = (config.get(name) or {} for name in ("data", "score", "select"))
    calibration = {key: value for key, value in found.calibration.items() if key not in ("bins", "model")}

    return {
        "kind": "run",
        "name": found.name,
        "run": found.name,
        "run_id": found.step,
        "base_model": _model(base),
        "method": {"neurons": score.get("method"), "ratio": select.get("ratio"), "scope": select.get("scope")},
        "data": {role: _source(data[role]) if data.get(role) else None for role in ("labeled", "unlabeled", "evaluation")},
        "labels": {"images": metrics.get("labels"), "questions": metrics.get("label_rows")},
        "evaluation": _evaluation(metrics) if metrics else None,
        "calibration": calibration or None,
        "licence": licence(base.name),
        "code_version": config.get("leaml_version"),
        "date": metrics.get("written"),
        "note": "" if metrics else _UNEVALUATED,
    }


def _model(model: ModelConfig) -> dict[str, object]:
    return {"name": _public(model.name), "revision": model.revision, "dtype": model.dtype, **model.image_settings}


def _public(name: str) -> str:
    """A name without the folders of this machine; a hub id stays whole."""
    return posixpath.basename(name.rstrip("/")) if name.startswith(("/", ".", "~", "s3://")) or name.count("/") > 1 else name


def _source(source: Mapping[str, object]) -> str:
    parts = [str(source.get("format"))]
    if path := source.get("path"):
        parts.append(str(path) if source.get("format") == HUB else _public(str(path)))
    if split := source.get("split"):
        parts.append(f"split {split}")
    return ", ".join(parts)


def _evaluation(metrics: Metrics) -> dict[str, object]:
    rows = metrics["rows"]
    comparison: Comparison = metrics.get("comparison") or {}
    ours = comparison.get("ours", "leaml")
    names = [*(name for name in titles() if name in rows), *(name for name in rows if name not in titles())]
    shown = ("best_baseline", "difference", "ci95", "p_value")
    found = dict(comparison)
    headline = {key: found[key] for key in shown if key in found}

    return {
        "dataset": _public(str(metrics["dataset"])),
        "rows": [
            {
                "name": name,
                "title": row_title(name),
                "ours": name == ours,
                "accuracy": rows[name]["accuracy"],
                "ci95": rows[name]["ci95"],
                "n": rows[name]["n"],
                "by_type": rows[name]["by_type"],
            }
            for name in names
        ],
        "comparison": headline or None,
        "warnings": metrics.get("warnings", []),
    }


def licence(model: str) -> str | None:
    """Licence that a model's own card names; None when it has no card here (a hub id is not looked up)."""
    if model in BUILTIN:
        return "Apache-2.0"
    file = files.join(resolve_model(model), "README.md")
    try:
        text = files.read_bytes(file, 1 << 20).decode("utf-8", "replace") if files.exists(file) else ""
    except DataError:
        return None
    head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else text
    match = _LICENCE.search(head)
    return match[1].strip() if match else None
