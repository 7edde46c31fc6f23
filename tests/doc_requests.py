"""Sends the requests that docs/serving.md shows to the application in this process, with a scripted service behind it."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import httpx
from doc_pages import ROOT, Command
from scripted_service import ScriptedService, chat_body, data_url

from serve.app import create_app
from serve.auth import digest
from serve.service import Model
from serve.settings import load_settings

KEY = "sk-docs-0123456789abcdef"


class Sent(NamedTuple):
    """A reply."""

    status: int
    body: Any


def _client(key: str) -> httpx.AsyncClient:
    """A client of a server of the run `mine`, whose key this is."""
    service = ScriptedService()
    service.served = [Model("mine", "leaml-tiny", run="mine/finetune-e335e7251687", temperature=2.0, answer_tokens=8)]
    app = create_app(service, load_settings({"model": "mine"}), [digest(key)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000")


def send(command: Command, environment: dict[str, str], key: str, folder: Path) -> Sent:
    """What the server with this key replies to a line of curl; files are those of the folder."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("url")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-F", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("-X")
    given = parser.parse_args(shlex.split(Template(command.text).substitute(environment)))
    headers = dict(header.split(": ", 1) for header in given.H)
    fields = dict(field.split("=", 1) for field in given.F)
    files = {name: (value[1:], (folder / value[1:]).read_bytes()) for name, value in fields.items() if value.startswith("@")}
    data = {name: value for name, value in fields.items() if name not in files}
    url = given.url if "://" in given.url else f"http://{given.url}"
    method = given.X or ("POST" if given.F or given.d else "GET")

    async def ask() -> Sent:
        async with _client(key) as client:
            body: dict[str, Any] = {"content": given.d} if given.d else {"data": data, "files": files or None}
            reply = await client.request(method, url, headers=headers, **(body if given.F or given.d else {}))
            return Sent(reply.status_code, reply.json())

    return asyncio.run(ask())


def shown(value: Any) -> Any:
    """The fields of a reply and the kinds of their values; of a list the first entry."""
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shown(value[0])] if value else []
    return type(value).__name__


def routes() -> list[tuple[str, str]]:
    """Method and path of every route in the table of docs/serving.md."""
    text = (ROOT / "docs" / "serving.md").read_text()
    table = text[text.index("| route |") : text.index("**Answers**")]
    found = []
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        method, _, path = re.findall(r"`([^`]+)`", cell)[0].partition(" ")
        if path:
            found += [(method, each) for each in [path, *re.findall(r"`([^`]+)`", cell)[1:]]]
    return found


def try_route(method: str, path: str, folder: Path) -> tuple[int, int, int | None]:
    """Statuses of a request with a key, of one without, and of HEAD where the route is one of GET."""
    image = data_url((folder / "frame.png").read_bytes())
    bodies = {
        "/v1/vqa": {"image": image, "question": "is there a polyp?"},
        "/v1/chat/completions": chat_body(image, text="is there a polyp?"),
    }
    where = path.replace("{id}", "mine") + ("mine" if path.endswith("=") else "")

    async def ask() -> tuple[int, int, int | None]:
        async with _client(KEY) as client:
            headers = {"Authorization": f"Bearer {KEY}"}
            with_key = await client.request(method, where, headers=headers, json=bodies.get(path))
            without = await client.request(method, where, json=bodies.get(path))
            head = await client.head(where, headers=headers) if method == "GET" else None
            return with_key.status_code, without.status_code, None if head is None else head.status_code

    return asyncio.run(ask())
