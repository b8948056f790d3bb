"""One connection to a backend, used for successive exchanges."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from typing import Protocol, cast

from relay.backends.balance import UrlState

NEVER = float("inf")
_LAST_WORDS = 262144  # bytes; more than any refusal that a backend sends before it hangs up


class Listener(Protocol):
    """The exchange on a connection, which gets its events (`relay.http.exchange.Exchange`)."""

    is_sending: bool

    def feed(self, data: bytes) -> None: ...
    def lost(self, exc: Exception | None) -> None: ...
    def timed_out(self) -> None: ...


class Connection(asyncio.Protocol):
    """The transport's side of an exchange: bytes, flow control, and a deadline that is cheap to move.

    Attributes:
        state: The url it is connected to, which counts as in use during an exchange.
        key: Its place in the pool.
        idle_for: Seconds it may stay there; a backend's ``Keep-Alive: timeout`` shortens them.
        is_closed: Whether the connection is lost.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        state: UrlState,
        key: tuple[str, str, bool],
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.state, self.key = state, key
        self.idle_for = 0.0
        self._on_idle, self._on_lost = on_idle, on_lost
        self._loop = asyncio.get_running_loop()
        self._exchange: Listener | None = None
        self.is_closed = False
        self._reading = True
        self._writable: asyncio.Future[None] | None = None
        self._deadline, self._timer_at = NEVER, NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._arrivals = select.poll()

    # An exchange

    def begin(self, exchange: Listener) -> None:
        self._exchange = exchange
        self._deadline = NEVER

    def end(self, reusable: bool) -> None:
        """End the exchange: return to the pool, or close."""
        self._exchange = None
        self.state.release()
        if not reusable or self.is_closed or self.transport.is_closing():
            self.abort()
            return
        self.resume_reading()
        self.expire_in(self.idle_for)
        self._on_idle(self)

    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last exchange: neither a close nor an unsolicited response.

        This asks the kernel, not the event loop, which may not have noticed yet.
        """
        return not self.is_closed and not self.transport.is_closing() and not self._arrivals.poll(0)

    def write(self, data: bytes) -> None:
        if not self.is_closed:  # uvloop's transports raise then
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the backend accepts more, or the connection is lost."""
        if self._writable is not None:
            await self._writable

    def has_arrivals(self) -> bool:
        """Whether the kernel has something to read."""
        return bool(self._arrivals.poll(0))

    def pause_reading(self) -> None:
        if self._reading and not self.is_closed:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.is_closed:
            self._reading = True
            self.transport.resume_reading()

    def abort(self) -> None:
        if not self.is_closed:
            self.transport.abort()

    # The deadline: if it moves later, the timer stays, and checks again when it fires

    def expire_in(self, seconds: float) -> None:
        """Set the deadline: then the exchange times out, or an idle connection is closed."""
        self._deadline = self._loop.time() + seconds
        if self._deadline < self._timer_at:
            self._arm()

    def expire_never(self) -> None:
        self._deadline = NEVER

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._timer_at, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self._deadline > self._loop.time():
            if self._deadline != NEVER:
                self._arm()
        elif self._exchange is not None:
            self._exchange.timed_out()
        else:
            self.abort()

    # Events from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.abort()  # an unsolicited response: what follows could be taken for another user's
        else:
            self._exchange.feed(data)

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.lost(None)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._exchange is not None and self._exchange.is_sending:
            self._hear_last_words()
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self._on_lost(self)
        if self._exchange is not None:
            self._exchange.lost(exc)

    def _hear_last_words(self) -> None:
        """Read what a backend sent before it hung up on an upload: our write failed, but its response is in the kernel.

        After a failed write the transport reads no more, but its socket is still open at this point.
        """
        if self.transport.get_extra_info("ssl_object") is not None:
            return
        with contextlib.suppress(OSError):
            descriptor = self.transport.get_extra_info("socket").fileno()
            if descriptor >= 0 and (said := os.read(descriptor, _LAST_WORDS)) and self._exchange is not None:
                self._exchange.feed(said)
