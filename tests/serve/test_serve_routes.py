"""Routes in front of a scripted service: what is asked, what comes back, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scripted_service import Client, ScriptedService, chat_body, data_url, png

from leaml.evaluation.calibration import confidence
from serve import vqa
from serve.chat import REFUSED
from serve.errors import ApiError, stopped
from serve.service import Answer, Model, Reply
from serve.settings import LimitSettings

pytestmark = pytest.mark.anyio


async def test_chat_hands_checked_messages_and_decoded_images_to_the_service(client: Client, service: ScriptedService) -> None:
    async with client() as c:
        body = chat_body(data_url(png(9, 5)), temperature=0, user="someone", store=True, max_completion_tokens=7)
        reply = await c.post("/v1/chat/completions", json=body, headers={"X-Request-ID": "mine-1"})
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "red"
    assert reply.headers["x-request-id"] == "mine-1"
    (asked,) = service.asked
    assert asked["request_id"] == "mine-1"
    assert asked["pictures"][0].image.size == (9, 5)
    parts = [{"type": "image", "index": 0}, {"type": "text", "text": "what colour?"}]
    assert asked["body"]["messages"] == [{"role": "user", "content": parts}]
    assert asked["body"]["max_tokens"] == 7
    assert not {"user", "store"} & set(asked["body"])


async def test_chat_streams_events_as_they_come(client: Client) -> None:
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json=chat_body(stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]) == "dark red"


async def test_models_are_listed_with_the_reason_of_a_failed_one(client: Client) -> None:
    async with client() as c:
        listed = (await c.get("/v1/models")).json()
        entries, limits = listed["data"], listed["limits"]
        assert limits == {key: getattr(LimitSettings(), key) for key in limits}
        assert set(limits) == {"body_bytes", "image_bytes", "pixels", "image_side", "image_aspect"}
        assert [e["id"] for e in entries] == ["tiny", "tiny:sports", "tiny:broken"]
        assert entries[0] | {"run": "demo", "calibrated": True, "object": "model"} == entries[0]
        assert entries[2]["state"] == "failed"
        assert "rank 600" in entries[2]["reason"]
        assert (await c.get("/v1/models/tiny:sports")).json()["kind"] == "adapter"
        missing = await c.get("/v1/models/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"


async def test_a_request_goes_to_the_model_it_names(client: Client, service: ScriptedService) -> None:
    async with client() as c:
        for name, status in (("tiny:sports", 200), ("tiny:broken", 503), ("gpt-4", 404), ("../../etc/passwd", 404), ("", 404)):
            reply = await c.post("/v1/chat/completions", json=chat_body(model=name))
            assert reply.status_code == status, name
        assert (await c.get("/v1/card", params={"model": "tiny:sports"})).json() == {"model": "tiny:sports", "run": ""}
        assert (await c.get("/v1/card")).json()["run"] == "demo"
    assert [a["model"] for a in service.asked] == ["tiny:sports"]


async def test_vqa_takes_json_and_multipart_alike(client: Client, service: ScriptedService) -> None:
    async with client() as c:
        first = await c.post("/v1/vqa", json={"image": data_url(), "question": "colour?", "options": ["red", "blue"]})
        fields = {"question": "colour?", "options": '["red", "blue"]'}
        second = await c.post("/v1/vqa", data=fields, files={"file": ("a.png", png(), "image/png")})
    assert first.status_code == second.status_code == 200
    replies = [{k: v for k, v in r.json().items() if k not in ("id", "latency_ms")} for r in (first, second)]
    assert replies[0] == replies[1]
    assert service.asked[0]["picture"].image_id == service.asked[1]["picture"].image_id
    assert service.asked[0]["questions"] == service.asked[1]["questions"]
    reply = first.json()
    assert (reply["answer"], reply["model"], reply["run"], reply["calibrated"]) == ("red", "tiny", "demo", True)
    assert reply["confidence"] == pytest.approx(confidence(-0.1, 2.0), abs=1e-5)
    assert [a["answer"] for a in reply["alternatives"]] == ["blue", "green", "teal"]
    assert reply["latency_ms"] > 0


async def test_vqa_answers_a_batch_in_order(client: Client) -> None:
    questions = [{"question": "colour?"}, {"question": "shape?", "options": ["circle", "square"]}]
    async with client() as c:
        body = {"image": data_url(), "questions": questions, "alternatives": 0, "model": "tiny:sports"}
        reply = (await c.post("/v1/vqa", json=body)).json()
    assert [a["question"] for a in reply["answers"]] == ["colour?", "shape?"]
    assert all(a["alternatives"] == [] and a["calibrated"] is False for a in reply["answers"])
    assert reply["answers"][0]["confidence"] == pytest.approx(confidence(-0.1, 1.0), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"question": None}, 422, "inconsistent"),
        ({"questions": [{"question": "b"}]}, 422, "inconsistent"),
        ({"question": "   "}, 422, "empty"),
        ({"options": ["one"]}, 422, "options"),
        ({"options": ["a", " "]}, 422, "options"),
        ({"options": ["A. red", "B. blue"]}, 422, "options"),
        ({"options": ["a) red", "c) blue"]}, 422, "options"),
        ({"options": ["red\0", "blue"]}, 422, "options"),
        ({"options": [f"o{i}" for i in range(27)]}, 422, "options"),
        ({"alternatives": 9}, 422, "alternatives"),
        ({"alternatives": -1}, 422, "bad_body"),
        ({"question": "x" * 8001}, 422, "prompt_chars"),
        ({"question": None, "questions": [{"question": "b"}] * 33}, 422, "questions"),
        ({"image": "data:image/png;base64,AAAA"}, 422, "image_unreadable"),
        ({"image": "data:image/png;base64,@@@@"}, 422, "data_url"),
        ({"image": 7}, 422, "bad_body"),
        ({"temperature": 3}, 422, "bad_body"),
        ({"model": "x/../y"}, 404, "model_not_found"),
    ],
)
async def test_vqa_refuses(client: Client, service: ScriptedService, change: dict[str, Any], status: int, code: str) -> None:
    body = {"image": data_url(), "question": "colour?", **change}
    async with client() as c:
        reply = await c.post("/v1/vqa", json={k: v for k, v in body.items() if v is not None})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert not service.asked


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 0}, "bad_body"),
        ({"n": 5}, "n"),
        ({"n": 2, "temperature": 0}, "inconsistent"),
        ({"logprobs": True, "top_logprobs": 9}, "top_logprobs"),
        ({"top_logprobs": 2}, "inconsistent"),
        ({"temperature": -1}, "bad_body"),
        ({"stop": [""]}, "stop_chars"),
        ({"messages": []}, "bad_body"),
        ({"messages": [{"role": "user", "content": "a"}] * 65}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "bad_body"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "bad_body"),
        ({"messages": [{"role": "user", "content": [{"type": "image_pil", "image_pil": "x"}]}]}, "bad_body"),
        ({"messages": chat_body(text="x" * 8001)["messages"]}, "prompt_chars"),
        ({"messages": chat_body(data_url(), data_url())["messages"]}, "images"),
        ({"messages": [{"role": "system", "content": chat_body(data_url())["messages"][0]["content"]}]}, "image_place"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "field_refused"),
        *(({name: {"x": 1}}, "field_refused") for name in REFUSED),
    ],
)
async def test_chat_refuses_above_the_limits(
    client: Client, service: ScriptedService, change: dict[str, Any], code: str
) -> None:
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json=chat_body() | change)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, code)
    assert not service.asked


async def test_unused_extras_of_clients_are_tolerated(client: Client) -> None:
    extras = {"user": "u", "metadata": {"a": "b"}, "tools": None, "logit_bias": {}, "response_format": {"type": "text"}}
    async with client() as c:
        assert (await c.post("/v1/chat/completions", json=chat_body(**extras))).status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "kind", "status"),
    [
        ("/v1/vqa", b"{", "application/json", 400),
        ("/v1/vqa", b"[" * 100_000, "application/json", 400),
        ("/v1/vqa", b'"\xff"', "application/json", 400),
        ("/v1/vqa", b"[]", "application/json", 422),
        ("/v1/vqa", b"x", "text/plain", 415),
        ("/v1/vqa", b"x", "multipart/form-data", 400),
        ("/v1/vqa", b"--a\r\nbroken", "multipart/form-data; boundary=a", 422),
        ("/v1/vqa", b"--a--", "multipart/form-data; boundary=a; charset=zlib", 422),
        ("/v1/chat/completions", b"", "application/json", 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        ("/v1/chat/completions", b"null", "application/json", 422),
        ("/v1/chat/completions", b'{"messages": [{"role": "user"}], "seed": 1e999}', "application/json", 422),
    ],
)
async def test_bodies_that_are_no_requests(client: Client, path: str, content: bytes, kind: str, status: int) -> None:
    async with client() as c:
        reply = await c.post(path, content=content, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"image": ("a.png", b"x")}, {"question": "a"}),
        ({"file": ("a.png", b"x"), "question": ("q", b"x")}, {}),
        ({"file": ("a.png", b"x")}, {"question": "a", "more": "b"}),
        ({"file": ("a.png", b"x")}, {"question": "a", "options": "[1"}),
        ({"file": ("a.png", b"x")}, {"question": "a", "options": '{"a": 1}'}),
        ({"file": ("a.png", b"not an image")}, {"question": "a"}),
        ({"file": ("a.png", b"")}, {"question": "a"}),
        ({"file": ("a.png", png())}, {"question": "a" * 60_000}),
        ({"file": ("a.png", png()), "question": (None, b"\xff\xfe")}, {}),  # neither UTF-8
        ({"file": (None, png())}, {"question": "a"}),  # nor a file
    ],
)
async def test_forms_that_are_no_requests(client: Client, files: dict[str, Any], fields: dict[str, str]) -> None:
    async with client() as c:
        reply = await c.post("/v1/vqa", files=files, data=fields)
    assert reply.status_code in (400, 413, 422)
    assert reply.json()["error"]["message"]


async def test_a_path_with_a_slash_behind_is_no_path_and_leads_nowhere(client: Client) -> None:
    async with client() as c:
        replies = [await c.get("/v1/models/", headers={"Host": "testserver"}), await c.post("/v1/vqa/", json={})]
    assert [(r.status_code, r.json()["error"]["code"], r.headers.get("location")) for r in replies] == [
        (404, "no_route", None)
    ] * 2


@pytest.mark.parametrize(
    ("code", "message"),
    [("context_length", "longer than the model's 8 tokens; shorten the question or its options"), ("x", "bad")],
)
async def test_errors_of_vqa_name_its_own_fields(client: Client, service: ScriptedService, code: str, message: str) -> None:
    said = message.replace("shorten the question or its options", "shorten it or lower max_tokens")
    service.error = ApiError(422, said, code, "messages")
    async with client() as c:
        reply = await c.post("/v1/vqa", json={"image": data_url(), "question": "a"})
        long = await c.post("/v1/vqa", json={"image": data_url(), "question": "a" * 8001})
    assert (reply.json()["error"]["message"], reply.json()["error"]["param"]) == (message, "question")
    assert long.json()["error"]["param"] == "question"


async def test_unforeseen_errors_show_nothing(client: Client, service: ScriptedService) -> None:
    service.error = RuntimeError("secret prompt text")
    async with client() as c:
        reply = await c.post("/v1/vqa", json={"image": data_url(), "question": "a"}, headers={"X-Request-ID": "abc"})
    assert reply.status_code == 500
    assert "abc" in reply.json()["error"]["message"]
    assert "secret" not in reply.text


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/tiny", "/v1/card"])
async def test_what_is_asked_with_get_tells_a_dead_engine(client: Client, service: ScriptedService, path: str) -> None:
    async with client() as c:
        well = await c.get(path)
        assert well.status_code == 200
        assert path != "/health" or well.json() == {"status": "ok"}
        service.healthy = False
        reply = await c.get(path)
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "engine_dead", "10")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/vqa", {"json": {"image": data_url(), "question": "a"}}),
        ("/v1/vqa", {"json": {"image": data_url(), "questions": [{"question": "a"}, {"question": "b"}]}}),
        ("/v1/vqa", {"files": {"file": ("a.png", png())}, "data": {"question": "a"}}),
        ("/v1/chat/completions", {"json": chat_body(data_url())}),
        ("/v1/chat/completions", {"json": chat_body(stream=True)}),
    ],
    ids=["vqa", "batch", "form", "chat", "stream"],
)
async def test_every_route_tells_a_dead_engine_and_when_to_try_again(
    client: Client, service: ScriptedService, path: str, body: dict[str, Any]
) -> None:
    async with client() as c:
        service.error = stopped()
        reply = await c.post(path, **body)
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "engine_dead", "10")
    assert len(reply.headers.get_list("x-request-id")) == 1


async def test_a_model_that_is_being_loaded_is_not_missing(client: Client, service: ScriptedService) -> None:
    service.served.append(Model("tiny:new", "adapters/new", kind="adapter", state="loading"))
    async with client() as c:
        for reply in (
            await c.post("/v1/vqa", json={"image": data_url(), "question": "a", "model": "tiny:new"}),
            await c.post("/v1/chat/completions", json=chat_body(model="tiny:new")),
        ):
            assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "starting", "2")
        assert (await c.get("/v1/models/tiny:new")).json()["state"] == "loading"


async def test_a_stream_that_has_begun_ends_with_the_error_of_a_dead_engine(client: Client, service: ScriptedService) -> None:
    service.dies = stopped()
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json=chat_body(stream=True))
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert (reply.status_code, len(events), events[-1]) == (200, 3, "[DONE]")
    assert json.loads(events[1])["error"]["code"] == "engine_dead"


async def test_the_page_is_served_with_its_files_and_no_others(client: Client) -> None:
    async with client() as c:
        page = await c.get("/")
        assert page.status_code == 200
        assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
        assert (await c.get("/static/app.js")).status_code == 200
        for path in ("/static/../app.py", "/static/%2e%2e/settings.py", "/static/", "/static/index.html/..", "/docs"):
            assert (await c.get(path)).status_code == 404, path


async def test_openapi_lists_exactly_the_routes(client: Client) -> None:
    async with client() as c:
        document = (await c.get("/openapi.json")).json()
    assert {(path, method) for path, item in document["paths"].items() for method in item} == {
        ("/health", "get"),
        ("/metrics", "get"),
        ("/v1/models", "get"),
        ("/v1/models/{model}", "get"),
        ("/v1/card", "get"),
        ("/v1/chat/completions", "post"),
        ("/v1/vqa", "post"),
    }
    vqa = document["paths"]["/v1/vqa"]["post"]
    assert set(vqa["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"401", "413", "422", "429", "504"} <= set(vqa["responses"])
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "question" in document["components"]["schemas"]["VqaRequest"]["properties"]


async def test_a_chat_is_greedy_unless_it_asks_for_a_temperature(client: Client, service: ScriptedService) -> None:
    async with client() as c:
        for given in ({}, {"temperature": None}, {"temperature": 0.7, "n": 2}):
            assert (await c.post("/v1/chat/completions", json=chat_body(**given))).status_code == 200
        several = await c.post("/v1/chat/completions", json=chat_body(n=2))
    assert [asked["body"]["temperature"] for asked in service.asked] == [0.0, 0.0, 0.7]
    assert "give a temperature above 0" in several.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["one"], "options must be 2 to 26 texts, got 1"),
        ([f"o{n}" for n in range(27)], "options must be 2 to 26 texts, got 27"),
        (["a", " ", "b", ""], "option 2 of 4 is empty"),
        (["a", "<image>"], "'options' holds '<image>', which stands for an image"),
    ],
)
async def test_a_refusal_of_options_says_which(client: Client, options: list[str], says: str) -> None:
    async with client() as c:
        error = (await c.post("/v1/vqa", json={"image": data_url(), "question": "q?", "options": options})).json()["error"]
    assert (error["param"], says in error["message"]) == ("options", True), error


@pytest.mark.parametrize("options", [["red", "Red."], ["one", "1"]])
async def test_options_that_are_one_answer_are_refused(client: Client, options: list[str]) -> None:
    async with client() as c:
        reply = await c.post("/v1/vqa", json={"image": data_url(), "question": "colour?", "options": options})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "options")
    assert "same answer" in reply.json()["error"]["message"]


def test_confidences_of_one_answer_sum_to_at_most_one_however_flat_the_calibration() -> None:
    """Scaled by a temperature of 5, probabilities of 0.4, 0.3 and 0.2 are 0.48, 0.46 and 0.43."""
    model = Model("tiny", "tiny", temperature=5.0)
    others = tuple(Reply(text, math.log(p)) for text, p in (("blue", 0.3), ("green", 0.2)))
    sent = vqa._answer(Answer(Reply("red", math.log(0.4)), others), model)
    sure = [sent.confidence, *(other.confidence for other in sent.alternatives)]
    assert sure[0] == pytest.approx(confidence(math.log(0.4), 5.0), abs=1e-5)
    assert sure == sorted(sure, reverse=True)
    assert 0.9999 < sum(sure) <= 1


def test_an_option_that_the_model_would_not_reply_with_is_not_calibrated() -> None:
    sent = vqa._answer(Answer(Reply("red", math.log(0.6)), own=False), Model("tiny", "tiny", temperature=5.0))
    assert (sent.calibrated, sent.confidence) == (False, pytest.approx(0.6, abs=1e-5))
