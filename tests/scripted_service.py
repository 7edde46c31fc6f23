"""A service without Ray and vLLM: replies are scripted, what was asked is kept."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from PIL import Image

from leaml.vlm.shrink import Shrink
from serve.media import Picture
from serve.service import Answer, ImageQuestion, Model, Reply

KEY = "sk-test-0123456789abcdef"
OTHER_KEY = "sk-other-0123456789abcdef"
Client = Callable[..., httpx.AsyncClient]
"""What the fixture `client` is."""
AUTH = {"Authorization": f"Bearer {KEY}"}


class ScriptedService:
    """Answers `red`; `delay` holds replies back, `release` lets them go, `cancelled` counts those that were given up.

    `error` is raised instead of a reply, `dies` in a stream after its first event.
    """

    def __init__(self) -> None:
        self.served = [
            Model("tiny", "leaml-tiny", run="demo", temperature=2.0, answer_tokens=8, max_model_len=1024),
            Model("tiny:sports", "adapters/sports", kind="adapter"),
            Model("tiny:broken", "adapters/broken", kind="adapter", state="failed", reason="rank 600 is over 512"),
        ]
        self.asked: list[dict[str, Any]] = []
        self.delay: float = 0.0
        self.between: float = 0.0
        self.release = asyncio.Event()
        self.holding = False
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.dies: Exception | None = None
        self.healthy = True

    def models(self) -> list[Model]:
        return self.served

    def shrink(self, model: Model) -> Shrink | None:
        return None if model.kind == "merged" else lambda image: image

    def card(self, model: Model) -> dict[str, Any]:
        return {"model": model.id, "run": model.run}

    async def chat(
        self, model: Model, body: dict[str, Any], pictures: list[Picture], request_id: str
    ) -> dict[str, Any] | AsyncIterator[str]:
        self.asked.append({"model": model.id, "body": body, "pictures": pictures, "request_id": request_id})
        await self._work()
        if body["stream"]:
            return self._events()
        message = {"role": "assistant", "content": "red"}
        return {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": 1,
            "model": model.id,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
        }

    async def _events(self) -> AsyncIterator[str]:
        try:
            for word in ("dark", " red"):
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
                chunk["choices"] = [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
                yield f"data: {json.dumps(chunk)}\n\n"
                if self.dies:
                    raise self.dies
                await asyncio.sleep(self.between)
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def answer(
        self, model: Model, picture: Picture, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer]:
        self.asked.append({"model": model.id, "picture": picture, "questions": questions, "request_id": request_id})
        await self._work()
        others = tuple(Reply(text, -2.0 - n) for n, text in enumerate(("blue", "green", "teal")[:alternatives]))
        return [Answer(Reply("red", -0.1), others, 20, 2) for _ in questions]

    async def health(self) -> None:
        if not self.healthy:
            raise RuntimeError

    async def _work(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.error:
                raise self.error
            await asyncio.sleep(self.delay)
            if self.holding:
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def png(width: int = 8, height: int = 8, colour: str = "red", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, kind)
    return buffer.getvalue()


def data_url(data: bytes | None = None, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(png() if data is None else data).decode()


def chat_body(*urls: str, text: str = "what colour?", **fields: Any) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}], **fields}
