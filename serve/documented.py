"""What /openapi.json says about the routes: bodies are read by hand, under limits, so their schemas are added by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from serve import schemas

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "The body is not JSON, or not a form.",
    401: "No valid key.",
    403: "Not from there.",
    404: "No such model.",
    408: "The body came too slowly.",
    413: "Body or image too large.",
    415: "Another content type.",
    421: "A host that this server does not answer to.",
    422: "Not acceptable; the message says why.",
    429: "Full; see Retry-After.",
    431: "Headers too large.",
    500: "A fault of the server; its log has the request id.",
    503: "The model cannot answer now.",
    504: "The deadline has passed.",
}
_ALWAYS = (401, 403, 421, 431, 500)


def _content(schema: str, kind: str = "application/json") -> dict[str, Any]:
    return {kind: {"schema": {"$ref": _REF.format(model=schema)}}}


def _route(
    summary: str, reply: dict[str, Any], errors: tuple[int, ...] = (), body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route."""
    responses = {200: {"description": "Done.", "content": reply}}
    responses |= {e: {"description": _ERRORS[e], "content": _content("ErrorReply")} for e in sorted({*errors, *_ALWAYS})}
    extra = {"requestBody": {"required": True, "content": body}} if body else {}
    return {"summary": summary, "response_model": None, "responses": responses, "openapi_extra": extra}


_POST = (400, 404, 408, 413, 415, 422, 429, 503, 504)
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "format": "binary", "description": "The image."},
                "question": {"type": "string"},
                "options": {"type": "string", "description": "JSON list of texts."},
                "questions": {"type": "string", "description": "JSON list, as in the JSON form."},
                "model": {"type": "string"},
                "alternatives": {"type": "string", "pattern": "^[0-8]$"},
            },
        }
    }
}
_EITHER = {"oneOf": [{"$ref": _REF.format(model=m)} for m in ("VqaReply", "VqaBatchReply")]}

HEALTH = _route("Whether the engine answers; needs no key", _content("Health"), (503,)) | {
    "openapi_extra": {"security": []},
}
METRICS = _route("Prometheus metrics of one replica", {"text/plain": {"schema": {"type": "string"}}})
MODELS = _route("Served models, the main one first", _content("ModelList"))
MODEL = _route("One served model", _content("ModelEntry"), (404,))
CARD = _route("The model's card", {"application/json": {"schema": {"type": "object"}}}, (404, 422))
CHAT = _route(
    "OpenAI chat completion with images; `stream` gives server-sent events",
    {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    _POST,
    _content("ChatRequest"),
)
VQA = _route(
    "Answers to questions about one image, with confidences",
    {"application/json": {"schema": _EITHER}},
    _POST,
    _content("VqaRequest") | _FORM,
)


def install(app: FastAPI) -> None:
    """Let `app` answer /openapi.json with the hand-made parts in place."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            inputs = [(schemas.ChatRequest, "validation"), (schemas.VqaRequest, "validation")]
            outputs = [
                (model, "serialization")
                for model in (
                    schemas.ErrorReply,
                    schemas.Health,
                    schemas.ModelEntry,
                    schemas.Limits,
                    schemas.ModelList,
                    schemas.VqaBatchReply,
                    schemas.VqaReply,
                )
            ]
            _, made = models_json_schema([*inputs, *outputs], ref_template=_REF)  # type: ignore[list-item]
            parts = document.setdefault("components", {})
            parts["schemas"] = made["$defs"]
            parts["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic", "description": "Any name, the key as password; for browsers."},
            }
            document["security"] = [{"key": []}, {"password": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
