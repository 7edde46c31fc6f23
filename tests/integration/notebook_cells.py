"""Runs the code cells of a notebook in one namespace, and writes what each shows: python notebook_cells.py NOTEBOOK OUTPUT."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run_cell(source: str, name: str, space: dict[str, Any]) -> str:
    """What a cell prints, and the value of its last line if that is an expression."""
    body = ast.parse(source, name).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), name, "exec"), space)
        value = eval(compile(last, name, "eval"), space) if last else None
    return printed.getvalue() + ("" if value is None else f"{value!r}")


def main() -> None:
    """OUTPUT is JSON: a cell's id and what it shows."""
    notebook, output = map(Path, sys.argv[1:])
    space: dict[str, Any] = {}
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    shown = {cell["id"]: run_cell("".join(cell["source"]), cell["id"], space) for cell in cells}
    output.write_text(json.dumps(shown))


if __name__ == "__main__":
    main()
