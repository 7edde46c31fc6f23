"""Typed bodies of routes: received under limits, admitted when they have arrived, parsed straight into the declared model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TypeVar

from fastapi import Request, Response
from fastapi.params import Body, File
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartParser
from starlette.routing import Match
from starlette.types import Scope

from leaml.text.values import shorten
from serve.errors import ApiError, refuse, unprocessable
from serve.settings import LimitSettings

Schema = TypeVar("Schema", bound=BaseModel)
_SHOWN = 3
"""Faults of a body that are named; a list of thousands helps nobody."""


class BodyRoute(APIRoute):
    """A FastAPI route whose body, a pydantic model as JSON or as a multipart form, is received and parsed here.

    FastAPI would keep a body and each object of its JSON for as long as the request is worked on, 320 MiB for a body of 12.
    Here the JSON is parsed straight into the model, without what the model ignores, and the body is forgotten. Several routes
    may share a path, one for each content type.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As a Starlette route; in part for another content type, so that another route of the path goes before."""
        match, child = super().matches(scope)
        if match is Match.FULL and self.body_field is not None and _content_type(Headers(scope=scope)) != self.content_type:
            match = Match.PARTIAL
        return match, child

    @property
    def content_type(self) -> str:
        """Of the body."""
        return self._body.media_type

    @property
    def _body(self) -> Body:
        assert self.body_field is not None
        assert isinstance(self.body_field.field_info, Body)
        return self.body_field.field_info

    @property
    def _schema(self) -> type[BaseModel]:
        found = self._body.annotation
        assert isinstance(found, type)
        assert issubclass(found, BaseModel)
        return found

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """FastAPI's handler of a request, behind the receiving of its body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def receive(request: Request) -> Response:
            self._check_type(request)
            context = request.app.state.context
            body = await context.bodies.receive(request)
            context.limiter.admit(request.scope["state"]["cleanup"])  # until its reply has been sent
            parsed: BaseModel | FormData
            if isinstance(self._body, File):
                parsed = await read_form(self._schema, request.headers, body, context.settings.limits)
            else:
                parsed = parse_json(self._schema, body)
            del body  # the request can wait long, and what was made of the body holds the image already
            return await handle(_Received(request, parsed))

        return receive

    def _check_type(self, request: Request) -> None:
        """Raise ApiError (415) for a content type that no route of the path takes."""
        if _content_type(request.headers) != self.content_type:
            routes = [route for route in request.app.routes if isinstance(route, BodyRoute) and route.path == self.path]
            kinds = " or ".join(route.content_type for route in routes if route.body_field is not None)
            raise ApiError(415, f"the content type must be {kinds}", "content_type")


class _Received(Request):
    """A request with its parsed body instead of the bytes, for FastAPI to take it from."""

    def __init__(self, request: Request, parsed: BaseModel | FormData) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = parsed

    async def body(self) -> bytes:
        return b"{}"  # FastAPI asks for the JSON of a body that is not empty

    async def json(self) -> BaseModel | FormData:
        return self._parsed

    async def form(self, **_: object) -> BaseModel | FormData:  # type: ignore[override]
        return self._parsed


def _content_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(schema: type[Schema], body: bytes) -> Schema:
    """The body as `schema`. Raises ApiError: not JSON (400), not of the schema (422); what it quotes is cut."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise explained(error.errors(include_input=False, include_url=False)) from None


def explained(faults: Sequence[ErrorDetails]) -> ApiError:
    """The error of a body that is not of its schema, as pydantic or FastAPI lists the faults."""
    if faults[0]["type"] == "json_invalid" and not faults[0]["loc"]:
        return ApiError(400, "the body is not valid JSON", "bad_json")
    lines = [f"{_path(fault['loc'])}: {_said(fault)}" for fault in faults[:_SHOWN]]
    more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
    return unprocessable("; ".join(lines) + more, "bad_body", _path(faults[0]["loc"]))


def _said(fault: ErrorDetails) -> str:
    tag = fault.get("ctx", {}).get("tag")  # of all messages those about a union quote what was sent
    return fault["msg"] if tag is None else fault["msg"].replace(f"'{tag}'", shorten(tag), 1)


def _path(location: tuple[int | str, ...]) -> str:
    # a union's parts are named by their types in Python
    location = tuple(part for part in location if isinstance(part, int) or not ("[" in part or part == "str"))
    # names of unknown fields come from the client
    return ".".join("".join(c if c.isprintable() else "?" for c in str(part))[:40] for part in location)[:120] or "body"


async def read_form(schema: type[BaseModel], headers: Headers, body: bytes, limits: LimitSettings) -> FormData:
    """The fields of a multipart form that are not empty; one of them is the file `file`.

    Args:
        schema: What is made of them; its fields are those that a form may have.
        headers: Of the request; the content type has the form's boundary.
        body: All of it.
        limits: The longest prompt, which bounds the length of a field.

    Raises:
        ApiError: not a form (400), or not with each field once, as UTF-8 (422).
    """

    async def whole() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(
        headers,
        whole(),  # type: ignore[arg-type]
        max_files=1,
        max_fields=len(schema.model_fields),
        max_part_size=4 * limits.prompt_chars + 4096,
    )
    try:
        form = await parser.parse()
    except Exception:  # multipart bodies can be broken in many ways, and so can the charset they name
        msg = "the body is not a multipart form with one file and short fields"
        raise ApiError(400, msg, "bad_form") from None
    try:
        _check_form(form, schema, body)
    except ApiError:
        await form.close()
        raise
    return FormData([(name, value) for name, value in form.multi_items() if value != ""])


def _check_form(form: FormData, schema: type[BaseModel], body: bytes) -> None:
    """Raise ApiError (422) for what FastAPI would take, or explain in terms of Python."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        lost = "" if file is None else ", and this one has no filename: send it as a file"
        refuse(f"the form needs a field `file` with the image{lost}", "bad_form", "file")
    if len(form.multi_items()) != len(form):
        refuse(f"a form takes each of {', '.join(schema.model_fields)} once", "bad_form")
    for name, value in form.items():
        if isinstance(value, str) and value.encode() not in body:  # the parser takes other bytes for Latin-1, without a word
            refuse(f"the field {name!r} is not UTF-8", "bad_form", name)
