"""One side of a tunnel: reads from its transport and writes to the other side's.

Reading is the hot path: one `feed` and one `write` for each read. Anything that needs more (a message rate, an idle
timeout, a frame of ours waiting for a boundary, an ending in progress) turns `plain` off and takes the slow path.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from relay.rate import TokenBucket
from relay.typing import ClosedBy
from relay.websocket.frames import Scanner, close_frame, ping_frame
from relay.websocket.lifetime import Limits

if TYPE_CHECKING:
    from relay.websocket.tunnel import Tunnel

READ_SIZE = 64 * 1024
"""Bytes read at once, into a buffer shared by all sockets of a loop."""

HIGH_WATER = 48 * 1024
"""Unsent bytes at which the other side is no longer read. With one more read each way: 224 KiB per socket."""

_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def _shared_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The loop's read buffer: it is filled and emptied within one callback, so all sockets can share it."""
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(READ_SIZE))
    return buffer


class Leg(asyncio.BufferedProtocol):
    """The protocol of one of a tunnel's two transports.

    Args:
        name: Which side it is.
        scanner: Scans what this side sends.

    Attributes:
        peer: The leg of the other side; set by the tunnel.
        plain: Data can be passed on without further checks.
        said: This side has sent a close frame.
        told: This side was sent a close frame or the end of TCP: nothing more may be written to it.
        gone: Nothing more will come from this side.
        lost: Its transport is closed.
        waiting: A frame of ours for this side, held until a frame in flight to it ends.
        full: This side reads too slowly: meanwhile, the other side is not read.
        deaf: This side has broken the protocol: whatever it sends is ignored.
    """

    __slots__ = (
        "_buffer",
        "_carried",
        "_limits",
        "_loop",
        "_now",
        "_timer",
        "_unsent",
        "bucket",
        "deaf",
        "full",
        "gone",
        "heard",
        "lost",
        "name",
        "peer",
        "pinged",
        "plain",
        "said",
        "scanner",
        "told",
        "transport",
        "tunnel",
        "waiting",
    )

    peer: Leg
    transport: asyncio.Transport

    def __init__(self, tunnel: Tunnel, name: ClosedBy, scanner: Scanner, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = _shared_buffer(self._loop)
        self._now = self._loop.time
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self.full = False
        self._unsent = 0  # bytes waiting for it at the last check
        self._carried: tuple[int, int] | None = None  # the counts when the other side was told to close
        self.waiting = b""
        self.tunnel, self.name, self.scanner = tunnel, name, scanner
        self.bucket: TokenBucket | None = None
        self.plain = True
        self.said = self.told = self.gone = self.lost = self.deaf = False
        self.heard = self.pinged = 0.0

    def start(self) -> None:
        """Take over `transport`, which may already be closed, or still have data to send."""
        transport = self.transport
        if transport.is_closing():
            self.connection_lost(None)
            return
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=HIGH_WATER, low=HIGH_WATER // 4)

    def listen(self) -> None:
        """Resume reading, unless the other side is full."""
        peer = self.peer
        if not self.gone and (peer.told or peer.gone or not peer.full):
            self.transport.resume_reading()

    def untie(self) -> None:
        """Drop the references to the tunnel and the peer, once both transports are closed."""
        del self.tunnel, self.peer

    # Reading

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = self._now()
        self.receive(self._buffer[:nbytes].tobytes())

    def receive(self, data: bytes) -> None:
        """Pass on what the scanner allows, and let the tunnel act on its verdict."""
        if not self.plain:
            self._receive_carefully(data)
            return
        scanner = self.scanner
        if passed := scanner.feed(data):
            self.peer.transport.write(passed)
        if scanner.verdict is not None:
            self.tunnel.judged(self)

    def _receive_carefully(self, data: bytes) -> None:
        if self.deaf:
            return
        scanner, peer = self.scanner, self.peer
        if self.bucket is not None:
            scanner.allowance = scanner.messages + self.bucket.available(self.heard)
        messages, frames = scanner.messages, scanner.frames
        if peer.waiting and len(data) >= scanner.need:
            end = scanner.need
            self._pass(data[:end])
            data = data[end:]
            peer.boundary()
        self._pass(data)
        if self.bucket is not None:
            self.bucket.spend(scanner.messages - messages)
        if scanner.frames != frames or scanner.need:
            self.tunnel.lifetime.active = self.heard
        if scanner.verdict is not None and not self.said:
            self.tunnel.judged(self)

    def _pass(self, data: bytes) -> None:
        """Pass data on; once the other side was told to close, only scan it for a close frame."""
        if not (self.peer.told or self.peer.gone):
            if passed := self.scanner.feed(data):
                self.peer.transport.write(passed)
        else:
            self._carried = self.carried
            self.scanner.feed(data)

    @property
    def carried(self) -> tuple[int, int]:
        """Messages passed on, and their payload bytes."""
        return self._carried or (self.scanner.messages, self.scanner.payload_bytes)

    def eof_received(self) -> bool:
        """Handle the end of TCP from this side; our direction stays open if its close frame is unanswered."""
        if self.said and not self.told and self.transport.can_write_eof():
            return True
        self.tunnel.left(self, "")
        self._shut()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.tunnel.left(self, str(exc or ""))

    # Writing

    def pause_writing(self) -> None:
        self.full = True
        self._unsent = self.transport.get_write_buffer_size()
        if not (self.told or self.peer.gone):
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        self.heard = self._now()
        self.peer.listen()

    def boundary(self) -> None:
        """Send the frame that waited for the end of a frame in flight."""
        frame, self.waiting = self.waiting, b""
        if not frame or self.told or self.gone:
            return
        if self.tunnel.ending is None:
            self.transport.write(frame)
            self.tunnel.replan()
        else:
            self._close_with(frame)

    # Life (`lifetime.Side`)

    def listening(self) -> bool:
        """Whether its silence counts: it is being read, and is not busy receiving, even slowly."""
        if self.waiting and not self.full:
            return False  # our ping waits for the end of a frame, which this side is still receiving
        if self.full:
            unsent = self.transport.get_write_buffer_size()
            moved, self._unsent = unsent < self._unsent, unsent
            if moved:
                return False
        return not self.peer.full

    def ping(self) -> None:
        """Send a ping between two frames, with our own payload, so that its pong can be recognised."""
        if self.scanner.own_pong is None:
            self.scanner.own_pong = os.urandom(8)
        self.waiting = ping_frame(self.scanner.own_pong, masked=self.name == "backend")
        if self.peer.scanner.need:
            self.tunnel.replan()
        else:
            self.boundary()

    def vanish(self) -> None:
        """Cut off a side that does not answer."""
        self.tunnel.left(self, f"no byte within {self._limits.pong:g} s of a ping")
        self.transport.abort()

    # Ending

    def tell(self, code: int | None, reason: str = "") -> None:
        """Close this side: with a close frame, once no frame is in flight to it, or with the end of TCP."""
        if self.told or self.gone or self.transport.is_closing():
            return
        frame = close_frame(code, reason, masked=self.name == "backend")
        if not self.peer.scanner.need:
            self._close_with(frame)
        elif self.peer.gone or self.peer.deaf:  # the rest of the frame won't come
            self.cut()
        else:
            self.waiting = frame
            self._after(self._limits.frame, self.cut)

    def was_told(self) -> None:
        """Record that a close frame was sent to this side."""
        self.told = True
        self.waiting = b""
        self.peer.listen()  # nothing is passed on any more, so the peer need not be paused
        if self.said:
            self.finish()
        else:
            self._after(self._limits.close, self.transport.abort)

    def finish(self) -> None:
        """Close TCP after both close frames have been exchanged: the server does so first (RFC 6455 §7.1.1)."""
        if self.name == "client":
            self._shut()
        else:
            self._after(self._limits.tcp, self._shut)

    def cut(self) -> None:
        """End TCP without a close frame."""
        self.told = True
        self.peer.listen()
        self._shut()

    def _close_with(self, frame: bytes) -> None:
        self.transport.write(frame)
        self.was_told()
        if self.deaf and self.name == "client" and not self.lost:
            self._end_of_tcp()

    def _end_of_tcp(self) -> None:
        """End TCP in our direction, and drop what still arrives: closing a socket with unread bytes would reset it,
        and the reset could overtake our close frame (RFC 6455 §7.1.1, RFC 1122 §4.2.2.13)."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self._shut()

    def _shut(self) -> None:
        """Close the transport once it has sent everything, or after a while in any case."""
        self.transport.close()
        if not self.lost:
            self._after(self._limits.close, self.transport.abort)

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then)
