"""A live socket without a wire, for what only looks at sockets: registry, changes, metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from relay.identity.model import Identity
from relay.live.registry import Ending
from relay.routing.snapshot import Backend, Route, Url
from relay.typing import Traffic

URL = Url.parse("http://127.0.0.1:9000")
MAIN = Backend("main", (URL,))
CHAT = Route("/ws", "websocket", "main")
NONE_YET = Traffic()

_numbers = count(1)


def identity(user_id: str = "1", fingerprint: str = "f1", roles: tuple[str, ...] = ("user",)) -> Identity:
    """Who a token names, by what matters to the live sockets."""
    return Identity(user_id, "", ",".join(roles), roles, 2e9, None, "", fingerprint)


@dataclass
class Socket:
    """A `LiveSocket` that remembers how it was ended."""

    identity: Identity | None = None
    route: Route = CHAT
    backend: Backend = MAIN
    url: Url = URL
    origin: str = ""
    client: str = "127.0.0.1"
    opened_at: float = 0.0
    traffic: Traffic = NONE_YET
    id: str = field(default_factory=lambda: f"socket-{next(_numbers)}")
    ended: list[Ending] = field(default_factory=list)

    def end(self, ending: Ending) -> None:
        self.ended.append(ending)
