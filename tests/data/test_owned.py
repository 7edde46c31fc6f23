"""Folders of processes that were killed are removed; those of others, and of processes that run, are not."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leaml.io import owned

KILLED = """
import os, signal, sys
from pathlib import Path
from leaml.io import owned
for folder in sys.argv[1:]:
    owned.own(Path(folder))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / f"lm-{name}" for name in ("first", "second", "own", "unmarked")}
    for folder in made.values():
        folder.mkdir()
        (folder / "file").write_text("content")
    owned.own(made["own"])
    command = [sys.executable, "-c", KILLED, str(made["first"]), str(made["second"])]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    os.utime(made["first"] / owned.NAME, (1, 1))
    return made


@pytest.mark.parametrize(("keep", "left"), [(0, {"own", "unmarked"}), (1, {"own", "unmarked", "second"})])
def test_what_nobody_owns_any_more_is_removed(folders: dict[str, Path], tmp_path: Path, keep: int, left: set[str]) -> None:
    (tmp_path / "lm-link").symlink_to(folders["first"])
    (tmp_path / "lm-file").write_text("of another program")
    (tmp_path / "other").mkdir()
    owned.sweep(tmp_path, "lm-*", keep)
    assert {name for name, folder in folders.items() if folder.exists()} == left
    assert {path.name for path in tmp_path.iterdir()} >= {"lm-link", "lm-file", "other"}
    owned.sweep(tmp_path, "lm-*", keep)  # it is no fault if there is nothing
    assert (folders["own"] / "file").exists()


def test_folders_of_other_users_are_left(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    owned.sweep(tmp_path, "lm-*")
    assert all(folder.exists() for folder in folders.values())


def test_what_another_process_removes_at_the_same_time_is_no_fault(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a training that goes on after it was killed all begin with this."""
    lock = fcntl.flock

    def meanwhile(handle: int, how: int) -> None:
        lock(handle, how)
        shutil.rmtree(folders["first"], ignore_errors=True)
        shutil.rmtree(folders["second"], ignore_errors=True)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    owned.sweep(tmp_path, "lm-*")
    assert {name for name, folder in folders.items() if folder.exists()} == {"own", "unmarked"}
