"""One cheap request to the server behind `caption.url`: the list of its models, before anything else is paid for."""

from __future__ import annotations

import json

import openai

from leaml.engine.openai_engine import REDIRECT_ADVICE, client_of, redirect_of, unanswered
from leaml.errors import ModelError
from leaml.text.values import shorten

_SECONDS = 10.0
_KEY = {401, 402, 407}
"""Refusals that are about the key or the account, whatever is asked for."""
_ADVICE = "check caption.url (it usually ends with /v1), OPENAI_API_KEY and that the server runs"
_SHOWN = 5


def check(url: str, model: str) -> str | None:
    """Ask a server for its models, with the key in OPENAI_API_KEY.

    Args:
        url: `caption.url`.
        model: The name that captions will be asked of.

    Returns:
        What is doubtful, as a sentence: it does not know the model, or gives no list. None: nothing is.

    Raises:
        ModelError: Nobody listens there, the server redirects to another address, or the key is refused.
    """
    base = url.rstrip("/").removesuffix("/chat/completions")
    try:
        text = client_of(base, _SECONDS, retries=1).models.with_raw_response.list().http_response.text
    except openai.APIStatusError as error:
        if (to := redirect_of(error)).endswith("/models"):
            shown = shorten(to.removesuffix("/models"), 200)
            msg = f"caption.url: {base} redirects to {shown}, where no image is sent; {REDIRECT_ADVICE}"
            raise ModelError(msg) from None
        said = f"{base} answered {error.status_code}: {' '.join(error.response.text.split())[:200]!r}"
        if error.status_code in _KEY:
            msg = f"caption.url: {said}; {_ADVICE}"
            raise ModelError(msg) from None
        return f"caption.url: asked for its models, {said}; not every server lists them, else {_ADVICE}"
    except openai.APIConnectionError as error:
        unreachable, why = unanswered(error)
        if unreachable:
            msg = f"caption.url: {base} cannot be reached ({why}); {_ADVICE}"
            raise ModelError(msg) from None
        return f"caption.url: asked for its models, {base} gave no answer ({why}); {_ADVICE}"

    return _doubt(base, text, model)


def _doubt(base: str, text: str, model: str) -> str | None:
    try:
        found = json.loads(text)
        names = [str(each["id"]) for each in found["data"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        shown = " ".join(text.split())[:100]
        return f"caption.url: asked for its models, {base} answered {shown!r}, which is no list of them; {_ADVICE}"
    if model in names:
        return None
    known = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"caption.url: {base} lists no model {model!r} but {known or 'none'}; check caption.teacher.name"
