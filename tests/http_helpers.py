"""A backend made of a socket: each test says what it does with a connection, byte by byte."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relay.backends.connector import Connector
from relay.http.client import Client, Request
from relay.http.exchange import Exchange
from relay.routing.snapshot import Backend, Url


@dataclass
class Received:
    """One request as it stood on the wire; `body` is decoded from its framing."""

    head: bytes
    body: bytes = b""

    @property
    def lines(self) -> list[bytes]:
        return self.head.removesuffix(b"\r\n\r\n").split(b"\r\n")

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        pairs = (line.partition(b": ") for line in self.lines[1:])
        return [(name, value) for name, _, value in pairs]

    def field(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


class Peer:
    """A backend's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._rest: asyncio.Task[bytes] | None = None

    async def head(self) -> Received:
        return Received(await self.reader.readuntil(b"\r\n\r\n"))

    async def request(self) -> Received:
        """Read a whole request."""
        got = await self.head()
        if length := got.field(b"content-length"):
            got.body = await self.reader.readexactly(int(length))
        elif got.field(b"transfer-encoding"):
            while size := int(await self.reader.readline(), 16):
                got.body += (await self.reader.readexactly(size + 2))[:-2]
            assert await self.reader.readline() == b"\r\n"
        return got

    def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the other side has closed")
        self.writer.write(data)

    async def answer(self, body: bytes = b"ok", status: bytes = b"200 OK", *fields: bytes) -> Received:
        """Read a request and answer it."""
        got = await self.request()
        self.send(response(body, status, *fields))
        return got

    async def ended(self) -> bytes:
        """Wait for the gateway to close; return what it still sent. Several may wait."""
        if self._rest is None:
            self._rest = asyncio.create_task(self._read_rest())
        return await asyncio.shield(self._rest)

    async def _read_rest(self) -> bytes:
        rest = b""
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                rest += data
        return rest

    async def finish(self) -> None:
        """Send FIN behind what was sent, unless the gateway has hung up."""
        await self.writer.drain()
        with suppress(OSError):
            self.writer.write_eof()

    @contextmanager
    def socket(self) -> Iterator[socket.socket]:
        """The bare socket, for what can't wait until the event loop comes to it."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as bare:
            yield bare

    def reset(self) -> None:
        """Send RST: the cable is cut."""
        with self.socket() as bare:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def response(body: bytes = b"ok", status: bytes = b"200 OK", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(lines) + body


def self_signed(directory: Path, name: str) -> Path:
    """A PEM file with a key and a certificate for a name, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    path = directory / "self-signed.pem"
    path.write_bytes(key.private_bytes(*pem) + certificate.public_bytes(Encoding.PEM))
    return path


Talk = Callable[[Peer], Awaitable[object]]


@dataclass
class RawBackend:
    """A backend whose connections run a function.

    Attributes:
        peers: Its connections, in the order in which they came.
    """

    port: int
    peers: list[Peer] = field(default_factory=list)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def configured(self, *, name: str = "main", scheme: str = "http", **options: Any) -> Backend:
        return Backend(name, (Url.parse(f"{scheme}://127.0.0.1:{self.port}"),), **options)

    async def welcome(self, peer: Peer) -> None:
        async with self._came:
            self.peers.append(peer)
            self._came.notify_all()

    async def came(self, count: int) -> None:
        """Wait until there have been so many connections."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.peers) >= count)


@asynccontextmanager
async def raw_backend(talk: Talk, **options: Any) -> AsyncIterator[RawBackend]:
    """Run `talk` for every connection; what it raises fails the test at once."""
    failures: list[Exception] = []
    talking: set[asyncio.Task[None]] = set()
    test = asyncio.current_task()
    assert test is not None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        await backend.welcome(peer)
        try:
            await talk(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway hung up, which a test looks at from its own side
        except Exception as exc:
            failures.append(exc)
            test.cancel()
        finally:
            talking.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    backend = RawBackend(server.sockets[0].getsockname()[1])
    try:
        yield backend
    finally:
        server.close()
        for task in list(talking):
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        for peer in backend.peers:
            if not peer.writer.is_closing():
                peer.writer.transport.abort()
        await server.wait_closed()
        if failures:
            test.uncancel()
            raise failures[0]


@asynccontextmanager
async def http_client() -> AsyncIterator[Client]:
    """The gateway's client over a connector of its own."""
    connector = Connector()
    client = Client(connector)
    try:
        yield client
    finally:
        await client.close()
        await connector.close()
        await asyncio.sleep(0)


async def ask(client: Client, backend: Backend, method: str = "GET", path: bytes = b"/", **request: Any) -> Exchange:
    """Send a request with the backend's own ``Host``."""
    headers = request.pop("headers", [])
    return await client.request(
        backend, Request(method, lambda url: (path, url.authority.encode()), headers, **request)
    )


async def body_of(exchange: Exchange) -> bytes:
    """The whole body of a response."""
    pieces = []
    while piece := await exchange.read():
        pieces.append(piece)
    return b"".join(pieces)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A request body that is there at once."""
    for part in parts:
        yield part


async def until_quiet(moved: asyncio.Event, seconds: float = 0.3) -> None:
    """Return when nothing has moved for a while."""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(seconds):
                await moved.wait()
            moved.clear()
