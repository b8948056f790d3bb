"""The first room: which request is this, from where, and may it come in at all? One ASGI layer for both protocols.

It fills ``scope["relay"]`` with an `Arrival`, refuses hosts that are not ours, and rates. `TRUSTED_PROXIES` decides
whose ``X-Forwarded-*``, ``Forwarded`` and ``X-Request-ID`` count; everybody else's are as good as not sent.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

from relay.typing import RawHeaders, Scope

Networks = tuple[IPv4Network | IPv6Network, ...]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_FORWARDED_FOR = re.compile(r"(?i)\bfor=(?:\"([^\"]*)\"|([^;,\s]*))")
_FORWARDED_PROTO = re.compile(r"(?i)\bproto=\"?(https?)\"?")
_FORWARDED_HOST = re.compile(r"(?i)\bhost=(?:\"([^\"]*)\"|([^;,\s]*))")
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request or handshake as it arrived.

    Attributes:
        request_id: A trusted proxy's, else a fresh one.
        client: Address of the right-most hop that is not a trusted proxy; empty over a Unix socket without proxies.
        peer: Address of the TCP peer; the same as `client` without proxies.
        peer_trusted: Whether the peer's forwarding fields are believed.
        scheme: What the client used: ``http`` or ``https``, for WebSockets too.
        host: ``host[:port]`` as the client knows it, or empty.
        port: Of `host`, else the scheme's.
        started: `time.monotonic` at the arrival.
    """

    request_id: str
    client: str
    peer: str
    peer_trusted: bool
    scheme: str
    host: str
    port: int
    started: float


def arrive(scope: Scope, trusted: Networks) -> Arrival:
    """Find out who really asks, from the connection and from fields of trusted proxies only."""
    peer = scope["client"][0] if scope.get("client") else ""
    # A Unix socket has no address: whoever may open it stands on our side.
    peer_trusted = _is_trusted(peer, trusted) if peer else bool(trusted)
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    fields = _interesting(scope["headers"])
    host = fields.get(b"host", "")
    client, request_id = peer, ""
    if peer_trusted:
        client = _client(fields, peer, trusted)
        scheme = _scheme(fields) or scheme
        host = _forwarded_host(fields) or host
        given = fields.get(b"x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else ""
    return Arrival(
        request_id or secrets.token_hex(16),
        client,
        peer,
        peer_trusted,
        scheme,
        host,
        _port(host, scheme),
        time.monotonic(),
    )


_INTERESTING = frozenset(
    {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"x-request-id"}
)


def _interesting(headers: RawHeaders) -> dict[bytes, str]:
    """The fields that say something about the way here; repeated ones joined, as they are lists."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in _INTERESTING:
            text = value.decode("latin-1").strip()
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


@lru_cache(maxsize=4096)
def _is_trusted(address: str, trusted: Networks) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if parsed.version == 6 and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in trusted)


def _client(fields: dict[bytes, str], peer: str, trusted: Networks) -> str:
    """The right-most address that is no trusted proxy; nobody vouches for what lies beyond an unreadable one."""
    client = peer
    for hop in reversed(list(_hops(fields))):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not _is_trusted(address, trusted):
            break
    return client


def _hops(fields: dict[bytes, str]) -> Iterable[str]:
    if chain := fields.get(b"x-forwarded-for"):
        return (hop.strip() for hop in chain.split(","))
    return (a or b for a, b in _FORWARDED_FOR.findall(fields.get(b"forwarded", "")))


def _address(hop: str) -> str | None:
    """An address out of ``1.2.3.4``, ``1.2.3.4:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ip_address(hop))
    except ValueError:
        return None


def _scheme(fields: dict[bytes, str]) -> str:
    proto = fields.get(b"x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    if proto in ("http", "https", "ws", "wss"):
        return "https" if proto in ("https", "wss") else "http"
    found = _FORWARDED_PROTO.findall(fields.get(b"forwarded", ""))
    return found[-1].lower() if found else ""


def _forwarded_host(fields: dict[bytes, str]) -> str:
    host = fields.get(b"x-forwarded-host", "").rpartition(",")[2].strip()
    if not host and (found := _FORWARDED_HOST.findall(fields.get(b"forwarded", ""))):
        host = found[-1][0] or found[-1][1]
    return host if _HOST.fullmatch(host) else ""


def _port(host: str, scheme: str) -> int:
    _, colon, port = host.rpartition(":")
    if colon and port.isdigit() and len(port) <= 5:
        return int(port)
    return 443 if scheme == "https" else 80
