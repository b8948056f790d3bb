"""Turn ASGI messages into the bytes of one response, with correct framing (RFC 9112 §6). No I/O.

The application's fields are sent unchanged, in its order and spelling. The server adds what frames the message on this
connection, ``transfer-encoding`` and ``connection``; if the application sends those, the server's own replace them.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from relay.refusals import Refused
from relay.typing import RawHeaders

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {n: f"HTTP/1.1 {n} {_PHRASES.get(n, '')}\r\n".encode() for n in range(100, 1000)}
CONTINUE = STATUS_LINES[100] + b"\r\n"

_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"server"})
_CHUNKED, _UNTIL_CLOSE, _NO_BODY = -1, -2, -3


class ApplicationError(Exception):
    """The application sent something that can't be part of a response; the message says what."""


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header fields as lines.

    Raises:
        ApplicationError: A name or value contains a line break, and could begin another field or response.
    """
    lines = [part for name, value in headers for part in (name, b": ", value, b"\r\n")]
    try:
        text = b"".join(lines)
    except TypeError:
        raise ApplicationError("names and values of headers must be bytes") from None
    count = len(lines) // 4
    if text.count(b"\n") != count or text.count(b"\r") != count or b"\0" in text:
        raise ApplicationError("a header contains a line break or NUL")
    return text


class Response:
    """The response to one request.

    Attributes:
        started: The application has sent status and fields.
        complete: The application has sent the last of the body.
        close: The connection can't be reused afterwards.
    """

    __slots__ = ("_bodiless", "_head", "_left", "_minor", "_server", "close", "complete", "started")

    def __init__(self, method: str, minor: int, keep_alive: bool, server: bytes = b"") -> None:
        self.started = self.complete = False
        self.close = not keep_alive
        self._bodiless = method == "HEAD"
        self._minor = minor
        self._server = server
        self._head: bytes | None = None
        self._left = 0  # bytes of Content-Length, or one of the constants above

    @property
    def waiting(self) -> bool:
        """Whether the head is still to be sent."""
        return self._head is not None

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends the body, so that a clean close would make it look complete."""
        return self._left == _UNTIL_CLOSE

    def start(self, message: dict[str, Any]) -> None:
        """Take ``http.response.start``. Raises ApplicationError."""
        if self.started:
            raise ApplicationError("http.response.start was sent twice")
        status = message["status"]
        headers: RawHeaders = []
        length: bytes | None = None
        server = self._server
        for field in message.get("headers", ()):
            name = field[0].lower()
            if name in _FRAMING:
                if name == b"content-length":
                    if length is not None or not field[1].isdigit():
                        raise ApplicationError("content-length is not one number")
                    length = field[1]
                    if status == 204:  # RFC 9110 §8.6
                        continue
                elif name == b"connection":
                    self.close = self.close or b"close" in field[1].lower()
                elif name == b"server":
                    server = b""
                if name in (b"transfer-encoding", b"connection", b"keep-alive"):
                    continue
            headers.append(field)
        line = STATUS_LINES.get(status)
        if line is None or status < 200:
            raise ApplicationError(f"{status} is not the status of a response")
        self._left, framing = self._frame(status, length)
        self._head = b"".join((line, field_lines(headers), framing, server))
        self.started = True

    def _frame(self, status: int, length: bytes | None) -> tuple[int, bytes]:
        if self._bodiless or status in (204, 304):
            return _NO_BODY, b""
        if length is not None:
            return int(length), b""
        if self._minor:
            return _CHUNKED, b"transfer-encoding: chunked\r\n"
        self.close = True
        return _UNTIL_CLOSE, b""

    def head(self) -> bytes:
        """The head's bytes, once; `close` takes effect as it is now."""
        lines, self._head = self._head or b"", None
        if self.close:
            return lines + b"connection: close\r\n\r\n"
        return lines + (b"\r\n" if self._minor else b"connection: keep-alive\r\n\r\n")

    def body(self, message: dict[str, Any]) -> tuple[bytes, ...]:
        """Take ``http.response.body``; return the pieces to write.

        Raises:
            ApplicationError: The body is longer or shorter than its Content-Length, so it must not look complete to
                the client.
        """
        if not self.started or self.complete:
            raise ApplicationError("http.response.body " + ("after the last one" if self.started else "without start"))
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        if self._left >= 0:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise ApplicationError("the body is not as long as its content-length")
        self.complete = not more
        if self._left == _CHUNKED:
            end = b"" if more else b"0\r\n\r\n"
            return (b"%x\r\n" % len(body), body, b"\r\n" + end) if body else (end,)
        return (body,) if self._left != _NO_BODY else ()


def refusal_response(refused: Refused, request_id: str, fields: RawHeaders, with_body: bool = True) -> bytes:
    """The server's own response, with additional `fields`, after which it closes."""
    body = refused.refusal.body(request_id)
    headers = [*refused.refusal.headers(request_id, body), *refused.headers, *fields]
    head = STATUS_LINES[refused.status] + field_lines(headers) + b"connection: close\r\n\r\n"
    return head + body if with_body else head
