"""Asks a served model about an image with OpenAI's client: the model writes a reply."""

from __future__ import annotations

import argparse
import base64
import mimetypes
import os
from pathlib import Path

from openai import OpenAI


def main() -> None:
    """Print the reply."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    given = parser.parse_args()

    # a server without keys takes any
    client = OpenAI(base_url=f"{given.url}/v1", api_key=os.environ.get("LEAML_API_KEYS", "none"))
    model = next(iter(client.models.list())).id
    kind = mimetypes.guess_type(given.image)[0] or "image/png"
    image = f"data:{kind};base64,{base64.b64encode(given.image.read_bytes()).decode()}"
    reply = client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": given.question}],
            }
        ],
    )
    print(reply.choices[0].message.content)


if __name__ == "__main__":
    main()
