"""Which live sockets a new configuration closes, by its meaning and not by which rows were saved. Pure.

The configuration that a socket was opened with is compared with the new one:

==================================================================  ======
in the new configuration                                            socket
==================================================================  ======
its route is gone, disabled, or under another path                  ends
its route leads to another backend, or to another path there        ends
its route requires a token or a role that its user doesn't have     ends
its backend is gone or disabled                                     ends
the url that it is connected to is no longer its backend's          ends
its origin is no longer on the list (a wildcard counts)             ends
the same rows, saved again or in another order                      stays
other urls of its backend come or go                                stays
its route opens to more, or changes limits or ``refuse_with``       stays
its backend changes limits, ``health_path``, ``tls_verify``, or     stays
what it is sent with a handshake
another route, backend or origin changes in any way                 stays
==================================================================  ======

Changes don't affect a socket that stays; they apply from the next handshake on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.identity.model import Identity
from relay.routing.snapshot import Backend, Route, Snapshot, Url


class Placed(Protocol):
    """The parts of a live socket that are compared; route, backend and url are those it was opened with."""

    @property
    def identity(self) -> Identity | None: ...
    @property
    def route(self) -> Route: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def url(self) -> Url: ...
    @property
    def origin(self) -> str: ...


def ended_by(snapshot: Snapshot) -> Callable[[Placed], bool]:
    """A predicate: whether this configuration closes a socket."""
    handshakes = [r for r in snapshot.routes if r.kind == "websocket" and r.enabled and r.serves("GET")]
    # For the same path, the route with methods wins, as in matching: it comes last here.
    routes = {route.path: route for route in sorted(handshakes, key=lambda route: bool(route.methods))}
    allowed: dict[str, bool] = {"": True}  # many sockets share an origin

    def ends(socket: Placed) -> bool:
        if (origin := socket.origin) not in allowed:
            allowed[origin] = snapshot.allows(origin)
        backend = snapshot.backends.get(socket.backend.name)
        route = routes.get(socket.route.path)
        return (
            not allowed[origin]
            or route is None
            or (route.backend, route.upstream_path) != (socket.route.backend, socket.route.upstream_path)
            or not route.admits(socket.identity)
            or backend is None
            or not backend.enabled
            or _place(socket.url) not in map(_place, backend.urls)
        )

    return ends


def _place(url: Url) -> tuple[str, str, int, str]:
    """Where a url leads, however it is written."""
    return (url.scheme, url.host, url.port, url.prefix)
