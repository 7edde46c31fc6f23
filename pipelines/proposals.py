"""Optuna's proposals of points, as Ray Tune asks for them, with a study that outlives the process.

Ray Tune tells Optuna the last value of a trial that it stops early as if that were its result: the accuracy of a generator on
its way, beside that of adapted models. Here such a trial is pruned, with what it had reached at each validation.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from leaml.errors import StepError
from leaml.io import files, s3
from leaml.run.search import Point

_STARTING = 4
"""Points drawn at random before TPE proposes any."""


class Journal(BaseJournalBackend):
    """Optuna's log in a folder of a disk or of S3: a file a call, in order, written by the one process that has the run."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._logs: list[dict[str, Any]] | None = None
        self._files = 0

    def __getstate__(self) -> dict[str, object]:
        """The folder alone: what is in it may have grown when the state is read."""
        return {"folder": self.folder, "_logs": None, "_files": 0}

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The entries from a number on; the folder is read once."""
        return self._read()[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries. Raises StepError where another process does too."""
        known = self._read()
        if not files.write_bytes(f"{self.folder}/{self._files:08d}.json", json.dumps(logs).encode(), if_absent=True):
            msg = f"another process writes {self.folder}; let it end, then run the same command again"
            raise StepError(msg)
        self._files += 1
        known += json.loads(json.dumps(logs))  # as another process will read them

    def _read(self) -> list[dict[str, Any]]:
        if self._logs is None:
            found = files.listing(self.folder) if files.exists(self.folder) else []
            with ThreadPoolExecutor(s3.PARALLEL) as pool:
                self._logs = [entry for part in pool.map(files.read_bytes, found) for entry in json.loads(part)]
            self._files = len(found)
        return self._logs


class PruningSearch(OptunaSearch):
    """Ray Tune's search with Optuna, whose stopped trials are pruned and whose study is in a folder.

    Args:
        folder: Of the study. What an earlier process learned there is known from the start.
        start: The first point to try, where nothing has been tried yet.
        seed: Of the proposals.
        validations: After which a generator has come to its end, where generators are judged; None: where adapted models are.
    """

    def __init__(self, folder: str, start: Point | None, seed: int, validations: int | None) -> None:
        self._journal = JournalStorage(Journal(folder))
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed, n_startup_trials=_STARTING)
        super().__init__(
            metric="objective",
            mode="max",
            sampler=sampler,
            storage=self._journal,
            points_to_evaluate=[start] if start else None,
        )
        self._validations = validations
        if self._journal.get_all_studies():
            self._fail_lost()

    def _setup_study(self, mode: str | list[Any]) -> None:
        """As Ray Tune asks for it when it begins, and again before it restores: then the start has been proposed already."""
        if self._journal.get_all_studies():
            self._points_to_evaluate: list[Point] = []
        super()._setup_study(mode)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A validation, of a trial under way or of one that a killed process had seen to its end."""
        with contextlib.suppress(UpdateFinishedTrialError):
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial; without a result Optuna is told that it was pruned."""
        super().on_trial_complete(trial_id, result if result and self._is_whole(result) else None, error)

    def _is_whole(self, result: Mapping[str, Any]) -> bool:
        """Whether a trial's last report is that of its end."""
        return bool(result["end"] if self._validations is None else result["progress"] >= self._validations)

    def restore(self, checkpoint_path: str) -> None:
        """As Ray Tune saved it; the study is as the folder has it, which may be newer."""
        super().restore(checkpoint_path)
        self._fail_lost()

    def _fail_lost(self) -> None:
        """Trials that were proposed and of which Ray Tune does not know any more will not end."""
        mine = {trial.number for trial in self._ot_trials.values()}
        study = optuna.load_study(study_name=self._study_name, storage=self._journal)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in mine:
                study.tell(trial.number, state=TrialState.FAIL)
