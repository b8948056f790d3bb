"""What crosses from one side to the other: the contract, section 5, for HTTP and WebSocket alike. Pure.

Delete before set: whatever a client could have forged is gone before the gateway's own fields are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from relay.access import Grant
from relay.entry import Arrival
from relay.identity.model import Identification
from relay.identity.places import TICKET, bearer, cookie_value, form_decoded
from relay.refusals import Refused
from relay.routing.snapshot import Url
from relay.typing import RawHeaders, Scope

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Fields that belong to one connection, not to the whole path (RFC 9110 §7.6.1)."""

IDENTITY = frozenset({b"x-user-id", b"x-user-email", b"x-user-role"})
HANDSHAKE = frozenset(
    {
        b"origin",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)
"""Fields that the handshake with the backend writes itself (RFC 6455 §4.1); `Origin` by ``websocket_origin``."""

_FRAMING = frozenset({b"host", b"content-length"})  # written by the client of the backend, from what it really sends
_OURS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"})
_JUDGED = HOP_BY_HOP | HANDSHAKE | _FRAMING | {b"authorization", b"cookie"}
_UNUSUAL = re.compile(rb"[^a-z0-9-]")
_TOKEN = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")  # what a field name may consist of (RFC 9110 §5.1)
_UNSAFE = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The rules, with the names under which tokens travel.

    Attributes:
        cookie: Name of the token's cookie; empty if that place is off.
        query_param: Name of the token's query parameter; empty if that place is off.
    """

    cookie: str = "auth_token"
    query_param: str = "token"

    def request_headers(self, scope: Scope, arrival: Arrival, grant: Grant, who: Identification) -> RawHeaders:
        """The fields for the backend, but for ``Host``, the framing and a handshake's own.

        Order, repeats and values of everything that may pass stay as they are.
        """
        headers: RawHeaders = scope["headers"]
        websocket = scope["type"] == "websocket"
        dropped = named_by_connection(headers)
        tokens = _Tokens(self, grant, who)
        fields: RawHeaders = []
        for name, value in headers:
            if name in HOP_BY_HOP or name in _FRAMING or name in dropped or (websocket and name in HANDSHAKE):
                continue
            if name[:2] == b"x-" or name == b"forwarded" or _UNUSUAL.search(name):
                if not _may_pass(name, arrival.peer_trusted):
                    continue
            elif name == b"cookie":
                if not (value := tokens.cookies(value)):
                    continue
            elif name == b"authorization":
                if not tokens.may_authorize(value):
                    continue
            elif name == b"sec-websocket-protocol" and not (value := _without_bearer(value)):
                continue
            fields.append((name, value))
        fields += forwarded(headers, arrival)
        if grant.identity is not None:
            fields += [
                (b"x-user-id", grant.identity.user_id.encode()),
                (b"x-user-email", grant.identity.email.encode()),
                (b"x-user-role", grant.identity.role.encode()),
            ]
        return fields

    def query(self, scope: Scope, grant: Grant, who: Identification) -> bytes | None:
        """The query for the backend, without token and ticket, the rest byte for byte; None: there is none.

        An empty one is a question mark alone, of which only our own server tells.
        """
        query: bytes = scope["query_string"]
        if not query:
            return b"" if "relay.empty_query" in (scope.get("extensions") or ()) else None
        return _Tokens(self, grant, who).query(query, tickets=scope["type"] == "websocket") or None


@dataclass(slots=True)
class _Tokens:
    """Takes tokens out of the places where they travel.

    On a protected route whatever stands in a token's place goes, valid or not. On a public one only a valid token of
    ours goes: ``?token=`` may be the backend's own there (a link to reset a password, say).
    """

    names: Forwarding
    grant: Grant
    who: Identification
    _ours: frozenset[str] | None = None

    def _goes(self, value: str) -> bool:
        if self.grant.backend.forward_token:
            return False
        if self.grant.route.access != "public":
            return True
        if self._ours is None:  # once: a stranger may send thousands of copies
            self._ours = frozenset(p.value for p in self.who.presented if p.identity is not None or not p.judged)
        return value in self._ours

    def cookies(self, field: bytes) -> bytes:
        """A ``Cookie`` field without the token's pairs, the others as they are; empty when none is left."""
        name = self.names.cookie.encode()
        if not name or name not in field:
            return field
        kept, cut = [], False
        for pair in field.split(b";"):
            key, _, value = pair.partition(b"=")
            if key.strip() == name and self._goes(cookie_value(value)):
                cut = True
            else:
                kept.append(pair)
        return b";".join(kept).strip() if cut else field

    def may_authorize(self, field: bytes) -> bool:
        """Whether an ``Authorization`` field passes: any scheme but Bearer does (RFC 6750 §2.1)."""
        token = bearer(field)
        return token is None or not self._goes(token)

    def query(self, query: bytes, tickets: bool) -> bytes:
        """A query without the token's parameter, and without tickets where there are any; the rest as it is."""
        kept = []
        for pair in query.split(b"&"):
            key, _, value = pair.partition(b"=")
            name = form_decoded(key)
            if name and name == self.names.query_param.encode() and self._goes(form_decoded(value).decode("latin-1")):
                continue
            if tickets and name == TICKET:
                continue
            kept.append(pair)
        return b"&".join(kept)


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The fields that a ``Connection`` field declares to be of this connection only (RFC 9110 §7.6.1)."""
    names: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            names.update(option.strip().lower() for option in value.split(b","))
    return frozenset(names)


def _may_pass(name: bytes, peer_trusted: bool) -> bool:
    """Judge a field by the name that a backend may make of it: to CGI and WSGI ``-``, ``_`` and more are the same.

    Of a trusted proxy's forwarding fields those that we write ourselves are replaced, others (-Prefix, -User …) pass. A
    field that is judged here or elsewhere never passes under another spelling.
    """
    plain = _UNUSUAL.sub(b"-", name).strip(b"-")
    if plain == b"forwarded" or plain.startswith(b"x-forwarded"):
        return peer_trusted and plain == name and name not in _OURS
    if plain in IDENTITY or plain == b"x-request-id" or plain in _JUDGED:
        return False
    return _TOKEN.fullmatch(name) is not None


def _without_bearer(field: bytes) -> bytes:
    """A ``Sec-WebSocket-Protocol`` value of a request that is no handshake, without its ``bearer.<token>`` entries."""
    entries = field.split(b",")
    kept = [entry for entry in entries if not entry.strip().lower().startswith(b"bearer.")]
    return field if len(kept) == len(entries) else b",".join(kept).strip()


def forwarded(headers: RawHeaders, arrival: Arrival) -> RawHeaders:
    """``X-Forwarded-*`` and ``X-Request-ID`` as the gateway knows them."""
    chain = []
    if arrival.peer_trusted:
        chain = [value.strip() for name, value in headers if name == b"x-forwarded-for" and value.strip()]
    if arrival.peer:
        chain.append(arrival.peer.encode())
    fields = [
        (b"x-forwarded-proto", arrival.scheme.encode()),
        (b"x-forwarded-port", b"%d" % arrival.port),
        (b"x-request-id", arrival.request_id.encode()),
    ]
    if chain:
        fields.insert(0, (b"x-forwarded-for", b", ".join(chain)))
    if arrival.host:
        fields.append((b"x-forwarded-host", arrival.host.encode("latin-1")))
    return fields


def subprotocols(scope: Scope) -> list[str]:
    """What the client offers in ``Sec-WebSocket-Protocol``, without ``bearer.<token>`` entries."""
    offered = []
    for name, value in scope["headers"]:
        if name == b"sec-websocket-protocol":
            offered += [entry.strip() for entry in value.decode("latin-1").split(",")]
    return [entry for entry in offered if entry and not entry.lower().startswith("bearer.")]


def websocket_origin(scope: Scope, grant: Grant) -> bytes | None:
    """The ``Origin`` for the backend by ``websocket_origin``: None (omit), the client's (forward) or a fixed one."""
    rule = grant.backend.websocket_origin
    if rule == "omit":
        return None
    if rule != "forward":
        return rule.encode()
    return next((value for name, value in scope["headers"] if name == b"origin"), None)


def host(url: Url, grant: Grant, arrival: Arrival) -> bytes:
    """The ``Host`` for the backend: its own, or with ``forward_host`` the client's."""
    if grant.backend.forward_host and arrival.host:
        return arrival.host.encode("latin-1")
    return url.authority.encode()


def target(url: Url, grant: Grant, query: bytes | None) -> bytes:
    """The request target for the backend: its url's prefix, the path, the query (RFC 9112 §3.2.1)."""
    path = url.prefix.encode() + grant.target if url.prefix else grant.target
    return path if query is None else path + b"?" + query


def response_headers(headers: RawHeaders) -> RawHeaders:
    """A backend's fields for the client: end to end ones only; CORS and the request id are the gateway's alone."""
    dropped = named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in HOP_BY_HOP
        and name not in dropped
        and name != b"x-request-id"
        and not name.startswith(b"access-control-")
    ]


def request_head(method: bytes, target: bytes, host: bytes, headers: RawHeaders) -> bytes:
    """The head of a request to a backend, ``Host`` first (RFC 9112 §3.2); every head is made here.

    Raises:
        Refused: CR, LF or NUL in the target, the ``Host`` or a field: it would be another request (RFC 9110 §5.5).
    """
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (method, target, host), *[b"%b: %b" % field for field in headers], b"\r\n"]
    head = b"\r\n".join(lines)
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        fields = [(b"request target", target), (b"host", host), *headers]
        names = [name.decode("latin-1") for name, value in fields if _UNSAFE.search(name + value)]
        raise Refused(f"a line end or NUL in what the backend is sent: {', '.join(names)}")
    return head
