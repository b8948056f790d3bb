"""``/gateway/ticket``: a one-time substitute for the token in a WebSocket's URL (contract, section 6)."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from django.http import HttpResponse, JsonResponse

from relay.http.request import RelayRequest
from relay.identity.model import Identity
from relay.identity.tickets import LIFETIME, LONGEST_ORIGIN, LONGEST_PATH
from relay.pages.posts import explained, for_token_holders


@for_token_holders()
async def ticket(request: RelayRequest, identity: Identity, body: dict[str, Any]) -> HttpResponse:
    """Issue a ticket for one path and this request's origin."""
    origin = request.origin or ""
    if len(origin) > LONGEST_ORIGIN:
        raise explained(f"The Origin is longer than {LONGEST_ORIGIN} characters.")
    issued = await request.runtime.tickets.issue(identity, _path(body), origin)
    return JsonResponse({"ticket": issued, "expires_in": LIFETIME})


def _path(body: dict[str, Any]) -> str:
    """The ticket's path, decoded as a handshake's path will be.

    Raises:
        Refused: There is none, or it is not a plain path.
    """
    path = body.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise explained('The path is missing: send {"path": "/ws"}, the path of the WebSocket.')
    if "?" in path or "#" in path:
        raise explained("The path has a query or fragment; send only the path.")
    if len(path) > LONGEST_PATH:
        raise explained(f"The path is longer than {LONGEST_PATH} characters.")
    decoded = unquote(path)
    if not decoded.isprintable():
        raise explained("The path contains an unprintable character.")
    return decoded
