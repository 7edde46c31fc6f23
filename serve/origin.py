"""Where a request comes from, as far as its headers tell: the Host it names, the page that sent it, the client of a proxy.

These checks keep web pages away from a server without API keys, which every page that a user of this machine opens could reach:
a page of another site sends its own `Origin` or `Sec-Fetch-Site`, and one that rebinds its own name to 127.0.0.1 sends that
name as `Host`. Browsers let no page change these headers. Other clients can send what they like: they are kept out by the
address that the server binds to, and by keys.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from starlette.types import Scope

from pipelines.local_ray import is_loopback
from serve.errors import ApiError

Headers = Iterable[tuple[bytes, bytes]]
"""Headers as ASGI has them: lower-case names, repeated ones in order."""

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_PROXY_HEADERS = frozenset(
    {
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"forwarded",
        b"true-client-ip",
        b"x-azure-clientip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-envoy-external-address",
        b"x-forwarded-for",
        b"x-original-forwarded-for",
        b"x-real-ip",
    }
)


def split_authority(text: str) -> tuple[str, str] | None:
    """Host and port of `host:port`, written as browsers write them; None: it is neither.

    The host is lower-case, without brackets and the root's dot, and an IPv6 address in its shortest form. The port is "" where
    none is named, and never one that nothing listens on.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    address, name, port = found.groups()
    host = _short_ipv6(address) if address else name.lower().removesuffix(".")
    if host is None or not (address or _is_name(host)) or (port and not 0 < int(port) < 2**16):
        return None
    return host, str(int(port)) if port else ""


def _short_ipv6(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped  # which Python may write with dots, and browsers do not
    return str(address) if mapped is None else f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"


def _is_name(host: str) -> bool:
    """Whether it can be a name or an IPv4 address; browsers turn other numbers, as `127.1`, into addresses."""
    labels = host.split(".")
    if re.fullmatch("[0-9]+|0x[0-9a-f]*", labels[-1]) is None:
        return "" not in labels
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def normal_origin(text: str) -> str | None:
    """An origin as browsers send it: lower-case, without its scheme's default port; None: it is none."""
    scheme, _, rest = text.lower().partition("://")
    if re.fullmatch("[a-z][a-z0-9.+-]*", scheme) is None or (authority := split_authority(rest)) is None:
        return None
    host, port = authority
    if rest.partition(":")[0].endswith("."):  # with the root's dot it is another origin
        host += "."
    return f"{scheme}://{join_authority(host, '' if port == _DEFAULT_PORTS.get(scheme) else port)}"


def join_authority(host: str, port: str) -> str:
    """`host:port` of both, or the host alone where the port is ""."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def check_host(headers: Headers, allowed: Sequence[str], bound: str, any_host: bool) -> None:
    """Refuse a request for a host that is not this server's. Raises ApiError (421).

    Args:
        headers: Of the request. `X-Forwarded-Host` is not looked at: anybody can send one.
        allowed: More names, each with a port or for any port.
        bound: Address that the server listens on.
        any_host: Answer to any name, unless `allowed` lists some.
    """
    if any_host and not allowed:
        return
    named, own = _values(headers, b"host"), split_authority(join_authority(bound.partition("%")[0], ""))
    if len(named) == 1 and (authority := split_authority(named[0])) is not None:
        host, port = authority
        # browsers leave the default port out, and which one that is depends on whether TLS ends at a proxy
        ways = [(host, ""), authority] if port else [(host, each) for each in ("", "80", "443")]
        if is_loopback(host) or (host, "") == own or any(split_authority(each) in ways for each in allowed):
            return
    shown = join_authority(own[0], "") if own else bound
    msg = f"the Host header must name this server once: localhost, {shown}, or a host that http.allowed_hosts lists"
    raise ApiError(421, msg, "host")


def check_page(scope: Scope, origins: Sequence[str]) -> None:
    """Refuse what a browser sends for a page of another site or another port. Raises ApiError (403).

    `origins` are those of http.cors_origins; a `*` among them matches none, since it would let every page in. A link to the
    page at `/` may stand anywhere: that page holds no data.
    """
    headers = scope["headers"]
    origin, site = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
    if origin and set(origin) <= set(origins):
        return
    if site:  # it decides alone: behind a proxy the browser's idea of this server's origin may differ from Host
        own = all(each in ("none", "same-origin") for each in site)
    else:
        host = [each.lower() for each in _values(headers, b"host")]
        own = all(each.lower().partition("://")[2] in host for each in origin)
    link = _values(headers, b"sec-fetch-mode") == ["navigate"] and _values(headers, b"sec-fetch-dest") == ["document"]
    if own or (scope["method"] == "GET" and scope["path"] == "/" and link):
        return
    msg = "a page of another origin may not ask this server without an API key of its own; list it in http.cors_origins"
    raise ApiError(403, msg, "cross_site")


def check_client(scope: Scope) -> None:
    """Refuse a client on another machine, seen as such or named by a proxy in front. Raises ApiError (403).

    It can only refuse: a client may name any address, and a proxy on this machine need not name one.
    """
    peer = [scope["client"][0]] if scope.get("client") else []
    if not all(is_loopback(each) for each in [*peer, *_proxy_clients(scope["headers"])]):
        raise ApiError(403, "this server has no API keys and answers its own machine only", "no_keys")


def _proxy_clients(headers: Headers) -> list[str]:
    """Every address that a proxy names as a client; what cannot be read is kept as it is."""
    named: list[str] = []
    for header, value in headers:
        if header not in _PROXY_HEADERS:
            continue
        elements = [each for each in value.decode("latin-1").split(",") if each.strip()]  # empty ones mean nothing (RFC 9110)
        for element in elements or [""]:
            if header == b"forwarded":
                pairs = [pair.strip().partition("=") for pair in element.split(";")]
                named += [address for key, _, address in pairs if key.lower() == "for"] or ["not named"]
            else:
                named.append(element)
    return [_address(each.strip().strip('"')) for each in named]


def _address(text: str) -> str:
    """An address without its port; an IPv6 address has one only behind brackets."""
    authority = split_authority(text)
    return text if authority is None else authority[0]


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for header, value in headers if header == name]
