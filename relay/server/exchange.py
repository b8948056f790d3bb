"""One request and its response as the application sees them, through ASGI's ``receive`` and ``send``."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from relay.server.head import Head
from relay.server.response import CONTINUE, ApplicationError, Response
from relay.typing import Message, Scope

if TYPE_CHECKING:
    from relay.server.http_protocol import HTTPProtocol

logger = logging.getLogger("relay.server")

_SMALL = 16_384  # bytes that are cheaper to join than to write separately


class Exchange:
    """Connects a connection with one run of the application.

    Attributes:
        head: The request's head.
        response: The response so far.
        body_ended: The whole request has arrived.
        buffered: Bytes of the body that the application has yet to read.
        gone: The client has left, or was cut off: whatever the application still sends is dropped.
        task: The application's task.
    """

    __slots__ = (
        "_arrived",
        "_body",
        "_body_read",
        "_connection",
        "_expects_continue",
        "body_ended",
        "buffered",
        "gone",
        "head",
        "response",
        "scope",
        "task",
    )

    def __init__(self, connection: HTTPProtocol, head: Head, scope: Scope) -> None:
        self.head = head
        self.scope = scope
        self.response = Response(head.method, head.minor, head.keep_alive, connection.host.server_line)
        self.body_ended = head.length == 0
        self.gone = False
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._expects_continue = head.expects_continue and not self.body_ended
        self._body: list[bytes] = []
        self.buffered = 0
        self._body_read = False  # to its end, by the application
        self._arrived: asyncio.Event | None = None  # created for the first wait: most requests never wait

    # For the connection:

    def feed(self, body: bytes, ended: bool) -> None:
        """Take the next piece of the request's body."""
        if body:
            self._body.append(body)
            self.buffered += len(body)
        self.body_ended = ended
        self._wake()

    def drop(self) -> None:
        """Drop whatever the application still sends."""
        self.gone = True
        self._wake()

    def leave(self) -> None:
        """The client has gone: cancel the application (``relay.cancel``)."""
        self.drop()
        if self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    # The application:

    async def run(self) -> None:
        """Run the application; if it leaves the response unfinished, end that so that the client can tell."""
        host = self._connection.host
        host.applications.add(self)  # not earlier: a task that is cancelled at once never gets here
        try:
            await host.application(self.scope, self.receive, self.handle_reply)
        except Exception as exc:
            logger.error("Exception inside application: %r", exc, exc_info=exc)
        finally:
            self.task = None
            if not self.response.complete:
                self._connection.fail(self)
            host.application_ended(self)

    async def receive(self) -> Message:
        """ASGI's ``receive``: the body as it arrives; ``http.disconnect`` once the client or the response is done."""
        while not self.gone and not self.response.complete:
            if self._body or (self.body_ended and not self._body_read):
                return self._request()
            if self._expects_continue and not self.response.started:
                self._connection.transport.write(CONTINUE)
            self._expects_continue = False
            if self._arrived is None:
                self._arrived = asyncio.Event()
            self._arrived.clear()
            self._connection.body_wanted()
            await self._arrived.wait()
        return {"type": "http.disconnect"}

    def _request(self) -> Message:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.buffered = 0
        self._body_read = self.body_ended
        self._expects_continue = False
        self._connection.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self.body_ended}

    async def handle_reply(self, message: Message) -> None:
        """ASGI's ``send``: write the message, and wait while the client is slow."""
        if self.gone:
            return
        kind = message["type"]
        if kind == "http.response.body":
            try:
                pieces = self.response.body(message)
            except ApplicationError:
                self._connection.fail(self)
                raise
            self._write(pieces)
            if self._connection.writable is not None:
                await self._connection.writable.wait()
        elif kind == "http.response.start":
            self.response.start(message)
            # The head goes out with the first piece of the body, or alone if that does not follow at once.
            self._connection.loop.call_soon(self._write_head)
        else:
            raise ApplicationError(f"{kind} does not belong to an HTTP request")

    def _write_head(self) -> None:
        if self.response.waiting and not self.gone:
            self._write(())

    def _write(self, pieces: tuple[bytes, ...]) -> None:
        response, connection = self.response, self._connection
        if response.waiting:
            if connection.host.draining or (response.complete and not self.body_ended):
                response.close = True
            pieces = (response.head(), *pieces)
        if len(pieces) > 1 and sum(map(len, pieces)) > _SMALL:
            connection.transport.writelines(pieces)
        else:
            connection.transport.write(b"".join(pieces))
        if response.complete:
            self._wake()
            connection.answered(self)
