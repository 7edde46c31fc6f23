"""The parts of benchmarks.scale: replies that the method takes, a proxy that counts what was asked, drivers that are killed."""

from __future__ import annotations

import base64
import signal
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import scale_faults
from benchmarks.counting_proxy import CountingProxy
from benchmarks.scale_fault_run import Fault, Job, MarkedSpec
from benchmarks.scale_faults import attempts, compared, number_of, picture
from benchmarks.scale_run import NullEngine, config_of
from leaml.engine.interface import Request
from leaml.errors import EngineDiedError
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


def test_rows_that_are_missing_and_rows_too_many_are_counted_over_all_tables() -> None:
    expected = {"a": Counter({"x": 1, "y": 2}), "b": Counter({"z": 1})}
    assert compared(expected, expected) == {"lost": 0, "duplicated": 0}
    assert compared(expected, {"a": Counter({"x": 2, "y": 2}), "b": Counter({"z": 1})}) == {"lost": 0, "duplicated": 1}
    assert compared(expected, {"a": Counter({"x": 1, "y": 1, "other": 1})}) == {"lost": 2, "duplicated": 1}


@pytest.mark.parametrize("number", [0, 255, 256, 70_000])
def test_a_picture_tells_its_number_to_a_teacher(number: int) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture(number)).decode()
    assert number_of([{"image_url": {"url": url}}]) == number


def test_of_the_engines_of_a_step_one_dies_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scale_fault_run.SECONDS", 0.0)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    spec = MarkedSpec("x", marks=str(tmp_path), fault="engine_exception")
    first, second = spec.build(), spec.build()
    asked = [Request(PICTURE, "i", prompts.CAPTION)]
    for _ in range(3):
        assert first.generate(asked)
    with pytest.raises(EngineDiedError):
        first.generate(asked)
    for _ in range(9):
        assert second.generate(asked)
    assert [file.name for file in tmp_path.glob("died-*")] == ["died-caption"]


def test_a_driver_is_killed_when_it_is_time_and_the_command_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_faults, "driven", _waits_at_first)
    with tempfile.TemporaryDirectory() as marks:
        ended = attempts(Job("", "", marks), Fault(), killed=lambda: Path(marks, "begun").exists())
    assert (ended.codes, ended.rows, ended.seconds) == ([-9, 0], {"a": Counter("x")}, {"ingest": 1.0})


def _waits_at_first(job: Job, _: Fault, said: Connection) -> None:
    if not Path(job.marks, "begun").exists():
        Path(job.marks, "begun").touch()
        signal.pause()
    Path(job.marks, "begun").unlink()
    said.send({"rows": {"a": Counter("x")}, "seconds": {"ingest": 1.0}})
