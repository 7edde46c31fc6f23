"""README and docs as they stand: every configuration loads, every command is parsed, every key, file and module is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.core
import typer.main
import yaml

from leaml import config as tree
from leaml.config.reading import override
from leaml.errors import ConfigError
from pipelines import cli
from serve import settings as serving

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))
SOURCES = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
COMMAND = re.compile(r"^\s*(?:[A-Z_]+=(?:\S*\$\(.*\)|\S+)\s+)?(?:\.venv/bin/)?leaml\s+(?=[a-z-])(.*)$")
REFUSED = typer.BadParameter.__mro__[1]
"""What the parser raises: UsageError, which typer does not export by itself."""
PLACEHOLDER = re.compile(r"^[A-Z](?:[A-Z_])*$")
"""CONFIG, RUN, N, ...: what a reader puts in. As `1` it is a path and a number alike."""


class Found(NamedTuple):
    """A piece of a page."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Found]:
    """Code blocks: between fences, or indented by four spaces (seven in a list) after a blank line."""
    lines = page.read_text().splitlines()
    start, fenced = None, False
    for number, line in enumerate([*lines, ""], 1):
        fence = line.strip().startswith("```")
        inside = not fence if fenced else (not fence and line.startswith("    ")) or (not line and start is not None)
        before = lines[number - 2] if number > 1 else ""
        if inside and start is None and (fenced or not before.strip()):
            start = number
        if start is not None and (not inside or number > len(lines)):
            text = "\n".join(lines[start - 1 : number - 1])
            yield Found(page.name, start, "\n".join(part.removeprefix("    ") for part in text.splitlines()))
            start = None
        fenced = fenced != fence


def spans(page: Path) -> Iterator[Found]:
    """Inline code, outside of fences."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced = fenced != line.strip().startswith("```")
        if not fenced:
            yield from (Found(page.name, number, span) for span in re.findall(r"`([^`]+)`", line))


def commands() -> list[Found]:
    """Every `leaml ...`: lines of blocks, of the recipes' comments, and inline code."""
    lines = [(b, n, t) for page in PAGES for b in blocks(page) for n, t in enumerate(b.text.splitlines())]
    found = [Found(block.page, block.line + n, text) for block, n, text in lines]
    found += [span for page in PAGES for span in spans(page)]
    for recipe in RECIPES:
        for number, text in enumerate(recipe.read_text().splitlines(), 1):
            found += [
                Found(recipe.name, number, part) for part in re.findall(r"(?:^#\s+|\bor\s+)(leaml .*?)(?=\s+or\s|$)", text)
            ]
    matches = [(each, COMMAND.match(each.text)) for each in found]
    return [each._replace(text=match[1]) for each, match in matches if match]


def configs() -> list[Found]:
    """Every block that is a part of a configuration or a whole one, and what each has as a comment instead of a line."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            # three lines with the key `score` are three examples, not one mapping
            lines = block.text.splitlines()
            heads = [line.partition(":")[0] for line in lines if re.match(r"[a-z_]+:", line)]
            single = len(set(heads)) < len(heads)
            parts = [(n, t) for n, t in enumerate(lines)] if single else [(0, block.text)]
            found += [Found(page.name, block.line + n, t) for n, t in parts if heads and _is_config(heads)]
    found += [Found(recipe.name, 1, recipe.read_text()) for recipe in RECIPES]
    return [variant for each in found for variant in (each, *_uncommented(each))]


def _is_config(heads: list[str]) -> bool:
    return set(heads) <= set(tree.Config.model_fields) or len(set(heads) & set(tree.Config.model_fields)) > 1


def _uncommented(found: Found) -> Iterator[Found]:
    lines = found.text.splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"^(\s*)# ([a-z_]+:\s*\S.*)$", line):
            text = "\n".join([*lines[:number], match[1] + match[2], *lines[number + 1 :]])
            yield Found(found.page, found.line + number, text)


def names(found: list[Found]) -> list[str]:
    return [str(each) for each in found]


def load(text: str) -> tree.Config:
    read = yaml.safe_load(text)
    assert isinstance(read, dict), text
    return tree.parse({"data": SOURCES} | read)


@cache
def program() -> typer.core.TyperGroup:
    found = typer.main.get_command(cli.app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


def parse(text: str) -> None:
    """Parse a command and its overrides as the program does, without running it. Raises REFUSED, ConfigError."""
    text = re.sub(r"section\.key=value|\[|\]|\.\.\.", " ", text.partition("  #")[0])
    words = ["1" if PLACEHOLDER.match(word) else word for word in shlex.split(text)]
    first, *rest = words
    for name in first.split("|"):
        with typer.Context(program(), info_name="leaml") as top:
            found, command, arguments = program().resolve_command(top, [name, *rest])
            assert command is not None
            if not arguments and command.params and any(p.required for p in command.params):
                continue  # only named: "what `leaml inspect` shows"
            with command.make_context(found, arguments, parent=top) as given:
                _check_overrides(str(name), given.params)


def _check_overrides(command: str, given: dict[str, object]) -> None:
    overrides = given.get("overrides") or ()
    assert isinstance(overrides, list | tuple)
    if command == "serve":
        serving.load_settings(serving.merged(None, {"model": "runs/mine"}, list(overrides)))
        return
    values: dict[str, object] = {"data": SOURCES}
    for item in overrides:
        override(values, item)
    tree.parse(values)


def test_blocks_commands_and_configs_are_found() -> None:
    """So that the tests below cannot pass because they look at nothing."""
    assert len(commands()) > 40
    assert {each.page for each in commands()} >= {"README.md", "serving.md", "operations.md", "kvasir_vqa.yaml", "demo.yaml"}
    assert {each.page for each in configs()} >= {"README.md", "tuning.md", "neurons.md", "folder.yaml", "sportu.yaml"}
    assert any("url: http" in line for each in configs() if each.page == "README.md" for line in each.text.splitlines())


@pytest.mark.parametrize("found", configs(), ids=names(configs()))
def test_every_configuration_loads(found: Found) -> None:
    load(found.text)


@pytest.mark.parametrize("found", commands(), ids=names(commands()))
def test_every_command_is_parsed(found: Found) -> None:
    try:
        parse(found.text)
    except (REFUSED, ConfigError) as error:
        pytest.fail(f"{found}: leaml {found.text}: {error}")


@pytest.mark.parametrize(
    "wrong", ["adapt c.yaml --dryrun", "adapt c.yaml score.ration=1", "statsu runs/x", "serve m limits.x=1"]
)
def test_a_wrong_command_is_noticed(wrong: str) -> None:
    with pytest.raises((REFUSED, ConfigError)):
        parse(wrong)


def test_a_wrong_configuration_is_noticed() -> None:
    with pytest.raises(ConfigError, match=r"'caption.teacher.url': did you mean 'caption.url'\?"):
        load("caption: {teacher: {name: big, url: 'http://teacher:8000/v1'}}")


def _keys(section: type, prefix: str = "") -> set[str]:
    rows = tree.explain(section)
    return {key.replace("[]", "") for key, _, _ in rows}


def test_every_key_that_is_named_exists() -> None:
    """`section.key` in running text, of a run's configuration or of the server's settings."""
    known = _keys(tree.Config) | _keys(serving.ServeSettings)
    sections = {key.partition(".")[0] for key in known if "." in key}
    wrong = []
    for page in PAGES:
        for span in spans(page):
            match = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:[=:*].*)?", span.text)
            if match is None or match[1].partition(".")[0] not in sections or (ROOT / match[1]).exists():
                continue
            key = match[1]
            if key not in known and not any(k.startswith(key) for k in known if span.text.endswith("*")) and not _is_code(key):
                wrong.append(f"{span} {key}")
    assert not wrong


def _is_code(name: str) -> bool:
    """A file (`evaluate.py`, `report.md`) or a function of a module."""
    return name.rpartition(".")[2] in ("py", "md", "json", "yaml", "parquet", "jsonl")


def test_make_targets_modules_and_files_of_blocks_exist() -> None:
    lines = [(block, line) for page in PAGES for block in blocks(page) for line in block.text.splitlines()]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block, line in lines:
        if match := re.match(r"\s*make ([a-z]+)", line):
            assert match[1] in targets, f"{block}: {line}"
        if match := re.match(r"\s*python -m ([\w.]+)", line):
            assert importlib.util.find_spec(match[1]) is not None, f"{block}: {line}"
        if match := re.search(r"\b(?:-f|bash|ray up) ((?:cluster|benchmarks)/\S+)", line):
            assert (ROOT / match[1]).exists(), f"{block}: {line}"
