"""Asks a served model about an image with Python alone: the answer, one of the options if any are given, and how sure it is."""

from __future__ import annotations

import argparse
import base64
import json
import mimetypes
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def ask(url: str, image: Path, question: str, options: list[str]) -> dict[str, Any]:
    """The reply of `/v1/vqa`: `answer`, `confidence` (0 to 1), `calibrated`, `alternatives` by falling confidence.

    Raises:
        HTTPError: The server refuses; the body is `{"error": {"message": ...}}`.
    """
    kind = mimetypes.guess_type(image)[0] or "image/png"
    body: dict[str, Any] = {
        "image": f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}",
        "question": question,
    }
    if options:
        body["options"] = options
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("LEAML_API_KEYS"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url}/v1/vqa", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def main() -> None:
    """Print the answer and its alternatives, each with its confidence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--options", nargs="+", default=[], help="the answers to choose among")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    given = parser.parse_args()

    try:
        reply = ask(given.url, given.image, given.question, given.options)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['error']['message']}")
    for each in (reply, *reply["alternatives"]):
        print(f"{each['confidence']:.3f}  {each['answer']}")


if __name__ == "__main__":
    main()
