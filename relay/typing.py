"""Types shared by the parts of the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

RawHeaders = list[tuple[bytes, bytes]]
"""(name, value) pairs as in an ASGI scope: names lowercase, values undecoded, order and repeats kept."""

ClosedBy = Literal["client", "backend", "gateway"]
"""Who ended a socket first."""

Kind = Literal["http", "websocket"]
"""What a route carries; the same words as an ASGI scope's ``type``."""


class Traffic(NamedTuple):
    """What was relayed: complete messages and their payload bytes. The names are those of the log's fields."""

    messages_to_backend: int = 0
    messages_to_client: int = 0
    bytes_to_backend: int = 0
    bytes_to_client: int = 0


Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
