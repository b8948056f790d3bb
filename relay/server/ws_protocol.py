"""A client's connection after a valid handshake: ASGI's websocket protocol, and the hand-over to a tunnel.

Framing starts with the first message in either direction, so a tunnel never pays for it, and gets every byte.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from typing import TYPE_CHECKING

from relay.refusals import Refused
from relay.server import handshake
from relay.server.connection import Connection
from relay.server.head import Head, extensions
from relay.server.messages import Messages, disconnect
from relay.server.response import ApplicationError, Response
from relay.typing import Message

if TYPE_CHECKING:
    from relay.server.http_protocol import HTTPProtocol

logger = logging.getLogger("relay.server")

_EXTENSIONS = ("websocket.http.response", "relay.cancel", "relay.tunnel")
_SLICE = 16_384  # bytes parsed at a time, so that a flood of tiny messages stays bounded
_EVENTS = 64  # maximum messages waiting for the application, besides those in one slice


class _State(enum.Enum):
    CONNECTING = enum.auto()  # the application has not answered the handshake
    ANSWERING = enum.auto()  # with an HTTP response
    OPEN = enum.auto()
    CLOSING = enum.auto()  # our close frame has gone out
    TUNNEL = enum.auto()  # the transport is the application's
    ENDED = enum.auto()


class WebSocketProtocol(Connection):
    """Takes over an HTTP connection, with the bytes that followed the handshake."""

    __slots__ = (
        "_arrived",
        "_events",
        "_head",
        "_key",
        "_lost",
        "_messages",
        "_opened",
        "_pinged",
        "_pong",
        "_queued",
        "_response",
        "_seen",
        "_state",
        "_unread",
        "offered",
        "scope",
        "task",
    )

    def __init__(self, connection: HTTPProtocol, head: Head, key: bytes, rest: bytes) -> None:
        super().__init__(connection.host)
        self.transport, self.reading, self.secure = connection.transport, connection.reading, connection.secure
        self.client, self.server, self.writable = connection.client, connection.server, connection.writable
        self.offered = handshake.subprotocols(head.headers)
        self.scope = self._scope(
            head,
            type="websocket",
            scheme="wss" if self.secure else "ws",
            subprotocols=self.offered,
            extensions=extensions(head, *_EXTENSIONS),
        )
        self.task: asyncio.Task[None] | None = None
        self._head, self._key = head, key
        self._state = _State.CONNECTING
        self._events: deque[Message] = deque(({"type": "websocket.connect"},))
        self._arrived: asyncio.Event | None = None
        self._queued = 0  # bytes in the events
        self._unread = rest  # bytes not parsed yet
        self._messages: Messages | None = None
        self._response: Response | None = None
        self._opened = self._seen = self.loop.time()
        self._pinged = 0.0  # time of an unanswered ping
        self._lost = False  # the transport is closed
        self._pong = b""  # held back while the client reads nothing
        if self.host.limits.accept_time:
            self.deadline = self._opened + self.host.limits.accept_time
        self.transport.set_protocol(self)
        if len(rest) >= self.host.limits.buffer:
            self.pause_reading()
        self.host.connections.add(self)
        self.host.create_application(self)

    # From the transport:

    def data_received(self, data: bytes) -> None:
        self._seen, self._pinged = self.loop.time(), 0
        if self._state is _State.ENDED:
            return  # lingering
        self._unread += data
        if self._messages is not None:
            self._parse(self._messages)
        elif self._state is _State.OPEN and self._wanted():
            self._begin_messages()
        elif len(self._unread) >= self.host.limits.buffer:
            self.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pong = b""
        self.resume_writing()
        if self._state is _State.CONNECTING and self.task is not None:
            self.task.cancel()
        self._end()
        self._lose()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""

    # The application:

    async def run(self) -> None:
        """Run the application; a socket that it leaves open is closed with 1011, an unanswered handshake gets a 500."""
        self.host.applications.add(self)
        try:
            await self.host.application(self.scope, self.receive, self.handle_reply)
        except Exception as exc:
            logger.error("Exception inside application: %r", exc, exc_info=exc)
        finally:
            self.task = None
            self._abandon()
            self.host.application_ended(self)
            if self._lost:
                self.host.forget(self)

    async def receive(self) -> Message:
        """ASGI's ``receive``: ``websocket.connect``, messages, then ``websocket.disconnect``, repeatedly."""
        while not self._events:
            if self._state is _State.ENDED:
                return disconnect()
            if self._state is _State.OPEN and self._messages is None:
                self._begin_messages()
                continue
            if self._arrived is None:
                self._arrived = asyncio.Event()
            self._arrived.clear()
            try:
                await self._arrived.wait()
            finally:
                self._arrived.set()  # nobody is waiting now, even if this was cancelled
        event = self._events[0]
        if event["type"] != "websocket.disconnect":
            self._events.popleft()
            self._queued -= _size(event)
            if self._unread and self._messages is not None:
                self._parse(self._messages)
        return event

    async def handle_reply(self, message: Message) -> None:
        """ASGI's ``send``; messages after the end are dropped."""
        kind, state = message["type"], self._state
        if state is _State.ENDED or state is _State.CLOSING:
            return
        if state is _State.OPEN and kind == "websocket.send":
            self._send(message)
        elif state is _State.CONNECTING and kind == "websocket.accept":
            self._accept(message)
        elif state is _State.OPEN and kind == "relay.tunnel":
            self._tunnel(message)
        elif state is _State.OPEN and kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif state is _State.CONNECTING and kind == "websocket.close":
            response = self._answer({"status": 403, "headers": [(b"content-length", b"0")]})
            self._answer_body(response, {})
        elif state is _State.CONNECTING and kind == "websocket.http.response.start":
            self._answer(message)
        elif self._response is not None and kind == "websocket.http.response.body":
            self._answer_body(self._response, message)
        else:
            raise ApplicationError(f"{kind} can't be sent now: the WebSocket is {state.name.lower()}")
        if self.writable is not None:
            await self.writable.wait()

    def _abandon(self) -> None:
        if self._state in (_State.CONNECTING, _State.ANSWERING):
            self._refuse(Refused("the application did not answer the handshake", code="internal_error"))
        elif self._state is _State.OPEN:
            self._close(1011, "")

    # The handshake's answer:

    def _accept(self, message: Message) -> None:
        answer = handshake.accepted(self._key, message.get("subprotocol"), self.offered, message.get("headers") or [])
        self.transport.write(answer)
        self._state = _State.OPEN
        self.deadline = 0
        if self.host.limits.socket_time:
            self.deadline = self._opened + self.host.limits.socket_time
        if self._unread and self._wanted():
            self._begin_messages()

    def _answer(self, message: Message) -> Response:
        self._response = response = Response(self._head.method, self._head.minor, False, self.host.server_line)
        response.start(message)
        self._state = _State.ANSWERING
        self.deadline = 0
        return response

    def _answer_body(self, response: Response, message: Message) -> None:
        try:
            pieces = response.body(message)
        except ApplicationError:
            self._refuse(Refused("the application gave no response", code="internal_error"))
            raise
        self.transport.write(b"".join(((response.head() if response.waiting else b""), *pieces)))
        if response.complete:
            self._end()
            self._leave(linger=bool(self._unread))

    def _refuse(self, refused: Refused) -> None:
        """Answer in the application's place; a response that has started is broken off."""
        if self._response is None or self._response.waiting:
            self.transport.write(self.host.refuse(self, refused, self._head))
        self._end()
        self._leave(linger=bool(self._unread))

    # As messages:

    def _wanted(self) -> bool:
        """Whether the application is waiting for something to arrive."""
        return self._arrived is not None and not self._arrived.is_set()

    def _begin_messages(self) -> Messages:
        if self._messages is None:
            self._messages = Messages(self.host.limits.message_size, self.host.limits.frame_size)
            self._parse(self._messages)
        return self._messages

    def _parse(self, messages: Messages) -> None:
        """Turn what has arrived into events, up to the number that may wait for the application."""
        data, at = self._unread, 0
        while at < len(data) and not messages.ended and not self._full():
            self._take(messages.feed(data[at : at + _SLICE]))
            at += _SLICE
        self._unread = b"" if messages.ended else data[at:]
        self._write_control(messages)
        if messages.ended:
            self._end()
            self._leave(linger=messages.failed)
        elif self._unread:
            self.pause_reading()
        else:
            self.resume_reading()

    def _full(self) -> bool:
        return self._queued >= self.host.limits.buffer or len(self._events) >= _EVENTS

    def _take(self, events: list[Message]) -> None:
        for event in events:
            if self._state is _State.OPEN or event["type"] == "websocket.disconnect":
                self._events.append(event)
                self._queued += _size(event)
        if events and self._arrived is not None:
            self._arrived.set()

    def _write_control(self, messages: Messages) -> None:
        """Write pongs and the answer to a close frame. Of several blocked pongs, the last will do (RFC 6455 §5.5.3)."""
        frames = messages.outgoing()
        if not frames:
            return
        if self.writable is not None and not self.writable.is_set() and not messages.closing:
            self._pong = frames[-1]
        else:
            self.transport.write(b"".join(frames))

    def _send(self, message: Message) -> None:
        messages = self._begin_messages()
        if not messages.closing:
            messages.send(message)
            self.transport.write(b"".join(messages.outgoing()))

    def _close(self, code: int, reason: str) -> None:
        messages = self._begin_messages()
        if messages.closing:
            return
        messages.close(code, reason)
        self.transport.write(b"".join(messages.outgoing()))
        self._state = _State.CLOSING
        self.deadline = self.loop.time() + self.host.limits.close_time
        self._events.clear()
        self._queued = 0
        self._parse(messages)

    # As a tunnel:

    def _tunnel(self, message: Message) -> None:
        if self._messages is not None:
            raise ApplicationError("relay.tunnel has to come before the first message")
        self.resume_reading()
        self._state = _State.TUNNEL
        self.deadline = 0
        leftover, self._unread = self._unread, b""
        try:
            ended: asyncio.Future[object] = message["attach"](self.transport, leftover)
        except BaseException:
            self.transport.set_protocol(self)
            self.transport.abort()
            raise
        ended.add_done_callback(self._tunnel_ended)

    def _tunnel_ended(self, ended: asyncio.Future[object]) -> None:
        if not ended.cancelled() and (exc := ended.exception()) is not None:
            logger.error("Exception inside tunnel: %r", exc, exc_info=exc)
        self._state = _State.ENDED
        self._lose()

    # The end:

    def _end(self) -> None:
        """End messages in both directions; the application gets the disconnect after those that are waiting."""
        if self._state is _State.ENDED:
            return
        self._state = _State.ENDED
        if not self._events or self._events[-1]["type"] != "websocket.disconnect":
            self._events.append(disconnect())
        if self._arrived is not None:
            self._arrived.set()

    def _lose(self) -> None:
        """Note that the transport is closed; the application has a while to end."""
        self._lost = True
        self.deadline = self.loop.time() + self.host.limits.application_close_time
        if self not in self.host.applications:  # a task that is cancelled before its first step never is
            self.host.forget(self)

    def _leave(self, linger: bool) -> None:
        if linger:
            self.linger(self.host.limits.close_time)
        else:
            self.transport.close()

    def busy(self) -> bool:
        return True

    def check_timeouts(self, now: float) -> None:
        if self._state is _State.TUNNEL:
            return
        super().check_timeouts(now)
        if self._state is _State.OPEN and self._messages is not None and self.reading:
            self._check_pings(self._messages, now)

    def _check_pings(self, messages: Messages, now: float) -> None:
        limits = self.host.limits
        if self._pinged:
            if now - self._pinged > limits.ping_timeout:
                self.transport.abort()
        elif limits.ping_interval and now - self._seen > limits.ping_interval:
            self._pinged = now
            messages.ping()
            self.transport.write(b"".join(messages.outgoing()))

    def _timed_out(self) -> None:
        self.deadline = 0
        limit = self.host.limits
        if self._state is _State.CONNECTING:
            detail = f"the application did not answer the handshake within {limit.accept_time:g} s"
            self._refuse(Refused(detail, code="backend_timeout"))
        elif self._state is _State.OPEN:
            self._close(1001, "")
        elif not self._lost:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def _left(self) -> None:
        self.transport.abort()


def _size(event: Message) -> int:
    return len(event.get("text") or event.get("bytes") or b"")
