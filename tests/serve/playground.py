"""What the tests of the page need: the application in front of scripted models, and a real headless Chromium."""

from __future__ import annotations

import io
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageDraw
from scripted_service import ScriptedService

from serve.app import create_app
from serve.errors import ApiError
from serve.media import Picture
from serve.service import Answer, ImageQuestion, Model, Reply
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from playwright.sync_api import Page

KEY = "correct-horse-battery-staple"
SERVED = (
    Model("demo", "runs/demo", run="demo", temperature=1.0),
    Model("demo:other", "models/other"),
    Model("demo:lost", "models/lost", state="failed", reason="no such folder"),
)
ROW = {"name": "leaml", "title": "LEAML", "accuracy": 0.941, "ci95": [0.928, 0.953], "n": 1500, "ours": True}
CARD = {
    "kind": "run",
    "name": "demo",
    "run": "demo",
    "base_model": {"name": "leaml-tiny", "revision": None},
    "data": {"labeled": "easy_vqa, split train"},
    "labels": {"images": 40, "questions": 371},
    "evaluation": {
        "dataset": "easy_vqa",
        "rows": [
            ROW | {"by_type": {"color": 0.95, "shape": 0.9}},
            {
                "name": "zero_shot",
                "title": "Zero-shot",
                "accuracy": 0.5,
                "ci95": [0.48, 0.52],
                "n": 1500,
                "by_type": {"color": 0.1},
            },
        ],
        "warnings": ["1 validation question cannot show a difference."],
    },
    "calibration": {"temperature": 1.6, "ece": 0.021, "ece_uncalibrated": 0.09, "n": 1500},
    "code_version": "0.1.0",
    "date": "2026-11-23",
}
FAULTS = {"busy": ApiError(429, "the server is full", "full", retry_after=2), "broken": RuntimeError("a fault of ours")}
BARE = {
    "kind": "model",
    "name": "leaml-tiny",
    "base_model": {"name": "leaml-tiny"},
    "note": "A bare model folder: no run, no evaluation.",
}


class Script(ScriptedService):
    """Models that answer "red", but by question: "busy" 429, "evil" markup, "broken" fails, "slow" takes 30 s."""

    def models(self) -> list[Model]:
        return list(SERVED)

    def card(self, model: Model) -> dict[str, Any]:
        return CARD if model.id == "demo" else BARE

    async def answer(
        self, model: Model, picture: Picture, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer]:
        text = questions[0].text
        self.error = FAULTS.get(text)
        self.delay = 30 if text == "slow" else 0
        await super().answer(model, picture, questions, alternatives, request_id)
        said = "<img src=x onerror=alert(1)>" if text == "evil" else "red"
        others = (Reply("blue", math.log(0.081)), Reply("<b>green</b>", math.log(0.012)))
        return [Answer(Reply(said, math.log(0.874)), others)]

    def heard(self) -> list[tuple[bytes, ImageQuestion, str]]:
        """Image, question and model of every question."""
        return [(a["picture"].encoded.data, a["questions"][0], a["model"]) for a in self.asked]


def app_of(script: Script, digests: tuple[str, ...] = (), **limits: int) -> FastAPI:
    """The application in front of scripted models, taking bodies of up to 100 kB unless `limits` are given."""
    settings = ServeSettings.model_validate({"model": "demo", "limits": limits or {"body_bytes": 100_000}})
    return create_app(script, settings, digests)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The app on a free port of 127.0.0.1 until the block ends; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.time() + 20
    while not server.started:
        assert time.time() < deadline, "the test's server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    server.force_exit = True
    thread.join(10)


@contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """A headless Chromium of the system with more options; skips the test where there is none."""
    named = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, named)), None)
    if found is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), or its path in CHROMIUM")
    from playwright.sync_api import sync_playwright

    quiet = [
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        *options,
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=quiet, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


def picture() -> bytes:
    image = Image.new("RGB", (64, 64), (20, 30, 120))
    ImageDraw.Draw(image).ellipse((12, 16, 40, 44), (220, 40, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def choose(page: Page, data: bytes = PICTURE, kind: str = "PNG") -> None:
    name, mime = f"shape.{kind.lower()}", f"image/{kind.lower()}"
    page.locator("#file").set_input_files({"name": name, "mimeType": mime, "buffer": data})


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press("Enter")


def said(page: Page) -> str:
    page.wait_for_selector(".answer")
    return " ".join(page.locator("#result").inner_text().replace("\u00a0", " ").split())
