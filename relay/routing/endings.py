"""Which live sockets a new configuration ends, by what it means and not by which rows were saved. Pure.

A socket is judged by the configuration that it was opened with and by the new one:

==================================================================  ======
what the new configuration says                                     socket
==================================================================  ======
its route is gone, disabled, or under another path                  ends
its route leads to another backend, or to another path there        ends
its route wants an access or a role that its user doesn't have      ends
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

What changes for a socket that stays is in force from the next handshake on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.identity.model import Identity
from relay.routing.snapshot import Backend, Route, Snapshot, Url


class Placed(Protocol):
    """What of a live socket has to fit a configuration; the configuration's are those that it was opened with."""

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
    """A predicate: whether a socket has no place in this configuration."""
    handshakes = [r for r in snapshot.routes if r.kind == "websocket" and r.enabled and r.serves("GET")]
    # At the same path, the one with methods counts, as in matching: it is the later one here.
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
