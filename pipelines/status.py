"""`leaml status`: which steps of a run are done, how far the running one is, and whether anybody works on it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from leaml.errors import ConfigError, DataError
from leaml.io import files
from leaml.run.records import STATUS, RunRecord, notes_of, read_run
from pipelines import recipes
from pipelines.progress import PROGRESS, TrainingProgress, console
from pipelines.run import LOCK, PARTIAL, RUNNING, is_held

GO_ON = {
    PARTIAL: "only a part of its steps was asked for; leaml adapt with its config file runs the others",
    "stopped": "its process has ended without a word; the same command goes on",
    "interrupted": "finished steps and shards are kept; the same command goes on",
    "failed": "finished steps and shards are kept; the same command goes on once the cause is gone",
}
"""What to do with a run that is not running and not done."""
WATCH_EVERY = 2.0


@dataclass(frozen=True)
class Seen:
    """A run as it is now: its record, in which a run whose process is gone is `stopped`, as are its steps, and the progress of
    running ones by folder."""

    record: RunRecord
    progress: dict[str, TrainingProgress] = field(default_factory=dict)
    error: str = ""

    @property
    def go_on(self) -> str:
        """What to do with it; nothing where it runs or is done."""
        return GO_ON.get(self.record.state, "")

    def tree(self) -> dict[str, object]:
        """As plain data, for programs."""
        steps = []
        for step in self.record.steps:
            now = self.progress.get(step.folder)
            steps.append({**step.tree(), **({"progress": now} if now else {})})
        tree = asdict(self.record) | {"steps": steps, "others": [step.tree() for step in self.record.others]}
        more = {"go_on": self.go_on, "error": self.error}
        return tree | {key: text for key, text in more.items() if text}


def read(run: str) -> Seen:
    """The run's status.json as it is to be understood now. Raises DataError if there is no run, or it is damaged."""
    record = read_run(run)
    if record.state == RUNNING and not is_held(files.join(run, LOCK)):
        again = read_run(run)  # it may have ended between the two looks
        record = replace(again, state="stopped") if again.state == RUNNING else again
    if record.state != RUNNING:
        ended = (replace(step, state=record.state) if step.state == RUNNING else step for step in record.steps)
        return Seen(replace(record, steps=tuple(ended)))
    running = (step.folder for step in record.steps if step.state == RUNNING)
    files_of = {folder: files.join(run, folder, PROGRESS) for folder in running}
    return Seen(record, {folder: json.loads(files.read_bytes(f)) for folder, f in files_of.items() if files.exists(f)})


def folder_of(given: str, overrides: list[str] | None = None) -> str:
    """The run folder that an argument means: itself, or that of a run's config file, a shipped one by its name too.

    Raises:
        InputError: The config file cannot be read, or there are overrides and no config file.
    """
    is_name = given in recipes.shipped()
    if not (is_name or given.lower().endswith((".yaml", ".yml"))) or Path(given).is_dir():
        if overrides:
            msg = f"{overrides[0]!r}: only a config file takes overrides, and {given} is none"
            raise ConfigError(msg)
        return given
    if not is_name and (Path(given).parent / STATUS).is_file():  # the resolved one that every run keeps
        return str(Path(given).parent)
    return recipes.load(given, overrides).run_folder


def runs_in(folder: str) -> list[str]:
    """The runs in a local folder, by name; none where it is a run itself."""
    if files.is_remote(folder) or not Path(folder).is_dir() or (Path(folder) / STATUS).exists():
        return []
    return sorted(str(file.parent) for file in Path(folder).glob(f"*/{STATUS}"))


def show(run: str, as_json: bool = False, watch: bool = False) -> None:
    """Print the state of a run, or of every run in a folder.

    Args:
        run: Folder of a run, or a local folder of runs.
        as_json: JSON in place of a table; of several runs a list under `runs`.
        watch: Print again and again until no run is running any more.
    """
    while True:
        runs = runs_in(run)
        seen = [_readable(each) for each in runs] if runs else [read(run)]
        if as_json:
            trees = [each.tree() for each in seen]
            print(json.dumps({"runs": trees} if runs else trees[0], indent=None if watch else 1), flush=True)
        else:
            if watch and console.is_terminal:
                console.clear()
            for each in seen:
                _print(each, whole=not runs)
        if not watch or all(each.record.state != RUNNING for each in seen):
            return
        time.sleep(WATCH_EVERY)


def _readable(run: str) -> Seen:
    """One of several runs; a damaged one does not hide the others."""
    try:
        return read(run)
    except DataError as error:
        return Seen(RunRecord(Path(run).name, "unreadable", time.time()), error=str(error))


def _print(seen: Seen, whole: bool) -> None:
    record = seen.record
    ago = f"{time.time() - record.updated:.0f} s ago"
    if not whole:
        last = record.steps[-1].label if record.steps else ""
        console.print(f"{record.state:11} {record.run:28} {last}, {ago}", markup=False)
        return
    console.print(f"run {record.run}: {record.state}, {ago}", markup=False)
    for step in record.steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
        if now := seen.progress.get(step.folder):
            seconds = f"step {now['step']}/{now['steps']}, {now['steps_per_s']:.1f} steps/s"
        console.print(f"  {step.state:11} {step.label:28} {seconds:>10}  {step.folder}", markup=False)
        for note in notes_of(step.summary):
            console.print(f"  {'':11} {note}", markup=False)
    if seen.go_on:
        console.print(seen.go_on, markup=False)
