"""Errors travel between replicas whole, and what vLLM refuses is said in our words."""

from __future__ import annotations

import pickle

import pytest

from serve.errors import ApiError, explained


def test_an_error_survives_the_way_between_replicas() -> None:
    error = pickle.loads(pickle.dumps(ApiError(429, "full", "full", "model", 7)))
    assert (error.status, error.message, error.code, error.param, error.retry_after) == (429, "full", "full", "model", 7)
    assert error.response().headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (
            400,
            "This model's maximum context length is 1024 tokens. However, you requested 2000: 'secret'",
            (422, "context_length"),
        ),
        (400, "Found more '<image>' placeholders in input prompt than actual multimodal data items", (422, "placeholder")),
        (404, "The model `x` does not exist.", (404, "model_not_found")),
        (400, "jinja2.exceptions.TemplateError: secret", (422, "refused_by_model")),
        (500, "EngineDeadError: EngineCore encountered an issue", (503, "engine_dead")),
        (400, "EngineCore encountered an issue. See stack trace (above) for the root cause.", (503, "engine_dead")),
        (500, "RuntimeError: secret", (503, "engine_failed")),
    ],
)
def test_refusals_of_vllm_show_neither_internals_nor_the_request(status: int, message: str, expected: tuple[int, str]) -> None:
    error = explained(status, message, 1024)
    assert (error.status, error.code) == expected
    assert not any(word in error.message for word in ("secret", "jinja", "Error", "<image>", "vLLM"))
