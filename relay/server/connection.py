"""The common part of HTTP and WebSocket connections: a transport with backpressure in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from relay.typing import Scope

if TYPE_CHECKING:
    from relay.server.head import Head
    from relay.server.host import Host

_RESET = struct.pack("ii", 1, 0)  # linger on, for 0 s
_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR

Address = tuple[str, int] | tuple[str, None]


def address(name: Any) -> Address | None:
    """ASGI's ``client`` or ``server`` for a socket name: host and port, or the path of a Unix socket."""
    if isinstance(name, tuple):
        return name[0].removeprefix("::ffff:") if "." in name[0] else name[0], name[1]  # IPv4 on a socket for both
    return (name, None) if name and isinstance(name, str) else None


class Connection(asyncio.Protocol):
    """The client's end.

    Attributes:
        deadline: When `_timed_out` is called, by the event loop's clock; 0: never.
        writable: Cleared while the client is slow; None if it never was.
        reading: False while reading from the client is paused.
    """

    __slots__ = (
        "_unsent",
        "_unsent_since",
        "client",
        "deadline",
        "host",
        "loop",
        "reading",
        "secure",
        "server",
        "transport",
        "writable",
    )

    transport: asyncio.Transport

    def __init__(self, host: Host) -> None:
        self.host = host
        self.loop = host.loop
        self.client: Address | None = None
        self.server: Address | None = None
        self.secure = False
        self.deadline = 0.0
        self.writable: asyncio.Event | None = None
        self.reading = True
        self._unsent = 0
        self._unsent_since = 0.0

    def _scope(self, head: Head, **own: Any) -> Scope:
        """ASGI's scope for a head: what both protocols share, and one's own keys."""
        path = head.raw_path.decode("ascii")
        return {
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1" if head.minor else "1.0",
            "path": unquote(path) if "%" in path else path,
            "raw_path": head.raw_path,
            "query_string": head.query or b"",
            "root_path": self.host.root_path,
            "headers": head.headers,
            "client": self.client,
            "server": self.server,
            **own,
        }

    # Backpressure:

    def pause_writing(self) -> None:
        if self.writable is None:
            self.writable = asyncio.Event()
        self.writable.clear()

    def resume_writing(self) -> None:
        self._unsent = 0
        if self.writable is not None:
            self.writable.set()

    def pause_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # Time:

    def check_timeouts(self, now: float) -> None:
        """Called every `Limits.sweep` seconds."""
        if self.deadline and now >= self.deadline:
            self._timed_out()
        elif self.transport.is_closing() or (self.writable is not None and not self.writable.is_set()):
            self._check_writing(now)
        elif not self.reading and self._hung_up():
            self._left()

    def _check_writing(self, now: float) -> None:
        """Cut off a client that reads none of the data waiting for it."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif unsent and now - self._unsent_since > self.host.limits.write_time:
            self.transport.abort()

    def _hung_up(self) -> bool:
        """Whether the client has closed its end after bytes that are still unread: the event loop can't see that."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    def _timed_out(self) -> None:
        """Called when `deadline` has passed."""
        raise NotImplementedError

    def _left(self) -> None:
        """Called when the client has gone."""
        raise NotImplementedError

    # The end:

    def busy(self) -> bool:
        """Whether something is still to be done, or written, for this client."""
        return self.transport.get_write_buffer_size() > 0

    def drain(self) -> None:
        """Accept no new work from now on."""

    def linger(self, seconds: float) -> None:
        """Close, but read on for a while: a reset because of unread bytes could destroy our answer (RFC 9112 §9.6)."""
        self.deadline = self.loop.time() + seconds
        self.resume_reading()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # asyncio's own transports: it was reset meanwhile
                self.transport.write_eof()

    def reset(self) -> None:
        """Reset the connection, so that no client takes this for the end of a message."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()
