"""The parts of benchmarks.scale: replies that the method takes, and a proxy that counts what was asked."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from benchmarks.counting_proxy import CountingProxy
from benchmarks.scale_run import NullEngine, config_of
from leaml.engine.interface import Request
from leaml.generation import prompts
from leaml.generation.caption_tasks import clozes, word_checks
from leaml.text import replies

PICTURE = Image.new("RGB", (1, 1))


def test_null_engines_write_captions_and_pairs_that_depend_on_the_image() -> None:
    ids = [f"i{n}" for n in range(40)]
    written = NullEngine().generate([Request(PICTURE, i, prompts.CAPTION) for i in ids])
    captions = {i: completion.text for i, (completion,) in zip(ids, written, strict=True)}
    assert len(set(captions.values())) == 40
    assert {replies.caption(text, "stop", prompts.CAPTION) for text in captions.values()} == {
        (t, "") for t in captions.values()
    }
    assert len(list(word_checks(captions, 0))) == 80  # yes and no for each
    assert len(list(clozes(captions, 0))) == 160

    (sampled,) = NullEngine().generate([Request(PICTURE, "i", prompts.GENERATE, prompts.caption_prefix("A."), n=4)])
    pairs = {prompts.parse_qa(each.text) for each in sampled}
    assert (len(pairs), None in pairs) == (4, False)
    ((again,),) = NullEngine().generate([Request(PICTURE, "i", prompts.GENERATE, prompts.answer_prefix("q?", "A."))])
    assert again.text == "yes"


def test_trainings_read_as_many_batches_as_asked_for() -> None:
    config = config_of("/tmp/x", 7)
    assert (config.distill.steps, config.finetune.steps, config.distill.method) == (7, 7, "lora")


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()


def test_the_proxy_counts_requests_and_bytes_that_come_back(address: str) -> None:
    with CountingProxy(address) as proxy:
        for size in (0, 10, 3_000_000):
            asked = urllib.request.Request(proxy.endpoint, b"x" * size, method="PUT")
            with urllib.request.urlopen(asked) as answer:
                assert answer.read() == b"ok"
        assert proxy.requests == 3
        assert 3 * 2 < proxy.received < 3 * 1000
