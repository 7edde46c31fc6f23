"""Typed bodies: a route is one function, and a body is forgotten while its request waits."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest
from pydantic import BaseModel, Field
from scripted_service import Client, ScriptedService, chat_body, data_url, png

from serve.openapi import ASKED

pytestmark = pytest.mark.anyio


class Asked(BaseModel):
    words: list[str] = Field(max_length=2)


class Said(BaseModel):
    text: str


async def say(asked: Asked) -> Said:
    return Said(text=" ".join(asked.words))


async def test_a_new_route_is_one_function_with_a_typed_body(client: Client) -> None:
    async with client({"limits": {"body_bytes": 2000, "image_bytes": 1000}}) as c:
        app: Any = c._transport.app  # type: ignore[attr-defined]
        app.post("/v1/say", responses=ASKED)(say)
        reply = await c.post("/v1/say", json={"words": ["dark", "red"]})
        assert (reply.status_code, reply.json()) == (200, {"text": "dark red"})
        refused = {
            400: await c.post("/v1/say", content=b"{", headers={"Content-Type": "application/json"}),
            401: await c.post("/v1/say", json={}, headers={"Authorization": "Bearer wrong"}),
            413: await c.post("/v1/say", json={"words": ["a" * 3000]}),
            415: await c.post("/v1/say", content=b"words", headers={"Content-Type": "text/plain"}),
            422: await c.post("/v1/say", json={"words": [1]}),
        }
        assert [each.status_code for each in refused.values()] == list(refused)
        assert refused[422].json()["error"]["param"] == "words.0"
        assert 'route="/v1/say",status="422"} 1.0' in (await c.get("/metrics")).text
        document = (await c.get("/openapi.json")).json()
    shown = document["paths"]["/v1/say"]["post"]
    assert shown["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Asked"}
    assert {"200", *map(str, refused)} <= set(shown["responses"])
    assert document["components"]["schemas"]["Said"]["properties"]["text"] == {"type": "string", "title": "Text"}


async def test_every_reference_of_the_document_leads_somewhere(client: Client) -> None:
    async with client() as c:
        document = (await c.get("/openapi.json")).json()

    def references(tree: Any) -> set[str]:
        if isinstance(tree, list):
            return set().union(*map(references, tree))
        if not isinstance(tree, dict):
            return set()
        return {tree["$ref"]} if "$ref" in tree else set().union(*map(references, tree.values()))

    named = {each.removeprefix("#/components/schemas/") for each in references(document)}
    assert named == set(document["components"]["schemas"])
    content = document["paths"]["/v1/vqa"]["post"]["requestBody"]["content"]
    assert {kind: part["schema"]["$ref"].rpartition("/")[2] for kind, part in content.items()} == {
        "application/json": "VqaRequest",
        "multipart/form-data": "VqaForm",
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"question": "a", "options": "[1"}, "options: Invalid JSON"),
        ({"question": "a", "options": '{"a": 1}'}, "options: Input should be a valid list"),
        ({"question": "a", "options": "[1, 2]"}, "options.0: Input should be a valid string"),
        ({"questions": '[{"query": "a"}]'}, "questions.0.question: Field required"),
        ({"question": "a", "alternatives": "many"}, "alternatives: Input should be a valid integer"),
        ({"question": "a", "more": "b"}, "more: Extra inputs"),
        ({"question": ["a", "b"]}, "each of question, options, questions, model, alternatives, file once"),
    ],
)
async def test_errors_of_a_form_name_its_fields(client: Client, fields: dict[str, Any], says: str) -> None:
    async with client() as c:
        reply = await c.post("/v1/vqa", data=fields, files={"file": ("a.png", png())})
    assert reply.status_code == 422
    assert says in reply.json()["error"]["message"]


async def test_empty_fields_of_a_form_are_left_out(client: Client, service: ScriptedService) -> None:
    fields = {"questions": '[{"question": "a"}]', "question": "", "options": "", "model": "", "alternatives": ""}
    async with client() as c:
        reply = await c.post("/v1/vqa", data=fields, files={"file": ("a.png", png())})
    assert (reply.status_code, len(reply.json()["answers"][0]["alternatives"])) == (200, 3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/vqa"])
async def test_a_body_is_forgotten_while_its_request_waits(client: Client, service: ScriptedService, path: str) -> None:
    """FastAPI by itself holds 27 times the bytes of such a chat."""
    service.holding = True
    async with client() as c:
        if path == "/v1/vqa":
            sent = {"data": {"question": "a"}, "files": {"file": ("a.bmp", png(2000, 1000, kind="BMP"))}}
        else:
            body = chat_body(data_url())
            body["messages"][0]["junk"] = [[]] * 2_000_000
            sent = {"json": body}
        request = c.build_request("POST", path, **sent)
        size = len(await request.aread())
        gc.collect()
        tracemalloc.start()
        try:
            asked = asyncio.ensure_future(c.send(request))
            while not service.running:
                await asyncio.sleep(0.01)
                assert not asked.done(), asked.result().text
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        service.release.set()
        assert (await asked).status_code == 200
    assert held < 1.5 * size
