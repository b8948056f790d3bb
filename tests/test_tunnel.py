"""`relay.websocket.tunnel` between two raw sockets: every row of the contract, section 6, on both event loops."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from relay.live.registry import CONFIG_CHANGED, DRAIN, EXPIRED, KICKED, REVOKED, Ending
from relay.routing.snapshot import Rate
from relay.typing import Message, Traffic
from relay.websocket import legs
from relay.websocket.carrier import Outcome, Terms
from relay.websocket.lifetime import Limits
from relay.websocket.tunnel import Tunnel
from tests.ws_helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Got, Peer, frame, on_both_loops, text

CODES = [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4401, 4999]
PATIENT = Limits(ping=60, pong=60, frame=60, close=60, tcp=60)
"""Limits that no test waits for: what happens under them happens at once."""

SIDES = pytest.mark.parametrize("side", ["client", "backend"])


@dataclass
class Tunnelled:
    """A tunnel under way, and the peers at its ends."""

    client: Peer
    backend: Peer
    tunnel: Tunnel
    carrying: asyncio.Task[None] = field(repr=False)

    def __getitem__(self, side: str) -> Peer:
        return self.client if side == "client" else self.backend

    def other(self, side: str) -> Peer:
        return self.backend if side == "client" else self.client

    @property
    def outcome(self) -> tuple[int, str]:
        """Code and who ended it."""
        assert self.tunnel.ending is not None
        return self.tunnel.ending.code, self.tunnel.ending.by

    async def closed(self) -> Outcome:
        """Wait until both transports are closed."""
        async with asyncio.timeout(20):
            await self.carrying
        assert self.tunnel.ending is not None
        assert self.tunnel.client_left.done()
        return self.tunnel.ending


@dataclass
class Ends:
    """A connected pair: the gateway's transport, and a peer."""

    transport: asyncio.Transport
    peer: Peer


@asynccontextmanager
async def connection(*, client: bool) -> AsyncIterator[Ends]:
    """A TCP connection of which the gateway has one end, not read from yet, and a peer the other."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.Transport] = loop.create_future()

    class Handed(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(cast(asyncio.Transport, transport))

    server = await loop.create_server(Handed, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    transport = await accepted
    transport.pause_reading()
    try:
        yield Ends(transport, Peer(reader, writer, client=client))
    finally:
        transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def tunnelled(
    *,
    limits: Limits = PATIENT,
    deflate: bool = False,
    early: bytes = b"",
    leftover: bytes = b"",
    attach: bool = True,
    alone: bool = True,
    **terms: Any,
) -> AsyncIterator[Tunnelled]:
    """A tunnel between two peers; in the end nothing of it may be left, nor, if it was alone, any task."""
    async with connection(client=True) as front, connection(client=False) as back:
        attached = asyncio.Event()

        async def send(message: Message) -> None:
            assert message["type"] == "relay.tunnel"
            if attach:
                message["attach"](front.transport, leftover)
            attached.set()

        tunnel = Tunnel(back.transport, early, Terms(limits=limits, **terms), send, deflate=deflate)
        carrying = asyncio.create_task(tunnel.carry())
        it = Tunnelled(front.peer, back.peer, tunnel, carrying)
        await attached.wait()
        yield it
        if not carrying.done():
            tunnel.abort()
            await it.closed()
        assert front.transport.is_closing() or not attach
        assert back.transport.is_closing()
    await asyncio.sleep(0)
    assert not alone or asyncio.all_tasks() == {asyncio.current_task()}


async def until(reached: Callable[[], bool]) -> None:
    """Wait for a state that nobody announces."""
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# What passes


@on_both_loops
@SIDES
async def test_frames_pass_byte_for_byte(side: str) -> None:
    """Text, binary, empty, fragmented, pings and pongs: unchanged, masks included, whatever pieces they come in."""
    sent = [
        Got(TEXT, b"hello"),
        Got(BINARY, b""),
        Got(TEXT, "größer".encode() * 30, fin=False),
        Got(PING, b"between"),
        Got(CONTINUATION, b"x" * 70_000),
        Got(PONG, b"unsolicited"),
        Got(BINARY, b"\x00\xff" * 40),
    ]
    async with tunnelled() as it:
        stream = b"".join(frame(f.opcode, f.payload, fin=f.fin, masked=side == "client") for f in sent)
        for i in range(0, 60):
            it[side].write(stream[i : i + 1])
            await asyncio.sleep(0)
        it[side].write(stream[60:])
        received = [await it.other(side).next() for _ in sent]
        assert [(f.opcode, f.payload, f.fin) for f in received] == [(f.opcode, f.payload, f.fin) for f in sent]
        assert {f.masked for f in received} == {side == "client"}
        size = sum(len(f.payload) for f in sent if f.opcode not in (PING, PONG))
        assert it.tunnel.traffic == ((4, 0, size, 0) if side == "client" else (0, 4, 0, size))


@on_both_loops
async def test_what_came_with_the_handshakes_is_passed_first() -> None:
    """Frames behind the backend's 101 and behind the client's request."""
    async with tunnelled(early=text("early")[:4], leftover=text("first", masked=True)) as it:
        it.backend.write(text("early")[4:])
        it.client.write(text("second", masked=True))
        assert (await it.client.next()).payload == b"early"
        assert [(await it.backend.next()).payload for _ in range(2)] == [b"first", b"second"]


@on_both_loops
async def test_compressed_messages_pass_where_deflate_was_negotiated() -> None:
    """RSV1 reaches the other side; the payload is nobody's business."""
    async with tunnelled(deflate=True) as it:
        it.client.send(TEXT, b"\xca\x48\x04\x00", rsv=4)
        assert (await it.backend.next()).rsv == 4
        it.backend.send(TEXT, b"\xca\x48\x04\x00", rsv=4)
        assert (await it.client.next()).rsv == 4


# Close frames


@on_both_loops
@pytest.mark.parametrize("code", CODES)
@SIDES
async def test_a_close_frame_and_its_answer_cross(side: str, code: int | None) -> None:
    """The same code and reason; the answer comes back; the gateway ends the client's TCP, the backend its own."""
    reason = "" if code is None else "bis später"
    async with tunnelled() as it:
        first, second = it[side], it.other(side)
        first.close(code, reason)
        assert (await second.next()).close == (code, reason)
        second.close(code, "as you say" if code else "")
        assert (await first.next()).close == (code, "as you say" if code else "")
        assert await it.client.end() == "end"
        it.backend.leave()
        ending = await it.closed()
    assert (ending.code, ending.reason, ending.by) == (code or 1005, reason, side)


@on_both_loops
async def test_both_may_close_at_once() -> None:
    """Each gets the other's close frame, and no third one."""
    async with tunnelled() as it:
        it.client.close(1000)
        it.backend.close(1001)
        assert (await it.client.next()).close == (1001, "")
        assert (await it.backend.next()).close == (1000, "")
        assert await it.client.end() == "end"
        it.backend.leave()
        assert await it.backend.end() == "end"
        await it.closed()


@on_both_loops
@SIDES
async def test_messages_still_reach_a_side_that_has_closed(side: str) -> None:
    """Until the other side answers it may go on sending (RFC 6455 §5.5.1); after its own close frame nobody may."""
    async with tunnelled() as it:
        first, second = it[side], it.other(side)
        first.close(1000)
        first.send(TEXT, b"too late")
        assert (await second.next()).close == (1000, "")
        second.send(TEXT, b"last words")
        second.close(1000)
        second.send(TEXT, b"too late")
        assert (await first.next()).payload == b"last words"
        assert (await first.next()).close == (1000, "")
        it.backend.leave()
        assert await second.end() in ("end", "reset")
        await it.closed()


@on_both_loops
async def test_a_client_that_ends_its_sending_with_its_close_gets_the_answer() -> None:
    """A half-closed connection is still good for the answer."""
    async with tunnelled() as it:
        it.client.close(1000, "bye")
        it.client.writer.write_eof()
        assert (await it.backend.next()).close == (1000, "bye")
        it.backend.close(1000, "bye")
        assert (await it.client.next()).close == (1000, "bye")
        assert await it.client.end() == "end"
        it.backend.leave()
        assert (await it.closed()).by == "client"


@on_both_loops
@SIDES
async def test_a_close_that_is_not_answered_is_answered_by_the_gateway(side: str) -> None:
    """The silent side is cut; the one that closed gets its own code back: it has done nothing wrong."""
    async with tunnelled(limits=Limits(close=0.05)) as it:
        it[side].close(4000, "over")
        assert (await it.other(side).next()).close == (4000, "over")
        assert (await it[side].next()).close == (4000, "over")
        assert await it.other(side).end() in ("end", "reset")
        it.backend.leave()
        assert (await it.closed()).by == side


@on_both_loops
async def test_a_backend_that_keeps_tcp_open_is_cut() -> None:
    """Its server should end TCP first (RFC 6455 §7.1.1); nobody waits for ever, least of all a drain.

    The client is free at once.
    """
    async with tunnelled(limits=Limits(close=60, tcp=0.05)) as it:
        it.client.close(1000)
        await it.backend.next()
        it.backend.close(1000)
        await it.client.next()
        assert await it.client.end() == "end"
        await it.tunnel.client_left
        assert await it.backend.end() in ("end", "reset")
        await it.closed()


# Sides that vanish


@on_both_loops
@pytest.mark.parametrize("how", ["leave", "abort"])
@SIDES
async def test_a_side_that_vanishes(side: str, how: str) -> None:
    """1001 to the backend, 1014 to the client."""
    async with tunnelled() as it:
        it[side].send(TEXT, b"x")
        await it.other(side).next()
        getattr(it[side], how)()
        told = await it.other(side).next()
        assert told.close == ((1001, "") if side == "client" else (1014, ""))
        assert told.masked is (side == "client")
        it.other(side).close(*told.close)
        it.backend.leave()
        ending = await it.closed()
    assert (ending.code, ending.by) == ((1006, "client") if side == "client" else (1014, "backend"))
    assert "without a close frame" in ending.detail


@on_both_loops
@pytest.mark.parametrize("how", ["leave", "abort"])
@SIDES
async def test_a_side_that_vanishes_inside_of_a_frame(side: str, how: str) -> None:
    """A close can't be put inside a frame: the other side gets the end of TCP."""
    async with tunnelled() as it:
        whole = frame(BINARY, b"x" * 1000, masked=side == "client")
        it[side].write(whole[:500])
        assert await it.other(side).reader.readexactly(500) == whole[:500]
        getattr(it[side], how)()
        assert await it.other(side).end() == "end"
        it.other(side).leave()
        await it.closed()


@on_both_loops
@SIDES
async def test_a_side_that_vanishes_inside_of_a_header(side: str) -> None:
    """Half a header was never passed on: a close frame can follow."""
    async with tunnelled() as it:
        it[side].write(frame(BINARY, b"x" * 1000, masked=side == "client")[:3])
        it[side].leave()
        assert (await it.other(side).next()).opcode == CLOSE
        it.other(side).leave()
        await it.closed()


@on_both_loops
@SIDES
async def test_a_side_that_is_gone_before_the_tunnel_begins(side: str) -> None:
    """What happened during the accept is noticed then."""
    async with connection(client=True) as front, connection(client=False) as back:
        gone, stays = (front, back) if side == "client" else (back, front)
        gone.transport.abort()

        async def send(message: Message) -> None:
            message["attach"](front.transport, b"")

        tunnel = Tunnel(back.transport, b"", Terms(limits=PATIENT), send)
        carrying = asyncio.create_task(tunnel.carry())
        assert (await stays.peer.next()).close[0] == (1001 if side == "client" else 1014)
        stays.peer.leave()
        await carrying


@on_both_loops
@pytest.mark.parametrize("attach", [True, False])
async def test_both_sides_are_gone_before_the_tunnel_begins(attach: bool) -> None:
    """There is nobody left to tell, and nothing to wait for."""
    async with connection(client=True) as front, connection(client=False) as back:
        front.transport.abort()
        back.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        async def send(message: Message) -> None:
            if attach:
                message["attach"](front.transport, b"")

        tunnel = Tunnel(back.transport, b"", Terms(limits=PATIENT), send)
        await tunnel.carry()
        assert tunnel.client_left.done()


@on_both_loops
async def test_a_server_that_fails_at_the_hand_over() -> None:
    """The failure is the server's to log; the backend is cut, and nobody counts the client any more."""
    async with connection(client=False) as back:

        async def send(message: Message) -> None:
            raise RuntimeError("no")

        tunnel = Tunnel(back.transport, b"", Terms(limits=PATIENT), send)
        with pytest.raises(RuntimeError, match="no"):
            await tunnel.carry()
        assert tunnel.client_left.done()
        assert tunnel.ending is not None
        assert await back.peer.end() in ("end", "reset")


@on_both_loops
async def test_a_client_that_the_server_has_lost() -> None:
    """The server has nobody to hand over: 1001 to the backend."""
    async with tunnelled(attach=False) as it:
        assert (await it.backend.next()).close == (1001, "")
        it.backend.leave()
        assert (await it.closed()).code == 1006


# Violations


@on_both_loops
@SIDES
async def test_a_message_over_the_limit(side: str) -> None:
    """1009 to the sender, 1001 to the other; not a byte of it passes."""
    async with tunnelled(max_message_size=100) as it:
        it[side].send(TEXT, b"x" * 100)
        it[side].send(TEXT, b"x" * 101)
        assert len((await it.other(side).next()).payload) == 100
        assert (await it[side].next()).close == (1009, "a message of more than 100 bytes")
        assert (await it.other(side).next()).close == (1001, "")
        it.client.leave()
        it.backend.leave()
        ending = await it.closed()
    assert (ending.code, ending.by) == (1009 if side == "client" else 1001, "gateway")
    assert ending.detail == f"the {side} sent a message of more than 100 bytes"


@on_both_loops
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param({"opcode": 3}, 1002, id="reserved opcode"),
        pytest.param({"opcode": TEXT, "rsv": 4}, 1002, id="reserved bit"),
        pytest.param({"opcode": CONTINUATION}, 1002, id="continuation of nothing"),
        pytest.param({"opcode": CLOSE, "payload": b"\x03\xee"}, 1002, id="close code 1006"),
        pytest.param({"opcode": CLOSE, "payload": b"\x03\xe8\xc3"}, 1007, id="reason that is not UTF-8"),
    ],
)
@SIDES
async def test_a_violation(side: str, wrong: dict[str, Any], code: int) -> None:
    """1002 or 1007 to the one who did it, 1001 to a backend, 1014 to a client."""
    async with tunnelled() as it:
        it[side].send(TEXT, b"good")
        it[side].send(**wrong)
        it[side].send(TEXT, b"not passed")
        assert (await it.other(side).next()).payload == b"good"
        assert (await it[side].next()).close[0] == code
        assert (await it.other(side).next()).close == ((1001, "") if side == "client" else (1014, ""))
        it.other(side).close(1001)
        it[side].leave()
        it.backend.leave()
        ending = await it.closed()
    assert (ending.code, ending.by) == (code if side == "client" else 1014, "gateway")


@on_both_loops
async def test_a_client_that_breaks_the_protocol_and_goes_on_sending() -> None:
    """It gets its close frame and the end of TCP, never a reset that would take the close frame away."""
    async with tunnelled(max_message_size=1000) as it:
        flood = frame(BINARY, b"x" * 3_000_000, masked=True)
        it.client.write(flood)
        assert (await it.client.next()).close[0] == 1009
        assert await it.client.end() == "end"
        it.client.leave()
        it.backend.leave()
        await it.closed()


# Endings by the gateway


@on_both_loops
@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(EXPIRED, id="expired"),
        pytest.param(REVOKED, id="revoked"),
        pytest.param(KICKED, id="kicked"),
        pytest.param(CONFIG_CHANGED, id="configuration"),
        pytest.param(DRAIN, id="drain"),
    ],
)
async def test_the_gateway_ends_it(ending: Ending) -> None:
    """Its code and reason to the client, 1001 to the backend; the first ending counts."""
    async with tunnelled() as it:
        it.tunnel.end(ending)
        it.tunnel.end(Ending(4999))
        assert (await it.client.next()).close == (ending.code, ending.reason)
        assert (await it.backend.next()).close == (1001, "")
        it.client.send(TEXT, b"dropped")
        it.client.close(ending.code)
        assert await it.client.end() == "end"
        it.backend.close(1001)
        it.backend.leave()
        assert await it.backend.end() == "end"
        assert (await it.closed()) == Outcome(ending.code, ending.reason, "gateway")


@on_both_loops
@SIDES
async def test_what_is_dropped_is_not_counted(side: str) -> None:
    """A side may go on sending for 5 s without answering the close: none of it arrives, so none of it is told."""
    masked = side == "client"
    async with tunnelled() as it:
        it[side].send(TEXT, b"passed")
        assert (await it.other(side).next()).payload == b"passed"
        it.tunnel.end(REVOKED)
        await it[side].next()
        leg = it.tunnel.client if masked else it.tunnel.backend
        for _ in range(20):
            it[side].write(frame(BINARY, b"x" * 100_000, masked=masked))
        await until(lambda: leg.scanner.messages == 21)
        assert it.tunnel.traffic == (Traffic(1, 0, 6, 0) if masked else Traffic(0, 1, 0, 6))


@on_both_loops
async def test_sides_that_do_not_answer_the_gateways_close_are_cut() -> None:
    """5 s at most; milliseconds here."""
    async with tunnelled(limits=Limits(close=0.05)) as it:
        it.tunnel.end(DRAIN)
        await it.client.next()
        await it.backend.next()
        assert await it.client.end() in ("end", "reset")
        assert await it.backend.end() in ("end", "reset")
        await it.closed()


@on_both_loops
@SIDES
async def test_the_gateways_close_waits_for_the_end_of_a_frame(side: str) -> None:
    """It follows the frame in flight at once; what is behind that frame is not passed on."""
    async with tunnelled() as it:
        whole = frame(BINARY, b"x" * 1000, masked=side == "client")
        it[side].write(whole[:300])
        await it.other(side).reader.readexactly(300)
        it.tunnel.end(KICKED)
        assert (await it[side].next()).opcode == CLOSE
        it[side].write(whole[300:] + frame(TEXT, b"behind", masked=side == "client"))
        assert await it.other(side).reader.readexactly(len(whole) - 300) == whole[300:]
        assert (await it.other(side).next()).close[0] == (1001 if side == "client" else 4403)
        it.client.leave()
        it.backend.leave()
        await it.closed()


@on_both_loops
@SIDES
async def test_a_frame_that_does_not_end_is_cut(side: str) -> None:
    """1 s at most; milliseconds here. The side with part of a frame gets the end of TCP."""
    async with tunnelled(limits=Limits(frame=0.05, close=60)) as it:
        whole = frame(BINARY, b"x" * 1000, masked=side == "client")
        it[side].write(whole[:300])
        await it.other(side).reader.readexactly(300)
        it.tunnel.end(KICKED)
        assert await it.other(side).end() == "end"
        assert (await it[side].next()).opcode == CLOSE
        it.client.leave()
        it.backend.leave()
        await it.closed()


@on_both_loops
async def test_an_ending_before_the_tunnel_begins() -> None:
    """A socket may be ended between its accept and the hand-over."""
    async with connection(client=True) as front, connection(client=False) as back:

        async def send(message: Message) -> None:
            tunnel.end(DRAIN)
            message["attach"](front.transport, b"")

        tunnel = Tunnel(back.transport, b"", Terms(limits=PATIENT), send)
        carrying = asyncio.create_task(tunnel.carry())
        assert (await front.peer.next()).close == (1012, "service restart")
        assert (await back.peer.next()).close == (1001, "")
        front.peer.leave()
        back.peer.leave()
        await carrying


@on_both_loops
async def test_a_cancelled_tunnel_is_cut() -> None:
    """The server stops: nothing waits any more."""
    async with tunnelled() as it:
        it.carrying.cancel()
        assert await it.client.end() in ("end", "reset")
        assert await it.backend.end() in ("end", "reset")
        with pytest.raises(asyncio.CancelledError):
            await it.carrying


# Time


@on_both_loops
async def test_the_deadline_and_its_renewal() -> None:
    """4401 `token expired` at the deadline, to which re-authentication gives another value."""
    async with tunnelled(expires_at=time.time() + 0.2) as it:
        it.tunnel.lifetime.renew(time.time() + 60)
        it.client.send(TEXT, b"x")
        await it.backend.next()
        renewed = time.time() + 0.3
        it.tunnel.lifetime.renew(renewed)
        assert (await it.client.next()).close == (4401, "token expired")
        assert renewed <= time.time() < renewed + 1
        assert (await it.backend.next()).close == (1001, "")
        it.client.leave()
        it.backend.leave()
        await it.closed()


@on_both_loops
async def test_idleness() -> None:
    """4408 `idle` to the client, 1001 to the backend."""
    async with tunnelled(idle_timeout=0.1) as it:
        assert (await it.client.next()).close == (4408, "idle")
        assert (await it.backend.next()).close == (1001, "")
        it.client.leave()
        it.backend.leave()
        await it.closed()


@on_both_loops
@SIDES
async def test_messages_end_idleness_and_pings_do_not(side: str) -> None:
    """From the last message on it is counted, whoever sent it."""
    async with tunnelled(idle_timeout=60) as it:
        lifetime = it.tunnel.lifetime
        lifetime.active = long_ago = lifetime.active - 30
        it[side].send(PING, b"")
        await it.other(side).next()
        assert lifetime.active == long_ago
        it[side].send(TEXT, b"message")
        await it.other(side).next()
        assert lifetime.active >= long_ago + 30


@on_both_loops
async def test_a_long_message_is_no_idleness() -> None:
    """Bytes of a message that takes its time are a sign of life."""
    async with tunnelled(idle_timeout=0.6) as it:
        whole = frame(BINARY, b"x" * 20, masked=True)
        for i in range(0, len(whole), 2):
            it.client.write(whole[i : i + 2])
            await asyncio.sleep(0.06)
        assert len((await it.backend.next()).payload) == 20
        assert it.tunnel.ending is None


@on_both_loops
@pytest.mark.parametrize("at_once", [True, False])
async def test_the_message_rate(at_once: bool) -> None:
    """1008 to the client, 1001 to the backend, and exactly the burst has passed."""
    async with tunnelled(message_rate=Rate(1, 3600, 3)) as it:
        for _ in range(5):
            it.client.send(TEXT, b"x")
            it.client.send(PING)
            await asyncio.sleep(0 if at_once else 0.01)
        received = [(await it.backend.next()).opcode for _ in range(7)]
        assert received == [TEXT, PING] * 3 + [CLOSE]
        assert (await it.client.next()).close[0] == 1008
        it.client.leave()
        it.backend.leave()
        assert (await it.closed()).code == 1008


@on_both_loops
@SIDES
async def test_a_silent_side_is_pinged_and_its_answer_goes_no_further(side: str) -> None:
    """The other side did not ask. Pongs that answer its own pings pass."""
    async with tunnelled(limits=Limits(ping=0.05, pong=60)) as it:
        ping = await it[side].next()
        assert (ping.opcode, ping.masked) == (PING, side == "backend")
        it[side].send(PONG, ping.payload)
        it[side].send(PONG, b"another")
        it[side].send(TEXT, b"x")
        received = []
        while len(received) < 2:
            got = await it.other(side).next()
            received += [got] if got.opcode != PING else []
        assert [(f.opcode, f.payload) for f in received] == [(PONG, b"another"), (TEXT, b"x")]
        assert (await it[side].next()).opcode == PING


@on_both_loops
@SIDES
async def test_a_side_that_does_not_answer_has_vanished(side: str) -> None:
    """No byte within the limit after a ping; the other side, which answers, stays until it is told."""
    async with tunnelled(limits=Limits(ping=0.05, pong=0.3, close=60)) as it:
        other = it.other(side)
        while (got := await other.next()).opcode == PING:
            other.send(PONG, got.payload)
        assert got.close[0] == (1001 if side == "client" else 1014)
        other.leave()
        ending = await it.closed()
    assert ending.by == side
    assert "0.3 s of a ping" in ending.detail


@on_both_loops
async def test_a_ping_waits_for_a_boundary() -> None:
    """Nothing is put inside a frame: the ping follows it, before the next one."""
    async with tunnelled(limits=Limits(ping=0.05, pong=60)) as it:
        whole = frame(BINARY, b"x" * 1000)
        it.backend.write(whole[:500])
        await it.client.reader.readexactly(500)
        await until(lambda: bool(it.tunnel.client.waiting))
        it.backend.write(whole[500:] + text("behind"))
        assert await it.client.reader.readexactly(len(whole) - 500) == whole[500:]
        assert [(await it.client.next()).opcode for _ in range(2)] == [PING, TEXT]


@on_both_loops
@SIDES
async def test_a_ping_that_was_not_sent_needs_no_answer(side: str) -> None:
    """A message in one frame may take longer than any limit: meanwhile the other side can't even be asked."""
    async with tunnelled(limits=Limits(ping=0.02, pong=0.1)) as it:
        writer, reader, waits = it[side], it.other(side), it.tunnel.client if side == "backend" else it.tunnel.backend
        whole = frame(BINARY, b"x" * 60_000, masked=side == "client")
        done, end = 0, asyncio.get_running_loop().time() + 0.4
        while asyncio.get_running_loop().time() < end or not waits.waiting:
            writer.write(whole[done : done + 10])
            assert await reader.reader.readexactly(10) == whole[done : done + 10]
            done += 10
            await asyncio.sleep(0.005)
        writer.write(whole[done:])
        assert await reader.reader.readexactly(len(whole) - done) == whole[done:]
        assert (await reader.next()).opcode == PING
        assert it.tunnel.ending is None


# Slow sides


@on_both_loops
@SIDES
async def test_a_slow_reader_slows_its_writer(side: str) -> None:
    """Memory stays bounded, whatever is sent; once it reads again, everything arrives."""
    async with tunnelled() as it:
        writer, reader = it[side], it.other(side)
        reader.reader._transport.pause_reading()  # type: ignore[attr-defined]
        stream = b"".join(frame(BINARY, bytes([i]) * 100_000, masked=side == "client") for i in range(4)) * 64
        writing = asyncio.create_task(_write_all(writer, stream))
        slow = it.tunnel.backend if side == "client" else it.tunnel.client
        await until(lambda: slow.full)
        await asyncio.sleep(0.05)
        assert not writing.done()
        assert slow.transport.get_write_buffer_size() <= legs.HIGH_WATER + legs.READ_SIZE
        reader.reader._transport.resume_reading()  # type: ignore[attr-defined]
        received = await reader.reader.readexactly(len(stream))
        assert hashlib.sha256(received).digest() == hashlib.sha256(stream).digest()
        await writing


async def _write_all(peer: Peer, data: bytes) -> None:
    for i in range(0, len(data), 65536):
        peer.write(data[i : i + 65536])
        await peer.writer.drain()


@on_both_loops
async def test_a_close_reaches_a_side_that_was_not_read_for_long() -> None:
    """The backend could not be read as the client took nothing; its close answer is heard all the same."""
    async with tunnelled(limits=Limits(frame=0.05, close=1.5)) as it:
        it.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        writing = asyncio.create_task(_write_all(it.backend, frame(BINARY, b"x" * 1000) * 20_000))
        await until(lambda: it.tunnel.client.full)
        it.tunnel.end(REVOKED)
        assert (await it.backend.next()).close == (1001, "")
        await writing  # it is read again, and dropped
        it.backend.close(1001)
        it.backend.leave()
        await it.closed()


@on_both_loops
async def test_a_slow_reader_has_not_vanished() -> None:
    """A client that says nothing but takes what is sent to it is alive; pings behind megabytes reach it late."""
    async with tunnelled(limits=Limits(ping=0.1, pong=1)) as it:
        stream = frame(BINARY, b"x" * 1000) * 30_000
        writing = asyncio.create_task(_write_all(it.backend, stream))
        received = 0
        async with asyncio.timeout(20):
            while received < len(stream) // 2:
                received += len(await it.client.reader.read(65536))
                await asyncio.sleep(0.006)
        assert it.tunnel.ending is None
        it.tunnel.abort()
        writing.cancel()
        await asyncio.wait((writing,))
