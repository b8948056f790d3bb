"""A client's HTTP/1.1 or 1.0 connection: one request after the other, each with its own `Exchange`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from relay.refusals import Refused
from relay.server import body, handshake
from relay.server.connection import Connection, address
from relay.server.exchange import Exchange
from relay.server.head import Head, HeadReader, extensions
from relay.server.ws_protocol import WebSocketProtocol

if TYPE_CHECKING:
    from relay.server.host import Host


class HTTPProtocol(Connection):
    """Reads one request at a time. Data sent ahead (pipelining) is kept, and then reading is paused.

    The connection is in one of these states: reading a head (`_exchange` is None), in an exchange, or lingering.
    """

    __slots__ = ("_ahead", "_body", "_eof", "_exchange", "_lingering", "_reader", "_started")

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._reader: HeadReader | None = None  # for a head that comes in pieces
        self._exchange: Exchange | None = None
        self._body: body.BodyReader | None = None  # for a request whose body has not ended
        self._ahead = b""  # data that came before the response to the current request was complete
        self._eof = self._lingering = False
        self._started = 0.0

    # From the transport:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self.host.limits.buffer)
        self.client = address(transport.get_extra_info("peername"))
        self.server = address(transport.get_extra_info("sockname"))
        self.secure = transport.get_extra_info("sslcontext") is not None
        self.deadline = self.loop.time() + self.host.limits.idle_time
        self.host.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._discard(data)
        elif self._exchange is None:
            self._read_head(data)
        elif self._body is not None:
            self._read_body(self._exchange, self._body, data)
        else:
            self._ahead += data
            self.pause_reading()

    def eof_received(self) -> bool:
        """The client has left, or only closed its sending side: a response that is ready soon still reaches it."""
        if self._exchange is None or self._body is not None or self.secure or self._lingering:
            return False
        self._eof = True
        self.deadline = self.loop.time() + self.host.limits.leave_time
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = 0
        self.host.forget(self)
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None

    # Reading:

    def _read_head(self, data: bytes) -> None:
        reader = self._reader or HeadReader(self.host.limits)
        try:
            size = reader.feed(data)
        except Refused as refused:
            self.refuse(refused)
            return
        if reader.head is None:
            if self._eof:
                self.transport.close()
            if self._reader is None:
                self._reader = reader
                self.deadline = self.loop.time() + self.host.limits.head_time
            return
        self._reader = None
        self.deadline = 0
        rest = data[size:] if size < len(data) else b""
        if reader.head.websocket:
            self._upgrade(reader.head, rest)
            return
        self._start(reader.head)
        if rest:
            self.data_received(rest)

    def _start(self, head: Head) -> None:
        host = self.host
        self._body = body.reader(head.length, host.limits)
        scope = self._scope(
            head,
            type="http",
            method=head.method,
            scheme="https" if self.secure else "http",
            extensions=extensions(head, "relay.cancel"),
        )
        if host.draining and not host.hooks.serves_while_draining(scope):
            self.refuse(Refused("the server is stopping", code="draining"), head)
            return
        if host.limits.request_time:
            self._started = self.loop.time()
        if self._eof:
            self.deadline = self.loop.time() + host.limits.leave_time
        self._exchange = Exchange(self, head, scope)
        host.create_application(self._exchange)

    def _upgrade(self, head: Head, rest: bytes) -> None:
        try:
            key = handshake.check(head)
            if self.host.draining:
                raise Refused("the server is stopping", code="draining")
        except Refused as refused:
            self.refuse(refused, head)
            return
        self.host.connections.discard(self)
        WebSocketProtocol(self, head, key, rest)

    def _read_body(self, exchange: Exchange, reader: body.BodyReader, data: bytes) -> None:
        try:
            piece = reader.feed(data)
        except Refused as refused:
            self._give_up(exchange, refused)
            return
        if reader.done:
            self._body = None
            self.deadline = 0
            if reader.rest:
                self._ahead = reader.rest
                self.pause_reading()
        exchange.feed(piece, reader.done)
        if not reader.done and exchange.buffered >= self.host.limits.buffer:
            self.deadline = 0
            self.pause_reading()

    def _give_up(self, exchange: Exchange, refused: Refused) -> None:
        """Refuse the request in progress; for the application, its client has gone."""
        if exchange.response.started and not exchange.response.waiting:
            self.fail(exchange)
        else:
            self.refuse(refused, exchange.head)
        exchange.leave()

    def _discard(self, data: bytes) -> None:
        """Discard the rest of a request that has been answered, and close at its end."""
        if self._body is None:
            return
        try:
            self._body.feed(data)
        except Refused:
            self._body = None
        else:
            if self._body.done:
                self.transport.close()

    # From the exchange:

    def body_wanted(self) -> None:
        """The application is waiting for the body: the client has to send some of it in time."""
        if self._body is not None:
            self.deadline = self.loop.time() + self.host.limits.body_time

    def body_taken(self) -> None:
        """The application has read all that has arrived."""
        if self._body is not None:
            self.deadline = 0
            self.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """The response is complete."""
        if exchange.response.close or self.host.draining or self._body is not None:
            self._finish()
        else:
            self._next()

    def fail(self, exchange: Exchange) -> None:
        """The application can't complete a response: send an error or, if one has begun, break it off visibly."""
        if exchange.gone:
            return
        response = exchange.response
        if response.started and not response.waiting:
            self._exchange = None
            self._lingering = True
            self.reset() if response.until_close else self.transport.close()
        else:
            self.refuse(Refused("the application gave no response", code="internal_error"), exchange.head)
        exchange.drop()

    # The end of a request:

    def refuse(self, refused: Refused, head: Head | None = None) -> None:
        """Answer in the application's place, and close.

        Args:
            head: The request's, if there is one.
        """
        self.transport.write(self.host.refuse(self, refused, head))
        self._finish(malformed=head is None or head.websocket)

    def _finish(self, malformed: bool = False) -> None:
        """Close, at once or after reading what the client is still sending."""
        self._exchange = None
        self._lingering = True
        if malformed or self._ahead or self._body is not None:
            self.linger(self.host.limits.linger_time)
        else:
            self.transport.close()

    def _next(self) -> None:
        """Wait for the next request, or read the one that has already arrived."""
        self._exchange = None
        self.deadline = self.loop.time() + self.host.limits.idle_time
        if not self._eof:
            self.resume_reading()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self._read_head(data)
        elif self._eof:
            self.transport.close()

    # Time:

    def check_timeouts(self, now: float) -> None:
        super().check_timeouts(now)
        limit, exchange = self.host.limits.request_time, self._exchange
        if limit and exchange is not None and not exchange.response.started and now - self._started > limit:
            self._give_up(exchange, Refused(f"no response within {limit:g} s", code="backend_timeout"))

    def _timed_out(self) -> None:
        self.deadline = 0
        limits = self.host.limits
        if self._exchange is not None and self._eof:
            self._left()
        elif self._exchange is not None:
            self._give_up(self._exchange, Refused(f"no byte of the body for {limits.body_time:g} s", status=408))
        elif self._reader is not None and not self._reader.empty and not self._lingering:
            self.refuse(Refused(f"the head was not complete within {limits.head_time:g} s", status=408))
        else:
            self.transport.close()

    def _left(self) -> None:
        self.transport.abort()
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None

    def busy(self) -> bool:
        return self._exchange is not None or self._lingering or super().busy()

    def drain(self) -> None:
        if self._exchange is None and self._reader is None and not self._lingering:
            self.transport.close()
