"""Relay a socket as ASGI messages, under servers that can't hand over their connection (Daphne, uvicorn …).

It behaves like the tunnel as far as ASGI and the server allow, except: messages are whole, never fragmented; each side
has its own pings; ``permessage-deflate`` is not offered to the backend; a close frame without a code reaches the client
with 1000. Stock Daphne drops empty messages and close reasons, and can send few close codes
(`close_codes.for_stock_daphne`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from relay.live.registry import RATE, Ending
from relay.rate import TokenBucket
from relay.typing import Message, Receive, Send, Traffic
from relay.websocket import close_codes
from relay.websocket.backend_side import BackendSide, Gone
from relay.websocket.carrier import Outcome, Terms, code_for_other
from relay.websocket.frames import Close, Violation
from relay.websocket.lifetime import Lifetime


class MessageRelay:
    """A socket relayed as messages.

    Args:
        backend: The backend's transport, paused since the handshake.
        early: What the backend sent along with its 101.
        receive: ASGI's; only messages and the disconnect are still to come.
        send: ASGI's, after the accept.
        close_code: Maps a close code (None: no code) to the one to give to the server.

    Attributes:
        ending: How it ended, as soon as that is certain.
        client_left: Done when nothing more can be sent to the client.
    """

    def __init__(
        self,
        backend: asyncio.Transport,
        early: bytes,
        terms: Terms,
        receive: Receive,
        send: Send,
        close_code: Callable[[int | None], int],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._limits, self._max_size = loop, terms.limits, terms.max_message_size
        self._receive, self._send, self._close_code = receive, send, close_code
        self._backend = BackendSide(backend, terms.max_message_size, terms.limits)
        self._early = early
        self._bucket = TokenBucket(terms.message_rate, loop.time()) if terms.message_rate else None
        self._ways: tuple[asyncio.Task[None], ...] = ()
        self._for_client: Close | None = None  # the close frame that each side is still to get
        self._for_backend: Close | None = None
        self.lifetime = Lifetime(
            (self._backend,),
            self.end,
            expires_at=terms.expires_at,
            idle_timeout=terms.idle_timeout,
            limits=terms.limits,
        )
        self._messages_to_backend = self._messages_to_client = 0
        self._bytes_to_backend = self._bytes_to_client = 0
        self.ending: Outcome | None = None
        self.client_left: asyncio.Future[None] = loop.create_future()

    @property
    def traffic(self) -> Traffic:
        """What it has relayed so far."""
        return Traffic(
            self._messages_to_backend, self._messages_to_client, self._bytes_to_backend, self._bytes_to_client
        )

    async def carry(self) -> None:
        """Relay until both sides are closed, or have had time to close."""
        self._ways = (
            asyncio.create_task(self._client_to_backend(), name="client->backend"),
            asyncio.create_task(self._backend_to_client(), name="backend->client"),
        )
        try:
            self._backend.start(self._early)
            if self.ending is None:
                self.lifetime.start()
                await asyncio.wait(self._ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.lifetime.stop()
            for way in self._ways:
                way.cancel()
            results = await asyncio.gather(*self._ways, return_exceptions=True)
            failure = next((result for result in results if isinstance(result, Exception)), None)
            self._settle(
                Outcome(close_codes.INTERNAL_ERROR, "", "gateway", str(failure or "cancelled")),
                for_client=Close(close_codes.INTERNAL_ERROR),
                for_backend=Close(close_codes.GOING_AWAY),
            )
            await self._close_both()
        if failure is not None:
            raise failure

    def end(self, ending: Ending) -> None:
        """End it on behalf of the gateway. Returns at once; the first ending counts."""
        if self.ending is None:
            self._settle(
                Outcome(ending.code, ending.reason, "gateway"),
                for_client=Close(ending.code, ending.reason),
                for_backend=Close(close_codes.GOING_AWAY),
            )
            for way in self._ways:
                way.cancel()

    # The two ways

    async def _client_to_backend(self) -> None:
        while self.ending is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._disconnected(message)
                return
            text = message.get("text")
            payload: str | bytes = message["bytes"] if text is None else text
            size = len(payload if text is None else text.encode())
            if self._admits(size):
                self._messages_to_backend += 1
                self._bytes_to_backend += size
                await self._backend.send(payload)

    async def _backend_to_client(self) -> None:
        while self.ending is None:
            event = await self._backend.receive()
            if isinstance(event, str | bytes):
                kind = "text" if isinstance(event, str) else "bytes"
                self.lifetime.active = self._loop.time()
                try:
                    await self._send({"type": "websocket.send", kind: event})
                except OSError as exc:  # ASGI: the client has left
                    self._disconnected({"code": close_codes.ABNORMAL, "reason": str(exc)})
                    return
                self._messages_to_client += 1
                self._bytes_to_client += len(event.encode() if isinstance(event, str) else event)
            else:
                self._backend_ended(event)

    def _admits(self, size: int) -> bool:
        """Check a client's message against the limits; if it exceeds one, end the socket."""
        now = self.lifetime.active = self._loop.time()
        if self._max_size and size > self._max_size:
            text = f"a message of more than {self._max_size} bytes"
            self._settle(
                Outcome(close_codes.MESSAGE_TOO_BIG, "", "gateway", f"the client sent {text}"),
                for_client=Close(close_codes.MESSAGE_TOO_BIG, text),
                for_backend=Close(close_codes.GOING_AWAY),
            )
            return False
        if self._bucket is not None and self._bucket.take(now):
            self.end(RATE)
            return False
        return True

    # What ends it

    def _disconnected(self, message: Message) -> None:
        """Handle a client that has closed, or is gone (1006)."""
        code, reason = message.get("code"), message.get("reason") or ""
        if code is None or code == close_codes.NO_CODE:
            self._settle(Outcome(close_codes.NO_CODE, "", "client"), for_backend=Close(None))
        elif close_codes.may_travel(code):
            self._settle(Outcome(code, reason, "client"), for_backend=Close(code, reason))
        else:
            detail = "the client left without a close frame"
            self._settle(Outcome(close_codes.ABNORMAL, "", "client", detail), for_backend=Close(close_codes.GOING_AWAY))

    def _backend_ended(self, event: Close | Violation | Gone) -> None:
        """Handle a backend that has closed, broken the protocol (and been sent a close frame), or is gone."""
        if isinstance(event, Close):
            self._settle(Outcome(event.code or close_codes.NO_CODE, event.reason, "backend"), for_client=event)
        elif isinstance(event, Violation):
            code = code_for_other("backend", event.code)
            self._settle(Outcome(code, "", "gateway", f"the backend sent {event.text}"), for_client=Close(code))
        else:
            code, detail = close_codes.BAD_GATEWAY, f"the backend left without a close frame: {event.why}"
            self._settle(Outcome(code, "", "backend", detail), for_client=Close(code))

    def _settle(self, outcome: Outcome, *, for_client: Close | None = None, for_backend: Close | None = None) -> None:
        if self.ending is None:
            self.ending, self._for_client, self._for_backend = outcome, for_client, for_backend

    async def _close_both(self) -> None:
        try:
            if self._for_backend is not None:
                self._backend.close(self._for_backend)
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._limits.close):
                    if (close := self._for_client) is not None:
                        code = self._close_code(close.code)
                        await self._send({"type": "websocket.close", "code": code, "reason": close.reason})
                    self._set_client_left()
                    await asyncio.shield(self._backend.closed)
        finally:
            self._set_client_left()
            self._backend.abort()

    def _set_client_left(self) -> None:
        if not self.client_left.done():
            self.client_left.set_result(None)
