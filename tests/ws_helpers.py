"""Frames as a peer would write them, right or wrong, and peers on raw sockets that write and read them."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest
import uvloop

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"\x11\x22\x33\x44"


def mask(payload: bytes, key: bytes = KEY) -> bytes:
    """Mask a payload byte by byte, as RFC 6455 §5.3 spells it out."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def length_field(length: int, form: int = 0) -> bytes:
    """The 7-bit length and what extends it, without the mask bit; ``form`` 126 or 127 asks for a longer one."""
    if form == 127 or (not form and length > 0xFFFF):
        return b"\x7f" + length.to_bytes(8, "big")
    if form == 126 or (not form and length > 125):
        return b"\x7e" + length.to_bytes(2, "big")
    return bytes([length])


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = False, form: int = 0
) -> bytes:
    """One frame. ``rsv`` is 4 for RSV1, 2 for RSV2, 1 for RSV3; ``form`` as in `length_field`."""
    size = length_field(len(payload), form)
    first = bytes([fin << 7 | rsv << 4 | opcode])
    if not masked:
        return first + size + payload
    return first + bytes([size[0] | 0x80]) + size[1:] + KEY + mask(payload)


def close(code: int | None = None, reason: str = "", *, masked: bool = False) -> bytes:
    """A close frame with that code, whatever it is; None: without one."""
    payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
    return frame(CLOSE, payload, masked=masked)


def text(payload: bytes | str, *, masked: bool = False) -> bytes:
    """A text message in one frame."""
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, masked=masked)


def binary(payload: bytes, *, masked: bool = False) -> bytes:
    """A binary message in one frame."""
    return frame(BINARY, payload, masked=masked)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own event loop and on uvloop, whose transports differ in many details."""

    async def bounded(**arguments: Any) -> None:
        async with asyncio.timeout(50):  # uvloop does not notice pytest's own alarm
            await test(**arguments)

    @pytest.mark.parametrize("loop", LOOPS)
    @wraps(test)
    def run(loop: str, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(bounded(**arguments))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), loop])  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]  # or pytest would take it for a coroutine
    return run


@dataclass(frozen=True)
class Got:
    """A frame as it arrived, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False

    @property
    def close(self) -> tuple[int | None, str]:
        """Code and reason of a close frame."""
        assert self.opcode == CLOSE, self
        return (int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()) if self.payload else (None, "")


class Peer:
    """One end of a WebSocket on a raw socket: does what it is told, no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self.reader, self.writer, self.client = reader, writer, client

    def write(self, data: bytes) -> None:
        """Send these bytes."""
        self.writer.write(data)

    def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        """Send a frame, masked if this is the client."""
        self.write(frame(opcode, payload, masked=self.client, **options))

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Send a close frame."""
        self.write(close(code, reason, masked=self.client))

    async def next(self) -> Got:
        """The next frame."""
        async with asyncio.timeout(20):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            key = await self.reader.readexactly(4) if second & 0x80 else b""
            payload = await self.reader.readexactly(size)
        return Got(first & 0xF, mask(payload, key) if key else payload, bool(first & 0x80), first >> 4 & 7, bool(key))

    async def end(self) -> str:
        """Wait for the end of TCP: ``"end"`` if nothing came before it, ``"reset"`` if it was broken."""
        async with asyncio.timeout(20):
            try:
                rest = await self.reader.read()
            except ConnectionError:
                return "reset"
        return "end" if not rest else f"{len(rest)} bytes: {rest[:40]!r}"

    def abort(self) -> None:
        """Reset the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def leave(self) -> None:
        """End TCP in an orderly way."""
        self.writer.close()
