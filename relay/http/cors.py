"""CORS for relayed paths and the ``/gateway/`` pages, decided by the gateway alone (contract, section 4). Pure.

The browser enforces it (Fetch standard, §3.2): it forbids whatever we don't allow.
"""

from __future__ import annotations

from relay.routing.snapshot import Snapshot
from relay.typing import RawHeaders

MAX_AGE = 600
"""Seconds for which a browser may cache a preflight: short, so that removing an origin soon takes effect."""


def is_preflight(method: str, headers: RawHeaders) -> bool:
    """Whether this is a preflight (Fetch standard, §3.2.2), from any origin."""
    if method != "OPTIONS":
        return False
    names = {name for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names


def preflight_fields(headers: RawHeaders) -> RawHeaders:
    """The preflight response's fields in addition to those of `share`: they allow the requested method and headers."""
    asked = dict(headers)
    fields = [
        (b"access-control-allow-methods", asked[b"access-control-request-method"]),
        (b"access-control-max-age", b"%d" % MAX_AGE),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    if wanted := asked.get(b"access-control-request-headers"):
        fields.append((b"access-control-allow-headers", wanted))
    return fields


def share(headers: RawHeaders, origin: str | None, snapshot: Snapshot) -> RawHeaders:
    """Add the gateway's CORS fields to a response if the origin may read it, and ``Vary: Origin`` in any case.

    Args:
        headers: Without a backend's ``Access-Control-*``.
    """
    headers = vary_by_origin(headers)
    if origin is not None and snapshot.allows(origin):
        headers += _allowed(origin)
    return headers


def vary_by_origin(headers: RawHeaders) -> RawHeaders:
    """A copy with ``Origin`` in ``Vary``, once, added to what is there (RFC 9110 §12.5.5)."""
    last = -1
    for at, (name, value) in enumerate(headers):
        if name == b"vary":
            members = {member.strip().lower() for member in value.split(b",")}
            if b"origin" in members or b"*" in members:
                return list(headers)
            last = at
    if last < 0:
        return [*headers, (b"vary", b"Origin")]
    present = headers[last][1].strip(b" \t,")
    merged = present + b", Origin" if present else b"Origin"
    return [*headers[:last], (b"vary", merged), *headers[last + 1 :]]


def _allowed(origin: str) -> RawHeaders:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
    ]
