"""The live WebSockets of this process: whose they are, how many there are, and how to close them.

There is one registry per process, used only from the event loop's thread, without locks. Adding and removing a
socket, and finding the sockets of a user or a token, cost the same with ten sockets as with ten thousand. Other
processes are reached through the database, and call the same methods.

A handshake reserves its place before it dials (``reserve``) and returns it when its socket is gone (``release``), so
that two simultaneous handshakes can't both take the last place within a limit. It is also registered before the dial
(``begin``), so that its user can renew the token meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # for types only: at run time this module imports no other
    from relay.identity.model import Identity
    from relay.routing.snapshot import Backend, Route, Url
    from relay.typing import Traffic

RouteKey = tuple[str, str, tuple[str, ...]]
"""(kind, path, methods): what identifies a route across configurations."""

_TICK = 0.01
"""Seconds between batches when closings are spread out: short enough to be even, long enough to be cheap."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the gateway closes a socket: the client's close code and reason (RFC 6455 §7.4); the backend gets 1001."""

    code: int
    reason: str = ""


EXPIRED = Ending(4401, "token expired")
REVOKED = Ending(4401, "token revoked")
KICKED = Ending(4403, "disconnected by an administrator")
CONFIG_CHANGED = Ending(1012)
IDLE = Ending(4408, "idle")
RATE = Ending(1008)
DRAIN = Ending(1012, "service restart")


class LiveSocket(Protocol):
    """A relayed WebSocket, as the registry, the admin and the log see it."""

    id: str
    route: Route
    backend: Backend
    url: Url  # the backend's url that it is connected to
    origin: str  # empty if the client sent none
    client: str
    opened_at: float  # unix time

    @property
    def traffic(self) -> Traffic:
        """What it has relayed so far."""

    @property
    def identity(self) -> Identity | None:
        """Whose socket it is; None on a public route without a token."""

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        """Switch to another token, with its expiry and revocation."""

    def end(self, ending: Ending) -> None:
        """Start closing both sides. Returns at once and never raises; only the first call counts."""


class Handshake:
    """A WebSocket whose backend is being dialled.

    Attributes:
        identity: Whose socket it will be.
    """

    __slots__ = ("identity", "route")

    def __init__(self, route: Route, identity: Identity | None) -> None:
        self.route, self.identity = route, identity


class Registry:
    """Every live socket of this process, found by id, user and token."""

    def __init__(self) -> None:
        self._sockets: dict[str, LiveSocket] = {}
        self._filed: dict[str, tuple[str, str]] = {}  # socket id → the (user, fingerprint) it is filed under
        self._by_user: dict[str, dict[str, LiveSocket]] = {}
        self._by_fingerprint: dict[str, dict[str, LiveSocket]] = {}
        self._handshakes: dict[str, set[Handshake]] = {}  # by fingerprint
        self._places: dict[tuple[RouteKey, str], int] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[LiveSocket]:
        """Iterate over a copy: sockets may come and go meanwhile."""
        return iter(tuple(self._sockets.values()))

    def begin(self, handshake: Handshake) -> None:
        """Register a handshake, so that it can be renewed like a socket. Each call needs a ``finish``."""
        if handshake.identity is not None:
            self._handshakes.setdefault(handshake.identity.fingerprint, set()).add(handshake)

    def finish(self, handshake: Handshake) -> None:
        """Remove a handshake that failed, or whose socket has been added; an unknown one is not an error."""
        if handshake.identity is not None and (shelf := self._handshakes.get(handshake.identity.fingerprint)):
            shelf.discard(handshake)
            if not shelf:
                del self._handshakes[handshake.identity.fingerprint]

    def add(self, socket: LiveSocket) -> None:
        """Add an accepted socket."""
        self._sockets[socket.id] = socket
        self._file(socket)

    def remove(self, socket: LiveSocket) -> None:
        """Remove a socket; an unknown one is not an error."""
        if self._sockets.pop(socket.id, None) is not None:
            self._unfile(socket)

    def get(self, socket_id: str) -> LiveSocket | None:
        """Return the socket with this id, or None."""
        return self._sockets.get(socket_id)

    def of_user(self, user_id: str) -> tuple[LiveSocket, ...]:
        """Return the sockets of a user, with any token."""
        return tuple(self._by_user.get(user_id, {}).values())

    def by_fingerprint(self, fingerprint: str) -> tuple[LiveSocket, ...]:
        """Return the sockets that belong to the token with this fingerprint."""
        return tuple(self._by_fingerprint.get(fingerprint, {}).values())

    def reauthenticate(
        self, fingerprint: str, identity: Identity, may: Callable[[LiveSocket | Handshake], bool]
    ) -> None:
        """Move the user's sockets and handshakes from an old token to a fresh one of the same user.

        Args:
            fingerprint: The old token's.
            identity: The fresh token's. Sockets of another user stay as they are.
            may: Whether the fresh token allows a socket; if not, that socket ends with its old token.
        """

        def moves(it: LiveSocket | Handshake) -> bool:
            return it.identity is not None and it.identity.user_id == identity.user_id and may(it)

        moving = [socket for socket in self.by_fingerprint(fingerprint) if moves(socket)]
        for socket in moving:
            self._unfile(socket)
            socket.identity = identity
            self._file(socket)
        for handshake in [handshake for handshake in self._handshakes.get(fingerprint, ()) if moves(handshake)]:
            self.finish(handshake)
            handshake.identity = identity
            self.begin(handshake)

    # Places: the limit of connections per user and route.

    def reserve(self, route_key: RouteKey, user_id: str, limit: int) -> bool:
        """Take a place on a route for a new handshake; False if the user already has ``limit`` places.

        A limit of 0 means none, yet the place counts, in case a later configuration sets one. Without a user id
        (public route, no token) there is no user to limit. Each True needs one ``release``.
        """
        if not user_id:
            return True
        key = (route_key, user_id)
        held = self._places.get(key, 0)
        if limit and held >= limit:
            return False
        self._places[key] = held + 1
        return True

    def release(self, route_key: RouteKey, user_id: str) -> None:
        """Return a place: the handshake failed, or its socket is gone."""
        key = (route_key, user_id)
        held = self._places.get(key, 0)
        if held > 1:
            self._places[key] = held - 1
        else:
            self._places.pop(key, None)

    def count(self, route_key: RouteKey, user_id: str) -> int:
        """Return how many places a user has on a route: live sockets and handshakes in progress."""
        return self._places.get((route_key, user_id), 0)

    def places(self) -> tuple[tuple[RouteKey, str], ...]:
        """Return every (route, user) with a place."""
        return tuple(self._places)

    # The drain.

    async def end_all(self, ending: Ending, over_seconds: float) -> None:
        """Close every socket, evenly spread, so that clients don't all reconnect at once.

        Sockets that close by themselves meanwhile are skipped; those added meanwhile are closed at the end.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        waiting = list(self._sockets.values())
        total = len(waiting)
        told: set[str] = set()
        while waiting:
            passed = (loop.time() - started) / over_seconds if over_seconds > 0 else 1.0
            due = min(total, int(passed * total) + 1)
            while total - len(waiting) < due:
                socket = waiting.pop()
                if socket.id in self._sockets:
                    socket.end(ending)
                    told.add(socket.id)
            if waiting:
                await asyncio.sleep(max(_TICK, over_seconds / total))
        end_each((socket for socket in self if socket.id not in told), ending)

    # The indexes.

    def _file(self, socket: LiveSocket) -> None:
        if (identity := socket.identity) is None:
            return
        self._filed[socket.id] = (identity.user_id, identity.fingerprint)
        self._by_user.setdefault(identity.user_id, {})[socket.id] = socket
        self._by_fingerprint.setdefault(identity.fingerprint, {})[socket.id] = socket

    def _unfile(self, socket: LiveSocket) -> None:
        if (filed := self._filed.pop(socket.id, None)) is None:
            return
        for index, key in ((self._by_user, filed[0]), (self._by_fingerprint, filed[1])):
            shelf = index[key]
            del shelf[socket.id]
            if not shelf:
                del index[key]


def end_each(sockets: Iterable[LiveSocket], ending: Ending) -> int:
    """Close these sockets; return how many."""
    picked = tuple(sockets)  # before the first one closes, and may leave the registry
    for socket in picked:
        socket.end(ending)
    return len(picked)
