"""The `leaml` command in this process: what it prints and how it ends, without the seconds that a new process imports for."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from pipelines import cli


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


def leaml(*arguments: str | Path) -> Ended:
    """Run the command's entry point with these arguments."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["leaml", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())
