"""Which fields, tokens and paths are passed on: the contract, section 5, for HTTP and WebSocket alike. Pure.

Delete before set: everything that a client could have forged is removed before the gateway adds its own fields.
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
"""Fields that the handshake with the backend sets itself (RFC 6455 §4.1); `Origin` by ``websocket_origin``."""

_FRAMING = frozenset({b"host", b"content-length"})  # set by our HTTP client, from what it really sends
_OURS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"})
_JUDGED = HOP_BY_HOP | HANDSHAKE | _FRAMING | {b"authorization", b"cookie"}
_UNUSUAL = re.compile(rb"[^a-z0-9-]")
_TOKEN = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")  # a field name (RFC 9110 §5.1)
_UNSAFE = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The forwarding rules, with the configured places of tokens.

    Attributes:
        cookie: Name of the token's cookie; empty if that place is off.
        query_param: Name of the token's query parameter; empty if that place is off.
    """

    cookie: str = "auth_token"
    query_param: str = "token"

    def request_headers(self, scope: Scope, arrival: Arrival, grant: Grant, who: Identification) -> RawHeaders:
        """The fields for the backend, except ``Host``, the framing and a handshake's own.

        Fields that may pass keep their order, repeats and values.
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
        """The query for the backend, without token and ticket, the rest unchanged; None if there is none.

        An empty query is a lone question mark, which only our own server reports.
        """
        query: bytes = scope["query_string"]
        if not query:
            return b"" if "relay.empty_query" in (scope.get("extensions") or ()) else None
        return _Tokens(self, grant, who).query(query, tickets=scope["type"] == "websocket") or None


@dataclass(slots=True)
class _Tokens:
    """Removes tokens from the places where they travel.

    On a protected route, anything in a token's place is removed, valid or not. On a public one, only a valid token of
    ours is: there, ``?token=`` may belong to the backend (in a password reset link, say).
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
        """A ``Cookie`` field without the token's pairs, the others unchanged; empty if none is left."""
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
        """Whether an ``Authorization`` field may pass: schemes other than Bearer always do (RFC 6750 §2.1)."""
        token = bearer(field)
        return token is None or not self._goes(token)

    def query(self, query: bytes, tickets: bool) -> bytes:
        """A query without the token's parameter and, if `tickets`, without tickets; the rest unchanged."""
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
    """The fields that ``Connection`` declares to be for this connection only (RFC 9110 §7.6.1)."""
    names: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            names.update(option.strip().lower() for option in value.split(b","))
    return frozenset(names)


def _may_pass(name: bytes, peer_trusted: bool) -> bool:
    """Whether a field may pass, by the name that a backend may read: to CGI and WSGI, ``-`` and ``_`` are the same.

    Of a trusted proxy's forwarding fields, those that we set are replaced; others (-Prefix, -User …) pass. A field that
    has a rule, here or elsewhere, never passes under another spelling.
    """
    plain = _UNUSUAL.sub(b"-", name).strip(b"-")
    if plain == b"forwarded" or plain.startswith(b"x-forwarded"):
        return peer_trusted and plain == name and name not in _OURS
    if plain in IDENTITY or plain == b"x-request-id" or plain in _JUDGED:
        return False
    return _TOKEN.fullmatch(name) is not None


def _without_bearer(field: bytes) -> bytes:
    """A plain request's ``Sec-WebSocket-Protocol`` value without its ``bearer.<token>`` entries."""
    entries = field.split(b",")
    kept = [entry for entry in entries if not entry.strip().lower().startswith(b"bearer.")]
    return field if len(kept) == len(entries) else b",".join(kept).strip()


def forwarded(headers: RawHeaders, arrival: Arrival) -> RawHeaders:
    """The gateway's own ``X-Forwarded-*`` and ``X-Request-ID`` fields."""
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
    """The client's subprotocols in ``Sec-WebSocket-Protocol``, without ``bearer.<token>`` entries."""
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
    """The ``Host`` for the backend: its own or, with ``forward_host``, the client's."""
    if grant.backend.forward_host and arrival.host:
        return arrival.host.encode("latin-1")
    return url.authority.encode()


def target(url: Url, grant: Grant, query: bytes | None) -> bytes:
    """The request target for the backend: its url's prefix, the path, the query (RFC 9112 §3.2.1)."""
    path = url.prefix.encode() + grant.target if url.prefix else grant.target
    return path if query is None else path + b"?" + query


def response_headers(headers: RawHeaders) -> RawHeaders:
    """A backend's end-to-end fields for the client, without CORS and request id, which only the gateway sets."""
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
    """The head of a request to a backend, ``Host`` first (RFC 9112 §3.2); every head is built here.

    Raises:
        Refused: CR, LF or NUL in the target, the ``Host`` or a field would make it another request (RFC 9110 §5.5).
    """
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (method, target, host), *[b"%b: %b" % field for field in headers], b"\r\n"]
    head = b"\r\n".join(lines)
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        fields = [(b"request target", target), (b"host", host), *headers]
        names = [name.decode("latin-1") for name, value in fields if _UNSAFE.search(name + value)]
        raise Refused(f"a line break or NUL in what would be sent to the backend: {', '.join(names)}")
    return head
