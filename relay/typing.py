"""Names for what travels between the rooms."""

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
    """What was carried: whole messages, and the bytes of their payload. Its names are those of the log's fields."""

    messages_to_backend: int = 0
    messages_to_client: int = 0
    bytes_to_backend: int = 0
    bytes_to_client: int = 0


Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
