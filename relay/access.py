"""Decide who may make a request, and where it goes: the only such place, for HTTP and WebSocket alike. Pure.

The order is the contract's (section 4): path, route, origin, identity, role, backend.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from relay.identity.model import Identification, Identity
from relay.refusals import Refusal
from relay.routing import paths
from relay.routing.snapshot import DEFAULT_PORTS, Backend, Match, Route, Snapshot, normalise_origin
from relay.typing import Kind

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 §9.2.1), so a cross-site request may carry a cookie with them."""

NEVER = frozenset({"TRACE", "CONNECT"})
"""Never relayed: they would show a script the backend's view of the request, or make the gateway an open relay."""

UPGRADE_LOST = "if it was a handshake, the proxy in front has to pass Upgrade and Connection"
"""Part of a refusal's detail."""

_ORIGINS_COMPARED = 20  # to find the nearest one for a log line; strangers decide how often that happens
_SHOWN = 200  # characters of a stranger's text, in a log line


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request or handshake asks for.

    Attributes:
        raw_path: The path as sent, without the query: it is what the backend gets, so it is what is judged.
        origin: The ``Origin`` field's value; None if none was sent. Several are joined, and so never allowed.
        host: The request's own host, ``host[:port]``, as the client knows it.
    """

    kind: Kind
    method: str
    raw_path: bytes
    origin: str | None
    host: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Where a request goes, and for whom.

    Attributes:
        identity: None on a public route without a token that counts.
        target: The raw path for the backend, without the prefix of its url.
    """

    route: Route
    backend: Backend
    identity: Identity | None
    target: bytes


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal and, for the log and ``refuse_with``, the route it applies to; None if no route was found."""

    refusal: Refusal
    route: Route | None = None


def decide(ask: Ask, snapshot: Snapshot, who: Identification) -> Grant | Denied:
    """Judge a request by one configuration; anything that is not granted is denied."""
    match = find_route(ask, snapshot)
    if isinstance(match, Refusal):
        return Denied(match)
    route = match.route
    if ask.kind == "websocket" and ask.origin is not None and not snapshot.allows(ask.origin):
        return Denied(origin_refused(ask.origin, snapshot), route)
    identity, refusal = _identity(ask, snapshot, who)
    if not route.admits(identity):
        return Denied(refusal or _role_required(route, identity), route)
    backend = snapshot.backends.get(route.backend)
    if backend is None or not backend.enabled:
        return Denied(Refusal("backend_disabled", f"backend {route.backend} is disabled"), route)
    return Grant(route, backend, identity, match.target(ask.raw_path))


def find_route(ask: Ask, snapshot: Snapshot) -> Match | Refusal:
    """The route of a path, or a refusal if the path could be read as one that belongs to another route."""
    if wrong := paths.check(ask.raw_path):
        return Refusal("bad_path", f"the path has {wrong}" if not wrong.startswith("the ") else wrong)
    # Not the server's own decoding: the backend gets the raw path, so the raw path is judged.
    path = paths.decode(ask.raw_path)
    match = snapshot.match(ask.kind, ask.method, path)
    for reading in paths.readings(path):
        other = snapshot.match(ask.kind, ask.method, reading)
        if other is not None and (match is None or other.route != match.route):
            here = match.route.path if match else "no route"
            read = f"a backend could read {reading[:_SHOWN]!r}: {other.route.path}"
            return Refusal("bad_path", f"the path matches {here}, but {read}")
    return match or _no_route(ask, path, snapshot)


def _no_route(ask: Ask, path: str, snapshot: Snapshot) -> Refusal:
    """A 404 that names a match of the other kind: a proxy that drops ``Upgrade`` turns a handshake into a GET."""
    detail = f"no {ask.kind} route matches {ask.method[:_SHOWN]} {path[:_SHOWN]!r}"
    if ask.kind == "websocket" and (other := snapshot.match("http", ask.method, path)):
        detail += f"; the http route {other.route.path} does, but it accepts no handshakes"
    elif ask.kind == "http" and ask.method == "GET" and (other := snapshot.match("websocket", "GET", path)):
        detail += f"; the websocket route {other.route.path} does, but this came without Upgrade: {UPGRADE_LOST}"
    return Refusal("no_route", detail)


def cross_site(ask: Ask, snapshot: Snapshot, who: Identification) -> Refusal | None:
    """Refuse what another site may have made the browser send with the user's cookie.

    WebSocket: only browsers send cookies by themselves, and they always send ``Origin`` (RFC 6455 §10.2). HTTP: refuse
    an unsafe method from an origin that is neither on the list nor the request's own host; schemes are not compared, as
    TLS may end before us.
    """
    if who.place != "cookie":
        return None
    if ask.kind == "websocket":
        if ask.origin is None:
            return Refusal("origin_not_allowed", "the token came from a cookie, and there is no Origin")
        return None  # an Origin that was sent has already been compared
    if (
        ask.method in SAFE_METHODS
        or ask.origin is None
        or snapshot.allows(ask.origin)
        or same_host(ask.origin, ask.host)
    ):
        return None
    return origin_refused(ask.origin, snapshot)


def same_host(origin: str, host: str) -> bool:
    """Whether an origin has this ``host[:port]``; the default port of either scheme counts as none."""
    normal = normalise_origin(origin)
    if normal is None or not host:
        return False
    scheme, _, authority = normal.partition("://")
    return scheme in DEFAULT_PORTS and _without_default_port(authority) == _without_default_port(host.lower())


def origin_refused(origin: str, snapshot: Snapshot) -> Refusal:
    """A refusal whose detail names the origin and the nearest one on the list."""
    known = [o.origin for o in snapshot.origins if o.enabled][:_ORIGINS_COMPARED]
    shown = origin[:_SHOWN]
    near = difflib.get_close_matches(shown, known, 1)
    hint = f"nearest: {near[0]}" if near else f"it has {len(known)}" if known else "it is empty"
    return Refusal("origin_not_allowed", f"origin {shown} is not on the list; {hint}")


def _identity(ask: Ask, snapshot: Snapshot, who: Identification) -> tuple[Identity | None, Refusal | None]:
    if who.identity is None:
        return None, Refusal(who.code, who.detail)
    if refusal := cross_site(ask, snapshot, who):
        return None, refusal
    return who.identity, None


def _role_required(route: Route, identity: Identity | None) -> Refusal:
    has = ", ".join(identity.roles) if identity is not None else ""
    return Refusal(
        "role_required", f"the token's role is {has or 'empty'}; {route.path} requires {' or '.join(route.roles)}"
    )


def _without_default_port(authority: str) -> str:
    return authority.removesuffix(":80").removesuffix(":443")
