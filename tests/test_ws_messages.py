"""`relay.websocket.messages`: the same promises over ASGI's events; a raw backend, and a server that is two queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.live.registry import DRAIN, Ending
from relay.routing.snapshot import Rate
from relay.typing import Message
from relay.websocket import backend_side, close_codes
from relay.websocket.carrier import Outcome, Terms
from relay.websocket.lifetime import Limits
from relay.websocket.messages import MessageRelay
from tests.test_tunnel import CODES, PATIENT, connection
from tests.ws_helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Peer, frame, on_both_loops, text


class Server:
    """ASGI's two callables, and what went through them."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.taking = asyncio.Event()  # the client takes what is sent
        self.taking.set()
        self.gone = False

    async def receive(self) -> Message:
        return await self.events.get()

    async def send(self, message: Message) -> None:
        if self.gone:
            raise OSError("the client is gone")
        await self.taking.wait()
        self.sent.put_nowait(message)

    def arrives(self, message: str | bytes) -> None:
        """The client has sent a message."""
        kind = "text" if isinstance(message, str) else "bytes"
        self.events.put_nowait({"type": "websocket.receive", kind: message})

    def disconnects(self, code: int | None, reason: str = "") -> None:
        """The client has closed, or is gone."""
        self.events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def next(self) -> Message:
        """What the client gets next."""
        async with asyncio.timeout(20):
            return await self.sent.get()


@dataclass
class Relayed:
    """A socket under way."""

    server: Server
    backend: Peer
    relay: MessageRelay
    carrying: asyncio.Task[None] = field(repr=False)

    async def closed(self) -> Outcome:
        async with asyncio.timeout(20):
            await self.carrying
        assert self.relay.ending is not None
        assert self.relay.client_left.done()
        return self.relay.ending


@asynccontextmanager
async def relayed(
    *, limits: Limits = PATIENT, early: bytes = b"", stock_daphne: bool = False, **terms: Any
) -> AsyncIterator[Relayed]:
    """A socket carried by messages; in the end nothing of it may be left."""
    async with connection(client=False) as back:
        server = Server()
        code = close_codes.for_stock_daphne if stock_daphne else close_codes.for_asgi
        relay = MessageRelay(back.transport, early, Terms(limits=limits, **terms), server.receive, server.send, code)
        it = Relayed(server, back.peer, relay, asyncio.create_task(relay.carry()))
        yield it
        if not it.carrying.done():
            server.disconnects(1006)
            back.peer.leave()
            await it.closed()
        assert back.transport.is_closing()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_both_loops
async def test_messages_cross_in_order() -> None:
    """Text, binary, empty; a fragmented one arrives whole; what came with the 101 comes first."""
    async with relayed(early=text("early")) as it:
        assert await it.server.next() == {"type": "websocket.send", "text": "early"}
        for message in ("größer", "", b"\x00\xff", b""):
            it.server.arrives(message)
        received = [await it.backend.next() for _ in range(4)]
        assert [(f.opcode, f.payload) for f in received] == [
            (TEXT, "größer".encode()), (TEXT, b""), (BINARY, b"\x00\xff"), (BINARY, b""),
        ]  # fmt: skip
        assert all(f.masked for f in received)
        for part in (frame(TEXT, b"a\xc3", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"\xa4b"), text("")):
            it.backend.write(part)
        it.backend.write(frame(BINARY, b"x" * 100_000))
        assert [(await it.server.next()).get("text") for _ in range(2)] == ["aäb", ""]
        assert len((await it.server.next())["bytes"]) == 100_000
        pong = await it.backend.next()
        assert (pong.opcode, pong.payload) == (PONG, b"p")
        assert it.relay.traffic == (4, 4, 10, 100_009)


@on_both_loops
@pytest.mark.parametrize("code", CODES)
async def test_the_clients_close(code: int | None) -> None:
    """The same code and reason to the backend, as far as the server tells them."""
    async with relayed() as it:
        it.server.disconnects(code or 1005, "bye" if code else "")
        assert (await it.backend.next()).close == (code, "bye" if code else "")
        it.backend.close(code)
        it.backend.leave()
        assert await it.closed() == Outcome(code or 1005, "bye" if code else "", "client")


@on_both_loops
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("stock_daphne", [False, True])
async def test_the_backends_close(code: int | None, stock_daphne: bool) -> None:
    """The same code and reason to the server, unless it could not send that code; messages before it come first."""
    async with relayed(stock_daphne=stock_daphne) as it:
        it.backend.write(text("last"))
        it.backend.close(code, "bye" if code else "")
        assert (await it.server.next())["text"] == "last"
        closing = await it.server.next()
        sent = close_codes.for_stock_daphne(code) if stock_daphne else code or 1000
        assert closing == {"type": "websocket.close", "code": sent, "reason": "bye" if code else ""}
        assert (await it.backend.next()).close[0] == code
        it.backend.leave()
        assert (await it.closed()).by == "backend"


@on_both_loops
@pytest.mark.parametrize("how", ["leave", "abort"])
async def test_the_backend_vanishes(how: str) -> None:
    """1014 to the client."""
    async with relayed() as it:
        getattr(it.backend, how)()
        assert (await it.server.next())["code"] == 1014
        ending = await it.closed()
    assert (ending.code, ending.by) == (1014, "backend")


@on_both_loops
@pytest.mark.parametrize("told", ["by a disconnect", "by an error of send"])
async def test_the_client_vanishes(told: str) -> None:
    """1001 to the backend."""
    async with relayed() as it:
        if told == "by a disconnect":
            it.server.disconnects(1006)
        else:
            it.server.gone = True
            it.backend.write(text("to nobody"))
        assert (await it.backend.next()).close == (1001, "")
        it.backend.leave()
        assert (await it.closed()).code == 1006


@on_both_loops
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param(frame(3), 1002, id="reserved opcode"),
        pytest.param(text("x", masked=True), 1002, id="masked"),
        pytest.param(text(b"\xff"), 1007, id="text that is not UTF-8"),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, id="a reason that is not UTF-8"),
        pytest.param(frame(BINARY, b"x" * 101), 1009, id="over the limit"),
    ],
)
async def test_the_backend_breaks_the_protocol(wrong: bytes, code: int) -> None:
    """1002, 1007 or 1009 to it; 1014 to the client, or 1001 for 1009."""
    async with relayed(max_message_size=100) as it:
        it.backend.write(wrong)
        assert (await it.server.next())["code"] == (1001 if code == 1009 else 1014)
        assert (await it.backend.next()).close[0] == code
        it.backend.leave()
        assert (await it.closed()).by == "gateway"


@on_both_loops
async def test_the_client_sends_a_message_over_the_limit() -> None:
    """1009 to it, 1001 to the backend; payload bytes count, not characters."""
    async with relayed(max_message_size=100) as it:
        it.server.arrives("ö" * 50)
        assert len((await it.backend.next()).payload) == 100
        it.server.arrives("ö" * 51)
        assert (await it.server.next())["code"] == 1009
        assert (await it.backend.next()).close == (1001, "")
        it.backend.leave()
        assert (await it.closed()).code == 1009


@on_both_loops
async def test_the_message_rate() -> None:
    """1008 past the burst."""
    async with relayed(message_rate=Rate(1, 3600, 2)) as it:
        for _ in range(4):
            it.server.arrives("x")
        assert [(await it.backend.next()).opcode for _ in range(3)] == [TEXT, TEXT, CLOSE]
        assert (await it.server.next())["code"] == 1008
        it.backend.leave()
        assert (await it.closed()).code == 1008


@on_both_loops
@pytest.mark.parametrize(
    ("terms", "code", "reason"),
    [
        pytest.param({"expires_at": 0.0}, 4401, "token expired", id="expired"),
        pytest.param({"idle_timeout": 0.05}, 4408, "idle", id="idle"),
    ],
)
async def test_time_ends_it(terms: dict[str, float], code: int, reason: str) -> None:
    """The deadline and the idle timeout are the same as in a tunnel."""
    if "expires_at" in terms:
        terms = {"expires_at": time.time() + 0.05}
    async with relayed(**terms) as it:
        assert await it.server.next() == {"type": "websocket.close", "code": code, "reason": reason}
        assert (await it.backend.next()).close == (1001, "")
        it.backend.leave()
        await it.closed()


@on_both_loops
@pytest.mark.parametrize("blocked", [False, True])
async def test_the_gateway_ends_it(blocked: bool) -> None:
    """Also while a send waits for a client that takes nothing; then the server is left to cut it."""
    async with relayed(limits=Limits(ping=60, close=0.1 if blocked else 60)) as it:
        if blocked:
            it.server.taking.clear()
            it.backend.write(text("never taken"))
            await asyncio.sleep(0.02)
        it.relay.end(DRAIN)
        it.relay.end(Ending(4999))
        assert (await it.backend.next()).close == (1001, "")
        if not blocked:
            assert (await it.server.next())["code"] == 1012
        it.backend.close(1001)
        it.backend.leave()
        assert await it.closed() == Outcome(1012, "service restart", "gateway")


@on_both_loops
async def test_a_backend_that_does_not_answer_the_close_is_cut() -> None:
    """5 s at most; milliseconds here."""
    async with relayed(limits=Limits(ping=60, close=0.05)) as it:
        it.server.disconnects(1000)
        await it.backend.next()
        assert await it.backend.end() in ("end", "reset")
        await it.closed()


@on_both_loops
async def test_the_backend_is_pinged_and_may_vanish() -> None:
    """The client's side is the server's to ping."""
    async with relayed(limits=Limits(ping=0.05, pong=0.8)) as it:
        ping = await it.backend.next()
        assert ping.opcode == PING
        it.backend.send(PONG, ping.payload)
        assert (await it.backend.next()).opcode == PING
        assert (await it.server.next())["code"] == 1014
        assert "0.8 s of a ping" in (await it.closed()).detail


@on_both_loops
async def test_a_slow_client_slows_the_backend() -> None:
    """No more is read than a bounded queue holds."""
    async with relayed() as it:
        it.server.taking.clear()
        stream = frame(BINARY, b"x" * 10_000) * 2000
        it.backend.write(stream)
        writing = asyncio.create_task(it.backend.writer.drain())
        await asyncio.sleep(0.1)
        assert not writing.done()
        assert it.relay._backend._queued <= backend_side._MOST_BYTES + 300_000
        it.server.taking.set()
        for _ in range(2000):
            await it.server.next()
        await writing


@on_both_loops
async def test_a_slow_backend_slows_the_client() -> None:
    """Nothing is asked of the server while the backend takes nothing."""
    async with relayed() as it:
        it.backend.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(300):
            it.server.arrives(b"x" * 100_000)
        await asyncio.sleep(0.2)
        waiting = it.server.events.qsize()
        assert waiting > 0
        it.backend.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(300):
            await it.backend.next()


@on_both_loops
async def test_a_failure_of_ours_closes_both_sides() -> None:
    """1011 to the client, 1001 to the backend, and the failure is raised for the server's log."""
    async with relayed() as it:
        it.server.events.put_nowait({"type": "websocket.receive"})
        assert (await it.server.next())["code"] == 1011
        assert (await it.backend.next()).close == (1001, "")
        it.backend.leave()
        with pytest.raises(KeyError):
            await it.carrying
        it.carrying = asyncio.create_task(asyncio.sleep(0))
