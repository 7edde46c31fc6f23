"""A hub of one model, `owner/name`, whose files are those of a folder."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

COMMIT = "a" * 40
_FILE = re.compile(r"/owner/name/resolve/[^/]+/(.+)")


@contextlib.contextmanager
def hub_of(folder: Path, asked: list[str]) -> Iterator[str]:
    """The address of the hub; files that are fetched from it are added to `asked`, with "in part" those of which a part is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if "/tree/" in path:  # it has no folders
                self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return
            if path.startswith("/api/models/owner/name"):
                names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                self._answer(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": names}).encode())
                return
            found = _FILE.match(path)
            file = folder / found[1] if found else folder
            if not file.is_file():
                self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return
            body, tag = file.read_bytes(), {"ETag": f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"'}
            part = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if self.command == "GET":
                asked.append(f"{file.name} in part" if part else file.name)
            if part:
                self._answer(body[int(part[1]) : int(part[2]) + 1], 206, tag)
                return
            self._answer(body, 200, tag)

        do_HEAD = do_GET

        def _answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
