"""A tunnel between two peers that do whatever comes to their minds: it ends, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from relay.live.registry import DRAIN
from relay.routing.snapshot import Rate
from relay.websocket.lifetime import Limits
from tests.test_tunnel import Tunnelled, tunnelled
from tests.ws_helpers import BINARY, PING, TEXT, Peer, frame, on_both_loops

SESSIONS = 60

TERMS: list[dict[str, Any]] = [
    {},
    {"idle_timeout": 0.02},
    {"message_rate": Rate(100, 1, 5)},
    {"max_message_size": 5000},
    {"limits": Limits(ping=0.01, pong=0.02, frame=0.02, close=0.05)},
    {"early": frame(TEXT, b"early"), "leftover": frame(TEXT, b"left", masked=True), "deflate": True},
]


async def act(peer: Peer, it: Tunnelled, random: Random) -> None:
    """Do a few things, valid or not, and perhaps leave."""

    def sends_part_of_a_frame() -> None:
        peer.write(frame(BINARY, bytes(1000), masked=peer.client)[: random.randrange(1, 900)])

    def stops_reading() -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]

    deeds = [
        lambda: peer.send(TEXT, bytes(random.choice([0, 5, 200, 4000]))),
        lambda: peer.send(BINARY, bytes(70_000)),
        lambda: peer.send(PING, bytes(random.randrange(126))),
        lambda: peer.send(TEXT, b"a", fin=False),
        sends_part_of_a_frame,
        lambda: peer.write(random.randbytes(random.randrange(1, 50))),
        lambda: peer.close(random.choice([None, 1000, 4000, 1005])),
        stops_reading,
        peer.writer.write_eof,
        peer.leave,
        peer.abort,
        lambda: it.tunnel.end(DRAIN),
    ]
    for _ in range(random.randrange(1, 12)):
        with suppress(OSError, RuntimeError, AttributeError, ValueError):  # its own connection is over
            random.choices(deeds, [6, 2, 3, 1, 2, 2, 2, 1, 1, 1, 1, 1])[0]()
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.005]))


async def read_on(peer: Peer) -> None:
    with suppress(ConnectionError):
        while await peer.reader.read(65536):
            pass


async def session(random: Random) -> None:
    terms = {"limits": Limits(frame=0.02, close=0.05)} | random.choice(TERMS)
    async with tunnelled(alone=False, **terms) as it:
        reading = [asyncio.create_task(read_on(peer)) for peer in (it.client, it.backend)]
        await asyncio.gather(act(it.client, it, random), act(it.backend, it, random))
        it.tunnel.end(DRAIN)
        await it.closed()
        for leg in (it.tunnel.client, it.tunnel.backend):
            assert leg.lost
            assert (
                leg._timer is None or leg._timer.cancelled() or leg._timer.when() <= asyncio.get_running_loop().time()
            )
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


@on_both_loops
@pytest.mark.parametrize("seed", range(3))
async def test_every_tunnel_ends(seed: int) -> None:
    """Within its limits, with an outcome, no timer left, and nothing for the loop to complain about."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    random = Random(seed)
    for _ in range(SESSIONS // 20):
        await asyncio.gather(*(session(Random(random.random())) for _ in range(20)))
    assert complaints == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
