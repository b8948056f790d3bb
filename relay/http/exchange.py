"""One request to a backend and its response (RFC 9112).

The response's framing is parsed by llhttp in strict mode: both Content-Length and Transfer-Encoding, differing or
repeated lengths, obs-fold, a bare CR or LF, a space before the colon and bad chunk sizes are errors, never guessed at.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httptools

from relay.http.connection import Connection
from relay.refusals import BackendProtocolError, BackendTimeout
from relay.routing.snapshot import Backend, Url
from relay.typing import RawHeaders

MAX_HEAD = 65536
"""Bytes of a response head, and of interim heads, chunk extensions and trailers between two pieces of a body."""

BUFFER = 65536
"""Bytes of a body to buffer for a slow client before the backend is paused."""

CONTINUE_WITHIN = 1.0
"""Seconds to wait for a 100 before the body is sent anyway: not every server supports it (RFC 9110 §10.1.1)."""

IDLE = 4.0
"""Seconds that a connection may stay idle: less than the 5 s after which uvicorn and Node close theirs."""

_VERSIONS = ("1.1", "1.0")
"""The parser also accepts 0.9 and 2.0, but a status line with those is not HTTP/1.x (RFC 9112 §2.3)."""

_NOTED = frozenset({b"transfer-encoding", b"keep-alive", b"content-type", b"content-length"})
_KEEP_ALIVE = re.compile(rb"(?i)\btimeout\s*=\s*\"?(\d{1,9})")


class Unanswered(BackendProtocolError):
    """The connection died before the first byte of a response."""


class Exchange:
    """A request in progress, and then its response.

    Attributes:
        status: Status of the final response.
        headers: As the backend sent them, names lowercase.
        sent: Bytes of the request's body sent so far.
        received: Bytes of the response's body so far, without chunk framing.
        body_touched: Whether any of the request's body has been read from its source.
        is_sending: Whether part of the request is still to be sent.
    """

    def __init__(self, backend: Backend, connection: Connection, method: str) -> None:
        self.backend = backend
        self.status = 0
        self.headers: RawHeaders = []
        self.sent = self.received = 0
        self.body_touched = False
        self.is_sending = True
        self._connection = connection
        self._is_head = method == "HEAD"
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._read_timeout = backend.read_timeout
        self._upload: asyncio.Task[None] | None = None
        self._go_ahead: asyncio.Future[bool] | None = None
        self._client_holds = False
        self._unsent = b""
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._head_done = self._ended = self._surplus = self._keep_alive = False
        self._codings: list[bytes] = []
        self._until_close = True
        self._silent = 0  # bytes since the last piece of the body
        self._invalid = ""
        self._error: BaseException | None = None
        connection.idle_for = IDLE
        connection.begin(self)

    # For the client

    async def start(self, head: bytes, body: AsyncIterator[bytes] | None, length: int | None, expect: bool) -> None:
        """Send the request and wait for the response's head; the upload continues concurrently.

        Args:
            body: Its errors become this exchange's; None for no body.
            length: The body's length as announced in the head; None: chunked.
            expect: Whether the head has ``Expect: 100-continue``.

        Raises:
            BackendTimeout, BackendProtocolError: There is no response; `Unanswered` if not a byte of it came.
        """
        if self._connection.is_closed:  # between connecting and `begin`
            self.lost(None)
        else:
            self._send_request(head, body, length, expect)
        try:
            while not self._head_done:
                if self._error is not None:
                    raise self._error
                await self._wait()
            if self._error is not None and not self._chunks:  # failed before any of the body arrived
                raise self._error
        except BaseException:
            self.close()
            raise

    async def read(self) -> bytes:
        """The next piece of the response's body: all that has arrived; empty at the end.

        Raises:
            BackendTimeout, BackendProtocolError: The body broke off.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait()
        chunks = self._chunks
        piece = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks, self._buffered = [], 0
        if not self._ended:
            self._connection.resume_reading()
        return piece

    @property
    def url(self) -> Url:
        """The backend's url in use."""
        return self._connection.state.url

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has arrived: the next `read` returns the rest without waiting."""
        return self._ended

    def close(self) -> None:
        """Abandon whatever is unfinished; a partly sent request never looks complete to the backend."""
        self._fail(ConnectionAbortedError("the exchange was given up"))

    # For the connection

    def feed(self, data: bytes) -> None:
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(self._protocol_error("101 Switching Protocols as the answer to an HTTP request"))
        except httptools.HttpParserError as exc:
            self._surplus = True
            if not self._ended:
                self._fail(self._protocol_error(self._invalid or f"no valid HTTP: {exc}"))
        if self._ended:
            self._conclude()
        elif self._silent > MAX_HEAD:
            what = "chunk framing" if self._head_done else "head"
            self._fail(self._protocol_error(f"the response's {what} is longer than {MAX_HEAD} bytes"))

    def lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection: closed by the backend or, with an error, cut."""
        if self._ended or self._error is not None:
            return
        if exc is None and self._head_done and self._until_close:
            self._ended = True
            self._conclude()
            return
        how = f"cut ({exc.strerror or exc})" if isinstance(exc, OSError) else "closed by the backend"
        if self._head_done:
            self._fail(self._protocol_error(f"connection {how} inside the body, after {self.received} bytes"))
        elif self._silent:
            self._fail(self._protocol_error(f"connection {how} inside the response's head"))
        else:
            self._fail(Unanswered(self.backend.name, self._at(f"connection {how} before an answer"), "head"))

    def timed_out(self) -> None:
        limit = f"{self._read_timeout:g} s"
        if self._head_done:
            cause = f"nothing more of the body within {limit}, after {self.received} bytes"
        elif self.is_sending:
            cause = f"the backend accepted none of the request's body within {limit}"
        else:
            cause = f"no response within {limit}"
        self._fail(BackendTimeout(self.backend.name, self._at(cause), "body" if self._head_done else "head"))

    # For the parser

    def on_message_begin(self) -> None:
        self._surplus = self._ended

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in _NOTED:
            self._note(name, value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            self._reject(f"a response in HTTP/{version}")
        if status < 200:
            self._interim(status)
            return
        if self._codings and self._codings != [b"chunked"]:
            # The field is dropped, so the coding must be the one that the parser decodes.
            # Its value is not shown: it may be anything, even a cookie.
            self._reject("a Transfer-Encoding other than chunked alone")
        if self._silent > MAX_HEAD and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD:
            self._reject(f"the response's head is longer than {MAX_HEAD} bytes")
        self.status = status
        self._head_done = True
        if self._go_ahead is not None:
            _decide(self._go_ahead, False)
        if self._is_head:  # the fields describe a body that is not sent (RFC 9110 §9.3.2)
            self.on_message_complete()
        self._wake()

    def on_body(self, data: bytes) -> None:
        if self._ended:
            self._surplus = True
            return
        self._silent = 0
        self.received += len(data)
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFER:
            self._connection.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._head_done and not self._ended:
            self._ended = True
            self._keep_alive = self._parser.should_keep_alive()

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._until_close = False
        elif name == b"transfer-encoding":
            self._until_close = False
            self._codings.append(value.lower())
        elif name == b"content-type":
            if value[:17].lower() == b"text/event-stream":
                self._read_timeout = 0
        elif found := _KEEP_ALIVE.search(value):
            self._connection.idle_for = min(IDLE, 0.8 * int(found[1]))  # before the backend does

    def _interim(self, status: int) -> None:
        """Handle a 1xx: it does not end the request, and is not passed on (RFC 9110 §15.2)."""
        if status == 101:
            self._reject("101 Switching Protocols as the answer to an HTTP request")
        if status < 100 or not self._until_close:
            self._reject(f"a {status} with a body" if status >= 100 else f"status {status}")
        self.headers.clear()
        if status == 100 and self._go_ahead is not None:
            _decide(self._go_ahead, True)

    def _reject(self, cause: str) -> None:
        self._invalid = cause
        raise ValueError(cause)  # stops the parser; `feed` gets the error

    # Sending

    def _send_request(self, head: bytes, body: AsyncIterator[bytes] | None, length: int | None, expect: bool) -> None:
        if body is None or expect:
            self._connection.write(head)
        else:
            # The body's first piece has usually arrived: wait one turn of the loop to send it with the head.
            self._unsent = head
        if body is None:
            self.is_sending = False
            return
        if expect:
            self._go_ahead = self._loop.create_future()
        self._upload = self._loop.create_task(self._send_body(body, length))
        self._loop.call_soon(self._send_unsent)

    def _send_unsent(self) -> None:
        if self._unsent and self._error is None:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        self._connection.write(data)

    async def _send_body(self, body: AsyncIterator[bytes], length: int | None) -> None:
        """Relay the body as it comes; an error in its source ends the exchange, and cuts the backend's connection."""
        try:
            if self._go_ahead is not None and not await self._may_send(self._go_ahead):
                return
            if length is None:
                await self._send_chunked(body)
            else:
                await self._send_counted(body, length)
            self.is_sending = False
            self._watch()
        except Exception as exc:
            self._fail(exc)

    async def _may_send(self, go_ahead: asyncio.Future[bool]) -> bool:
        """Wait for a 100 or `CONTINUE_WITHIN`; False if the final response came instead (RFC 9110 §10.1.1)."""
        timer = self._loop.call_later(CONTINUE_WITHIN, _decide, go_ahead, True)
        try:
            return await go_ahead
        finally:
            timer.cancel()

    async def _send_counted(self, body: AsyncIterator[bytes], length: int) -> None:
        while self.sent < length:
            piece = await self._next(body)
            if not piece or self.sent + len(piece) > length:
                raise ConnectionAbortedError(f"the request's body does not have the announced {length} bytes")
            await self._send(piece, len(piece))

    async def _send_chunked(self, body: AsyncIterator[bytes]) -> None:
        while piece := await self._next(body):
            await self._send(b"%x\r\n%b\r\n" % (len(piece), piece), len(piece))
        self._write(b"0\r\n\r\n")

    async def _next(self, body: AsyncIterator[bytes]) -> bytes:
        """The next non-empty piece, or empty at the end. The wait is for the client, so the read limit is off."""
        self.body_touched = self._client_holds = True
        self._watch()
        piece: bytes | None = b""
        while piece == b"":
            piece = await anext(body, None)
        self._client_holds = False
        self._watch()
        return piece or b""

    async def _send(self, data: bytes, size: int) -> None:
        if not self._unsent and self._connection.has_arrivals():
            await asyncio.sleep(0)  # let the loop read: an early response is lost once a write has failed
        self._write(data)
        self.sent += size
        await self._connection.drain()

    # Waiting and ending

    async def _wait(self) -> None:
        """Wait for the next event, within the read limit."""
        self._waiter = self._loop.create_future()
        self._watch()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._watch()

    def _watch(self) -> None:
        """Reset the deadline, which applies while we wait for the backend, not while we wait for our client."""
        if self._ended or self._error is not None:
            return  # the connection is no longer ours
        if self._waiter is None or self._client_holds or not self._read_timeout:
            self._connection.expire_never()
        else:
            self._connection.expire_in(self._read_timeout)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _conclude(self) -> None:
        """Finish a complete response. A connection with an unfinished request can't be reused."""
        self._leave(self._keep_alive and not self.is_sending and not self._surplus)

    def _fail(self, error: BaseException) -> None:
        if not self._ended and self._error is None:
            self._error = error
            self._leave(reusable=False)

    def _leave(self, reusable: bool) -> None:
        if self._upload is not None:
            self._upload.cancel()
        del self._parser  # it references our methods: a cycle that only the garbage collector would break
        self._connection.end(reusable)
        self._wake()

    def _protocol_error(self, cause: str) -> BackendProtocolError:
        return BackendProtocolError(self.backend.name, self._at(cause), "body" if self._head_done else "head")

    def _at(self, cause: str) -> str:
        return f"{self.url.text}: {cause}"


def _decide(future: asyncio.Future[bool], answer: bool) -> None:
    if not future.done():
        future.set_result(answer)
