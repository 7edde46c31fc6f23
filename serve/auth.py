"""API keys: read from a file or the environment, kept and compared as SHA-256 digests."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.types import Scope

from leaml.errors import ConfigError
from pipelines.local_ray import SERVING_KEYS, is_loopback
from serve import origin
from serve.errors import ApiError

SHORTEST = 16
"""Characters of a key; digests of shorter ones could be searched through."""


def read_keys(keys_file: str | None, given: str | None) -> list[str]:
    """Digests of API keys, sorted.

    Args:
        keys_file: File with one key a line.
        given: Further keys, separated by commas or white space: what LEAML_API_KEYS holds; None: it is not set.

    Raises:
        ConfigError: the file cannot be read, it or `given` names no key, or what looks like a key is none:
            too short, not plain ASCII, or several keys, quotes or an assignment. Keys are not shown.
    """
    found = (given or "").replace(",", " ").split()
    for key in found:
        _check_key(key, SERVING_KEYS)
    if given is not None and not found:
        what = "is set and names no API key" if given else "is set, but empty (did the command that was to fill it fail?)"
        msg = f"{SERVING_KEYS} {what}; give keys separated by commas, or unset it"
        raise ConfigError(msg)

    if keys_file is None:
        return sorted({digest(key) for key in found})

    try:
        lines = Path(keys_file).read_text(encoding="utf-8-sig").splitlines()  # editors of Windows write a mark in front
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the API keys in {keys_file}: {type(error).__name__}; give a text file with one key a line"
        raise ConfigError(msg) from None

    keys = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")}
    if not keys:
        msg = f"{keys_file} names no API key; write one a line, each at least {SHORTEST} characters"
        raise ConfigError(msg)
    for number, key in keys.items():
        _check_key(key, f"line {number} of {keys_file}")
    return sorted({digest(key) for key in [*found, *keys.values()]})


def _check_key(key: str, what: str) -> None:
    """Raise ConfigError for what is no key, above all for what would be taken as one that nobody has."""
    if key.startswith(f"{SERVING_KEYS}="):
        wrong = f"starts with {SERVING_KEYS}=; give the key alone"
    elif any(quote in key for quote in "\"'`"):
        wrong = "has quotes, which would be part of the key; leave them out"
    elif "," in key or ";" in key:
        wrong = "has a comma or semicolon; in a file write one key a line, in the variable separate keys by commas"
    elif len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        wrong = f"must have at least {SHORTEST} printable ASCII characters without spaces"
    else:
        return
    msg = f"an API key cannot be used: {what} {wrong}"
    raise ConfigError(msg)


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def check(scope: Scope, digests: Sequence[str], origins: Sequence[str], open_path: bool) -> None:
    """Let a request with one of the keys pass. Raises ApiError (401 or 403).

    A key comes as `Authorization: Bearer KEY`, or as the password of Basic authentication, which lets a browser open the page.
    Pages of other origins may not use what a browser adds by itself: the stored password, or without any keys its mere presence
    on this machine. Without keys only this machine may ask, whatever address the server was bound to.

    Args:
        scope: The request.
        digests: Of the keys.
        origins: Whose pages may ask all the same.
        open_path: Whether this path needs no key.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
    key, scheme = rest.strip(), scheme.lower()

    if not digests or (scheme == b"basic" and not open_path):
        origin.check_page(scope, origins)
    if open_path:
        return
    if not digests:
        origin.check_client(scope)
        return

    if scheme == b"basic":
        try:
            key = base64.b64decode(key, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            key = b""
    elif scheme != b"bearer":
        key = b""

    given = hashlib.sha256(key).hexdigest()
    # all of them are compared, so that the time tells nothing about which one is near
    matches = [hmac.compare_digest(given, known) for known in digests]
    if not key or not any(matches):
        raise ApiError(401, "give a valid API key as `Authorization: Bearer KEY`", "invalid_api_key")


def refuse_open_server(host: str, digests: Sequence[str]) -> None:
    """Raise ConfigError for a server that others could reach without a key."""
    if not digests and not is_loopback(host):
        msg = (
            f"without API keys the server binds to 127.0.0.1 only, not to {host}; set {SERVING_KEYS} or give --keys-file, "
            "or leave --host out"
        )
        raise ConfigError(msg)


def refuse_keyless_cluster(digests: Sequence[str]) -> None:
    """Raise ConfigError for a server without keys on a cluster.

    There requests come through proxies (Serve's own, an ingress, a service mesh), which make every client look like the machine
    itself, and a Serve that runs already may listen on any address.
    """
    if not digests:
        msg = f"a server on a cluster needs API keys: name a file with them in auth.keys_file, or set {SERVING_KEYS}"
        raise ConfigError(msg)
