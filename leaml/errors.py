"""Every error LEAML raises on purpose. A message says what is wrong, with which value, and how to fix it."""

from __future__ import annotations


class LeamlError(Exception):
    """Base of all errors of this package; the CLI prints the message without a traceback."""

    exit_code = 1


class InputError(LeamlError):
    """The user's input (configuration, data, model) cannot be used; exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key, type or value is wrong."""


class DataError(InputError):
    """A data file is missing, unreadable, malformed or breaks a table contract."""


class ModelError(InputError):
    """A model cannot be loaded or lacks what the method needs (for example a vision tower)."""


class ResourceError(InputError):
    """The machine or cluster cannot run the plan; the message names what is missing."""


class StepError(LeamlError):
    """A step failed while running; what was committed stays and a rerun resumes."""


class EngineDiedError(StepError):
    """An engine died, or is in a state that nobody knows; its process must end, and another can take its work."""


class InterruptedCommandError(LeamlError):
    """A signal ended the command: Ctrl-C, exit code 130 as shells have it, or SIGTERM, 143."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
