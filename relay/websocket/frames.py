"""Find the frames in one direction of a WebSocket's byte stream, without unmasking or copying payloads. Pure.

A `Scanner` is fed the bytes read, in pieces of any size, and returns what may be passed on. It checks framing (RFC 6455
§5): mask, reserved bits, opcodes, fragmentation and lengths; it counts messages, and enforces their size before any
excess byte passes. It never looks at the payloads of data frames: the end points judge whether text is UTF-8 (§8.1).

Control frames and headers are held back until they are complete, so what was passed on always ends at a frame boundary
or inside a data frame's payload.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from relay.websocket.close_codes import INVALID_DATA, MESSAGE_TOO_BIG, POLICY_VIOLATION, PROTOCOL_ERROR, may_travel

_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA

_WHOLE, _FIRST, _MIDDLE, _LAST, _CONTROL, _INVALID = range(6)
"""Kinds of frame, by the first byte (§5.2): a whole message, a part of one, a control frame, or not allowed."""


def _kinds(deflate: bool) -> bytes:
    """A table from the first byte to its kind. RSV1 marks a compressed message's first frame (RFC 7692 §6)."""
    table = bytearray([_INVALID] * 256)
    for opcode in (0x1, 0x2):
        for compressed in (0x00, 0x40) if deflate else (0x00,):
            table[0x80 | compressed | opcode] = _WHOLE
            table[compressed | opcode] = _FIRST
    table[0x00], table[0x80] = _MIDDLE, _LAST
    for opcode in (_CLOSE, _PING, _PONG):
        table[0x80 | opcode] = _CONTROL
    return bytes(table)


_PLAIN, _DEFLATE = _kinds(deflate=False), _kinds(deflate=True)


@dataclass(frozen=True, slots=True)
class Close:
    """A valid close frame; `code` is None if it carried none."""

    code: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A fault by one side that ends the socket; `code` is the close code for it."""

    code: int
    text: str


class Scanner:
    """Scans one direction. Feed it until there is a `verdict`; nothing after that is passed on.

    Args:
        masked: Whether this is the direction from the client, in which every frame must be masked, otherwise none
            (§5.1).
        deflate: Whether ``permessage-deflate`` was negotiated.
        max_message: Limit on a message's payload bytes, as on the wire; 0: no limit.

    Attributes:
        verdict: How this side ended: its close frame, or its violation.
        need: Payload bytes still missing from a frame that was passed on in part; 0 at a frame boundary.
        frames: Data frames whose header has been passed on.
        allowance: Total number of messages that may begin; one more is a violation (1008).
        own_pong: Pongs with this payload answer the gateway's own pings, and are not passed on.
    """

    __slots__ = (
        "_fragments",
        "_header",
        "_held",
        "_kinds",
        "_limit",
        "_longest",
        "_mask",
        "_message",
        "_payload",
        "allowance",
        "frames",
        "need",
        "own_pong",
        "verdict",
    )

    def __init__(self, *, masked: bool, deflate: bool = False, max_message: int = 0) -> None:
        self._kinds = _DEFLATE if deflate else _PLAIN
        self._mask = 0x80 if masked else 0
        self._header = 6 if masked else 2  # bytes of a short frame's header
        self._limit = max_message or sys.maxsize
        self._longest = min(self._limit, 125)
        self._held = b""  # the beginning of a header or control frame
        self._message = -1  # payload bytes of the current fragmented message; -1: there is none
        self._payload = 0
        self._fragments = 0  # data frames that did not end a message
        self.frames = 0
        self.need = 0
        self.allowance = sys.maxsize
        self.own_pong: bytes | None = None
        self.verdict: Close | Violation | None = None

    @property
    def messages(self) -> int:
        """Messages whose last frame has begun."""
        return self.frames - self._fragments

    @property
    def payload_bytes(self) -> int:
        """Payload bytes of data frames that were passed on."""
        return self._payload - self.need

    def feed(self, data: bytes) -> bytes:
        """Return the part of the data, and of what was held back, that may be passed on now.

        If that is all of the data, it is returned itself, not a copy. After a verdict nothing is returned.
        """
        size = len(data)
        at = self.need
        if at >= size:  # inside one large payload
            self.need = at - size
            return data
        verdict = self.verdict
        if verdict is not None:
            return b""
        if self._held:
            data = self._held + data
            size = len(data)
            self._held = b""
        answers: list[tuple[int, int]] = []
        while True:
            at = self._short_messages(data, at)
            if at >= size:
                break
            end = self._frame(data, at)
            if end == 0:
                break
            if end < 0:
                end = -end
                answers.append((at, end))
            at = end
            if self.verdict is not None:
                break
        if at >= size:
            self.need = at - size
            return _without(answers, data) if answers else data
        self.need = 0
        if self.verdict is None:
            self._held = data[at:]
        return _without(answers, data[:at])

    def _short_messages(self, data: bytes, at: int) -> int:
        """Accept unfragmented messages of up to 125 bytes (most traffic); return where something else begins."""
        if self._message >= 0:
            return at
        kinds, mask, header, longest = self._kinds, self._mask, self._header, self._longest
        last = len(data) - header
        room = self.allowance - self.frames + self._fragments
        begin, count = at, 0
        while at <= last and kinds[data[at]] == _WHOLE:
            length = data[at + 1] ^ mask  # a wrong mask bit makes it more than 127
            if length > longest or count >= room:
                break
            count += 1
            at += header + length
        self.frames += count
        self._payload += at - begin - count * header
        return at

    def _frame(self, data: bytes, at: int) -> int:
        """Judge the frame that begins here.

        Returns:
            Where it ends, possibly beyond the data; negative if it must not be passed on; 0 if too little of it has
            arrived, or it is a violation.
        """
        if len(data) - at < 2:
            return 0
        first, length = data[at], data[at + 1] ^ self._mask
        kind = self._kinds[first]
        if length > 127:
            return self._violated(PROTOCOL_ERROR, "a frame that is not masked" if self._mask else "a masked frame")
        if kind == _INVALID or (kind == _CONTROL and length > 125):
            return self._violated(PROTOCOL_ERROR, _what_is_wrong(first))
        body = at + 2
        if length > 125:
            body += 2 if length == 126 else 8
            if body > len(data):
                return 0
            least = 126 if length == 126 else 0x10000
            length = int.from_bytes(data[at + 2 : body], "big")
            if not least <= length < 1 << 63:
                return self._violated(PROTOCOL_ERROR, "a length that is not in its shortest form, or is 2^63 or more")
        key = body
        if self._mask:
            body += 4
        end = body + length
        if (end if kind == _CONTROL else body) > len(data):
            return 0
        if kind == _CONTROL:
            return self._control(first & 0xF, data[key:body], data[body:end], end)
        self.verdict = self._data_frame(kind, length)
        return 0 if self.verdict else end

    def _data_frame(self, kind: int, length: int) -> Violation | None:
        """Judge a data frame by its place in a message, and the message by its size and number (§5.4)."""
        size = length + max(self._message, 0)
        if size > self._limit:
            return Violation(MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes")
        if kind in (_MIDDLE, _LAST):
            if self._message < 0:
                return Violation(PROTOCOL_ERROR, "a continuation frame without a message")
        elif self._message >= 0:
            return Violation(PROTOCOL_ERROR, "a new message inside a fragmented one")
        elif self.messages >= self.allowance:
            return Violation(POLICY_VIOLATION, "more messages than the route's rate allows")
        final = kind in (_WHOLE, _LAST)
        self._message = -1 if final else size
        self._fragments += not final
        self.frames += 1
        self._payload += length
        return None

    def _control(self, opcode: int, key: bytes, payload: bytes, end: int) -> int:
        """Judge a complete control frame; returns as `_frame` does."""
        if opcode == _CLOSE:
            self.verdict = _read_close(apply_mask(payload, key) if key else payload)
            return end if isinstance(self.verdict, Close) else 0
        if opcode == _PONG and self.own_pong is not None and len(payload) == len(self.own_pong):
            return -end if (apply_mask(payload, key) if key else payload) == self.own_pong else end
        return end

    def _violated(self, code: int, text: str) -> int:
        self.verdict = Violation(code, text)
        return 0


def _read_close(payload: bytes) -> Close | Violation:
    """Read an unmasked close frame's payload (§5.5.1, §7.4)."""
    if not payload:
        return Close(None)
    if len(payload) == 1:
        return Violation(PROTOCOL_ERROR, "half a close code")
    code = int.from_bytes(payload[:2], "big")
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        return Violation(INVALID_DATA, "a close reason that is not UTF-8")
    return Close(code, reason) if may_travel(code) else Violation(PROTOCOL_ERROR, f"the close code {code}")


def _what_is_wrong(first: int) -> str:
    """What is wrong with an invalid frame's first byte; if nothing is, the frame is a too long control frame."""
    opcode = first & 0xF
    if opcode not in (0x0, 0x1, 0x2, _CLOSE, _PING, _PONG):
        return f"the reserved opcode {opcode:#x}"
    if first & 0x70:
        return "a reserved bit"
    return "a control frame of more than 125 bytes" if first & 0x80 else "a fragmented control frame"


def _without(answers: list[tuple[int, int]], data: bytes) -> bytes:
    """The data without the frames within these bounds."""
    kept, begin = [], 0
    for at, end in answers:
        kept.append(data[begin:at])
        begin = end
    return b"".join((*kept, data[begin:])) if answers else data


def close_frame(code: int | None, reason: str = "", *, masked: bool) -> bytes:
    """A close frame; the reason is cut, at a character boundary, to the 123 bytes that fit (§5.5)."""
    if code is None:
        return control_frame(_CLOSE, b"", masked=masked)
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return control_frame(_CLOSE, code.to_bytes(2, "big") + text, masked=masked)


def ping_frame(payload: bytes, *, masked: bool) -> bytes:
    """A ping frame with at most 125 bytes of payload (§5.5.2)."""
    return control_frame(_PING, payload, masked=masked)


def control_frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """A control frame of at most 125 bytes; frames to a server are masked with an unpredictable key (§5.3)."""
    if not masked:
        return bytes((0x80 | opcode, len(payload))) + payload
    key = os.urandom(4)
    return bytes((0x80 | opcode, 0x80 | len(payload))) + key + apply_mask(payload, key)


def apply_mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a short payload (§5.3)."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
