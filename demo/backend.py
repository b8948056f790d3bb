"""The demo's backend: a service without a login that trusts X-User-* and shows what it was sent.

    python -m demo.backend [--host 127.0.0.1] [--port 9000]

| path | does |
| --- | --- |
| /api/health | 200, for the gateway's health poll |
| /api/slow?seconds=2 | answers late |
| /api/events | server-sent events, one a second |
| any other | JSON: the request as it arrived |
| /ws/ticker | a message a second |
| /ws/close/4000?reason=bye | accepts, then closes with that code (1000 for one that may not be sent) and reason |
| /ws/strict | 403 unless Origin names this very host, as gorilla/websocket requires |
| any other, with Upgrade: websocket | the handshake as it arrived, then an echo |

It has its own few lines of HTTP, apart from the gateway's: a demonstration must not use the code that it demonstrates.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import EXTERNAL_CLOSE_CODES, CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

SHOWN = 2_000
"""Characters of a request's body that the response repeats."""
TICK = 1.0
"""Seconds between ticks."""
LONGEST_WAIT = 30.0
"""Maximum seconds that /api/slow waits."""
CLOSING = 5.0
"""Seconds that a client has to answer a close."""
GONE = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)
"""Raised when a client leaves, or turns out not to speak HTTP: either way, there is nothing more to send.

OSError itself: writing the end of a stream to a client that has gone raises ENOTCONN, which has no class of its own.
"""
SUBPROTOCOLS = [Subprotocol("demo.v1")]


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head, as it arrived: order, spelling and repeats of its headers are kept."""

    raw: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]

    @classmethod
    def parse(cls, raw: bytes) -> "Request":
        """Parse a head that ends with an empty line. ValueError: the request line does not have three words."""
        start, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = start.split(" ")
        fields = (line.partition(":") for line in lines)
        return cls(raw, method, target, [(name, value.strip()) for name, _, value in fields])

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    def header(self, name: str) -> str:
        """Return the first field with that name, in any case; empty if there is none."""
        return next((value for field, value in self.headers if field.lower() == name), "")

    def parameter(self, name: str, default: str) -> str:
        return parse_qs(urlsplit(self.target).query).get(name, [default])[0]

    def shown(self) -> dict[str, Any]:
        """Return the parts of this request that the demo page shows."""
        return {"method": self.method, "path": self.target, "headers": self.headers}

    def log(self, outcome: str) -> None:
        user = self.header("x-user-id") or "nobody"
        print(f"backend: {self.method} {self.path} as {user}: {outcome}", file=sys.stderr, flush=True)


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a connection's requests one by one, until either side closes it or it becomes a WebSocket."""
    with contextlib.suppress(*GONE):
        while True:
            request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
            if request.header("upgrade").lower() == "websocket":
                await serve_websocket(request, reader, writer)
                break
            await serve_http(request, reader, writer)
            if request.header("connection").lower() == "close":
                break
    writer.close()


# HTTP


async def serve_http(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if request.header("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b"".join([part async for part in body_of(request, reader)])
    match request.path:
        case "/api/health":
            return await answer(request, writer, {"status": "healthy"})
        case "/api/events":
            request.log("events begin")
            return await send_events(reader, writer)
        case "/api/slow":
            seconds = min(float(request.parameter("seconds", "2")), LONGEST_WAIT)
            await asyncio.sleep(seconds)
            await answer(request, writer, {"waited_seconds": seconds})
        case _:
            text = body[:SHOWN].decode("utf-8", "replace")
            await answer(request, writer, {"saw": request.shown() | {"body": text, "body_bytes": len(body)}})
    request.log("200")


async def body_of(request: Request, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the parts of the body: by chunks or by Content-Length (RFC 9112 §6)."""
    if request.header("transfer-encoding").lower() != "chunked":
        yield await reader.readexactly(int(request.header("content-length") or 0))
        return
    while size := int((await reader.readline()).partition(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        """Skip a trailer: nothing here uses one."""


async def answer(request: Request, writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + (b"" if request.method == "HEAD" else body))
    await writer.drain()


async def send_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a tick a second until the client leaves."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    tick = 0
    while not reader.at_eof():
        tick += 1
        event = f"data: {json.dumps({'tick': tick})}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(TICK)
    raise ConnectionResetError


# WebSocket


async def serve_websocket(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    protocol = ServerProtocol(
        subprotocols=SUBPROTOCOLS,
        select_subprotocol=first_known,
        extensions=[ServerPerMessageDeflateFactory()],
        max_size=None,
    )
    protocol.receive_data(request.raw)
    (handshake,) = protocol.events_received()
    assert isinstance(handshake, Handshake)  # noqa: S101 (the only event before the answer)
    if request.path == "/ws/strict" and not same_host(request):
        reason = "websocket: request origin not allowed by Upgrader.CheckOrigin"
        request.log(f"403, {reason}")
        protocol.send_response(protocol.reject(403, f"Forbidden\n{reason}\n"))
    else:
        protocol.send_response(protocol.accept(handshake))
        request.log(f"{101 if protocol.state is State.OPEN else 400}")
    accepted = protocol.state is State.OPEN
    if accepted:
        greet(request, protocol)
    ticker = asyncio.create_task(send_ticks(protocol, writer)) if request.path == "/ws/ticker" else None
    try:
        await carry(protocol, reader, writer)
    finally:
        if ticker:
            ticker.cancel()
    if accepted:
        request.log(f"closed with {protocol.close_code} {protocol.close_reason}".rstrip())


def first_known(protocol: ServerProtocol, offered: Any) -> Subprotocol | None:
    """Choose no subprotocol rather than refuse: the library's default requires one."""
    return next((name for name in offered if name in SUBPROTOCOLS), None)


def same_host(request: Request) -> bool:
    """Say whether Origin is absent or names the Host, which is all that gorilla/websocket's default accepts."""
    origin = request.header("origin")
    return not origin or urlsplit(origin).netloc.lower() == request.header("host").lower()


def greet(request: Request, protocol: ServerProtocol) -> None:
    """Show the handshake as it arrived, or close at once if the path asks for that."""
    first, _, code = request.path.removeprefix("/ws/").partition("/")
    if first == "close" and code.isdecimal():
        may_be_sent = int(code) in EXTERNAL_CLOSE_CODES or 3000 <= int(code) < 5000
        protocol.send_close(
            int(code) if may_be_sent else CloseCode.NORMAL_CLOSURE, request.parameter("reason", "as asked")
        )
    else:
        extensions = [extension.name for extension in protocol.extensions]
        shown = request.shown() | {"subprotocol": protocol.subprotocol, "extensions": extensions}
        protocol.send_text(json.dumps({"saw": shown}).encode())


async def carry(protocol: ServerProtocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo each frame, until the client has closed its side."""
    while not reader.at_eof():
        await flush(protocol, writer)
        async with asyncio.timeout(CLOSING if protocol.close_expected() else None):
            data = await reader.read(65_536)
        protocol.receive_data(data) if data else protocol.receive_eof()
        for event in protocol.events_received():
            if isinstance(event, Frame) and protocol.state is State.OPEN:
                send_back(event, protocol)


async def flush(protocol: ServerProtocol, writer: asyncio.StreamWriter) -> None:
    for data in protocol.data_to_send():
        writer.write(data) if data else writer.write_eof()
    await writer.drain()


def send_back(frame: Frame, protocol: ServerProtocol) -> None:
    match frame.opcode:
        case Opcode.TEXT:
            protocol.send_text(frame.data, frame.fin)
        case Opcode.BINARY:
            protocol.send_binary(frame.data, frame.fin)
        case Opcode.CONT:
            protocol.send_continuation(frame.data, frame.fin)


async def send_ticks(protocol: ServerProtocol, writer: asyncio.StreamWriter) -> None:
    tick = 0
    while protocol.state is State.OPEN:
        tick += 1
        protocol.send_text(json.dumps({"tick": tick}).encode())
        await flush(protocol, writer)
        await asyncio.sleep(TICK)


# Command


async def serve(listener: socket.socket) -> None:
    """Serve until cancelled."""
    server = await asyncio.start_server(serve_connection, sock=listener)
    host, port = listener.getsockname()[:2]
    print(f"backend: listening on http://{host}:{port}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.backend", description="The demo's backend.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0: any free port")
    parser.add_argument("--fd", type=int, help="a listening socket to use instead")
    options = parser.parse_args()
    try:
        listening = options.fd is not None
        listener = socket.socket(fileno=options.fd) if listening else socket.create_server((options.host, options.port))
    except OSError as exc:
        sys.exit(f"{options.host}:{options.port}: {exc.strerror}; choose another with --port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(listener))


if __name__ == "__main__":
    main()
