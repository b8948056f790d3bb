"""The whole gateway on real sockets: server, application, relay and backends, in the loop of the test.

Only the reactor and the database are left out; what needs those runs ``manage.py serve`` (`tests.served`).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.http11 import Request as HandshakeRequest
from websockets.server import ServerProtocol

from relay.door import serves_while_draining
from relay.gateway import Gateway, refusal_fields
from relay.http.handler import RelayHandler
from relay.http.journal import Journal
from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url
from relay.runtime import Runtime
from relay.server.host import Hooks, Host
from relay.settings import RelaySettings
from relay.typing import ASGIApp, RawHeaders, Receive, Scope, Send
from relay.websocket.consumer import RelayConsumer
from relay.websocket.lifetime import DEFAULT_LIMITS, Limits
from tests import ws_helpers
from tests.identity_helpers import SECRET, token

ORIGIN = "https://app.example.com"

Behaviour = Callable[["Seen", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a backend does with one request or handshake, on the bare socket."""


@dataclass
class Seen:
    """A request as it reached a backend, byte for byte."""

    method: str
    target: str
    headers: RawHeaders
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """The value of a field, several joined by ``|``; None if there is none."""
        found = [value.decode("utf-8") for key, value in self.headers if key == name.lower().encode()]
        return "|".join(found) if found else None


@dataclass
class Answer:
    """A response as it reached a client."""

    status: int
    headers: RawHeaders
    body: bytes

    def get(self, name: str) -> str | None:
        found = [value.decode("latin-1") for key, value in self.headers if key.lower() == name.lower().encode()]
        return "|".join(found) if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The refusal's code."""
        found: str = self.json["code"]
        return found


async def read_head(reader: asyncio.StreamReader) -> tuple[str, RawHeaders]:
    """The first line, and the fields with lowercase names; an IncompleteReadError if it is cut."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    return first.decode("latin-1"), [(name.lower(), value.strip()) for name, _, value in fields]


async def read_body(reader: asyncio.StreamReader, headers: RawHeaders, until_eof: bool = False) -> bytes:
    """A body by its framing; ``until_eof`` for a response without any."""
    fields = dict(headers)
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return body
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    return await reader.read() if until_eof else b""


async def echo(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP: what was seen, as JSON. WebSocket: every message comes back; a close is answered as it was sent."""
    if seen.get("upgrade"):
        await echo_messages(seen, reader, writer)
        return
    content = json.dumps(
        {
            "method": seen.method,
            "target": seen.target,
            "headers": [[k.decode(), v.decode("utf-8", "replace")] for k, v in seen.headers],
            "length": len(seen.body),
        }
    ).encode()
    body = b"" if seen.method == "HEAD" else content
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + body)


async def echo_messages(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    protocol = await accept(seen, writer)
    while protocol is not None and (data := await reader.read(65536)):
        protocol.receive_data(data)
        for event in protocol.events_received():
            if event.opcode.name == "TEXT":  # type: ignore[union-attr]
                protocol.send_text(event.data)  # type: ignore[union-attr]
            elif event.opcode.name == "BINARY":  # type: ignore[union-attr]
                protocol.send_binary(event.data)  # type: ignore[union-attr]
        for out in protocol.data_to_send():
            writer.write(out) if out else writer.write_eof()
        await writer.drain()


async def accept(
    seen: Seen, writer: asyncio.StreamWriter, subprotocol: str | None = None, glued: bytes = b""
) -> ServerProtocol | None:
    """Answer a handshake with its 101, on websockets' sans-I/O server; `glued` goes out in the same write."""
    protocol = ServerProtocol(
        subprotocols=None,
        select_subprotocol=lambda _, offered: subprotocol or (offered[0] if offered else None),  # type: ignore[arg-type]
        max_size=None,
    )
    lines = [f"GET {seen.target} HTTP/1.1".encode(), *(k + b": " + v for k, v in seen.headers), b"", b""]
    protocol.receive_data(b"\r\n".join(lines))
    (request,) = protocol.events_received()
    assert isinstance(request, HandshakeRequest)
    protocol.send_response(protocol.accept(request))
    writer.write(b"".join(protocol.data_to_send()) + glued)
    return protocol if protocol.handshake_exc is None else None


class Ends(asyncio.Queue[tuple[int | None, str]]):
    """What a backend was told at the end of each socket: reason, and code (None: empty close, -1: no close frame)."""

    async def next(self) -> tuple[int | None, str]:
        async with asyncio.timeout(10):
            return await self.get()


def observed(ends: Ends, first: bytes = b"", then: str = "echo") -> Behaviour:
    """A backend that echoes messages, answers a close with the same, and tells how each socket ended.

    Args:
        first: Frames to send at once.
        then: ``echo``, or ``mute``: it reads and never answers a close.
    """

    async def behaviour(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = await accept(seen, writer, glued=first)
        assert protocol is not None
        told: tuple[int | None, str] = (-1, "")
        while data := await reader.read(65536):
            protocol.receive_data(data)
            for event in protocol.events_received():
                name = event.opcode.name  # type: ignore[union-attr]
                if name == "CLOSE":
                    received = protocol.close_rcvd
                    told = (None, "") if received is None or received.code == 1005 else (received.code, received.reason)
                    ends.put_nowait(told)
                elif then == "echo" and name in ("TEXT", "BINARY", "CONT"):
                    writer.write(ws_helpers.frame(event.opcode, event.data, fin=event.fin))  # type: ignore[union-attr]
            for out in protocol.data_to_send():
                if then == "echo":
                    writer.write(out) if out else writer.write_eof()
            await writer.drain()
        if told == (-1, ""):
            ends.put_nowait(told)

    return behaviour


class BackendServer:
    """A backend on a raw socket that remembers what it saw, and does what its behaviour says.

    Attributes:
        seen: Every request and handshake, in order.
        connections: TCP connections so far.
    """

    def __init__(self, behaviour: Behaviour = echo) -> None:
        self.behaviour = behaviour
        self.seen: list[Seen] = []
        self.connections = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                first, headers = await read_head(reader)
                method, target, _ = first.split(" ")
                seen = Seen(method, target, headers)
                if seen.get("upgrade") is None and seen.get("expect") is None:
                    seen.body = await read_body(reader, headers)
                self.seen.append(seen)
                await self.behaviour(seen, reader, writer)
                await writer.drain()
                if seen.get("upgrade") or writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the peer is done, or the test
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def backend(behaviour: Behaviour = echo, listener: socket.socket | None = None) -> AsyncIterator[BackendServer]:
    """A backend on a free loopback port, or on a socket that listens already and goes on listening behind it."""
    it = BackendServer(behaviour)
    sock = socket.create_server(("127.0.0.1", 0)) if listener is None else listener.dup()
    server = await asyncio.start_server(it.serve, sock=sock, limit=2**20)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()
        await it.close()
        await server.wait_closed()


class Client:
    """Whoever asks a gateway on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def request(
        self,
        target: str,
        method: str = "GET",
        headers: dict[str, str] | list[tuple[str, str]] = (),
        body: bytes = b"",  # type: ignore[assignment]
    ) -> Answer:
        """One request on a connection of its own; only what is given is sent, and ``Host``."""
        pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
        if not any(name.lower() == "host" for name, _ in pairs):
            pairs.insert(0, ("Host", "gateway.test"))
        if body and not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in pairs):
            pairs.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "", ""]
        return await self.raw("\r\n".join(lines).encode() + body, head_only=method == "HEAD")

    async def raw(self, data: bytes, head_only: bool = False) -> Answer:
        """Send bytes as they are, read one response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        try:
            writer.write(data)
            return await read_answer(reader, head_only)
        finally:
            writer.close()

    def websocket(self, path: str = "/ws", **options: Any) -> connect:
        """A WebSocket client, with Alice's token in ``Authorization`` unless headers are given."""
        options.setdefault("additional_headers", bearer())
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, open_timeout=20, **options)


@dataclass
class Stack(Client):
    """A gateway that listens, and what a test wants to know of it."""

    runtime: Runtime
    host: Host
    port: int
    tokens: dict[str, str] = field(default_factory=dict)

    def configure(self, **changes: Any) -> None:
        """Put a changed configuration in force, as the watcher does."""
        self.runtime.on_snapshot(replace(self.runtime.snapshot, **changes))


async def read_answer(reader: asyncio.StreamReader, head_only: bool = False) -> Answer:
    """The next response on a connection, interim ones left out."""
    status = 100
    while 100 <= status < 200 and status != 101:
        first, headers = await read_head(reader)
        status = int(first.split(" ")[1])
    bodiless = head_only or status in (101, 204, 304)
    return Answer(status, headers, b"" if bodiless else await read_body(reader, headers, until_eof=True))


def bearer(**claims: Any) -> dict[str, str]:
    """An ``Authorization`` field for Alice (user 1, role user), or with other claims."""
    return {"Authorization": f"Bearer {token(SECRET, **claims)}"}


def routes(**changes: Any) -> tuple[Route, ...]:
    """What most tests need: /api/ (HTTP) and /ws (WebSocket) on main, both authenticated, /open/ public."""
    return (
        Route("/api/", "http", "main", **changes),
        Route("/ws", "websocket", "main", **changes),
        Route("/open/", "http", "main", access="public"),
        Route("/open-ws", "websocket", "main", access="public"),
        Route("/admins/", "http", "main", access="roles", roles=("admin", "staff")),
        Route("/admins-ws", "websocket", "main", access="roles", roles=("admin", "staff")),
    )


def snapshot(*urls: str, with_routes: tuple[Route, ...] | None = None, **backend_fields: Any) -> Snapshot:
    """A configuration with one backend, `routes` and `ORIGIN`."""
    main = Backend("main", tuple(map(Url.parse, urls)), **backend_fields)
    return Snapshot.build([main], with_routes if with_routes is not None else routes(), [Origin(ORIGIN)])


def without(extension: str, application: ASGIApp) -> ASGIApp:
    """The application under a server that lacks an extension."""

    async def poorer(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {k: v for k, v in scope.get("extensions", {}).items() if k != extension}
        await application({**scope, "extensions": extensions}, receive, send)

    return poorer


@asynccontextmanager
async def gateway(
    configuration: Snapshot, *, tunnel: bool = True, limits: Limits = DEFAULT_LIMITS, **settings: Any
) -> AsyncIterator[Stack]:
    """The gateway with a configuration that only the test changes.

    Args:
        tunnel: False: WebSockets are carried by ASGI messages, as under any other server.
        limits: Times of a socket's life.
    """
    runtime = Runtime(RelaySettings(**{"jwt_secret": SECRET, **settings}), configuration)
    consumer: ASGIApp = RelayConsumer.as_asgi(runtime=runtime, limits=limits)
    application = Gateway(runtime, RelayHandler(runtime), consumer if tunnel else without("relay.tunnel", consumer))
    runtime.journal = Journal(runtime.metrics, pause=0)  # a test finds the line of whatever it has an answer to
    await runtime.start()
    hooks = Hooks(serves_while_draining=serves_while_draining, refusal_fields=partial(refusal_fields, runtime))
    host = Host(application, hooks=hooks)
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    try:
        yield Stack(runtime, host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await host.close()
        await runtime.stop()
        await server.wait_closed()


async def closed(client: ClientConnection, within: float = 10) -> tuple[int, str]:
    """How a client's WebSocket was closed: code and reason."""
    async with asyncio.timeout(within):
        await client.wait_closed()
    return client.close_code or 0, client.close_reason or ""
