"""demo/backend.py: what the demo shows must be what was sent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from demo import backend

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a backend of its own; afterwards every connection has ended."""
    async with asyncio.TaskGroup() as connections:

        async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.serve_connection(reader, writer)
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(
            lambda reader, writer: connections.create_task(serve_connection(reader, writer)), "127.0.0.1", 0
        )
        async with server:
            yield server.sockets[0].getsockname()[1]


async def exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send a request's bytes and return the answer's head and body; the request must ask for a close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head, body


CLOSE = b"Host: a.example\r\nConnection: close\r\n"


async def test_a_request_is_shown_as_it_arrived(port: int) -> None:
    """Order, spelling and repeats of the headers stay: a merged header would hide what a gateway did."""
    head, body = await exchange(
        port, b"PUT /api/a%20b?x=1 HTTP/1.1\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 4\r\n" + CLOSE + b"\r\nbody"
    )
    saw = json.loads(body)["saw"]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (saw["method"], saw["path"], saw["body"]) == ("PUT", "/api/a%20b?x=1", "body")
    assert saw["headers"][:2] == [["X-One", "1"], ["x-one", "2"]]


async def test_a_chunked_body_is_read(port: int) -> None:
    """RFC 9112 §7.1: extensions and trailers are skipped."""
    chunks = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
    _, body = await exchange(port, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n" + chunks)
    assert json.loads(body)["saw"]["body"] == "abcde"


async def test_a_connection_serves_several_requests(port: int) -> None:
    """The gateway keeps its connections; a backend that closes each would hide that."""
    one = b"HEAD /api/health HTTP/1.1\r\nHost: a\r\n\r\n"
    head, rest = await exchange(port, one + b"GET /api/health HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert b"200 OK" in head
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert rest.endswith(b'{"status": "healthy"}')


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
async def test_what_is_not_http_ends_the_connection(port: int, garbage: bytes) -> None:
    """Nothing is said to who does not speak HTTP, and nothing is raised."""
    assert await exchange(port, garbage) == (b"", b"")


async def test_slow_answers_late(port: int) -> None:
    """/api/slow takes the seconds asked for."""
    _, body = await exchange(port, b"GET /api/slow?seconds=0.01 HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert json.loads(body) == {"waited_seconds": 0.01}


async def test_events_tick_until_the_client_leaves(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is a chunk of its own, sent at once."""
    monkeypatch.setattr(backend, "TICK", 0.001)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
    for tick in (1, 2, 3):
        await reader.readline()
        assert json.loads((await reader.readline()).removeprefix(b"data: ")) == {"tick": tick}
        await reader.readexactly(3)
    writer.close()
    await writer.wait_closed()


async def test_a_socket_shows_its_handshake_then_echoes(port: int) -> None:
    """Text, binary and empty messages come back as they are, under the subprotocol that the backend knows."""
    async with connect(f"ws://127.0.0.1:{port}/ws?room=1", subprotocols=["other", "demo.v1"], proxy=None) as socket:  # type: ignore[list-item]
        saw = json.loads(await socket.recv())["saw"]
        assert (saw["path"], saw["subprotocol"], saw["extensions"]) == ("/ws?room=1", "demo.v1", ["permessage-deflate"])
        for message in ("text", b"bytes", "", b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_fragments_come_back_as_fragments(port: int) -> None:
    """A frame is sent back when it is there, not when its message is whole."""
    async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, compression=None) as socket:
        await socket.recv()
        await socket.send(["one", "two"])
        assert [part async for part in socket.recv_streaming()] == ["one", "two", ""]


async def test_no_known_subprotocol_is_no_failure(port: int) -> None:
    """RFC 6455 §4.2.2: a server may choose none."""
    async with connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["other"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol is None


async def test_the_ticker_ticks(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """/ws/ticker sends without being asked, behind the handshake's message."""
    monkeypatch.setattr(backend, "TICK", 0.001)
    async with connect(f"ws://127.0.0.1:{port}/ws/ticker", proxy=None) as socket:
        messages = [json.loads(await socket.recv()) for _ in range(3)]
    assert "saw" in messages[0]
    assert messages[1:] == [{"tick": 1}, {"tick": 2}]


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/ws/close/4000?reason=bye", 4000, "bye"),
        ("/ws/close/1012?reason=%C3%A9t%C3%A9", 1012, "été"),
        ("/ws/close/1006", 1000, "as asked"),
    ],
)
async def test_a_socket_is_closed_as_asked(port: int, path: str, code: int, reason: str) -> None:
    """Code and reason are the path's."""
    async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert (socket.close_code, socket.close_reason) == (code, reason)


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        pytest.param(None, True, id="no Origin"),
        pytest.param("http://127.0.0.1:{port}", True, id="its own host"),
        pytest.param("https://app.example.com", False, id="the browser's page"),
        pytest.param("null", False, id="null"),
    ],
)
async def test_the_strict_path_judges_the_origin_as_gorilla_does(port: int, origin: str | None, accepted: bool) -> None:
    """gorilla/websocket, Upgrader.CheckOrigin's default: absent, or equal to Host."""
    origin = origin and origin.format(port=port)
    if accepted:
        async with connect(f"ws://127.0.0.1:{port}/ws/strict", origin=origin, proxy=None) as socket:  # type: ignore[arg-type]
            assert "saw" in json.loads(await socket.recv())
    else:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}/ws/strict", origin=origin, proxy=None)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        assert b"request origin not allowed by Upgrader.CheckOrigin" in refused.value.response.body


async def test_a_client_that_vanishes_leaves_nothing_behind(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The log says 1006: no close frame came."""
    socket = await connect(f"ws://127.0.0.1:{port}/ws", proxy=None)
    await socket.recv()
    socket.transport.abort()
    await socket.wait_closed()
    async with connect(f"ws://127.0.0.1:{port}/ws/close/1000", proxy=None) as later:
        await later.wait_closed()
    assert "closed with 1006" in capfd.readouterr().err


async def test_a_client_that_does_not_wait_for_the_goodbye_is_no_fault(port: int) -> None:
    """Ending the stream is then ENOTCONN, a plain OSError; `port` fails if it is raised."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n"
    writer.write(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n")
    await reader.readuntil(b"}}")
    writer.write(b"\x88\x80\0\0\0\0")
    writer.close()
    await writer.wait_closed()
