"""A teacher behind a URL: any server that speaks OpenAI's chat protocol, asked through the `openai` client.

A request that fails for good costs one image, whose completion says why. What would fail for every image (no server there, a
key or a model name that it does not know, a server that answers nothing of use) ends the step instead.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from email.utils import mktime_tz, parsedate_tz
from typing import Protocol
from urllib.parse import urljoin

import openai
from PIL import Image

from leaml.engine.chat_completion import ChatCompletion, RequestError, completions, parsed
from leaml.engine.interface import FAILED, Completion, EngineParameters, Request
from leaml.errors import StepError
from leaml.text.values import shorten

MOST_IN_A_ROW = 32
"""Requests that may fail one after another before the server is taken for unusable."""
SILENCE, FEW_IN_A_ROW = 240.0, 4
"""Seconds without a success after which so few are enough: a busy server fails them slowly."""
LONGEST_WAIT = 3600.0
"""Longest `Retry-After` that is waited for, in seconds; the client itself obeys up to two minutes."""
_PAUSE = 1.0
"""Seconds until a request is sent again whose reply was no completion."""
_FOR_ALL = {401, 402, 404, 405, 407}
"""Refusals that are about the key, the account, the model or the path, not about one image."""
_OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
_OPTIONAL = {
    "max_completion_tokens": r"max(?:imum)?[\s_-]*completion[\s_-]*tokens?",
    "max_tokens": r"max(?:imum)?[\s_-]*(?:new[\s_-]*|output[\s_-]*)?tokens?",
    "logprobs": r"log[\s_-]*prob",
    "temperature": r"temperature",
    "top_p": r"top[\s_-]*p",
    "seed": r"seed",
}
"""What some servers refuse, and how they write it; left out, or given its other name, when they say so."""
_LIMITED = re.compile(rf"(?<![a-z]){_OPTIONAL['max_tokens']}\W*(?:\d+\W*)?(?:is\s+)?(?:exceed|too large|too high)", re.I)
"""A server's own limit for replies, which the request is over: then it is left to the server."""
_NO_PARAMETER = {401, 402, 407, 408, 409, 413, 420, 425, 429}
"""Statuses of refusals that are never about a parameter."""
_BUSY = {408, 409, 420, 425, 429, 502, 503, 504, 529}
"""Statuses that say nothing about the image; they are asked for again after the client has given up on them."""
_NO_QUOTA = re.compile(r"insufficient_(?:\w+_)?quota")
_BUSY_ROUNDS = 5
"""Times the client's own retries are begun anew for a busy server."""
_BODY_TRIES = 3
"""Times a reply is asked for that comes back as something else than a chat completion."""


class _Slots:
    """How many requests may be under way: half as many after one that met a busy server, slowly more again after others.

    Otherwise a rate limit fails the same requests again and again until their retries are used up.
    """

    def __init__(self, most: int) -> None:
        self._most, self._limit, self._used = most, float(most), 0
        self._changed = threading.Condition()

    def take(self) -> None:
        """Wait for a slot."""
        with self._changed:
            self._changed.wait_for(lambda: self._used < max(1, int(self._limit)))
            self._used += 1

    def give(self) -> None:
        """Give the slot back."""
        with self._changed:
            self._used -= 1
            self._changed.notify_all()

    def note(self, busy: bool) -> None:
        """Whether a request has met a busy server."""
        with self._changed:
            self._limit = max(1.0, self._limit / 2) if busy else min(self._most, self._limit + 1 / self._limit)


class _HttpResponse(Protocol):
    @property
    def content(self) -> bytes: ...


class _RawReply(Protocol):
    """What the client gives for a request that the server answered with 200."""

    retries_taken: int

    @property
    def http_response(self) -> _HttpResponse: ...


class OpenAIEngine:
    """An OpenAI-compatible chat server; images travel as data URLs. The key is read from OPENAI_API_KEY.

    Several threads may call `generate`; together they have at most `client.concurrency` requests under way.
    """

    def __init__(self, spec: EngineParameters) -> None:
        self.spec = spec
        self.url = str(spec.url).rstrip("/").removesuffix("/chat/completions")
        client = spec.client
        raw = client_of(self.url, client.timeout, client.retries).chat.completions.with_raw_response
        self._create: Callable[..., _RawReply] = raw.create
        self._pool = ThreadPoolExecutor(client.concurrency, thread_name_prefix="teacher")
        self._slots = _Slots(client.concurrency)
        self._lock = threading.Lock()
        self._failed, self._succeeded = 0, time.monotonic()
        self._refused: frozenset[str] = frozenset()
        self._stopped = threading.Event()
        self._given_up: StepError | None = None

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        """The replies, in the order of the requests; one that failed for good has `error`.

        Raises:
            StepError: The server is of no use for any request.
        """
        found = {number: completions for batch in self.as_answered(requests) for number, completions in batch.items()}
        return [found[number] for number in range(len(requests))]

    def as_answered(self, requests: list[Request]) -> Iterator[dict[int, list[Completion]]]:
        """Replies by the number of their request, as they come. Raises as `generate` does, after all that have come."""
        waiting: dict[Future[list[Completion]], int] = {self._pool.submit(self._one, r): n for n, r in enumerate(requests)}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                numbers = {future: waiting.pop(future) for future in done}
                errors = [error for future in done if (error := future.exception())]
                yield {n: future.result() for future, n in numbers.items() if not future.exception()}
                if errors:
                    raise self._given_up or errors[0]
        finally:
            for future in waiting:
                future.cancel()

    def _one(self, request: Request) -> list[Completion]:
        """The completions of a request, or `n` that say why there are none. Raises StepError when the server is of no use."""
        self._slots.take()
        try:
            if self._given_up is not None:
                raise self._given_up
            reply = self._post(self._body(request))
            found = completions(reply, request)
        except RequestError as error:
            self._note(str(error))
            return [Completion("", math.nan, FAILED, 0, f"server: {error}")] * request.n
        except StepError as error:
            self._give_up(error)
            raise
        finally:
            self._slots.give()
        with self._lock:
            self._failed, self._succeeded = 0, time.monotonic()
        return found

    def _note(self, reason: str) -> None:
        """Count a failed request. Raises StepError when too many failed one after another."""
        with self._lock:
            self._failed += 1
            failed, silent = self._failed, time.monotonic() - self._succeeded
        if failed >= (FEW_IN_A_ROW if silent > SILENCE else MOST_IN_A_ROW):
            msg = f"{failed} requests to {self.url} failed one after another, the last: {reason}; {_ADVICE}"
            self._give_up(error := StepError(msg))
            raise error

    def _give_up(self, error: StepError) -> None:
        """No request is begun or waited for any more; those that would be raise the first error."""
        with self._lock:
            self._given_up = self._given_up or error
        self._stopped.set()

    def _body(self, r: Request) -> dict[str, object]:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(r.image, self.spec)}},
            {"type": "text", "text": r.text},
        ]
        messages: list[dict[str, object]] = [{"role": "user", "content": content}]
        body: dict[str, object] = {"model": self.spec.model, "messages": messages}
        body |= {"temperature": r.temperature, "max_tokens": r.max_tokens, "logprobs": True}
        body |= {"n": r.n} if r.n != 1 else {}
        body |= {"top_p": r.top_p} if r.top_p != 1.0 else {}
        body |= {"seed": r.seed} if r.seed is not None else {}
        extra: dict[str, object] = {}
        if r.pattern:
            extra["structured_outputs"] = {"regex": r.pattern}  # vLLM's name
        if r.prefix:
            messages.append({"role": "assistant", "content": r.prefix})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        return body | ({"extra_body": extra} if extra else {})

    def _post(self, body: dict[str, object]) -> ChatCompletion:
        """A chat completion. Parameters that the server refuses are changed, for good once that has helped."""
        refused = self._refused
        while True:
            try:
                reply = self._send(_without(body, refused))
            except _RefusedParameterError as error:
                if error.name in refused:
                    raise error.otherwise from None
                refused |= {error.name}
                continue
            if refused != self._refused:
                with self._lock:
                    self._refused |= refused
            return reply

    def _send(self, body: dict[str, object]) -> ChatCompletion:
        """One chat completion, asked for again where the client does not do that by itself.

        Raises:
            StepError: Every request would fail like this.
            _RefusedParameterError: The server refuses a parameter.
            RequestError: This request failed for good.
        """
        retries = self.spec.client.retries
        bodies, rounds = min(_BODY_TRIES, retries + 1), _BUSY_ROUNDS if retries else 1
        while True:
            try:
                reply = self._create(**body)
                self._slots.note(busy=reply.retries_taken > 0)
                return parsed(reply.http_response.content.decode("utf-8-sig", "replace"))
            except RequestError:
                bodies -= 1
                if not bodies or self._stopped.wait(_PAUSE):
                    raise
            except openai.APIStatusError as error:
                rounds -= 1
                self._slots.note(busy=error.status_code in _BUSY)
                if not rounds or not _is_busy(error) or self._stopped.wait(_pause(error)):
                    raise self._explained(error, body) from None
            except openai.APIConnectionError as error:
                raise self._unconnected(error) from None

    def _explained(self, error: openai.APIStatusError, body: Mapping[str, object]) -> Exception:
        code, text = error.status_code, " ".join(error.response.text.split())[:300]
        if to := redirect_of(error):
            base = shorten(to.removesuffix("/chat/completions"), 200)
            return StepError(f"{self.url} redirects to {base}, where no image is sent; {REDIRECT_ADVICE}")
        found: Exception = RequestError(f"{code}: {text}")
        if code in _FOR_ALL or _NO_QUOTA.search(text):
            found = StepError(f"{self.url} answered {code}: {text!r}; {_ADVICE}")
        if (code < 500 or code == 501) and code not in _NO_PARAMETER and (name := _refused_parameter(error, body)):
            return _RefusedParameterError(name, found)
        return found

    def _unconnected(self, error: openai.APIConnectionError) -> Exception:
        unreachable, why = unanswered(error)
        if unreachable:
            return StepError(f"{self.url} cannot be reached ({why}); {_ADVICE}")
        return RequestError(why)


_ADVICE = (
    "check caption.url (it usually ends with /v1), the model's name in caption.teacher.name, OPENAI_API_KEY and that the "
    "server runs; finished captions are kept, the same command goes on"
)
REDIRECT_ADVICE = "if the teacher is there, set caption.url to that address"


def client_of(url: str, timeout: float, retries: int) -> openai.OpenAI:
    """A client of an OpenAI-compatible server, with the key in OPENAI_API_KEY.

    It follows no redirect, so images go nowhere else.

    Args:
        url: Base of the API, to which the client adds `/chat/completions`.
        timeout: Seconds to connect, and as many for each wait for data.
        retries: Times that the client sends a failed request again.
    """
    key = os.environ.get("OPENAI_API_KEY") or "none"
    plain = openai.DefaultHttpxClient(follow_redirects=False, timeout=timeout)
    return openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries, http_client=plain)


def redirect_of(error: openai.APIStatusError) -> str:
    """The address that a server redirects a request to; "" if it does not."""
    to = error.response.headers.get("location") if 300 <= error.status_code < 400 else None
    return urljoin(str(error.request.url), to) if to else ""


class _RefusedParameterError(RequestError):
    """The server refuses the parameter `name`; `otherwise` is what its refusal means if that does not help."""

    def __init__(self, name: str, otherwise: Exception) -> None:
        super().__init__(str(otherwise))
        self.name, self.otherwise = name, otherwise


def _without(body: dict[str, object], refused: frozenset[str]) -> dict[str, object]:
    """The body with its refused parameters renamed or left out."""
    kept = {_OTHER_NAMES[k] if k in refused and k in _OTHER_NAMES else k: v for k, v in body.items()}
    return {k: v for k, v in kept.items() if k not in refused}


def _refused_parameter(error: openai.APIStatusError, body: Mapping[str, object]) -> str | None:
    """The optional parameter that a refusal is about; None when it is about something else."""
    text = error.response.text
    if re.search(r"context length|maximum (?:context|length)", text, re.I) or (
        re.search(r"too (?:large|long|many tokens)|exceed", text, re.I) and not _LIMITED.search(text)
    ):
        return None  # of this image and prompt, though it may name max_tokens
    for said in (str(error.param or ""), text):
        for name, written in _OPTIONAL.items():
            if name in body and re.search(rf"(?<![a-z]){written}(?:[^a-z]|s\b|$|abilit)", said, re.I):
                return name
    return None


def _is_busy(error: openai.APIStatusError) -> bool:
    return error.status_code in _BUSY and not _NO_QUOTA.search(error.response.text)


def unanswered(error: openai.APIConnectionError) -> tuple[bool, str]:
    """Whether every request will end so, since the server cannot be reached, and why this one did."""
    cause = error.__cause__ or error
    name = type(cause).__name__  # since the client may use httpx or httpx2
    why = f"{name}: {cause}" if str(cause) else name
    return name in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"), why


def _pause(error: openai.APIStatusError) -> float:
    """Seconds that a busy server asks for, at most `LONGEST_WAIT`; else as long as the client waits at most."""
    asked = error.response.headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        when = parsedate_tz(asked)
        if when is None:
            return 8.0
        seconds = mktime_tz(when) - time.time()
    return min(max(0.0, seconds), LONGEST_WAIT)


def data_url(image: Image.Image, spec: EngineParameters) -> str:
    """The image as `spec.client` wants it sent."""
    client, kind = spec.client, spec.client.image_format
    if client.image_max_side and max(image.size) > client.image_max_side:
        image = image.copy()
        image.thumbnail((client.image_max_side, client.image_max_side))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind.upper(), **({"quality": client.image_quality} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
