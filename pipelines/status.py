"""`leaml status`: which steps of a run are done, how far the running one is, and whether anybody works on it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from leaml.config import load
from leaml.data import files
from leaml.errors import ConfigError, DataError
from pipelines.progress import PROGRESS, console
from pipelines.run import COPIES, LOCK, PARTIAL, RUNNING, STATUS, copies_text, is_held, quarantine_text

GO_ON = {
    PARTIAL: "only a part of its steps was asked for; leaml adapt with its config file runs the others",
    "stopped": "its process has ended without a word; the same command goes on",
    "interrupted": "finished steps and units are kept; the same command goes on",
    "failed": "finished steps and units are kept; the same command goes on once the cause is gone",
}
"""What to do with a run that is not running and not done."""
WATCH_EVERY = 2.0


def read(run: str) -> dict[str, Any]:
    """The run's status.json with `progress` of running steps. A run whose process is gone is `stopped`, as are its steps.

    Raises DataError if there is no run.
    """
    file = files.join(run, STATUS)
    if not files.exists(file):
        msg = f"{run} is not a run folder: it has no {STATUS}; give storage/name of a run, the folder of runs, or a config file"
        raise DataError(msg)
    state = _json(file)
    if state["state"] == RUNNING and not is_held(files.join(run, LOCK)):
        again = _json(file)  # it may have ended between the two looks
        state = again | {"state": "stopped"} if again["state"] == RUNNING else again
    for step in state["steps"]:
        progress = files.join(run, step["folder"], PROGRESS)
        if step["state"] == RUNNING and state["state"] != RUNNING:
            step["state"] = state["state"]
        elif step["state"] == RUNNING and files.exists(progress):
            step["progress"] = _json(progress)
    if state["state"] in GO_ON:
        state["go_on"] = GO_ON[state["state"]]
    return state


def _json(file: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files.read_bytes(file)))
    except ValueError as error:
        msg = f"{file} is damaged ({error}); remove it: finished steps stay, and the same command writes it anew"
        raise DataError(msg) from None


def folder_of(given: str, overrides: list[str] | None = None) -> str:
    """The run folder that an argument means: itself, or that of a run's config file.

    Raises:
        InputError: The config file cannot be read, or there are overrides and no config file.
    """
    if not given.lower().endswith((".yaml", ".yml")) or Path(given).is_dir():
        if overrides:
            msg = f"{overrides[0]!r}: only a config file takes overrides, and {given} is none"
            raise ConfigError(msg)
        return given
    if (Path(given).parent / STATUS).is_file():  # the resolved one that every run keeps
        return str(Path(given).parent)
    return load(given, overrides).run_folder


def runs_in(folder: str) -> list[str]:
    """The runs in a local folder, by name; none where it is a run itself."""
    if files.is_remote(folder) or not Path(folder).is_dir() or (Path(folder) / STATUS).exists():
        return []
    return sorted(str(file.parent) for file in Path(folder).glob(f"*/{STATUS}"))


def show(run: str, as_json: bool = False, watch: bool = False) -> None:
    """Print the state, as a table or as JSON; with `watch` again and again until the run does not run any more.

    Of a folder of runs every run is a line of the table, or an entry of the list `runs` in JSON.
    """
    while True:
        runs = runs_in(run)
        states = [_readable(each) for each in runs] if runs else [read(run)]
        if as_json:
            print(json.dumps({"runs": states} if runs else states[0], indent=None if watch else 1), flush=True)
        else:
            if watch and console.is_terminal:
                console.clear()
            for state in states:
                _print(state, whole=not runs)
        if not watch or all(state["state"] != RUNNING for state in states):
            return
        time.sleep(WATCH_EVERY)


def _readable(run: str) -> dict[str, Any]:
    """One of several runs; a damaged one does not hide the others."""
    try:
        return read(run)
    except DataError as error:
        return {"state": "unreadable", "run": Path(run).name, "error": str(error), "steps": [], "updated": time.time()}


def _print(state: dict[str, Any], whole: bool) -> None:
    if not whole:
        last = state["steps"][-1]["label"] if state["steps"] else ""
        ago = f"{time.time() - state['updated']:.0f} s ago"
        console.print(f"{state['state']:11} {state['run']:28} {last}, {ago}", markup=False)
        return
    console.print(f"run {state['run']}: {state['state']}, {time.time() - state['updated']:.0f} s ago", markup=False)
    for step in state["steps"]:
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.0f} s"
        if now := step.get("progress"):
            seconds = f"step {now['step']}/{now['steps']}, {now['steps_per_s']:.1f} steps/s"
        console.print(f"  {step['state']:11} {step['label']:28} {seconds:>10}  {step['folder']}", markup=False)
        if "quarantined" in step:
            console.print(f"  {'':11} {quarantine_text(step['quarantined'])}", markup=False)
        if COPIES in step:
            console.print(f"  {'':11} {copies_text(step)}", markup=False)
        if "excluded" in step:
            counts = " and ".join(f"{count} {role}" for role, count in step["excluded"].items() if count)
            console.print(f"  {'':11} {counts} images left out", markup=False)
    if "go_on" in state:
        console.print(state["go_on"], markup=False)
