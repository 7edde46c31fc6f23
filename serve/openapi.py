"""What /openapi.json says beyond the signatures of the routes: the errors of a reply, and how keys are given."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve.bodies import BodyRoute
from serve.schemas import ErrorReply

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

Responses = dict[int | str, dict[str, object]]


def errors(*statuses: int) -> Responses:
    """The `responses` of a FastAPI route that may refuse with these statuses."""
    return {status: {"model": ErrorReply, "description": _ERRORS[status]} for status in statuses}


ALWAYS = errors(401, 403, 421, 431, 500)
"""Of every route."""
ASKED = errors(400, 404, 408, 413, 415, 422, 429, 503, 504)
"""Of a route with a body that asks a model."""


def install(app: FastAPI) -> None:
    """Let /openapi.json of `app` show all bodies that one path takes, and the ways to give a key."""

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for route in app.routes:  # of two on one path the document has the last one alone
                if isinstance(route, BodyRoute) and route.body_field is not None:
                    own = get_openapi(title=app.title, version=app.version, routes=[route])
                    for method in (each.lower() for each in route.methods):
                        shown, body = (each["paths"][route.path_format][method]["requestBody"] for each in (document, own))
                        shown["content"] |= body["content"]
            document["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic", "description": "Any name, the key as password; for browsers."},
            }
            document["security"] = [{"key": []}, {"password": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
