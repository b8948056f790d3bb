"""The backend's side of a socket relayed as messages: websockets' sans-I/O protocol on the dialled transport."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from relay.websocket.frames import Close, Violation
from relay.websocket.lifetime import Limits

_MOST_BYTES = 64 * 1024
_MOST_MESSAGES = 64
"""Limits on what is buffered for the client before reading from the backend pauses; one message may be larger."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The backend left without a close frame."""

    why: str


Event = str | bytes | Close | Violation | Gone


class BackendSide(asyncio.Protocol):
    """Sends and receives whole messages; answers pings and the closing handshake by itself.

    Args:
        transport: After the handshake, paused.
        max_size: Payload bytes of a message; 0: no limit.

    Attributes:
        closed: Done when the transport is closed.
    """

    def __init__(self, transport: asyncio.Transport, max_size: int, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, self._limits = transport, limits
        self._protocol = Protocol(Side.CLIENT, state=OPEN, max_size=max_size or None)
        self._parts: list[bytes] = []  # of a fragmented message
        self._is_text = False
        self._events: deque[Event] = deque()
        self._queued = 0  # bytes in the events
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._over = False  # the last event has been queued
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.heard = self.pinged = 0.0

    def start(self, early: bytes) -> None:
        """Take over the transport, with the data that came along with the 101."""
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)
            return
        if early:
            self.data_received(early)
        if not self._full():
            self._transport.resume_reading()

    # For the relay

    async def receive(self) -> Event:
        """The next message, or the end: a close frame, a protocol violation, or neither."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        self._queued -= _size(event)
        if not self._full():
            self._transport.resume_reading()
        return event

    async def send(self, message: str | bytes) -> None:
        """Send a message, and wait while the backend accepts no more; after its close, messages are dropped."""
        if self._protocol.state is OPEN:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
            self._flush()
        await self._writable.wait()

    def close(self, close: Close) -> None:
        """Start the closing handshake, unless one has started."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(close.code, close.reason)
            self._flush()
        self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection, if it is still open."""
        self._transport.abort()

    # Life (`lifetime.Side`)

    def listening(self) -> bool:
        """Whether it is being read."""
        return not self._full()

    def ping(self) -> None:
        """Send a ping."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()

    def vanish(self) -> None:
        """It does not answer: cut it off."""
        self._end(Gone(f"no byte within {self._limits.pong:g} s of a ping"))
        self._transport.abort()

    # asyncio

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        self._flush()
        if (close := self._protocol.close_rcvd) is not None:
            self._end(Close(None if close.code == 1005 else close.code, close.reason))
        elif (exc := self._protocol.parser_exc) is not None and self._protocol.close_sent is not None:
            self._end(Violation(self._protocol.close_sent.code, str(exc)))
        if self._full():
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._end(Gone("end of TCP"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Gone(str(exc or "end of TCP")))
        self._writable.set()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Inside

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        message, self._parts = b"".join(self._parts), []
        try:
            self._put(message.decode() if self._is_text else message)
        except UnicodeDecodeError:
            self._protocol.fail(1007, "text that is not UTF-8")
            self._end(Violation(1007, "text that is not UTF-8"))

    def _end(self, event: Event) -> None:
        if not self._over:
            self._put(event)
            self._over = True

    def _put(self, event: Event) -> None:
        if not self._over:
            self._events.append(event)
            self._queued += _size(event)
            self._arrived.set()

    def _full(self) -> bool:
        return not self._over and (self._queued >= _MOST_BYTES or len(self._events) >= _MOST_MESSAGES)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data and not self._transport.is_closing():
                self._transport.write(data)


def _size(event: Event) -> int:
    return len(event) if isinstance(event, str | bytes) else 0
