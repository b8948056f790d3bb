"""Read the body of a request: its content, and where it ends (RFC 9112 §6 and §7.1). No I/O."""

from __future__ import annotations

import re
from typing import Protocol

from relay.refusals import Refused
from relay.server.head import CHUNKED
from relay.server.limits import Limits

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_SIZE_LINE, _DATA_END, _TRAILERS = range(3)


class BodyReader(Protocol):
    """Reads the stream after a head.

    Attributes:
        done: The body has ended.
        rest: What followed its end: the beginning of the next request.
    """

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """Return the body's bytes in the stream's next bytes. Raises Refused if those are malformed."""


def reader(length: int, limits: Limits) -> BodyReader | None:
    """A reader for a body of that length; None if there is no body."""
    if length == CHUNKED:
        return ChunkedBody(limits.chunk_overhead)
    return CountedBody(length) if length else None


class CountedBody:
    """Content-Length: a fixed number of bytes."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left > 0:
            return data
        self.done = True
        if self._left < 0:
            data, self.rest = data[: self._left], data[self._left :]
        return data


class ChunkedBody:
    """Transfer-Encoding: chunked. Extensions and trailers are dropped, and limited to `overhead` bytes in total."""

    __slots__ = ("_left", "_line", "_next", "_overhead", "done", "rest")

    def __init__(self, overhead: int) -> None:
        self._left = 0  # bytes of the chunk's data
        self._line = b""  # an incomplete line
        self._next = _SIZE_LINE
        self._overhead = overhead
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._line = self._part_of_a_line(data[at:])
                break
            self._take_line(data[at:end])
            at = end + 2
        if self.done:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _part_of_a_line(self, line: bytes) -> bytes:
        """Return an incomplete line if it may still become valid; one with a bare line feed can't."""
        if len(line) > 16 + self._overhead:
            raise Refused("chunk extensions or trailers are too large")
        if b"\n" in line or b"\r" in line[:-1] or (self._next == _DATA_END and line != b"\r"):
            raise Refused("a chunk is not framed by CR LF (RFC 9112 §7.1)")
        return line

    def _take_line(self, line: bytes) -> None:
        if self._next == _SIZE_LINE:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise Refused("not a chunk size (RFC 9112 §7.1)")
            self._left = int(found[1], 16)
            self._spend(len(found[2] or b""))
            self._next = _DATA_END if self._left else _TRAILERS
        elif not line:
            self.done = self._next == _TRAILERS
            self._next = _SIZE_LINE
        elif self._next == _TRAILERS and _TRAILER.fullmatch(line):
            self._spend(len(line))
        else:
            raise Refused("a chunk or trailer is malformed (RFC 9112 §7.1)")

    def _spend(self, size: int) -> None:
        self._overhead -= size
        if self._overhead < 0:
            raise Refused("chunk extensions or trailers are too large")
