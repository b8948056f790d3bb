"""Where a request or handshake comes from: its id, client, scheme and host.

`TRUSTED_PROXIES` decides whose ``X-Forwarded-*``, ``Forwarded`` and ``X-Request-ID`` count; anyone else's are ignored.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from types import MappingProxyType

from relay.typing import RawHeaders, Scope

Networks = tuple[IPv4Network | IPv6Network, ...]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_PARAMETER = re.compile(r"(?:^|;)\s*(for|proto|host)\s*=\s*\"?([^;\"\s]*)", re.IGNORECASE)  # RFC 7239 §4
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SCHEMES = MappingProxyType({"http": "http", "https": "https", "ws": "http", "wss": "https"})
_MOST_HOPS = 32  # read, from the right; a client may put thousands to the left of them


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request or handshake as it arrived.

    Attributes:
        request_id: A trusted proxy's, otherwise a new one.
        client: Address of the right-most hop that is not a trusted proxy; empty over a Unix socket without proxies.
        peer: Address of the TCP peer; the same as `client` without proxies.
        peer_trusted: Whether the peer's forwarding fields are believed.
        scheme: The scheme that the client used: ``http`` or ``https``, for WebSockets too.
        host: ``host[:port]`` as the client sent it, or empty.
        port: The port in `host`, otherwise the scheme's default.
        started: `time.monotonic` at arrival.
    """

    request_id: str
    client: str
    peer: str
    peer_trusted: bool
    scheme: str
    host: str
    port: int
    started: float


def field(headers: RawHeaders, name: bytes) -> str | None:
    """A field's value, repeated fields joined as a list (RFC 9110 §5.3); None if there is none."""
    found = [value for key, value in headers if key == name]
    return b", ".join(found).decode("latin-1") if found else None


def arrive(scope: Scope, trusted: Networks) -> Arrival:
    """Determine where a request comes from, by its connection and by fields from trusted proxies only."""
    peer = scope["client"][0] if scope.get("client") else ""
    peer = _canonical(peer)
    # A Unix socket's peer has no address, and is trusted if any proxy is: the file's permissions protect it. A TCP peer
    # has none either if it reset the connection before we asked.
    peer_trusted = _is_trusted(peer, trusted) if peer else bool(trusted) and _unix_socket(scope)
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    fields = _interesting(scope["headers"])
    host = fields.get(b"host", "")
    client, request_id = peer, ""
    if peer_trusted:
        way = _forwarded(fields)
        client = _client(way.hops, peer, trusted)
        scheme = _SCHEMES.get(way.proto.lower(), scheme)
        host = way.host if _HOST.fullmatch(way.host) else host
        given = fields.get(b"x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else ""
    return Arrival(
        request_id or secrets.token_hex(16),
        client,
        peer,
        peer_trusted,
        scheme,
        host,
        port_of(host, scheme),
        time.monotonic(),
    )


_INTERESTING = frozenset(
    {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"x-request-id"}
)


def _interesting(headers: RawHeaders) -> dict[bytes, str]:
    """The fields that describe the route to us; repeated ones are joined, as they are lists."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _INTERESTING:
            found.setdefault(name, []).append(value.strip())
    return {name: b", ".join(values).decode("latin-1") for name, values in found.items()}


def _unix_socket(scope: Scope) -> bool:
    """Whether the connection is a Unix socket: ``server`` has a path but no port (ASGI), or is missing (Daphne)."""
    server = scope.get("server")
    return not server or server[1] is None


@lru_cache(maxsize=4096)
def _canonical(peer: str) -> str:
    return _address(peer) or peer


@lru_cache(maxsize=4096)
def _is_trusted(address: str, trusted: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


@dataclass(frozen=True, slots=True)
class _Way:
    """What the nearest proxy reports: hops from left to right, and the scheme and host that its client used."""

    hops: list[str]
    proto: str
    host: str


def _forwarded(fields: dict[bytes, str]) -> _Way:
    """Read ``X-Forwarded-*`` or, if there are none, ``Forwarded``.

    Never both: a proxy that sets one kind passes on the client's own fields of the other. In a list the right-most
    element counts, as the proxy added it. An address or host contains no comma, so quotes (RFC 7239 §4) can't hide one.
    """
    if not any(name.startswith(b"x-forwarded-") for name in fields):
        elements = [
            {name.lower(): value for name, value in _PARAMETER.findall(element.strip())}
            for element in _last(fields.get(b"forwarded", ""), _MOST_HOPS)
        ]
        return _Way([e.get("for", "") for e in elements], elements[-1].get("proto", ""), elements[-1].get("host", ""))
    proto, host = (_last(fields.get(name, ""), 1)[-1] for name in (b"x-forwarded-proto", b"x-forwarded-host"))
    return _Way(_last(fields.get(b"x-forwarded-for", ""), _MOST_HOPS), proto, host)


def _last(values: str, count: int) -> list[str]:
    """The last `count` elements of a comma-separated list; at least one, possibly empty."""
    return [value.strip() for value in values.rsplit(",", count)[-count:]]


def _client(hops: list[str], peer: str, trusted: Networks) -> str:
    """The right-most address that is not a trusted proxy's. The search stops at a malformed one."""
    client = peer
    for hop in reversed(hops):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not _is_trusted(address, trusted):
            break
    return client


def _address(hop: str) -> str | None:
    """An address out of ``1.2.3.4``, ``1.2.3.4:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``; IPv4-mapped as IPv4.

    The zone of a link-local address (``%eth0``, RFC 4007 §11) is dropped: it may contain anything.
    """
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop.partition("%")[0])
    except ValueError:
        return None
    return str(address.ipv4_mapped or address) if isinstance(address, IPv6Address) else str(address)


def port_of(host: str, scheme: str) -> int:
    """The port in ``host[:port]``, otherwise the scheme's default."""
    _, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536:
        return int(port)
    return 443 if scheme == "https" else 80
