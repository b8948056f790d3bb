"""Dial a backend's WebSocket: connect, send the handshake, read the answer, and report exactly what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import httptools
from websockets.utils import generate_key

from relay.backends.connector import Connector
from relay.refusals import BackendProtocolError, BackendRefused, BackendTimeout
from relay.routing.snapshot import Url
from relay.typing import RawHeaders
from relay.websocket.opening import Accepted, Opening

HEAD_LIMIT = 64 * 1024
"""Bytes of an answer's head, interim answers (1xx) included."""

BODY_TIMEOUT = 1.0
"""Seconds that a refused client waits while we read the body of the backend's refusal, which is only for our log."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A backend that accepted the handshake. Its transport is paused; the caller must release the url in the end.

    Attributes:
        early: What came along with the 101: the first frames.
    """

    transport: asyncio.Transport
    url: Url
    accepted: Accepted
    early: bytes


Dialler = Callable[[Opening], Awaitable[Upstream]]
"""`dial` with the process's connector."""


async def dial(connector: Connector, opening: Opening) -> Upstream:
    """Make the opening handshake with a grant's backend. Redirects are treated like any other answer.

    The backend has ``connect_timeout`` for the connection, and then ``read_timeout`` for the head of its answer.

    Raises:
        BackendError: The handshake failed; ``str()`` is the exact cause, for the log.
    """
    backend = opening.grant.backend
    key = generate_key().encode()
    transport, answer, url = await connector.connect(backend, lambda: _Answer(opening.excerpt_size))
    try:
        transport.write(opening.request(url, key))
        try:
            async with asyncio.timeout(backend.read_timeout or None):
                await answer.head
        except TimeoutError as exc:
            detail = f"{url.text}: the handshake took longer than {backend.read_timeout:g} s"
            raise BackendTimeout(backend.name, detail, "head") from exc
        except _NoAnswer as exc:
            sent = f"; it sent {opening.excerpt(answer.first)}" if answer.first else ""
            raise BackendProtocolError(backend.name, f"{url.text}: {exc}{sent}", "head") from exc
        verdict = opening.judge(answer.headers, key) if answer.accepts else await answer.why_not(opening)
        if isinstance(verdict, str):
            raise BackendRefused(backend.name, f"{url.text}: answered {answer.status} {verdict}", status=answer.status)
    except BaseException:
        transport.abort()
        connector.release(backend, url)
        raise
    return Upstream(transport, url, verdict, answer.early)


class _NoAnswer(Exception):
    """The backend did not send the complete head of an HTTP response."""


class _Answer(asyncio.Protocol):
    """Reads the head of the answer and, for a refusal, a little of its body.

    Attributes:
        head: Done when the head is complete; raises `_NoAnswer` if it won't be.
        end: Done when enough of the body has arrived.
        first: The first bytes, to be logged if they are not a valid answer.
        early: What followed a 101.
    """

    transport: asyncio.Transport

    def __init__(self, body_size: int) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = loop.create_future()
        self.end: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.http_version = ""
        self.reason = self.body = self.first = self.early = b""
        self.headers: RawHeaders = []
        self._body_size = body_size
        self._size = 0
        self._parser = httptools.HttpResponseParser(self)

    @property
    def accepts(self) -> bool:
        """Whether it looks like an acceptance (RFC 6455 §4.1 requires HTTP/1.1 or higher)."""
        return self.status == 101 and self.http_version == "1.1"

    async def why_not(self, opening: Opening) -> str:
        """What a refusal says, and a hint at its likely cause."""
        if self.status == 101:
            return f"in HTTP/{self.http_version}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BODY_TIMEOUT):
                await self.end
        said, body = opening.excerpt(self.reason), self.body.strip()
        if body and body != self.reason:
            said += f": {opening.excerpt(body)}"
        if self.status in (401, 403):
            rule = opening.grant.backend.websocket_origin
            origin = opening.origin.decode("latin-1") if opening.origin else f"none ({rule})"
            return f"{said}; it may be checking Origin, and was sent {origin}: see websocket_origin"
        location = next((value for name, value in self.headers if name == b"location"), None)
        return f"{said}; redirects are not followed: {opening.excerpt(location)}" if location else said

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.head.done():
            self._size += len(data)
            self.first = (self.first + data)[: self._body_size]
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.early = data[upgrade.args[0] :]
            self.transport.pause_reading()
            del self._parser  # it references our methods: a cycle that only the garbage collector would break
        except httptools.HttpParserError as exc:
            # After a complete head, this is about the body, or a 101 without the necessary fields.
            self._fail(f"no valid HTTP answer ({exc})")
        if not self.head.done() and self._size > HEAD_LIMIT:
            self._fail(f"an answer whose head is larger than {HEAD_LIMIT} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        how = f"broke the connection ({exc})" if exc else "closed the connection"
        self._fail(f"it {how} {'inside' if self._size else 'before'} its answer")

    def _fail(self, why: str) -> None:
        if not self.head.done():
            self.head.set_exception(_NoAnswer(why))
        if not self.end.done():
            self.end.set_result(None)

    # httptools

    def on_status(self, status: bytes) -> None:
        if not self.head.done():
            self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head.done():  # nor a trailer, nor what follows the answer
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.head.done():
            return
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._fail(f"it answered in HTTP/{version}")
            return
        if 100 <= status < 200 and status != 101:  # an interim answer: the real one is still to come
            self.reason, self.headers = b"", []
            return
        self.status, self.http_version = status, version
        self.head.set_result(None)

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) >= self._body_size:
            self.transport.pause_reading()
            self.on_message_complete()

    def on_message_complete(self) -> None:
        if self.status and not self.end.done():
            self.end.set_result(None)
