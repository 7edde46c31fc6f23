"""Names of models that no folder has: refused at once, or after one request to the hub that is not repeated."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from huggingface_hub import HfApi, constants
from transformers import AutoConfig

from leaml.config import ModelConfig
from leaml.errors import ModelError
from leaml.vlm import hub, load


@pytest.fixture(autouse=True)
def _transformers_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("transformers was asked"))


def refused(name: str) -> str:
    """The refusal, which must come at once."""
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load.check(ModelConfig(name=name))
    assert time.monotonic() - began < 5
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("leaml-tinyy", "leaml-tiny"),
        ("leaml-tyni", "leaml-tiny"),
        ("LEAML-Tiny", "leaml-tiny"),
        ("leaml_tiny_teacher", "leaml-tiny-teacher"),
        ("smolvlm", None),
    ],
)
def test_a_name_without_an_owner_is_refused_with_the_shipped_ones(name: str, near: str | None) -> None:
    message = refused(name)
    assert f"there is no model {name!r}" in message
    assert "leaml-tiny, leaml-tiny-teacher" in message
    assert (f"did you mean {near!r}?" in message) if near else ("did you mean" not in message)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that knows no model."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address
        server.shutdown()


def test_a_model_that_the_hub_does_not_know_is_refused(endpoint: str) -> None:
    message = refused("models/mine")
    assert "neither a folder 'models/mine'" in message
    assert endpoint in message


def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refused("owner/name")
    assert "'owner/name' is no folder here and is not in the cache" in message
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "check the network and HF_ENDPOINT, or give the folder of a saved model" in message


def test_a_hub_that_never_answers_is_waited_for_a_few_seconds(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses its name has: a client tries them one after the other, each for as long as it may wait."""
    real = HfApi.model_info

    def of_four_addresses(self: HfApi, *arguments: object, **options: object) -> object:
        for _ in range(3):
            with contextlib.suppress(httpx.TransportError):
                real(self, *arguments, **options)  # type: ignore[arg-type]
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "model_info", of_four_addresses)
    monkeypatch.setattr(hub, "TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    began = time.monotonic()
    assert f"{silent} cannot be reached: no answer in 0.5 s; check the network" in refused("owner/name")
    assert time.monotonic() - began < 1.5


def test_the_time_a_hub_is_waited_for() -> None:
    assert hub.TIMEOUT <= 4  # with the start of a command five seconds
