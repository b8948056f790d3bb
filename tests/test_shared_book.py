"""relay/shared/book.py and book.lua: the same book in the supervisor's memory and in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.routing.snapshot import Rate
from relay.shared.book import Ask, Book
from relay.shared.link import Unreachable
from relay.shared.redis_book import LEASE, PREFIX, RedisBook, RedisLine
from tests import servers

RATE = Rate(1, 3600.0, 2)

Asking = Callable[[str, Ask], Awaitable[float]]
"""A process asks one thing."""

Kind = Callable[[str], AbstractAsyncContextManager[Asking]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Redis]:
    with servers.redis(tmp_path_factory.mktemp("redis")) as it:
        yield it


@pytest.fixture(autouse=True)
def nothing_in_it(server: servers.Redis) -> None:
    """Whatever test came before."""
    asyncio.run(flush(server.url))


@asynccontextmanager
async def in_memory(url: str) -> AsyncIterator[Asking]:
    book = Book(RATE)

    async def ask(process: str, ask: Ask) -> float:
        (answer,) = book.answer(process, [ask], time.monotonic())
        return answer

    yield ask


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[Asking]:
    await flush(url)
    lines: dict[str, RedisLine] = {}

    async def ask(process: str, ask: Ask) -> float:
        if process not in lines:
            lines[process] = await RedisBook(url, RATE).dial()
            await lines[process].exchange([("clear",)])
        (answer,) = await lines[process].exchange([ask])
        return answer

    try:
        yield ask
    finally:
        for line in lines.values():
            await line.close()


async def flush(url: str) -> None:
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushall()


@asynccontextmanager
async def dialled(server: servers.Redis, rate: Rate = RATE, lease: float = LEASE) -> AsyncIterator[RedisLine]:
    """A process's connection to the book in Redis."""
    line = await RedisBook(server.url, rate, lease).dial()
    try:
        yield line
    finally:
        await line.close()


async def keys(url: str) -> dict[str, int]:
    """Every key, with the milliseconds that it has left."""
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
        return {key: await client.pttl(key) for key in await client.keys()}


@pytest.mark.parametrize("book", [in_memory, in_redis])
@pytest.mark.parametrize(
    "story",
    [
        pytest.param([("a", 1, 2, 0), ("b", 1, 2, 0), ("a", 2, 2, 1), ("b", 2, 2, 1)], id="two places for two"),
        pytest.param([("a", 2, 2, 0), ("b", 1, 2, 1), ("a", 1, 0, 0), ("b", 1, 2, 0)], id="one is given back"),
        pytest.param([("a", 2, 2, 0), ("a", 2, 2, 0), ("b", 1, 3, 0)], id="saying it twice changes nothing"),
        pytest.param([("a", 1, 1, 0), ("b", 1, 1, 1), ("a", 0, 0, 0), ("b", 1, 1, 0)], id="a refusal holds nothing"),
        pytest.param([("a", 5, 0, 0), ("b", 1, 3, 1), ("b", 1, 6, 0)], id="without a limit it counts all the same"),
        pytest.param([("a", 0, 0, 0), ("b", 1, 1, 0)], id="nothing given back is nothing"),
    ],
)
async def test_places(server: servers.Redis, book: Kind, story: list[tuple[str, int, int, int]]) -> None:
    """A process says how many it holds; what all hold together stays within the limit."""
    async with book(server.url) as ask:
        for process, count, limit, answer in story:
            assert await ask(process, ("hold", "here", count, limit)) == answer
        assert await ask("c", ("hold", "elsewhere", 1, 1)) == 0, "another place is another matter"


@pytest.mark.parametrize("book", [in_memory, in_redis])
async def test_a_process_that_starts_anew_holds_nothing(server: servers.Redis, book: Kind) -> None:
    """A connection begins with that word: what was said on an earlier one may be wrong by now."""
    async with book(server.url) as ask:
        assert await ask("a", ("hold", "here", 2, 2)) == 0
        assert await ask("b", ("hold", "here", 1, 2)) == 1
        await ask("a", ("clear",))
        assert await ask("b", ("hold", "here", 1, 2)) == 0


@pytest.mark.parametrize("book", [in_memory, in_redis])
async def test_clients(server: servers.Redis, book: Kind) -> None:
    """All processes take from one bucket; an empty one says when there will be a token, and a refusal costs nothing."""
    async with book(server.url) as ask:
        assert [await ask(process, ("take", "client")) for process in "ab"] == [0, 0]
        waits = [await ask(process, ("take", "client")) for process in "abab"]
        assert all(3590 < wait <= 3600 for wait in waits), waits
        assert await ask("a", ("take", "another")) == 0


Step = tuple[str, str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3), st.integers(0, 4)), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_both_books_say_the_same(server: servers.Redis, steps: list[Step]) -> None:
    """Whatever three processes say of two places."""

    async def answers(book: Kind) -> list[float]:
        async with book(server.url) as ask:
            return [await ask(p, ("hold", place, count, limit)) for p, place, count, limit in steps]

    async def both() -> tuple[list[float], list[float]]:
        return await answers(in_memory), await answers(in_redis)

    memory, in_lua = asyncio.run(both())
    assert memory == in_lua


# What only Redis has to care for:


async def test_redis_fills_a_bucket_as_time_goes_by(server: servers.Redis) -> None:
    """By its own clock: machines need not agree on the time."""
    ask: Ask = ("take", "client")
    async with dialled(server, Rate(20, 1.0, 1)) as line:
        *taken, wait = await line.exchange([("clear",), ask, ask])  # at once: no time goes by in between
        assert taken == [0, 0]
        assert 0 < wait <= 0.05
        await asyncio.sleep(wait)
        assert await line.exchange([ask]) == [0]


async def test_a_rate_beyond_the_clock_is_no_error(server: servers.Redis) -> None:
    """A bucket that is full again at once need not be kept, but Redis wants to hear of a time."""
    async with dialled(server, Rate(10**9, 1.0, 10**9)) as line:
        assert await line.exchange([("clear",), ("take", "client"), ("take", "client")]) == [0, 0, 0]


async def test_what_a_dead_process_held_is_free_soon(server: servers.Redis) -> None:
    """Its lease runs out, if nobody renews it: a machine that lost its power says no goodbye."""
    async with dialled(server, lease=1.0) as dead, dialled(server) as alive:
        assert await dead.exchange([("clear",), ("hold", "here", 1, 1)]) == [0, 0]
        assert await alive.exchange([("clear",), ("hold", "here", 1, 1)]) == [0, 1]
        async with asyncio.timeout(10):
            while await alive.exchange([("hold", "here", 1, 1)]) != [0]:
                pass


async def test_a_lease_is_renewed_by_a_word(server: servers.Redis) -> None:
    """An empty batch is one."""
    async with dialled(server, lease=60) as line:
        assert await line.exchange([("clear",), ("hold", "here", 1, 1)]) == [0, 0]
        async with redis.asyncio.Redis.from_url(server.url) as client:
            for key in await client.keys():
                await client.pexpire(key, 10_000)
        assert await line.exchange([]) == []
        assert all(left > 50_000 for left in (await keys(server.url)).values())


@pytest.mark.parametrize("asks", [[], [("take", "c")], [("hold", "here", 1, 1)]], ids=["a beat", "take", "hold"])
async def test_redis_that_has_forgotten_us_says_so(server: servers.Redis, asks: list[Ask]) -> None:
    """It was restarted or flushed, or we slept: it has to be told all again before its answers mean anything."""
    async with dialled(server) as line:
        assert await line.exchange([("clear",)]) == [0]
        await flush(server.url)
        with pytest.raises(Unreachable, match="lost its data"):
            await line.exchange(asks)


async def test_nothing_stays_in_redis_for_good(server: servers.Redis) -> None:
    """Every key has its end, and belongs to us."""
    async with dialled(server) as line:
        await line.exchange([("clear",), ("hold", "here", 1, 1), ("take", "client")])
        left = await keys(server.url)
    assert len(left) == 3
    assert all(key.startswith(f"{PREFIX}:") for key in left)
    assert all(milliseconds > 0 for milliseconds in left.values())


async def test_redis_that_is_not_there(tmp_path: Path) -> None:
    """The reason is told, the password is not."""
    port = servers.free_port()
    with pytest.raises(Unreachable, match="onnect") as caught:
        await RedisBook(f"redis://:hunter2@127.0.0.1:{port}/0", RATE).dial()
    assert "hunter2" not in str(caught.value)
