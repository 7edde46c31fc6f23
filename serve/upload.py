"""Bodies of requests: JSON against a schema, and multipart forms with one image."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartParser

from leaml.text.values import shorten
from serve.errors import ApiError, refuse, unprocessable
from serve.settings import LimitSettings

Schema = TypeVar("Schema", bound=BaseModel)
FORM_FIELDS = ("question", "options", "questions", "model", "alternatives")
_SHOWN = 3
"""Faults of a body that are named; a list of thousands helps nobody."""


def parse_json(schema: type[Schema], body: bytes) -> Schema:
    """The body as `schema`. Raises ApiError: not JSON (400), not of the schema (422); what it quotes is cut."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None


def validate(schema: type[Schema], tree: Any) -> Schema:
    """A plain tree as `schema`. Raises ApiError (422)."""
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> ApiError:
    faults = error.errors(include_input=False, include_url=False)
    if faults[0]["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", "bad_json")
    lines = [f"{_place(fault['loc'])}: {_said(fault)}" for fault in faults[:_SHOWN]]
    more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
    return unprocessable("; ".join(lines) + more, "bad_body", _place(faults[0]["loc"]))


def _said(fault: ErrorDetails) -> str:
    tag = fault.get("ctx", {}).get("tag")  # of all messages those about a union quote what was sent
    return fault["msg"] if tag is None else fault["msg"].replace(f"'{tag}'", shorten(tag), 1)


def _place(location: tuple[int | str, ...]) -> str:
    # a union's parts are named by their types in Python
    location = tuple(part for part in location if isinstance(part, int) or not ("[" in part or part == "str"))
    # names of unknown fields come from the client
    return ".".join("".join(c if c.isprintable() else "?" for c in str(part))[:40] for part in location)[:120] or "body"


async def read_form(headers: Headers, body: bytes, limits: LimitSettings) -> tuple[bytes, dict[str, Any]]:
    """The file and the other fields of a multipart form; lists are written as JSON. Raises ApiError (400, 413, 422)."""

    async def whole() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(
        headers,
        whole(),  # type: ignore[arg-type]
        max_files=1,
        max_fields=len(FORM_FIELDS),
        max_part_size=4 * limits.prompt_chars + 4096,
    )
    try:
        form = await parser.parse()
    except Exception:  # multipart bodies can be broken in many ways, and so can the charset they name
        msg = "the body is not a multipart form with one file and short fields"
        raise ApiError(400, msg, "bad_form") from None
    try:
        return await _fields(form, body)
    finally:
        await form.close()


async def _fields(form: FormData, body: bytes) -> tuple[bytes, dict[str, Any]]:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        lost = "" if file is None else ", and this one has no filename: send it as a file"
        refuse(f"the form needs a field `file` with the image{lost}", "bad_form", "file")
    if set(form) - {"file", *FORM_FIELDS} or len(form.multi_items()) != len(form):
        refuse(f"a form takes each of file, {', '.join(FORM_FIELDS)} once", "bad_form")
    fields: dict[str, Any] = {}
    for name, value in form.items():
        if name == "file":
            continue
        if not isinstance(value, str):
            refuse("only the field `file` may be a file", "bad_form", name)
        if value.encode() not in body:  # the parser takes other bytes for Latin-1, without a word
            refuse(f"the field {name!r} is not UTF-8", "bad_form", name)
        if value:
            fields[name] = value
    for name in ("options", "questions", "alternatives"):
        if name in fields:
            try:
                fields[name] = json.loads(fields[name])
            except (ValueError, RecursionError):
                refuse(f"the field {name!r} must be JSON", "bad_form", name)
    return await file.read(), fields
