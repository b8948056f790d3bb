"""Refuse a handshake: with a status or, if its route says so, by accepting and closing."""

from __future__ import annotations

from relay import forwarding
from relay.refusals import Refusal
from relay.routing.snapshot import Route
from relay.typing import Scope, Send


def close_code_of(refusal: Refusal, route: Route | None) -> int | None:
    """The code to accept and close with; None: the client gets a status."""
    return refusal.close_code if route is not None and route.refuse_with == "close" else None


async def refuse(scope: Scope, send: Send, refusal: Refusal, close_code: int | None, request_id: str) -> None:
    """Refuse the handshake; if the server can't send a response to one, it sends its own 403.

    Raises:
        OSError: The client has left (ASGI).
    """
    if close_code is not None:
        # A browser fails a handshake if it offered subprotocols and none is chosen.
        offered = forwarding.subprotocols(scope)
        headers = [(b"x-request-id", request_id.encode())]
        await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None, "headers": headers})
        await send({"type": "websocket.close", "code": close_code, "reason": refusal.sentence})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        body = refusal.body(request_id)
        headers = refusal.headers(request_id, body)
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close"})
