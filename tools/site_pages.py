"""Hooks of MkDocs (mkdocs.yml): pages made from the code, pages that are not in docs/, and the links between both."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.structure.files import File
from pydantic import BaseModel
from typer.cli import get_docs_for_click

import leaml
from leaml import config as tree
from pipelines import cli

ROOT = Path(__file__).resolve().parent.parent
AS_THEY_ARE = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "research/README.md", "research/LOG.md")
OUTSIDE = {"README.md": "index.md", **{path: path for path in AS_THEY_ARE}}
"""Pages that are not in docs/, by their path in the repository, and their place in the site."""
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=[#)])")
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
PLAIN = re.compile(r"`[^`]*`|([\\*_|<\[])")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that docs/ does not hold."""
    made = {"reference/config.md": config_page(), "reference/cli.md": cli_page(), "reference/api.md": api_page()}
    made |= {where: (ROOT / path).read_text() for path, where in OUTSIDE.items()}
    for where, text in made.items():
        files.append(File.generated(config, where, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    path = next((path for path, where in OUTSIDE.items() if where == here), f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return link[1]
        return posixpath.relpath(OUTSIDE.get(target, target.removeprefix("docs/")), posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def config_page() -> str:
    """Every key of a run's configuration, a table for each section."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for key, default, meaning in tree.explain():
        sections.setdefault(re.split(r"[.\[]", key)[0], []).append((key, default, meaning))
    alone = [rows[0] for rows in sections.values() if len(rows) == 1]
    head = "As `leaml config --explain` prints it; `a.b=value` behind a command sets a key."
    parts = ["# Configuration", head, *_table(alone)]
    for name, rows in sections.items():
        if len(rows) > 1:
            parts += [f"## {name}", rows[0][2], *_table(rows[1:])]
    return "\n\n".join(parts)


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    """The meanings as they are written: nothing in them but code is Markdown."""
    texts = [PLAIN.sub(lambda m: f"&#{ord(m[1])};" if m[1] else m[0], meaning) for _, _, meaning in rows]
    lines = [f"| `{key}` | `{default}` | {text} |" for (key, default, _), text in zip(rows, texts, strict=True)]
    yield "\n".join(["| key | default | meaning |", "|---|---|---|", *lines])


def cli_page() -> str:
    """Every command with its options, by typer."""
    program = typer.main.get_command(cli.app)
    return get_docs_for_click(obj=program, ctx=typer.Context(program, info_name="leaml"), name="leaml", title="Commands")


def api_page() -> str:
    """Every public name of `leaml` with its signature and docstring."""
    parts = ["# Python", "Names of `import leaml`; each is imported at its first use."]
    for name in sorted(set(leaml.__all__) - {"__version__"}):
        found = getattr(leaml, name)
        parts += [f"## leaml.{name}", *_signature(name, found), *_docstring(found)]
    return "\n\n".join(parts)


def _signature(name: str, found: Any) -> Iterator[str]:
    if inspect.isclass(found) and issubclass(found, BaseModel):
        yield "Its fields are the keys of the [configuration](config.md)."
        return
    signature = inspect.signature(found)
    arguments = ",\n    ".join(map(_argument, signature.parameters.values()))
    gives = "" if inspect.isclass(found) else f" -> {signature.return_annotation}"
    yield f"```python\n{name}(\n    {arguments},\n){gives}\n```"


def _argument(p: inspect.Parameter) -> str:
    """`name: type = default`, the type as it is written."""
    given = "" if p.default is p.empty else f" = {p.default!r}"
    return f"{p.name}: {p.annotation}{given}"


def _docstring(found: Any) -> Iterator[str]:
    """Google's sections as lists."""
    section = ""
    lines = []
    for line in (inspect.getdoc(found) or "").splitlines():
        if heading := SECTION.match(line):
            section = heading[1]
            lines += [f"**{section}**", ""]
        elif section and (item := re.match(r"    (\w+): (.*)", line)):
            lines.append(f"* `{item[1]}`: {item[2]}")
        else:
            lines.append(line.strip() if section else line)
    yield "\n".join(lines)
