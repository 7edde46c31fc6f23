"""What goes wrong with vLLM, in words of the configuration; and what an engine does not survive."""

from __future__ import annotations

import re

from leaml._compat import engine_dead_error
from leaml.config.engine import OF_VLLM
from leaml.errors import EngineDiedError

_SHOWN = 600
"""Characters of what vLLM says."""


def named(text: str, key: str) -> str:
    """What vLLM says, in one line and with the keys of the configuration in place of its own.

    Args:
        text: Of an error.
        key: Of the section, such as `caption.engine`.
    """
    found = " ".join(text.split())
    for name, ours in OF_VLLM.items():
        found = re.sub(rf"(?<![\w.]){name}(?!\w)", f"{key}.{ours}", found)
    return found[:_SHOWN]


def refusal(error: Exception, key: str) -> str:
    """Why a request was not taken; where it is too long, with the key that allows longer ones."""
    text = named(str(error), key)
    if re.search(r"maximum (context|model) length", text) and f"{key}.max_model_len" not in text:
        text += f" (or raise {key}.max_model_len, up to what the model takes)"
    return f"the model cannot be asked this: {text}"


def died(error: BaseException, while_it_ran: bool, last_words: str) -> EngineDiedError | None:
    """The error of an engine that cannot be asked again; None: it goes on.

    Args:
        error: What vLLM raised.
        while_it_ran: Whether in a step of the engine, after which nobody knows its state.
        last_words: What its core wrote before it died; "" where it has none of its own, or was killed.
    """
    dead = isinstance(error, engine_dead_error())
    if not isinstance(error, Exception) or not (while_it_ran or dead or re.search(r"\bCUDA\b.*\berror\b", str(error), re.I)):
        return None
    said = "its process ended, perhaps killed for the memory that it took" if dead else f"{type(error).__name__}: {error}"
    return EngineDiedError(f"the engine died: {' '.join((last_words or said).split())[:_SHOWN]}")
