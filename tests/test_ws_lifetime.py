"""`relay.websocket.lifetime`: what is due when; the sides are made up, the clock is real."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay.live.registry import EXPIRED, IDLE, Ending
from relay.websocket.lifetime import Lifetime, Limits


class Side:
    """A side that notes what is done to it."""

    def __init__(self, *, answers: bool = False, read: bool = True) -> None:
        self.heard = self.pinged = 0.0
        self.answers, self.read = answers, read
        self.pings: list[float] = []
        self.vanished = asyncio.Event()

    def listening(self) -> bool:
        return self.read

    def ping(self) -> None:
        self.pings.append(asyncio.get_running_loop().time())
        if self.answers:
            self.heard = self.pings[-1]

    def vanish(self) -> None:
        self.vanished.set()


class Endings(asyncio.Queue[Ending]):
    """What a lifetime has ended with; like its owner, it stops it then."""

    lifetime: Lifetime

    def __call__(self, ending: Ending) -> None:
        self.put_nowait(ending)
        self.lifetime.stop()

    async def next(self) -> Ending:
        async with asyncio.timeout(10):
            return await self.get()


def begin(
    *sides: Side, expires_at: float | None = None, idle_timeout: float = 0, limits: Limits | None = None
) -> Endings:
    """Start a lifetime; it is found in the endings."""
    endings = Endings()
    endings.lifetime = Lifetime(
        sides, endings, expires_at=expires_at, idle_timeout=idle_timeout, limits=limits or Limits()
    )
    endings.lifetime.start()
    return endings


async def test_a_deadline_that_has_passed_ends_it_at_once() -> None:
    """A token may expire between its check and the accept."""
    assert begin(expires_at=time.time() - 1).get_nowait() is EXPIRED


async def test_a_deadline_is_met_to_the_second() -> None:
    """Not a moment before it: the token is good until then."""
    deadline = time.time() + 0.2
    assert await begin(expires_at=deadline).next() is EXPIRED
    assert deadline <= time.time() < deadline + 1


@pytest.mark.parametrize("moved", ["earlier", "later", "to the past", "away"])
async def test_a_deadline_can_be_moved(moved: str) -> None:
    """Re-authentication; a fresh token may even expire sooner than the old one."""
    start = time.time()
    endings = begin(expires_at=start + (0.1 if moved in ("later", "away") else 60))
    endings.lifetime.renew({"earlier": start + 0.3, "later": start + 0.3, "to the past": 1.0, "away": None}[moved])
    if moved == "away":
        await asyncio.sleep(0.2)
        assert endings.empty()
        endings.lifetime.stop()
    else:
        assert await endings.next() is EXPIRED
        assert moved == "to the past" or time.time() >= start + 0.3


async def test_a_stopped_one_does_nothing_more() -> None:
    """Renewal of a socket that is being closed changes nothing."""
    endings = begin(Side(), expires_at=time.time() + 0.05, limits=Limits(ping=0.01))
    endings.lifetime.stop()
    endings.lifetime.renew(1.0)
    await asyncio.sleep(0.1)
    assert endings.empty()


async def test_idleness_is_counted_from_the_last_message() -> None:
    """A note in an attribute; no timer is touched by a message."""
    loop = asyncio.get_running_loop()
    endings = begin(idle_timeout=0.15)
    last = endings.lifetime.active = loop.time() + 0.1
    assert await endings.next() is IDLE
    assert loop.time() - last >= 0.149


async def test_a_silent_side_is_pinged_again_and_again() -> None:
    """Every interval, as long as it answers."""
    side = Side(answers=True)
    endings = begin(side, limits=Limits(ping=0.05, pong=0.2))
    async with asyncio.timeout(10):
        while len(side.pings) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    endings.lifetime.stop()
    assert not side.vanished.is_set()
    assert all(later - earlier >= 0.045 for earlier, later in zip(side.pings, side.pings[1:], strict=False))


async def test_a_side_that_talks_is_not_pinged() -> None:
    """Any byte will do: silence is counted from the last one."""
    side = Side()
    endings = begin(side, limits=Limits(ping=0.05, pong=60))
    side.heard = asyncio.get_running_loop().time() + 0.2
    async with asyncio.timeout(10):
        while not side.pings:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    endings.lifetime.stop()
    assert side.pings[0] >= side.heard + 0.049


async def test_a_side_that_does_not_answer_has_vanished() -> None:
    """One ping, then the limit; the other side is not concerned."""
    silent, other = Side(), Side(answers=True)
    endings = begin(silent, other, limits=Limits(ping=0.02, pong=0.1))
    async with asyncio.timeout(10):
        await silent.vanished.wait()
    endings.lifetime.stop()
    assert len(silent.pings) == 1
    assert asyncio.get_running_loop().time() - silent.pings[0] >= 0.099
    assert len(other.pings) > 1
    assert not other.vanished.is_set()


async def test_a_side_that_is_not_read_is_not_judged() -> None:
    """Its answer could not be heard: backpressure is no silence."""
    side = Side(read=False)
    endings = begin(side, limits=Limits(ping=0.01, pong=0.02))
    await asyncio.sleep(0.1)
    endings.lifetime.stop()
    assert (side.pings, side.vanished.is_set()) == ([], False)
