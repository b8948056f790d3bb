"""Parse the head of a request into a checked `Head`, or raise `Refused`. No I/O.

llhttp parses it, strictly. What llhttp still tolerates, or leaves to its user, is checked here: a request that two
programs could read differently is refused (RFC 9112 §11.2, "request smuggling").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from relay.refusals import Refused
from relay.server.limits import Limits
from relay.typing import RawHeaders

CHUNKED = -1
"""`Head.length` of a body in chunks."""

_END = b"\r\n\r\n"
_NEVER = frozenset({b"TRACE", b"CONNECT"})
_JUDGED = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"})
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")  # RFC 3986 §3.2.2
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]+)(/[^?]*)?(\?.*)?")


@dataclass(slots=True, eq=False)
class Head:
    """A request with unambiguous framing.

    Attributes:
        minor: Minor version of HTTP/1.x: 1 or 0.
        raw_path: As sent, without the query; ``*`` for OPTIONS only.
        query: What follows the question mark; None if there is none.
        headers: In order, names lowercase, values without surrounding white space.
        keep_alive: The client allows the connection to be reused (RFC 9112 §9.3).
        length: Of the body, in bytes, or `CHUNKED`.
        expects_continue: The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
        websocket: The client asks for an upgrade to WebSocket; other upgrades are ignored (RFC 9110 §7.8).
    """

    method: str
    minor: int
    raw_path: bytes
    query: bytes | None
    headers: RawHeaders
    keep_alive: bool
    length: int
    expects_continue: bool
    websocket: bool


def extensions(head: Head, *names: str) -> dict[str, dict[str, object]]:
    """An ASGI scope's ``extensions``: the protocol's, and those specific to this head."""
    offered: dict[str, dict[str, object]] = {name: {} for name in names}
    if head.query == b"":
        offered["relay.empty_query"] = {}
    return offered


class HeadReader:
    """Reads one head, in any number of pieces."""

    __slots__ = ("_complete", "_headers", "_limits", "_parser", "_seen", "_target", "head")

    def __init__(self, limits: Limits) -> None:
        self.head: Head | None = None
        self._limits = limits
        self._parser = HttpRequestParser(self)
        self._seen = bytearray()  # only if the head comes in pieces
        self._target = b""
        self._headers: RawHeaders = []
        self._complete = False

    @property
    def empty(self) -> bool:
        """Whether nothing has come except the empty line that some clients send after a body (RFC 9112 §2.2)."""
        return not self._seen.strip(b"\r\n")

    def feed(self, data: bytes) -> int:
        """Take the next bytes; return how many of them complete the head, then available as `head`, or -1 to go on.

        Raises:
            Refused: The head is malformed, ambiguous or too large.
        """
        seen = len(self._seen)
        if seen:
            self._seen += data
            end = self._seen.find(_END, max(0, seen - 3))
        else:
            end = data.find(_END)
        size = end + 4 - seen if end >= 0 else len(data)
        if seen + size > self._limits.head_size:
            raise Refused(f"a head of more than {self._limits.head_size} bytes", status=431)
        self._parse(data if size == len(data) else data[:size])
        if self._complete is not (end >= 0):
            raise Refused("an empty line where none belongs")
        if end < 0:
            if not seen:
                self._seen += data
            return -1
        self.head = self._judge(self._seen if seen else data)
        del self._parser  # it references our methods: a cycle that only the garbage collector would break
        return size

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # we interpret Connection and Upgrade ourselves
        except HttpParserError as exc:
            raise Refused(str(exc)) from None

    def _judge(self, text: bytes | bytearray) -> Head:
        method = self._parser.get_method()
        # llhttp also accepts other protocols and versions, and more than one space.
        line = b"%b %b HTTP/1." % (method, self._target)
        start = 2 if text[:2] == b"\r\n" else 0
        minor = text[start + len(line) : start + len(line) + 3]
        if text[start : start + len(line)] != line or minor not in (b"1\r\n", b"0\r\n"):
            raise Refused("the request line is not that of HTTP/1.1 or 1.0")
        if len(self._headers) > self._limits.head_fields:
            raise Refused(f"more than {self._limits.head_fields} fields", status=431)
        return judge(method, int(minor[:1]), self._target, self._headers)

    # Called by the parser:

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._complete = True


def judge(method: bytes, minor: int, target: bytes, headers: RawHeaders) -> Head:
    """Determine how a well-formed request is framed and what it asks for.

    Raises:
        Refused: The request is ambiguous, or its method is never served.
    """
    if method in _NEVER:
        raise Refused(f"{method.decode()} is never served", code="method_not_allowed")
    fields = _judged_fields(headers)
    if b"#" in target:
        raise Refused("a fragment in the request target (RFC 9112 §3.2)")
    if target[:1] != b"/":
        target = _resolve(method, target, headers, fields)
    host = fields.get(b"host")
    if host is None and minor == 1:
        raise Refused("no Host (RFC 9112 §3.2)")
    if host and not _HOST.fullmatch(host):
        raise Refused("Host is not host[:port] (RFC 9112 §3.2)")
    options = _tokens(fields.get(b"connection", b""))
    raw_path, mark, query = target.partition(b"?")
    return Head(
        method.decode(),
        minor,
        raw_path,
        query if mark else None,
        headers,
        keep_alive=b"close" not in options and (minor == 1 or b"keep-alive" in options),
        length=_length(fields, minor),
        expects_continue=minor == 1 and fields.get(b"expect", b"").lower() == b"100-continue",
        websocket=minor == 1 and b"upgrade" in options and b"websocket" in _tokens(fields.get(b"upgrade", b"")),
    )


def _judged_fields(headers: RawHeaders) -> dict[bytes, bytes]:
    """The fields that matter here: lists are joined, the others must not be repeated."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _JUDGED:
            if name in fields:
                if name not in (b"connection", b"upgrade"):
                    raise Refused(f"two {name.decode()} fields (RFC 9110 §5.3)")
                value = fields[name] + b"," + value
            fields[name] = value
    return fields


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")] if value else []


def _length(fields: dict[bytes, bytes], minor: int) -> int:
    """The body's length by RFC 9112 §6.3, refusing anything ambiguous."""
    if (coding := fields.get(b"transfer-encoding")) is not None:
        if b"content-length" in fields:
            raise Refused("Content-Length with Transfer-Encoding (RFC 9112 §6.3)")
        if coding.lower() != b"chunked" or minor == 0:
            raise Refused("a Transfer-Encoding other than HTTP/1.1's chunked (RFC 9112 §6.1)")
        return CHUNKED
    length = fields.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise Refused("Content-Length is not a number of bytes (RFC 9110 §8.6)")
    return int(length)


def _resolve(method: bytes, target: bytes, headers: RawHeaders, fields: dict[bytes, bytes]) -> bytes:
    """Turn an absolute-form target into origin-form, and its authority into Host (RFC 9112 §3.2.2); or pass ``*``."""
    if target == b"*" and method == b"OPTIONS":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Refused("the request target is neither a path nor an http URL (RFC 9112 §3.2)")
    authority, path, query = found.groups()
    host = (b"host", authority)
    if b"host" in fields:
        headers[[name for name, _ in headers].index(b"host")] = host
    else:
        headers.insert(0, host)
    fields[b"host"] = authority
    if path is None and query is None and method == b"OPTIONS":
        return b"*"  # RFC 9112 §3.2.4
    return (path or b"/") + (query or b"")
