"""Adapters that come and go in a replica: what is wanted is never missing, whatever is still to be loaded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from leaml.errors import ModelError
from serve import adapters
from serve.service import Model


class Loader:
    """An engine that loads an adapter when `go` is set; one named `bad` cannot be."""

    max_model_len = 1024

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls: list[tuple[str, str]] = []

    async def add_adapter(self, name: str, folder: str) -> None:
        self.calls.append(("add", name))
        await self.go.wait()

    async def remove_adapter(self, name: str) -> None:
        self.calls.append(("remove", name))

    async def try_out(self, name: str) -> None:
        pass


def entry(name: str, source: str = "a", content: str = "1") -> dict[str, str]:
    return {"id": name, "source": source, "content": content, "reason": ""}


def folder_of(source: str, _base: object) -> str:
    if source == "bad":
        msg = "does not fit"
        raise ModelError(msg)
    return source


def test_what_is_wanted_is_listed_as_loading_until_it_is_ready_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.replica import ReplicaService

    monkeypatch.setattr(adapters, "lora_folder", folder_of)

    def states(service: Any) -> dict[str, str]:
        return {model.id: model.state for model in service.models()}

    async def work() -> None:
        engine = Loader()
        server: Any = SimpleNamespace(model=Model("m", "m", answer_tokens=7), engine_models=engine, local_base=None)
        service = ReplicaService(server, {}, [])
        change = asyncio.ensure_future(service.change_adapters([entry("m:x"), entry("m:y"), entry("m:z", "bad")]))
        await asyncio.sleep(0.05)
        assert states(service) == {"m": "ready", "m:x": "loading", "m:y": "loading", "m:z": "loading"}
        engine.go.set()
        await change
        assert states(service) == {"m": "ready", "m:x": "ready", "m:y": "ready", "m:z": "failed"}
        assert service.models()[1].answer_tokens == 7

        engine.go.clear()
        engine.calls.clear()
        change = asyncio.ensure_future(service.change_adapters([entry("m:x", "b"), entry("m:y")]))
        await asyncio.sleep(0.05)
        assert states(service) == {"m": "ready", "m:x": "loading", "m:y": "ready"}  # with its new source it is not missing
        engine.go.set()
        await change
        assert states(service) == {"m": "ready", "m:x": "ready", "m:y": "ready"}
        assert sorted(engine.calls) == [("add", "m:x"), ("remove", "m:x"), ("remove", "m:z")]
        assert service.models()[1].source == "b"

        engine.calls.clear()
        await service.change_adapters([entry("m:x", "b", content="2"), entry("m:y")])
        assert sorted(engine.calls) == [("add", "m:x"), ("remove", "m:x")]  # its files were written anew

    asyncio.run(work())


def test_a_domain_with_an_engine_of_its_own_is_listed_with_the_length_that_it_takes_once_it_is_up() -> None:
    from serve.replica import ReplicaService

    class Domain:
        def options(self, method_name: str) -> Any:
            async def ready() -> int:
                return 512

            assert method_name == "ready"
            return SimpleNamespace(remote=ready)

    async def work() -> None:
        server: Any = SimpleNamespace(model=Model("m", "m"), engine_models=Loader())
        domain: Any = Domain()
        service = ReplicaService(server, {"m:x": domain}, [Model("m:x", "x", kind="merged")])
        assert [model.max_model_len for model in service.models()] == [1024, 0]
        service.ask_peers()
        await asyncio.sleep(0.05)
        assert [model.max_model_len for model in service.models()] == [1024, 512]

    asyncio.run(work())
