"""Names for what travels between the rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

RawHeaders = list[tuple[bytes, bytes]]
"""(name, value) pairs as in an ASGI scope: names lowercase, values undecoded, order and repeats kept."""

ClosedBy = Literal["client", "backend", "gateway"]
"""Who ended a socket first."""

Kind = Literal["http", "websocket"]
"""What a route carries; the same words as an ASGI scope's ``type``."""

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
