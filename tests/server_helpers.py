"""A server in the loop of the test, and clients on bare sockets that may misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from relay.server.host import Hooks, Host
from relay.server.limits import Limits
from relay.typing import ASGIApp, Message, RawHeaders, Receive, Scope, Send

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % KEY
)

QUICK = {"sweep": 0.005}
"""Limits are looked at at once: for tests in which one passes."""


@dataclass
class Response:
    """What a client read of one response."""

    status: int
    headers: RawHeaders
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key.lower() == name]
        return b"|".join(found) if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection, written and read by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, RawHeaders]:
        line, *lines = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        fields = [line.partition(b": ") for line in lines]
        return int(line.split(b" ")[1]), [(name, value) for name, _, value in fields]

    async def response(self, method: str = "GET") -> Response:
        """A whole response by its framing; IncompleteReadError where it is cut."""
        status, headers = await self.head()
        response = Response(status, headers, b"")
        if method == "HEAD" or status in (101, 204, 304):
            return response
        if response.get(b"transfer-encoding") == b"chunked":
            chunks = []
            while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
                chunks.append(await self.reader.readexactly(size))
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            response.body = b"".join(chunks)
        elif (length := response.get(b"content-length")) is not None:
            response.body = await self.reader.readexactly(int(length))
        else:
            response.body = await self.reader.read()
        return response

    async def ended(self) -> bytes:
        """What comes until the server closes; a reset is an end as well."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next WebSocket frame, which has to be whole, final and unmasked."""
        first, length = await self.reader.readexactly(2)
        assert first & 0xF0 == 0x80, "not a final frame, or reserved bits"
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2))
        elif length == 127:
            length = int.from_bytes(await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(length)

    def vanish(self) -> None:
        """Reset the connection."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@dataclass
class Served:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        refusals: Codes of what never reached the application.
    """

    host: Host
    port: int
    refusals: list[str] = field(default_factory=list)

    def client(self) -> AbstractAsyncContextManager[Client]:
        """A client, until the end of the block."""
        return connected(self.port)

    async def ask(self, request: bytes, method: str = "GET") -> Response:
        """One request on a connection of its own."""
        async with self.client() as client:
            client.send(request)
            return await client.response(method)


@asynccontextmanager
async def serving(
    application: ASGIApp, *, server_name: str = "", root_path: str = "", **limits: Any
) -> AsyncIterator[Served]:
    """Serve an application with these limits; the sockets are real, the reactor is left out."""
    refusals: list[str] = []
    host = Host(
        application,
        Limits(**limits),
        Hooks(on_refusal=refusals.append, serves_while_draining=lambda scope: scope["path"] == "/health"),
        server_name=server_name,
        root_path=root_path,
    )
    server = await host.loop.create_server(host.protocol, "127.0.0.1", 0)
    try:
        yield Served(host, server.sockets[0].getsockname()[1], refusals)
    finally:
        server.close()
        await host.close()


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until a condition holds; the test's own time limit is the net."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.002)


async def respond(send: Send, body: bytes = b"", status: int = 200, headers: RawHeaders | None = None) -> None:
    """A whole response with its Content-Length."""
    fields = headers if headers is not None else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    """The request's body; asserts that it is complete."""
    pieces = []
    while True:
        event = await receive()
        assert event["type"] == "http.request", event
        pieces.append(event["body"])
        if not event["more_body"]:
            return b"".join(pieces)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, target and body."""
    body = await read_body(receive)
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    await respond(send, b"%b %b %b" % (scope["method"].encode(), target, body))


@dataclass
class Recorder:
    """An application that answers 200 and remembers what it was called with."""

    scopes: list[Scope] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)
    handler: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await (self.handler or echo)(scope, receive, send)
