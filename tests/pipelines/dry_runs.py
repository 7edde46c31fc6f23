"""`leaml adapt --dry-run` and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipelines import cli


def dry_run(recipe: Path, *overrides: str) -> Any:
    return CliRunner().invoke(cli.app, ["adapt", str(recipe), *overrides, "--dry-run"])


def plan_lines(recipe: Path, *overrides: str) -> list[str]:
    done = dry_run(recipe, *overrides)
    assert done.exit_code == 0, done.output
    return [str(line) for line in done.output.splitlines()]


def line(lines: list[str], *words: str) -> str:
    return next(text for text in lines if all(word in text for word in words))


def captions_of(folder: Path, *names: str) -> str:
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps({"image": name, "caption": "noise"}) + "\n" for name in names))
    return f"caption.file={file}"
