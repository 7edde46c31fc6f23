"""The application with a scripted service, called in this process."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from scripted_service import AUTH, KEY, OTHER_KEY, Client, ScriptedService

from serve.app import create_app
from serve.auth import digest
from serve.settings import load_settings


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def client(service: ScriptedService) -> Client:
    """Makes a client of an application with these settings; `keys` False: without keys, `headers` replaces the key."""

    def make(
        settings: dict[str, Any] | None = None,
        keys: bool = True,
        headers: dict[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> httpx.AsyncClient:
        digests = sorted([digest(KEY), digest(OTHER_KEY)]) if keys else []
        app = create_app(service, load_settings({"model": "tiny", **(settings or {})}), digests)
        transport = httpx.ASGITransport(app, client=(address, 1234), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=AUTH if headers is None else headers)

    return make


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
