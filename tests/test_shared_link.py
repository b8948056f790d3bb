"""relay/shared/link.py and keeper.py: asks over a real Unix socket, to somebody who does not always behave."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.routing.snapshot import Rate
from relay.shared import link as module
from relay.shared.book import Ask
from relay.shared.keeper import Keeper, KeeperLine
from relay.shared.link import Link
from tests.server_helpers import until

CLEAR: list[Ask] = [("clear",)]
TAKE: Ask = ("take", "client")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said of outages and their ends."""
    caplog.set_level(logging.INFO, "relay")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of a link in milliseconds."""
    for name, seconds in {"PATIENCE": 0.3, "BEAT": 0.05, "FIRST_DELAY": 0.01, "LAST_DELAY": 0.02}.items():
        monkeypatch.setattr(module, name, seconds)


class Other:
    """The other end: it reads batches, and answers what the test lets it.

    Attributes:
        batches: All that were read, beats left out.
        beats: How many empty ones there were.
        answer: Makes the answer to a batch; None: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "book"
        self.batches: list[list[Any]] = []
        self.beats = 0
        self.answer: Callable[[list[Any]], bytes | None] = lambda asks: json.dumps([0] * len(asks)).encode() + b"\n"
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._news = asyncio.Condition()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while line := await reader.readline():
            asks = json.loads(line)
            async with self._news:
                self.batches += [asks] if asks else []
                self.beats += not asks
                self._news.notify_all()
            await self.may_answer.wait()
            if (answer := self.answer(asks)) is not None:
                writer.write(answer)
            if answer == b"":
                writer.close()

    async def until(self, predicate: Callable[[], object]) -> None:
        """Wait until it has read what the test is waiting for."""
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(predicate)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self.serve, self.path)
        try:
            yield
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Other]:
    it = Other(tmp_path)
    async with it.listening():
        yield it


@asynccontextmanager
async def linked(path: Path, greeting: Callable[[], list[Ask]] = lambda: CLEAR) -> AsyncIterator[Link]:
    link = Link("book", lambda: KeeperLine.dial(str(path)), greeting)
    link.start()
    try:
        yield link
    finally:
        await link.close()


async def test_the_first_word_is_the_greeting(other: Other) -> None:
    """Only then is the book asked anything: until it knows of us, its answers mean nothing."""
    other.may_answer.clear()
    async with linked(other.path, lambda: [*CLEAR, ("hold", "x", 2, 0)]) as link:
        await other.until(lambda: other.batches)
        assert other.batches == [[["clear"], ["hold", "x", 2, 0]]]
        assert not link.up
        assert await link.ask(TAKE) is None
        other.may_answer.set()
        await until(lambda: link.up)
        assert await link.ask(TAKE) == 0
        assert link.warning == ""


async def test_what_is_asked_meanwhile_goes_together(other: Other) -> None:
    """In its order, answered each for itself."""
    other.answer = lambda asks: json.dumps([float(ask[1]) if ask[0] == "take" else 0 for ask in asks]).encode() + b"\n"
    async with linked(other.path) as link:
        await until(lambda: link.up)
        other.may_answer.clear()
        asking = [asyncio.create_task(link.ask(("take", "1")))]
        await other.until(lambda: len(other.batches) == 2)
        asking += [asyncio.create_task(link.ask(("take", n))) for n in "234"]
        await asyncio.sleep(0)
        other.may_answer.set()
        assert await asyncio.gather(*asking) == [1, 2, 3, 4]
        assert other.batches[1:] == [[["take", "1"]], [["take", "2"], ["take", "3"], ["take", "4"]]]


async def test_a_long_greeting_goes_in_pieces(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is answered in time; the book can be asked behind the last of them."""
    monkeypatch.setattr(module, "BATCH", 2)
    places: list[Ask] = [("hold", str(n), 1, 0) for n in range(4)]
    async with linked(other.path, lambda: [*CLEAR, *places]) as link:
        await until(lambda: link.up)
        assert [len(batch) for batch in other.batches] == [2, 2, 1]


async def test_news_need_no_answer(other: Other) -> None:
    """They keep their place among what is asked. Without a connection they are dropped: the next one says all."""
    link = Link("book", lambda: KeeperLine.dial(str(other.path)), lambda: CLEAR)
    link.tell(("hold", "x", 1, 0))
    link.start()
    await until(lambda: link.up)
    link.tell(("hold", "y", 1, 0))
    assert await link.ask(TAKE) == 0
    assert other.batches == [[["clear"]], [["hold", "y", 1, 0], ["take", "client"]]]
    await link.close()


async def test_an_asker_that_leaves_takes_nobody_along(other: Other) -> None:
    """The others get their answers."""
    async with linked(other.path) as link:
        await until(lambda: link.up)
        other.may_answer.clear()
        leaving, staying = asyncio.create_task(link.ask(TAKE)), asyncio.create_task(link.ask(TAKE))
        await other.until(lambda: len(other.batches) == 2)
        leaving.cancel()
        other.may_answer.set()
        assert await staying == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="silence"),
        pytest.param(b"", id="hanging up"),
        pytest.param(b"[0", id="half an answer"),
        pytest.param(b"[]\n", id="too few answers"),
        pytest.param(b"<html>\n", id="no answer of ours"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_an_outage(other: Other, answer: bytes | None, warnings: Callable[[], list[str]]) -> None:
    """Who has asked is told that there is no answer, who asks then waits for nothing; it is said once, and heals."""
    well = other.answer
    async with linked(other.path) as link:
        await until(lambda: link.up)
        other.answer = lambda asks: answer
        async with asyncio.timeout(5):
            assert await asyncio.gather(link.ask(TAKE), link.ask(TAKE)) == [None, None]
        assert link.warning == "book unreachable: limits are counted per process"
        assert await link.ask(TAKE) is None
        before = len(other.batches)
        await other.until(lambda: len(other.batches) > before + 1)
        (told,) = warnings()
        assert told.startswith("book unreachable: limits are counted per process: ")
        other.answer = well
        await until(lambda: link.up)
        assert await link.ask(TAKE) == 0
        assert link.warning == ""
        assert warnings()[1].startswith("book is reachable again after ")
        assert len(warnings()) == 2


@pytest.mark.usefixtures("impatient")
async def test_nobody_there_at_first(tmp_path: Path) -> None:
    """The link is made as soon as somebody is."""
    other = Other(tmp_path)
    async with linked(other.path) as link:
        await until(lambda: link.warning)
        async with other.listening():
            await until(lambda: link.up)
            assert link.warning == ""


@pytest.mark.usefixtures("impatient")
async def test_a_bug_of_ours_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    """It is no outage of the other end; the link goes on trying all the same."""
    tries: asyncio.Queue[None] = asyncio.Queue()

    async def dial() -> KeeperLine:
        tries.put_nowait(None)
        raise TypeError("ours")

    link = Link("the book", dial, lambda: CLEAR)
    link.start()
    await tries.get()
    await tries.get()
    await link.close()
    told = [record for record in caplog.records if record.exc_info]
    assert told[0].getMessage() == "the connection to the book failed"


async def test_silence_is_looked_into(other: Other) -> None:
    """Without anybody asking anything, an outage is noticed, and what is kept for us elsewhere is renewed."""
    async with linked(other.path) as link:
        await other.until(lambda: other.beats >= 2)
        other.answer = lambda asks: None
        await until(lambda: link.warning)


async def test_a_loop_that_was_held_up_is_no_outage(
    other: Other, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    """The answer has been there all the time; it was this process that did not look."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    async with linked(other.path) as link:
        await until(lambda: link.up)
        other.may_answer.clear()
        asking = asyncio.create_task(link.ask(TAKE))
        await other.until(lambda: len(other.batches) == 2)
        asyncio.get_running_loop().call_soon(lambda: (time.sleep(0.5), other.may_answer.set()))
        assert await asking == 0
        assert warnings() == []


async def test_a_link_that_is_closed_leaves_nobody_waiting(other: Other) -> None:
    """The process stops; what still runs goes on by itself."""
    async with linked(other.path) as link:
        await until(lambda: link.up)
        other.may_answer.clear()
        asking = asyncio.create_task(link.ask(TAKE))
        await other.until(lambda: len(other.batches) == 2)
    assert await asking is None
    assert await link.ask(TAKE) is None


# The keeper:


async def test_the_keeper_keeps_one_book_for_all(tmp_path: Path) -> None:
    """What one worker takes is not there for the other."""
    path = str(tmp_path / "keeper")
    async with Keeper(path, Rate(1, 3600.0, 1)):
        first, second = await KeeperLine.dial(path), await KeeperLine.dial(path)
        assert await first.exchange([TAKE, ("hold", "x", 1, 1)]) == [0, 0]
        wait, held = await second.exchange([TAKE, ("hold", "x", 1, 1)])
        assert wait > 0
        assert held == 1
        await first.close()
        await second.close()


async def test_a_worker_that_dies_holds_nothing(tmp_path: Path) -> None:
    """Its connection is gone with it, and with that its places."""
    path = str(tmp_path / "keeper")
    async with Keeper(path, None):
        first, second = await KeeperLine.dial(path), await KeeperLine.dial(path)
        assert await first.exchange([("hold", "x", 1, 1)]) == [0]
        assert await second.exchange([("hold", "x", 1, 1)]) == [1]
        first._writer.transport.abort()
        async with asyncio.timeout(10):
            while await second.exchange([("hold", "x", 1, 1)]) != [0]:
                pass
        await second.close()


async def test_the_keeper_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Workers hear of it at once."""
    path = str(tmp_path / "keeper")
    async with Keeper(path, None):
        line = await KeeperLine.dial(path)
        assert await line.exchange([("clear",)]) == [0]
    with pytest.raises((module.Unreachable, OSError)):
        await line.exchange([TAKE])
    await line.close()
    with pytest.raises(OSError):
        await KeeperLine.dial(path)
