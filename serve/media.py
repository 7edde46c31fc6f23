"""Images of a request: uploads, data URLs, ids under configured S3 prefixes and, only from listed hosts, http(s) URLs.

vLLM never sees a URL: every image is fetched, checked and decoded here, by the code that `leaml evaluate` decodes with. It is
decoded when its pixels have room in the replica's budget, and shrunk to what the model's processor keeps.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import http.client
import ipaddress
import math
import os
import posixpath
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from PIL import Image

from leaml import images
from leaml.errors import DataError
from leaml.io import files
from leaml.vlm.shrink import Shrink
from serve.errors import ApiError, refuse, unprocessable
from serve.pixels import PixelBudget
from serve.settings import LimitSettings, MediaSettings

_DATA = re.compile(r"data:image/[a-zA-Z0-9.+-]{1,32}(?:;[a-zA-Z0-9=._-]{1,64}){0,4};base64,")
_HEADERS = ThreadPoolExecutor(2, thread_name_prefix="headers")
"""Of their own, so that an image is checked, and refused, while others are decoded."""
_DECODERS = ThreadPoolExecutor(4, thread_name_prefix="images")
_LARGE = ThreadPoolExecutor(2, thread_name_prefix="large-images", initializer=lambda: _step_back())
"""Of their own, so that small images do not wait for large ones; and behind the engine, the routes and the other threads."""
_FETCHERS = ThreadPoolExecutor(16, thread_name_prefix="fetch")
"""Of their own, so that slow hosts hold up no image that is here."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Encoded:
    """One image as it came: its bytes, their hash (the project's image_id) and the pixels that its header announces."""

    data: bytes = field(repr=False)
    image_id: str
    pixels: int


@dataclass(frozen=True)
class Picture:
    """One image: as it came, and decoded, where another replica does not do that."""

    encoded: Encoded
    decoded: Image.Image | None = field(default=None, repr=False)

    @property
    def image(self) -> Image.Image:
        """The 8-bit RGB pixels, no more of them than the model's processor keeps."""
        assert self.decoded is not None, "this image is decoded by another replica"
        return self.decoded

    @property
    def image_id(self) -> str:
        """Hash of the encoded bytes."""
        return self.encoded.image_id


class Decoder:
    """Decodes images while their pixels fit into the budget of a replica.

    An image takes its pixels from the budget before it is decoded. Then it keeps the share of them that its
    decoded and shrunk pixels have of the memory that decoding may take, until its request is done. Images wait in order.

    Args:
        limits: Limits of an image, and the budget.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.limits, self.budget = limits, PixelBudget(limits.pixels_in_flight)

    @contextlib.asynccontextmanager
    async def opened(self, encoded: Sequence[Encoded], shrink: Shrink | None) -> AsyncIterator[list[Picture]]:
        """The decoded images of one request, all or none of them; as they came without `shrink`. Raises ApiError."""
        total = sum(each.pixels for each in encoded)
        if total > self.budget.largest:
            msg = f"the images have {total} pixels together, more than the limit of {self.budget.largest}; scale them down"
            raise ApiError(413, msg, "pixels_in_flight", "image")
        if shrink is None:
            yield [Picture(each) for each in encoded]
            return
        async with self.budget.taken(total) as held:
            pool = _DECODERS if total <= self.budget.small else _LARGE
            work = [pool.submit(_decode, each, self.limits, shrink) for each in encoded]
            try:
                pictures = [await asyncio.wrap_future(each) for each in work]
            finally:
                # a thread goes on when its request is given up, and so does its memory
                held.until([each for each in work if not each.cancel()])
            left = sum(picture.image.width * picture.image.height for picture in pictures)
            held.keep(math.ceil(left * images.BYTES_PER_DECODED_PIXEL / images.BYTES_PER_PIXEL))
            yield pictures


async def from_reference(reference: str, media: MediaSettings, limits: LimitSettings) -> Encoded:
    """The image behind a data URL, an s3:// id or an http(s) URL.

    Args:
        reference: From a request, so not to be trusted.
        media: Where images may be fetched from; http(s) needs hosts in it.
        limits: Of an image.

    Raises:
        ApiError: Nothing may be fetched there, or it cannot be; or as `from_bytes`.
    """
    scheme = reference[:8].partition(":")[0].lower()
    if scheme == "data":
        return await from_bytes(_data(reference, limits), media, limits)
    if scheme == "s3":
        return await from_bytes(await _run(_FETCHERS, _s3, reference, media, limits), media, limits)
    if scheme in ("http", "https") and media.hosts:
        return await from_bytes(await _run(_FETCHERS, _fetch, reference, media, limits), media, limits)
    msg = "an image is given as data:image/...;base64,... or as an s3:// id under a configured prefix; nothing else is fetched"
    raise unprocessable(msg, "image_source", "image")


async def from_bytes(data: bytes, media: MediaSettings, limits: LimitSettings) -> Encoded:
    """The image that some bytes encode; its size is read from its header, nothing is decoded.

    Args:
        data: A whole file.
        media: Whether JPEG 2000 is read.
        limits: Of an image.

    Raises:
        ApiError: Too many bytes or a size over a limit (413), not an image (422).
    """
    if images.is_jpeg2000(data) and not media.jpeg2000:
        msg = "JPEG 2000 is not read here; convert the image to PNG or JPEG, or have the server set media.jpeg2000"
        refuse(msg, "image_unreadable", "image")
    if len(data) > limits.image_bytes:
        raise _too_large(limits)
    return await _run(_HEADERS, _checked, data, limits)


def _step_back() -> None:
    """Give this thread the processors that others leave: Linux keeps a niceness for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + 15))


async def _run(pool: ThreadPoolExecutor, work, *arguments):  # type: ignore[no-untyped-def]
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _checked(data: bytes, limits: LimitSettings) -> Encoded:
    with _explained(limits):
        size = images.read_size(data, limits.of_image)
    return Encoded(data, hashlib.sha256(data).hexdigest(), size.width * size.height)


def _decode(encoded: Encoded, limits: LimitSettings, shrink: Shrink) -> Picture:
    with _explained(limits):
        return Picture(encoded, shrink(images.decode(encoded.data, limits=limits.of_image)))


@contextlib.contextmanager
def _explained(limits: LimitSettings) -> Iterator[None]:
    """An image that is rejected as ApiError."""
    try:
        yield
    except images.ImageRejected as error:
        fault, _, detail = error.reason.partition(": ")
        over = {
            "too large": ("image_pixels", f"has more than {limits.pixels} pixels, the limit; scale it down"),
            "too long": ("image_side", f"is wider or higher than {limits.image_side} pixels, the limit; scale it down"),
            "too narrow": (
                "image_aspect",
                f"has a side of more than {limits.image_aspect:g} times its shorter side, the limit; cut it up",
            ),
        }
        if fault in over:
            code, msg = over[fault]
            raise ApiError(413, f"the image {msg}", code, "image") from None
        if detail in images.OTHER_FILES.values():  # other details may hold bytes of the file
            fault = f"{fault}: {detail}"
        msg = f"the image cannot be read ({fault}); send a whole JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file"
        refuse(msg, "image_unreadable", "image")


def _too_large(limits: LimitSettings) -> ApiError:
    return ApiError(413, f"the image has more than {limits.image_bytes} bytes, the limit", "image_bytes", "image")


def _data(url: str, limits: LimitSettings) -> bytes:
    match = _DATA.match(url[:512])
    if match is None:
        msg = "the data URL is not of the form data:image/png;base64,..."
        refuse(msg, "data_url", "image")
    if (len(url) - match.end()) * 3 // 4 > limits.image_bytes + 2:
        raise _too_large(limits)
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        msg = "the data URL does not hold valid base64"
        refuse(msg, "data_url", "image")


def _s3(reference: str, media: MediaSettings, limits: LimitSettings) -> bytes:
    path = reference.removeprefix("s3://")
    plain = (
        reference.startswith("s3://")
        and path.isprintable()
        and not {"\\", "%"} & set(path)
        and posixpath.normpath(path) == path
    )
    if not plain or not any(reference.startswith(prefix) for prefix in media.s3_prefixes):
        refuse("the s3:// id is under none of the prefixes that this server may read", "image_source", "image")
    try:
        return files.read_bytes(reference, limits.image_bytes)
    except DataError as error:
        if "over the limit" in str(error):
            raise _too_large(limits) from None
        refuse("the image behind the s3:// id cannot be read", "image_missing", "image")


def _fetch(url: str, media: MediaSettings, limits: LimitSettings) -> bytes:
    """GET from a listed host, connected to an address that was checked, without following redirects."""
    secure, host, port, target = _split(url, media)
    end = time.monotonic() + media.fetch_seconds
    unavailable = unprocessable("the image behind the URL cannot be fetched", "image_missing", "image")

    try:
        address = _public_address(host, port)
        with socket.create_connection((address, port), timeout=media.fetch_seconds) as plain:
            stream = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
            connection = http.client.HTTPConnection(host, port)
            connection.sock = stream
            connection.request("GET", target, headers={"Accept": "image/*", "Connection": "close"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise unavailable
                parts, total = [], 0
                while part := response.read1(1 << 16):
                    parts.append(part)
                    total += len(part)
                    if total > limits.image_bytes:
                        raise _too_large(limits)
                    if time.monotonic() > end:
                        raise unavailable
                    stream.settimeout(max(0.01, end - time.monotonic()))
                return b"".join(parts)
    except (OSError, http.client.HTTPException, ValueError):
        raise unavailable from None


def _split(url: str, media: MediaSettings) -> tuple[bool, str, int, str]:
    """Scheme is https?, host, port and target of a URL that every parser reads alike, of a listed host."""
    refused = unprocessable("the URL's host is none of those that this server may fetch from", "image_source", "image")
    if len(url) > 2048 or not re.fullmatch(r"https?://[a-z0-9.-]+(?::\d{1,5})?(?:/[!-~]*)?", url) or "\\" in url or "#" in url:
        raise refused  # also: userinfo, IPv6 literals, upper case, other alphabets
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.netloc not in media.hosts or parts.hostname is None:
        raise refused
    try:
        port = parts.port or (443 if secure else 80)
    except ValueError:
        raise refused from None
    return secure, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _public_address(host: str, port: int) -> str:
    """An address of the host, if all of them are public. Raises ApiError or OSError."""
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if not found or not all(map(is_public, found)):
        refuse("the URL's host has an address that is not public", "image_source", "image")
    return min(found)


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet: not to this machine, its network, a cloud's metadata, or a tunnel."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None or found in _NAT64:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved
