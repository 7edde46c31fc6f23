"""The web application: routes in front of a `Service`."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, File, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from leaml import __version__
from serve import chat, media, openapi, schemas, vqa
from serve.admission import BodyReceiver, ConcurrencyLimiter
from serve.bodies import BodyRoute, explained
from serve.deadlines import event_stream, guarded
from serve.errors import ApiError, about_questions, not_found, starting, stopped
from serve.middleware import AccessMiddleware
from serve.observe import AccessRecord, EndpointMetrics
from serve.service import Answer, ChatReply, Model, Service
from serve.settings import NAME, ServeSettings

STATIC = Path(__file__).parent / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What static/index.html says that it needs."""


@dataclass
class AppContext:
    """What the routes share. `digests` of the keys may be replaced while the server runs."""

    service: Service
    settings: ServeSettings
    metrics: EndpointMetrics
    bodies: BodyReceiver
    limiter: ConcurrencyLimiter
    decoder: media.Decoder
    digests: Sequence[str] | None


def create_app(
    service: Service,
    settings: ServeSettings,
    digests: Sequence[str] | None = (),
    metrics: EndpointMetrics | None = None,
    sends_request_id: bool = True,
) -> FastAPI:
    """The application in front of `service`.

    Args:
        service: What answers.
        settings: Everything.
        digests: Of the keys; without any this machine alone is answered, and nobody while they are not known (None).
        metrics: Where requests are counted.
        sends_request_id: Add `X-Request-ID` to replies; False where the server in front does.
    """
    metrics, limits = metrics or EndpointMetrics(), settings.limits
    bodies, limiter = BodyReceiver(limits, metrics), ConcurrencyLimiter(limits, metrics)
    context = AppContext(service, settings, metrics, bodies, limiter, media.Decoder(limits), digests)

    app = FastAPI(
        title="LEAML", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False, responses=openapi.ALWAYS
    )
    app.router.route_class = BodyRoute
    app.state.context = context

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)

    _add_pages(app, context)
    _add_models(app, context)
    _add_chat(app, context)
    _add_vqa(app, context)
    openapi.install(app)

    app.add_middleware(
        AccessMiddleware,
        settings=settings,
        metrics=metrics,
        digests=lambda: context.digests,
        sends_request_id=sends_request_id,
    )
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, text = {
        404: ("no_route", "there is no such path; GET /openapi.json lists them"),
        405: ("no_method", "the path does not take this method"),
    }.get(error.status_code, ("http", "the request cannot be read"))
    response = await _api_error(request, ApiError(error.status_code, text, code))
    response.headers.update(error.headers or {})
    return response


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["state"]["record"].reason = error.code
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults: list[ErrorDetails] = [fault | {"loc": fault["loc"][1:]} for fault in error.errors()]  # behind "body" or "query"
    return await _api_error(request, explained(faults))


def _add_pages(app: FastAPI, context: AppContext) -> None:
    def page(name: str) -> Callable[[], Awaitable[Response]]:
        async def serve_file() -> Response:
            return FileResponse(STATIC / name, headers={"Content-Security-Policy": PAGE_POLICY})

        return serve_file

    for file in sorted(STATIC.iterdir()):  # no path of a request ever names a file
        shown = "/" if file.name == "index.html" else f"/static/{file.name}"
        app.add_api_route(shown, page(file.name), methods=["GET"], include_in_schema=False)

    @app.get(
        "/health",
        summary="Whether the engine answers; needs no key",
        responses=openapi.errors(503),
        openapi_extra={"security": []},
    )
    async def health() -> schemas.Health:
        await _alive(context)
        return schemas.Health(status="ok")

    @app.get(
        "/metrics",
        summary="Prometheus metrics of one replica",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _alive(context: AppContext) -> None:
    """Raise ApiError if the engine is dead."""
    try:
        await context.service.health()
    except Exception:
        raise stopped() from None


def _entry(model: Model) -> schemas.ModelEntry:
    shown = {name: getattr(model, name) for name in schemas.ModelEntry.model_fields if hasattr(model, name)}
    shown["max_model_len"] = model.max_model_len or None
    return schemas.ModelEntry(**shown, calibrated=model.temperature is not None)


def _add_models(app: FastAPI, context: AppContext) -> None:
    @app.get("/v1/models", summary="Served models, the main one first", responses=openapi.errors(503))
    async def models() -> schemas.ModelList:
        await _alive(context)
        limits = schemas.Limits(**context.settings.limits.model_dump(include=set(schemas.Limits.model_fields)))
        entries = [_entry(model) for model in context.service.models()]
        return schemas.ModelList(data=entries, limits=limits)

    @app.get("/v1/models/{model}", summary="One served model", responses=openapi.errors(404, 422, 503))
    async def one_model(model: str) -> schemas.ModelEntry:
        await _alive(context)
        for found in context.service.models():
            if found.id == model:
                return _entry(found)
        raise not_found(model)

    @app.get("/v1/card", summary="The model's card", responses=openapi.errors(404, 422, 503))
    async def card(model: str | None = None) -> dict[str, object]:
        await _alive(context)
        return context.service.card(_find(context, model, any_state=True))


def _find(context: AppContext, name: str | None, any_state: bool = False) -> Model:
    """The model of this name, the main one without a name. Raises ApiError: none (404), or it does not answer (503)."""
    models = context.service.models()
    wanted = models[0].id if name is None else name
    for model in models:
        if model.id == wanted and re.fullmatch(NAME, wanted):
            if model.state == "failed" and not any_state:
                raise ApiError(503, f"the model {model.id!r} could not be loaded: {model.reason}", "model_failed", "model")
            if model.state == "loading" and not any_state:
                raise starting(context.settings.limits.retry_after_seconds, f"the model {model.id!r}")
            return model
    raise not_found(wanted)


async def _held() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


Held = Annotated[contextlib.AsyncExitStack, Depends(_held)]
"""What a request holds until its reply has been sent, a stream to its end."""


def _add_chat(app: FastAPI, context: AppContext) -> None:
    service, settings = context.service, context.settings

    @app.post(
        "/v1/chat/completions",
        summary="OpenAI chat completion with images; `stream` gives server-sent events",
        response_model=dict[str, object],
        responses=openapi.ASKED | {200: {"content": {"text/event-stream": {}}}},
    )
    async def chat_completions(request: Request, asked: schemas.ChatRequest, held: Held) -> Response:
        body, references = chat.checked(asked, settings.limits)
        model = _find(context, asked.model)
        record: AccessRecord = request.scope["state"]["record"]
        record.fields |= {"model": model.id, "images": len(references), "stream": body["stream"]}

        async def work() -> ChatReply | _Stream:
            encoded = [await media.from_reference(r, settings.media, settings.limits) for r in references]
            pictures = await held.enter_async_context(context.decoder.opened(encoded, service.shrink(model)))
            # the limiter last, so that none of its slots is taken up by waiting for pixels
            await held.enter_async_context(context.limiter)
            context.metrics.add("leaml_images", len(pictures))
            result = await service.chat(model, body, pictures, record.request_id)
            if isinstance(result, dict):
                return result
            events = await held.enter_async_context(contextlib.aclosing(result))  # which is how an abort reaches the engine
            return _Stream(await anext(events), events)

        found = await guarded(work(), request, settings.limits)
        if isinstance(found, _Stream):
            return event_stream(found.first, found.rest, request, settings.limits)
        await held.aclose()
        _count_tokens(context, record, _used(found, "prompt_tokens"), _used(found, "completion_tokens"))
        return Response(json.dumps(found, separators=(",", ":")), media_type="application/json")


@dataclass(frozen=True)
class _Stream:
    """Events of a reply, of which the first one is there."""

    first: str
    rest: AsyncGenerator[str, None]


def _used(reply: ChatReply, tokens: str) -> int:
    """The tokens that a chat's reply says were used."""
    usage = reply.get("usage")
    count = usage.get(tokens) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _count_tokens(context: AppContext, record: AccessRecord, prompt: int, reply: int) -> None:
    context.metrics.add("leaml_tokens", prompt, kind="prompt")
    context.metrics.add("leaml_tokens", reply, kind="reply")
    record.fields |= {"prompt_tokens": prompt, "reply_tokens": reply}


def _add_vqa(app: FastAPI, context: AppContext) -> None:
    service, settings, limits = context.service, context.settings, context.settings.limits
    summary, responses = "Answers to questions about one image, with confidences", openapi.ASKED

    async def answers(
        request: Request, asked: schemas.VqaQuestions, image: Callable[[], Awaitable[media.Encoded]]
    ) -> schemas.VqaReply | schemas.VqaBatchReply:
        with about_questions():
            questions = vqa.questions_of(asked, limits)
        model = _find(context, asked.model)
        record: AccessRecord = request.scope["state"]["record"]
        record.fields |= {"model": model.id, "images": 1, "questions": len(questions)}

        async def work() -> list[Answer]:
            encoded = await image()
            # the limiter last, so that none of its slots is taken up by waiting for pixels
            async with context.decoder.opened([encoded], service.shrink(model)) as (picture,), context.limiter:
                context.metrics.add("leaml_images", 1)
                return await service.answer(model, picture, questions, asked.alternatives, record.request_id)

        with about_questions():
            found = await guarded(work(), request, limits)
        _count_tokens(context, record, sum(a.prompt_tokens for a in found), sum(a.reply_tokens for a in found))
        return vqa.reply_of(asked, found, model, record.request_id, record.began)

    @app.post("/v1/vqa", summary=summary, responses=responses)
    async def answer_questions(request: Request, asked: schemas.VqaRequest) -> schemas.VqaReply | schemas.VqaBatchReply:
        return await answers(request, asked, partial(media.from_reference, asked.image, settings.media, limits))

    @app.post("/v1/vqa", summary=summary, responses=responses)
    async def answer_form(
        request: Request, asked: Annotated[schemas.VqaForm, File()]
    ) -> schemas.VqaReply | schemas.VqaBatchReply:
        upload = await asked.file.read()
        await asked.file.close()
        return await answers(request, asked, partial(media.from_bytes, upload, settings.media, limits))
