"""Authentication: puts an Identification into ``scope["identity"]``, for HTTP and WebSocket alike.

It refuses nobody: what a bad token means depends on the route, which `relay.access` judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relay.database import DatabaseUnavailable
from relay.entry import field
from relay.identity.errors import TokenError, UnknownKey
from relay.identity.model import NOBODY, Identification, Presented, TokenPlace
from relay.identity.places import TICKET, Found, Places, parameters
from relay.identity.revocation import Revocations
from relay.identity.tickets import InvalidTicket, Tickets
from relay.identity.tokens import Verifier, choose
from relay.typing import ASGIApp, Receive, Scope, Send

MOST_TOKENS = 16  # verified per request; browsers and proxies together send two or three


class Examiner:
    """Judges tokens by signature, claims, time and revocation."""

    def __init__(self, verifier: Verifier, revocations: Revocations) -> None:
        self.verifier, self.revocations = verifier, revocations

    async def identify(self, found: Sequence[Found]) -> Identification:
        """Identify the client that sent these tokens.

        Waits only for the fetch of a key that could make one of them valid.
        """
        if self.verifier.jwks is not None:
            self.verifier.jwks.refresh_if_due()
        who = self.examine(found)
        if self.verifier.jwks is not None and who.identity is None and any(p.unknown_key for p in who.presented):
            await self.verifier.jwks.newer()
            who = self.examine(found)
        return who

    def examine(self, found: Sequence[Found]) -> Identification:
        """Like `identify`, with the keys already fetched."""
        if not found:
            return NOBODY
        if len({value for _, value in found}) > MOST_TOKENS:
            detail = f"{len(found)} tokens in one request; at most {MOST_TOKENS} different ones are verified"
            return choose(
                [Presented(place, value, None, "invalid_token", detail, judged=False) for place, value in found]
            )
        return choose([self._present(place, value) for place, value in found])

    def _present(self, place: TokenPlace, value: str) -> Presented:
        try:
            identity = self.verifier.verify(value)
        except TokenError as exc:
            return Presented(place, value, None, exc.code, str(exc), isinstance(exc, UnknownKey))
        if reason := self.revocations.check(identity):
            return Presented(place, value, None, "revoked_token", reason)
        return Presented(place, value, identity)


class IdentityMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, places: Places, examiner: Examiner, tickets: Tickets) -> None:
        self._app, self._places, self._examiner, self._tickets = app, places, examiner, tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            # Into the scope itself, not a copy, so that outer layers can log the user.
            scope["identity"] = await self._identify(scope)
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Identification:
        found = self._places.find(scope)
        who = await self._examiner.identify(found) if found else NOBODY
        if scope["type"] == "websocket" and (query := scope["query_string"]):
            tickets = {ticket for ticket in parameters(query, TICKET) if ticket}
            if tickets:
                return await self._redeem(tickets, scope, who)
        return who

    async def _redeem(self, tickets: set[str], scope: Scope, beside: Identification) -> Identification:
        """Let the ticket decide; tokens sent with it are kept only so that they can be removed from the request."""
        origin = field(scope["headers"], b"origin") or ""
        refused = replace(beside, identity=None, place="")
        if len(tickets) > 1:
            return replace(refused, code="invalid_ticket", detail="several tickets in one handshake")
        try:
            identity = await self._tickets.redeem(tickets.pop(), scope["path"], origin)
        except InvalidTicket as exc:
            return replace(refused, code="invalid_ticket", detail=str(exc))
        except DatabaseUnavailable as exc:
            return replace(refused, code="database_unavailable", detail=f"ticket: {exc}")
        if reason := self._examiner.revocations.check(identity):
            return replace(refused, code="revoked_token", detail=f"ticket: {reason}")
        return replace(beside, identity=identity, place="ticket", code="", detail="")
