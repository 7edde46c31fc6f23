"""Finds what README, docs and the headers of the deployment files tell a reader to type or write, and of which kind it is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from leaml import config as tree

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ("cluster", "serve", "examples", "benchmarks", "research", "leaml", "pipelines")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [page for folder in OTHERS for page in sorted((ROOT / folder).rglob("*.md"))]
RECIPES = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))
HEADERS = [*RECIPES, ROOT / "cluster" / "ray-up" / "aws.yaml", ROOT / "cluster" / "slurm" / "leaml.sbatch"]
"""Files that begin with the commands to use."""
OWN_DATA = "quickstart.md"
"""The page with the reader's own data: its row, its configuration."""
PROGRAMS = (
    "leaml",
    "make",
    "pip",
    "uv",
    "pre-commit",
    "python",
    "bash",
    "docker",
    "kubectl",
    "ray",
    "serve",
    "sbatch",
    "curl",
    "export",
)
PREFIX = r"\s*(?:[A-Z_]+=(?:\S*\$\(.*?\)|\S+)\s+)?(?:\.venv/bin/)?"
COMMAND = re.compile(rf"^{PREFIX}({'|'.join(PROGRAMS)})\s+(?=\S)(.*)$", re.DOTALL)


class Found(NamedTuple):
    """A piece of a page."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A line for a shell: `program` with `text` behind it, `reply` what the page shows beneath."""

    at: Found
    program: str
    text: str
    reply: str = ""

    def __str__(self) -> str:
        return str(self.at)


def name_of(page: Path) -> str:
    """README.md and the pages of docs by their names, others by their paths."""
    return page.name if page.parent in (ROOT, ROOT / "docs", RECIPES[0].parent) else str(page.relative_to(ROOT))


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
            yield Found(name_of(page), start, textwrap.dedent("\n".join(lines[start - 1 : number - 1])))
            start = None
        fenced = fenced != fence


def all_blocks() -> list[Found]:
    """The blocks of every page."""
    return [block for page in PAGES for block in blocks(page)]


def spans(page: Path) -> Iterator[Found]:
    """Inline code, outside of fences; it may go on in the next line."""
    fenced, start, paragraph = False, 1, ""
    for number, line in enumerate([*page.read_text().splitlines(), ""], 1):
        fence = line.strip().startswith("```")
        if not line.strip() or fence or fenced or line.startswith("|"):
            yield from _spans_of(page, start, paragraph)
            start, paragraph = number + 1, ""
            if line.startswith("|") and not fenced:
                yield from _spans_of(page, number, line)
        else:
            paragraph += f"{line}\n"
        fenced = fenced != fence


def _spans_of(page: Path, start: int, text: str) -> Iterator[Found]:
    assert text.count("`") % 2 == 0, f"{name_of(page)}:{start}: a ` without its other half"
    for match in re.finditer(r"`([^`]+)`", text):
        yield Found(name_of(page), start + text[: match.start()].count("\n"), " ".join(match[1].split()))


def kind_of(block: Found) -> str | None:
    """What a block is: commands, rows, config, kustomization, project, python or diagram; None where no test knows it."""
    first = next(line for line in block.text.splitlines() if line.strip())
    if COMMAND.match(first):
        return "commands"
    if re.match(r'\{"[a-z_]+":', first) or re.fullmatch(r"[a-z_]+(?:[,;\t][a-z_]+)+", first):
        return "rows"
    heads = _heads(block)
    if heads and _is_config(heads):
        return "config"
    if heads == ["images"]:
        return "kustomization"
    if first.startswith("[project."):
        return "project"
    if re.match(r"(?:from|import) \w", first):
        return "python"
    return "diagram" if "─►" in block.text else None


def commands() -> list[Command]:
    """Every command: lines of blocks, of the headers' comments, and inline code."""
    found = []
    for block in (each for each in all_blocks() if kind_of(each) == "commands"):
        for number, line in enumerate(block.text.splitlines()):
            at = Found(block.page, block.line + number, line)
            if match := COMMAND.match(line):
                found.append(Command(at, match[1], match[2]))
            elif line.strip():  # behind a command stands what it prints
                found[-1] = found[-1]._replace(reply=f"{found[-1].reply}{line}\n")
    places = [span for page in PAGES for span in spans(page)]
    for file in HEADERS:
        for number, text in enumerate(file.read_text().splitlines(), 1):
            comment = text[text.index("#") :] if "#" in text else ""
            parts = re.findall(r"(?:#\s+|\bor\s+|: )((?:leaml|ray|sbatch|make|export) .*?)(?=\s+or\s|: |$)", comment)
            places += [Found(name_of(file), number, part) for part in parts]
    places = [each._replace(text=re.sub(r"^((?:benchmarks|research)\.\S+ )", r"python -m \1", each.text)) for each in places]
    matches = [(each, COMMAND.match(each.text)) for each in places]
    return found + [Command(each, match[1], match[2]) for each, match in matches if match]


def of_program(name: str) -> list[Command]:
    """The commands of one program."""
    return [command for command in commands() if command.program == name]


def configs() -> list[Found]:
    """Every block that is a part of a configuration or a whole one, and what each has as a comment instead of a line."""
    found = []
    for block in all_blocks():
        if kind_of(block) != "config":
            continue
        # three lines with the key `score` are three examples, not one mapping
        lines, heads = block.text.splitlines(), _heads(block)
        parts = [(n, t) for n, t in enumerate(lines)] if len(set(heads)) < len(heads) else [(0, block.text)]
        found += [Found(block.page, block.line + n, t) for n, t in parts]
    found += [Found(recipe.name, 1, recipe.read_text()) for recipe in RECIPES]
    return [variant for each in found for variant in (each, *_uncommented(each))]


def _heads(block: Found) -> list[str]:
    return [line.partition(":")[0] for line in block.text.splitlines() if re.match(r"[a-z_]+:", line)]


def _is_config(heads: list[str]) -> bool:
    return set(heads) <= set(tree.Config.model_fields) or len(set(heads) & set(tree.Config.model_fields)) > 1


def _uncommented(found: Found) -> Iterator[Found]:
    lines = found.text.splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"^(\s*)# ([a-z_]+:\s*\S.*)$", line):
            text = "\n".join([*lines[:number], match[1] + match[2], *lines[number + 1 :]])
            yield Found(found.page, found.line + number, text)


def one(page: str, kind: str, holding: str = "") -> Found:
    """The block of a page that is of this kind and holds this text."""
    (found,) = [b for b in all_blocks() if b.page == page and kind_of(b) == kind and holding in b.text]
    return found


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the rows of a page's table whose first column has this head."""
    (file,) = [file for file in PAGES if name_of(file) == page]
    rows = file.read_text().split(f"| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
