"""Stopping without cutting anybody off: contract, section 8."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest

from relay.typing import Receive, Scope, Send
from tests.server_helpers import GET, HANDSHAKE, POST, Served, connected, echo, respond, serving, until
from tests.server_process import running
from tests.test_server_websocket import Leg, Socket
from tests.ws_helpers import CLOSE, close

MIB = 2**20
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = POST + b"Content-Length: 2\r\n\r\na"


def draining(served: Served, seconds: float = 20) -> asyncio.Task[None]:
    return asyncio.ensure_future(served.host.drain(seconds))


# --- in the loop of the test ------------------------------------------------------------------------------------------


async def test_a_request_in_flight_finishes() -> None:
    """Its response says that the connection ends; then nothing is left."""
    async with serving(echo) as served, served.client() as client:
        client.send(HALF)
        await until(lambda: served.host.applications)
        drain = draining(served)
        await asyncio.sleep(0)
        client.send(b"b")
        response = await client.response()
        assert (response.status, response.get(b"connection")) == (200, b"close")
        assert await client.ended() == b""
        await drain


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET], ids=["fresh", "an empty line", "kept alive"])
async def test_idle_connections_are_closed(sent: bytes) -> None:
    """Nobody waits for anything on them."""
    async with serving(echo) as served, served.client() as client:
        client.send(sent)
        if sent == GET:
            await client.response()
        await until(lambda: served.host.connections)
        if sent == b"\r\n":
            await until(lambda: [c for c in served.host.connections if c._reader is not None])  # type: ignore[attr-defined]
        await draining(served)
        assert sent == b"\r\n" or await client.ended() == b""


@pytest.mark.parametrize("sent", [GET, HANDSHAKE, HALF])
async def test_new_work_is_refused(sent: bytes) -> None:
    """503 ``draining`` with ``Retry-After`` and the end of the connection, on connections new and old."""
    async with serving(Socket()) as served, served.client() as busy, served.client() as old:
        busy.send(HANDSHAKE)
        assert (await busy.head())[0] == 101
        old.send(sent[:5])
        await until(lambda: [c for c in served.host.connections if getattr(c, "_reader", None) is not None])
        drain = draining(served)
        await asyncio.sleep(0)
        async with served.client() as new:
            for client, rest in ((old, sent[5:]), (new, sent)):
                client.send(rest)
                response = await client.response()
                assert (response.status, response.json["code"]) == (503, "draining")
                assert (response.get(b"retry-after"), response.get(b"connection")) == (b"1", b"close")
                assert await client.ended() == b""
        assert served.refusals == ["draining", "draining"]
        assert not drain.done()
        busy.vanish()
        await drain


async def test_health_is_still_told() -> None:
    """A balancer wants to know; `Hooks.serves_while_draining`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await Socket()(scope, receive, send)
        await respond(send, scope["path"].encode(), 503)

    async with serving(application) as served, served.client() as busy:
        busy.send(HANDSHAKE)
        await busy.head()
        drain = draining(served)
        await asyncio.sleep(0)
        response = await served.ask(HEALTH)
        assert (response.body, response.get(b"connection")) == (b"/health", b"close")
        busy.vanish()
        await drain


async def test_sockets_are_waited_for() -> None:
    """The application ends them, in its own time."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        client.send(HANDSHAKE)
        await client.head()
        drain = draining(served)
        await asyncio.sleep(0)
        await socket.send({"type": "websocket.close", "code": 1012, "reason": "service restart"})
        assert await client.frame() == (CLOSE, b"\x03\xf4service restart")
        assert not drain.done()
        client.send(close(1012, masked=True))
        await drain


async def test_tunnels_are_waited_for() -> None:
    """Until their future is done, whatever became of the application."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "relay.tunnel", "attach": Leg().attach})

    async with serving(application) as served, served.client() as client:
        client.send(HANDSHAKE)
        await client.head()
        await until(lambda: not served.host.applications)
        drain = draining(served)
        client.send(b"x")
        assert await client.reader.readexactly(1) == b"X"
        assert not drain.done()
        client.writer.close()
        await drain


async def test_a_slow_client_gets_the_end_of_its_response() -> None:
    """An application that is done is not enough: its bytes have to be out."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(16 * MIB))

    async with serving(application) as served, served.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(GET)
        await until(lambda: [c for c in served.host.connections if c.writable and not c.writable.is_set()])
        drain = draining(served)
        await asyncio.sleep(0)
        assert not drain.done()
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.response()).body) == 16 * MIB
        await drain


async def test_a_drain_has_an_end() -> None:
    """What is not done by then is cut, and its application cancelled."""
    cancelled = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(application) as served, served.client() as client:
        client.send(GET)
        await until(lambda: served.host.applications)
        await served.host.drain(0.01)
        await served.host.close()
        assert await client.ended() == b""
        assert cancelled.is_set()


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_process(number: signal.Signals) -> None:
    """The request finishes, new ones can still be refused, the application's lifespan ends, exit status 0."""
    async with running("-p", "0") as server:
        port = await server.ready()
        async with connected(port) as client, AsyncExitStack() as later:
            client.send(HALF)
            assert (await server.line()).startswith("request")
            server.process.send_signal(number)
            assert await server.line() == "drain"
            late = await later.enter_async_context(connected(port))
            late.send(GET)
            assert (await late.response()).json["code"] == "draining"
            client.send(b"b")
            assert (await client.response()).body == b"POST / ab"
            assert await server.rest() == (["shutdown"], 0)


async def test_a_second_signal_ends_the_process_at_once() -> None:
    """Sockets are cut; exit status 0."""
    async with running("-p", "0") as server, connected(await server.ready()) as client:
        client.send(HANDSHAKE)
        assert await server.line() == "socket"
        server.process.terminate()
        assert await server.line() == "drain"
        server.process.terminate()
        assert await server.rest() == (["shutdown"], 0)
        assert b"101" in await client.ended()


async def test_the_process_ends_when_its_time_is_up() -> None:
    """``DRAIN_SECONDS``."""
    async with running("-p", "0", DRAIN_SECONDS="0.1") as server, connected(await server.ready()) as client:
        client.send(HANDSHAKE)
        assert await server.line() == "socket"
        server.process.terminate()
        assert await server.rest() == (["drain", "shutdown"], 0)


async def test_a_signal_before_the_server_listens() -> None:
    """Nothing has begun: it ends, with exit status 0."""
    async with running("-p", "0", SLOW_STARTUP="1") as server:
        assert await server.line() == "starting"
        server.process.terminate()
        assert await server.rest() == ([], 0)
