"""Errors that a client sees, in the shape of OpenAI's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import NoReturn

from starlette.responses import JSONResponse

from leaml.text.values import shorten

LONGEST_MESSAGE = 2000
"""Characters of a message, whatever it quotes."""
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: What is wrong, which value, and the limit or the fix; what it quotes of a request is cut (`shorten`).
        code: Short name of the reason; also counted as such.
        param: The field at fault.
        retry_after: Seconds for a Retry-After header.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None, retry_after: int | None = None) -> None:
        message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the reply."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The reply."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        response = JSONResponse(self.body(), self.status, headers)
        if self.status == 401:
            for scheme in ("Bearer", "Basic"):  # a header each: Chromium reads the first scheme of one that lists both
                response.headers.append("WWW-Authenticate", f'{scheme} realm="leaml"')
        return response

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str, str, str | None, int | None]]:
        """Errors travel between replicas."""
        return ApiError, (self.status, self.message, self.code, self.param, self.retry_after)


def unprocessable(message: str, code: str, param: str | None = None) -> ApiError:
    """422: understood, but not acceptable.

    Args:
        message: As of `ApiError`.
        code: Short name of the reason.
        param: The field at fault; None: no single one.
    """
    return ApiError(422, message, code, param)


def refuse(message: str, code: str, param: str | None = None) -> NoReturn:
    """Raise `unprocessable`.

    Args:
        message: As of `ApiError`.
        code: Short name of the reason.
        param: The field at fault; None: no single one.

    Raises:
        ApiError: Always.
    """
    raise unprocessable(message, code, param) from None


def not_found(model: str) -> ApiError:
    """404 for a model."""
    msg = f"the model {shorten(model)} is not served; GET /v1/models lists those that are"
    return ApiError(404, msg, "model_not_found", "model")


def stopped() -> ApiError:
    """The engine is dead, or its replica is; Serve replaces the replica after three health checks.

    HAProxy says so too of a replica that ends without a reply: whether it died or a change took it away it cannot tell.
    """
    return ApiError(
        503, "the model's engine has stopped or is being replaced; try again in 10 s", "engine_dead", retry_after=10
    )


def stopping() -> ApiError:
    """The server was told to stop; it answers what it has begun."""
    return ApiError(503, "the server is stopping and takes no more requests", "stopping", retry_after=5)


def no_path() -> ApiError:
    """A request to a proxy (`CONNECT host:port`) or about the server as a whole (`OPTIONS *`)."""
    return ApiError(400, "the request names no path of this server, which forwards to no other; ask for /v1/models", "no_path")


def starting(retry_after: int, what: str = "the server") -> ApiError:
    """There is no engine yet that could answer."""
    return ApiError(503, f"{what} is starting; try again in {retry_after} s", "starting", retry_after=retry_after)


def failed() -> ApiError:
    """The engine lives, but one request failed in it."""
    return ApiError(503, "the model could not answer this request; try again", "engine_failed", retry_after=2)


@contextlib.contextmanager
def about_questions() -> Iterator[None]:
    """Errors of a chat's messages as those of the questions that /v1/vqa was sent."""
    try:
        yield
    except ApiError as error:
        if error.param != "messages":
            raise
        text = error.message.replace("; shorten it or lower max_tokens", "; shorten the question or its options")
        raise ApiError(error.status, text, error.code, "question", error.retry_after) from None


def explained(status: int, message: str, max_model_len: int) -> ApiError:
    """vLLM's refusal in our words: its own name internals and repeat the request.

    Args:
        status: HTTP status that vLLM would answer with.
        message: What it says; only looked at, never passed on.
        max_model_len: Tokens of the model's context, for the message.
    """
    lower = message.lower()
    if re.search(r"engine ?(dead|core)", lower):
        return stopped()
    if "maximum context" in lower or "maximum model length" in lower or "max_model_len" in lower or "longer than" in lower:
        msg = f"the request and its reply are longer than the model's {max_model_len} tokens; shorten it or lower max_tokens"
        return ApiError(422, msg, "context_length", "messages")
    if "placeholder" in lower or "image token" in lower:
        return ApiError(422, "the text holds the model's mark for an image; take it out", "placeholder", "messages")
    if "does not exist" in lower and status == 404:
        return ApiError(404, "the model is not served any more", "model_not_found", "model")
    if status >= 500:
        return failed()
    return ApiError(422, "the model does not take this request: its template or its limits do not allow it", "refused_by_model")
