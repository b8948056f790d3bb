"""relay/shared/quotas.py: limits over several processes, here two in one loop, with a real book between them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from relay.live.registry import Registry, RouteKey
from relay.routing.snapshot import Backend, Rate, Route, Snapshot, Url
from relay.shared import link
from relay.shared.keeper import Keeper, KeeperLine
from relay.shared.quotas import Quotas, SharedQuotas
from relay.shared.redis_book import RedisBook
from tests import servers
from tests.server_helpers import until

RATE = Rate(1, 3600.0, 5)
LIMITED: RouteKey = ("websocket", "/ws", ())
FREE: RouteKey = ("websocket", "/free", ())


def configuration(limit: int = 2) -> Snapshot:
    """A limit on /ws, none on /free."""
    main = Backend("main", (Url.parse("http://127.0.0.1:9"),))
    ws = Route("/ws", "websocket", "main", max_connections_per_user=limit)
    return Snapshot.build([main], [ws, Route("/free", "websocket", "main")], [])


@dataclass
class Process:
    """What one process has of it."""

    quotas: SharedQuotas
    registry: Registry

    async def joined(self) -> None:
        """Wait until it counts with the others."""
        await until(lambda: self.quotas._link.up)

    async def parted(self) -> None:
        """Wait until it knows that it counts alone."""
        await until(lambda: self.quotas.warning)

    async def take(self, client: str = "192.0.2.1") -> bool:
        return await self.quotas.take(client, time.monotonic()) == 0

    async def reserve(self, user: str = "7", route: RouteKey = LIMITED, limit: int = 2) -> bool:
        return await self.quotas.reserve(route, user, limit)

    def held(self, user: str = "7", route: RouteKey = LIMITED) -> int:
        return self.registry.count(route, user)


class Processes:
    """Makes them, and ends them all.

    Attributes:
        stop, start: End the book's keeper, and bring another one up in its place.
        hang, wake: Have it fall silent for a while.
    """

    def __init__(self, name: str, dial: Callable[[], Callable[[], object]]) -> None:
        self._name, self._dial = name, dial
        self._all: list[SharedQuotas] = []

    async def one(self, rate: Rate | None = RATE, snapshot: Snapshot | None = None) -> Process:
        registry = Registry()
        quotas = SharedQuotas(rate, registry, self._name, self._dial())  # type: ignore[arg-type]
        self._all.append(quotas)
        quotas.follow(snapshot or configuration())
        process = Process(quotas, registry)
        await process.joined()
        return process

    async def two(self) -> tuple[Process, Process]:
        return await self.one(), await self.one()

    async def close(self) -> None:
        for quotas in self._all:
            await quotas.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Redis]:
    with servers.redis(tmp_path_factory.mktemp("redis")) as it:
        yield it


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are noticed and healed within moments."""
    for name, seconds in {"BEAT": 0.05, "FIRST_DELAY": 0.01, "LAST_DELAY": 0.02, "PATIENCE": 0.5}.items():
        monkeypatch.setattr(link, name, seconds)


@asynccontextmanager
async def under_a_supervisor(path: Path, server: servers.Redis) -> AsyncIterator[Processes]:
    socket = str(path / "keeper")
    async with Keeper(socket, RATE):
        processes = Processes("supervisor", lambda: lambda: KeeperLine.dial(socket))
        yield processes
        await processes.close()


@asynccontextmanager
async def with_redis(path: Path, server: servers.Redis) -> AsyncIterator[Processes]:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.flushall()
    processes = Processes("redis", lambda: RedisBook(server.url, RATE).dial)
    yield processes
    await processes.close()


Place = Callable[[Path, servers.Redis], AbstractAsyncContextManager[Processes]]


@pytest.fixture(params=[under_a_supervisor, with_redis])
async def processes(request: pytest.FixtureRequest, tmp_path: Path, server: servers.Redis) -> AsyncIterator[Processes]:
    place: Place = request.param
    async with place(tmp_path, server) as it:
        yield it


async def test_a_client_has_one_bucket_everywhere(processes: Processes) -> None:
    """Five at once, whichever process they meet."""
    a, b = await processes.two()
    passed = [await process.take() for process in (a, b) * 5]
    assert passed == [True] * 5 + [False] * 5
    assert await a.take("192.0.2.2"), "another client"


async def test_all_at_once_pass_no_more(processes: Processes) -> None:
    """However they race."""
    a, b = await processes.two()
    passed = await asyncio.gather(*(process.take() for process in (a, b) * 20))
    assert sum(passed) == 5


async def test_ipv6_clients_are_counted_by_network(processes: Processes) -> None:
    """A /64 is one client over all processes too."""
    a, b = await processes.two()
    passed = [await process.take(f"2001:db8::{n}") for n, process in enumerate((a, b) * 3)]
    assert passed == [True] * 5 + [False]


async def test_a_refusal_elsewhere_costs_no_token_here(processes: Processes) -> None:
    """The bucket of this process stays as full as the common one at least."""
    a, b = await processes.two()
    assert [await b.take() for _ in range(5)] == [True] * 5
    assert [await a.take() for _ in range(9)] == [False] * 9
    bucket = a.quotas._rates._buckets["192.0.2.1"]  # type: ignore[union-attr]
    assert bucket.available(time.monotonic()) == 5


async def test_a_flood_does_not_leave_the_process(processes: Processes) -> None:
    """What this process refuses by its own knowledge is refused at no cost to the others."""
    a = await processes.one()
    asked: list[object] = []
    ask = a.quotas._link.ask

    async def counting(*args: object) -> object:
        asked.append(args)
        return await ask(*args)  # type: ignore[arg-type]

    a.quotas._link.ask = counting  # type: ignore[method-assign,assignment]
    assert sum([await a.take() for _ in range(100)]) == 5
    assert len(asked) == 5


async def test_a_user_has_so_many_places_everywhere(processes: Processes) -> None:
    """The third of two is refused, wherever it comes; another user and another route are another matter."""
    a, b = await processes.two()
    assert [await a.reserve(), await b.reserve(), await a.reserve(), await b.reserve()] == [True, True, False, False]
    assert [a.held(), b.held()] == [1, 1], "who is refused holds nothing"
    assert await a.reserve("8")
    assert await a.reserve(route=FREE, limit=0)
    b.quotas.release(LIMITED, "7")
    async with asyncio.timeout(10):
        while not await a.reserve():  # b's word may be under way
            pass
    assert not await b.reserve()


async def test_handshakes_at_once_get_no_more_places(processes: Processes) -> None:
    """Two can't both be the last one."""
    a, b = await processes.two()
    admitted = await asyncio.gather(*(process.reserve() for process in (a, b) * 10))
    assert sum(admitted) <= 2
    assert a.held() + b.held() == sum(admitted)


async def test_nobody_is_not_limited(processes: Processes) -> None:
    """A public route has users without a name; they can't share a limit."""
    a, _ = await processes.two()
    assert all([await a.reserve("") for _ in range(5)])


async def test_a_handshake_that_is_cancelled_holds_nothing(processes: Processes) -> None:
    """The client left while the book was asked."""
    a, b = await processes.two()
    reserving = asyncio.create_task(a.reserve())
    await asyncio.sleep(0)
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    assert a.held() == 0
    assert await a.reserve("8"), "its word comes behind that of the cancelled one"
    assert [await b.reserve(), await b.reserve()] == [True, True]


async def test_a_limit_that_comes_later_counts_those_who_are_there(processes: Processes) -> None:
    """And one that goes and comes back as well."""
    a, b = await processes.two()
    for process in (a, b):
        process.quotas.follow(configuration(limit=0))
        assert await process.reserve(limit=0)
    a.quotas.follow(configuration(limit=2))
    b.quotas.follow(configuration(limit=2))
    assert await b.take(), "its word comes behind that of what it holds"
    assert await a.take()
    assert not await a.reserve()
    assert not await b.reserve()
    for process in (a, b):
        process.quotas.follow(configuration(limit=0))
        process.quotas.release(LIMITED, "7")
        process.quotas.follow(configuration(limit=2))
        assert await process.take()
    assert [await a.reserve(), await b.reserve()] == [True, True]


async def test_without_limits_nobody_is_asked(processes: Processes) -> None:
    """Not even connected to: the cost is for those who have limits."""
    quotas = SharedQuotas(None, Registry(), "book", processes._dial())  # type: ignore[arg-type]
    quotas.follow(configuration(limit=0))
    assert not quotas._link.started
    assert await quotas.take("192.0.2.1", 0) == 0
    quotas.follow(configuration(limit=1))
    assert quotas._link.started
    await quotas.close()


async def test_a_process_that_ends_leaves_its_places(processes: Processes) -> None:
    """At once, where it had time to say so; what becomes of others: tests/test_shared_book.py, test_shared_link.py."""
    a, b = await processes.two()
    assert [await a.reserve(), await a.reserve(), await b.reserve()] == [True, True, False]
    await a.quotas.close()
    assert [await b.reserve(), await b.reserve()] == [True, True]


# Redis goes away:


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[servers.Redis]:
    """A Redis that the test may do something to."""
    with servers.redis(tmp_path) as it:
        yield it


async def test_without_redis_each_counts_for_itself(tmp_path: Path, own_server: servers.Redis) -> None:
    """A limit is held per process then; nobody is refused for want of Redis, and nobody waits."""
    async with with_redis(tmp_path, own_server) as processes:
        a, b = await processes.two()
        assert [await a.reserve(), await b.reserve()] == [True, True]
        own_server.stop(signal.SIGKILL)
        await a.parted()
        await b.parted()
        assert a.quotas.warning == "redis unreachable: limits are counted per process"
        assert [await a.take() for _ in range(6)] == [True] * 5 + [False]
        assert [await a.reserve(), await b.reserve(), await a.reserve()] == [True, True, False]


async def test_redis_that_comes_back_empty_is_told_all(tmp_path: Path, own_server: servers.Redis) -> None:
    """What was there before the outage and what came meanwhile counts; what has gone does not."""
    async with with_redis(tmp_path, own_server) as processes:
        a, b = await processes.two()
        assert await a.reserve()
        assert await b.reserve("8")
        own_server.stop(signal.SIGKILL)
        await a.parted()
        await b.parted()
        assert await a.reserve()
        b.quotas.release(LIMITED, "8")
        own_server.start()
        await a.joined()
        await b.joined()
        assert not await b.reserve()
        assert [await a.reserve("8"), await a.reserve("8")] == [True, True]
        assert a.quotas.warning == ""


async def test_redis_that_hangs_holds_nobody_up(tmp_path: Path, own_server: servers.Redis) -> None:
    """Those under way wait for a moment, the next ones not at all."""
    async with with_redis(tmp_path, own_server) as processes:
        a = await processes.one()
        own_server.send(signal.SIGSTOP)
        async with asyncio.timeout(5):
            assert await asyncio.gather(a.take(), a.reserve()) == [True, True]
        assert a.quotas.warning
        own_server.send(signal.SIGCONT)
        await a.joined()


async def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process has no book, only its own knowledge."""
    quotas = Quotas(Rate(1, 3600.0, 2), Registry())
    quotas.follow(configuration())
    assert [await quotas.take("192.0.2.1", 0) == 0 for _ in range(3)] == [True, True, False]
    assert [await quotas.reserve(LIMITED, "7", 2) for _ in range(3)] == [True, True, False]
    quotas.release(LIMITED, "7")
    assert await quotas.reserve(LIMITED, "7", 2)
    assert quotas.warning == ""
    await quotas.close()
