"""What the tests of the endpoint send, and how."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import registry
from serve import launch

KEY = "sk-integration-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def questions() -> list[tuple[bytes, str]]:
    """24 questions of easy-VQA with their encoded images."""
    found: list[tuple[bytes, str]] = []
    for record in registry.read(SourceConfig(format="easy_vqa", split="test", limit=12)):
        found += [(record.data or b"", q.question) for q in record.questions[:2]]
    return found


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def memory(processes: list[psutil.Process]) -> int:
    """Resident bytes of all."""
    return sum(process.memory_info().rss for process in processes)


def png_of_zeros(width: int, height: int, mark: int) -> bytes:
    """A black PNG of some kilobytes; `mark` makes its content differ."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    note = chunk(b"tEXt", b"mark\0%d" % mark)
    packer = zlib.compressobj(1)
    row = bytes(3 * width + 1)
    rows = b"".join(packer.compress(row * (height // 100)) for _ in range(100)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + note + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Endpoint:
    """The server of this module."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.client = httpx.Client(base_url=base, headers=HEADERS, timeout=150)

    def vqa(self, data: bytes, question: str, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/vqa", json={"image": url(data), "question": question, **fields})

    @property
    def ray(self) -> str:
        """Address of the Ray that it runs on."""
        import ray

        return str(ray.get_runtime_context().gcs_address)

    def current(self) -> dict[str, Any]:
        from ray import serve

        from serve.deploy import INGRESS

        return dict(serve.get_deployment_handle(INGRESS, launch.APPLICATION).current.remote().result(timeout_s=60))


def about(data: bytes, text: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url(data)}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8}


def wait_until(true: Callable[[], bool], seconds: float, pause: float = 0.05) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(pause)
    return time.monotonic() - began


def png_header(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def keys_file(folder: Path) -> Path:
    file = folder / "keys"
    file.write_text("sk-another-key-0123456789")
    return file


def ask_by(client: str, *arguments: object, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """Run a client of examples/clients."""
    file = Path(__file__).parents[2] / "examples" / "clients" / client
    command = [sys.executable if file.suffix == ".py" else "bash", *map(str, (file, *arguments))]
    environment = os.environ | {"LEAML_API_KEYS": key}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
