"""Relay a socket as bytes: two transports, a frame scanner for each direction, and the rules for how it ends.

After the accept, the server hands over its client's transport (``relay.tunnel``); from then on, bytes go straight from
one transport to the other. The scanners, the clock or the gateway itself end it, according to the table in the
contract, section 6.
"""

from __future__ import annotations

import asyncio

from relay.live.registry import Ending
from relay.rate import TokenBucket
from relay.typing import Send, Traffic
from relay.websocket import close_codes
from relay.websocket.carrier import Outcome, Terms, code_for_other
from relay.websocket.frames import Close, Scanner, Violation
from relay.websocket.legs import Leg
from relay.websocket.lifetime import Lifetime


class Tunnel:
    """A socket relayed as bytes.

    Args:
        backend: The backend's transport, paused since the handshake.
        early: What the backend sent along with its 101.
        send: ASGI's, after the accept.
        deflate: Whether client and backend agreed on ``permessage-deflate``.

    Attributes:
        ending: How it ended, as soon as that is certain.
        client_left: Done when the client is gone.
        closed: Done when both transports are closed.
    """

    def __init__(
        self, backend: asyncio.Transport, early: bytes, terms: Terms, send: Send, *, deflate: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        self._send = send
        limit, limits = terms.max_message_size, terms.limits
        self.client = Leg(self, "client", Scanner(masked=True, deflate=deflate, max_message=limit), limits)
        self.backend = Leg(self, "backend", Scanner(masked=False, deflate=deflate, max_message=limit), limits)
        self.client.peer, self.backend.peer = self.backend, self.client
        self.backend.transport, self._early = backend, early
        if terms.message_rate is not None:
            self.client.bucket = TokenBucket(terms.message_rate, loop.time())
        self._watched = bool(terms.idle_timeout or terms.message_rate)
        self.lifetime = Lifetime(
            (self.client, self.backend),
            self.end,
            expires_at=terms.expires_at,
            idle_timeout=terms.idle_timeout,
            limits=limits,
        )
        self.ending: Outcome | None = None
        self.client_left: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.closed.add_done_callback(self._untie)
        self._attached = False
        self._ordered: Ending | None = None  # an ending by the gateway

    async def carry(self) -> None:
        """Have the server hand over its client, and relay until both transports are closed.

        If there is none to hand over, the client has left during the handshake.
        """
        try:
            await self._send({"type": "relay.tunnel", "attach": self.attach})
            if not self._attached:
                self.client.lost = True
                self.left(self.client, "during the handshake")
                self.backend.start()
            await asyncio.shield(self.closed)
        finally:
            if not self.closed.done():
                self.abort()

    def attach(self, client: asyncio.Transport, leftover: bytes) -> asyncio.Future[None]:
        """Take over the client's transport from the server, and start relaying.

        Args:
            leftover: What the client sent after its handshake.

        Returns:
            `closed`.
        """
        self._attached = True
        self.client.transport = client
        self.replan()
        for leg in (self.client, self.backend):
            leg.start()
        if self.ending is None:
            self.lifetime.start()
        elif self._ordered is not None:
            self._tell_both(self._ordered)
        self.backend.receive(self._early)
        self.client.receive(leftover)
        self._early = b""
        for leg in (self.client, self.backend):
            leg.listen()
        return self.closed

    def abort(self) -> None:
        """Cut both sides at once."""
        self._settle(Outcome(close_codes.ABNORMAL, "", "gateway", "cut"))
        self.backend.transport.abort()
        if self._attached:
            self.client.transport.abort()
        else:
            _done(self.client_left)

    @property
    def traffic(self) -> Traffic:
        """What it has relayed so far."""
        (messages_up, bytes_up), (messages_down, bytes_down) = self.client.carried, self.backend.carried
        return Traffic(messages_up, messages_down, bytes_up, bytes_down)

    # What ends it

    def end(self, ending: Ending) -> None:
        """End it on behalf of the gateway. Returns at once; the first ending counts."""
        if self._settle(Outcome(ending.code, ending.reason, "gateway")):
            self._ordered = ending
            if self._attached:
                self._tell_both(ending)

    def _tell_both(self, ending: Ending) -> None:
        self.client.tell(ending.code, ending.reason)
        self.backend.tell(close_codes.GOING_AWAY)

    def judged(self, leg: Leg) -> None:
        """Act on the scanner's verdict: the leg's close frame, which has been passed on, or its violation."""
        verdict = leg.scanner.verdict
        if isinstance(verdict, Close):
            leg.said = True
            self._settle(Outcome(verdict.code or close_codes.NO_CODE, verdict.reason, leg.name))
            if not (leg.peer.told or leg.peer.gone):
                leg.peer.was_told()
            if leg.told:
                leg.finish()
        elif isinstance(verdict, Violation):
            leg.deaf = True
            other = code_for_other(leg.name, verdict.code)
            code = verdict.code if leg is self.client else other
            self._settle(Outcome(code, "", "gateway", f"the {leg.name} sent {verdict.text}"))
            leg.tell(verdict.code, verdict.text)
            leg.peer.tell(other)

    def left(self, leg: Leg, why: str) -> None:
        """Act on the end of a side's TCP; called again when its transport is closed."""
        if not leg.gone:
            leg.gone = True
            code = close_codes.ABNORMAL if leg is self.client else close_codes.BAD_GATEWAY
            self._settle(
                Outcome(code, "", leg.name, f"the {leg.name} left without a close frame: {why or 'end of TCP'}")
            )
            self._tell_who_stays(leg.peer)
            if leg is self.client:
                self.client_left.set_result(None)
        if self.client.lost and self.backend.lost and not self.closed.done():
            self.closed.set_result(None)

    def _tell_who_stays(self, leg: Leg) -> None:
        """Answer its close frame in place of the side that left, or tell it why nothing more will come."""
        if leg.gone:
            return
        leg.listen()
        verdict = leg.scanner.verdict
        if isinstance(verdict, Close):
            leg.tell(verdict.code, verdict.reason)
        else:
            leg.tell(close_codes.BAD_GATEWAY if leg is self.client else close_codes.GOING_AWAY)

    def _settle(self, outcome: Outcome) -> bool:
        """Keep the outcome if it is the first; from then on the lifetime stops, and no data takes the fast path."""
        if self.ending is not None:
            return False
        self.ending = outcome
        self.lifetime.stop()
        self.replan()
        return True

    def _untie(self, _: object) -> None:
        """Break the reference cycles between our parts: the garbage collector would pause all sockets to find them."""
        self.client.untie()
        self.backend.untie()
        del self.lifetime

    def replan(self) -> None:
        """Decide which legs may take the fast path."""
        plain = self.ending is None and not self._watched
        self.client.plain = plain and not self.backend.waiting
        self.backend.plain = plain and not self.client.waiting


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
