"""A process's connection to the shared book: asks in order, bounded waits, and recovery from outages.

Everything goes over one connection. Asks made during a batch form the next one, so the cost per ask falls as their
number grows. While there is no connection, nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from relay.shared.book import Ask

log = logging.getLogger("relay")

PATIENCE = 0.2
"""Seconds for the answer to a batch. An ask waits this long only if the other end falls silent, or twice as long after
another batch. With a shorter limit, a busy machine would look like an outage.
"""

CONNECTING = 2.0
"""Seconds allowed for connecting; no request waits for that."""

BEAT = 1.0
"""Seconds of silence before the other end is pinged, which also renews our lease there."""

FIRST_DELAY, LAST_DELAY = 0.1, 2.0
"""Seconds between attempts to connect: doubled each time."""

BATCH = 500
"""Maximum asks per batch: after an outage there may be one for each socket."""


class Unreachable(Exception):
    """The book can't be reached; ``str()`` says why, without credentials."""


class Line(Protocol):
    """A connection to a book. Failures raise `Unreachable` or OSError."""

    async def exchange(self, asks: Sequence[Ask]) -> list[float]:
        """The answers to a batch."""

    async def close(self) -> None:
        """Close the connection; never raises."""


class Link:
    """Keeps a `Line` to the book, once started.

    Args:
        name: The other end's name, for warnings.
        dial: Makes a connection.
        greeting: The first asks on a new connection: everything the book should know about this process.

    Attributes:
        up: Whether the book can be asked, and knows everything about this process.
    """

    def __init__(self, name: str, dial: Callable[[], Awaitable[Line]], greeting: Callable[[], Iterable[Ask]]) -> None:
        self.up = False
        self._name, self._dial, self._greeting = name, dial, greeting
        self._waiting: deque[tuple[Ask, asyncio.Future[float | None] | None]] = deque()
        self._connected = False
        self._news = asyncio.Event()
        self._lost_at: float | None = None
        self._delay = FIRST_DELAY
        self._task: asyncio.Task[None] | None = None

    @property
    def warning(self) -> str:
        """For ``/health``; empty while all is well."""
        return f"{self._name} unreachable: limits are counted per process" if self._lost_at is not None else ""

    @property
    def started(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.create_task(self._keep(), name=f"link to {self._name}")

    async def close(self) -> None:
        """Close the connection, after clearing what the book has about this process."""
        if self._task is not None:
            await self.ask(("clear",))
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def ask(self, ask: Ask) -> float | None:
        """The book's answer; None if it can't be asked now, so that the caller decides by its own counts."""
        if not self.up:
            return None
        reply: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, reply))
        self._news.set()
        return await reply

    def tell(self, *news: Ask) -> None:
        """Send asks that need no answer. Without a connection they are dropped: the next greeting has everything."""
        if self._connected:
            self._waiting.extend((ask, None) for ask in news)
            self._news.set()

    # The connection

    async def _keep(self) -> None:
        while True:
            line: Line | None = None
            try:
                async with asyncio.timeout(CONNECTING):
                    line = await self._dial()
                await self._talk(line)
            except (Unreachable, OSError, ValueError) as exc:  # ValueError: an invalid answer
                self._lost(str(exc) or type(exc).__name__)
            except Exception as exc:  # our bug; the next connection may succeed nevertheless
                log.exception("the connection to %s failed", self._name)
                self._lost(type(exc).__name__)
            finally:
                self._connected = self.up = False
                if line is not None:
                    await line.close()
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, LAST_DELAY)

    async def _talk(self, line: Line) -> None:
        self._waiting.extend((ask, None) for ask in self._greeting())
        self._connected = True
        batch: list[tuple[Ask, asyncio.Future[float | None] | None]] = []
        try:
            while True:
                self._news.clear()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
                answers = await _in_time(line.exchange([ask for ask, _ in batch]))
                for (_, reply), answer in zip(batch, answers, strict=True):
                    if reply is not None and not reply.done():
                        reply.set_result(answer)
                if not self._waiting:
                    self._found()
                    await self._something_to_say()
        finally:
            for _, reply in (*batch, *self._waiting):
                if reply is not None and not reply.done():
                    reply.set_result(None)
            self._waiting.clear()

    async def _something_to_say(self) -> None:
        timer = asyncio.get_running_loop().call_later(BEAT, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()

    # Logging: one line for each outage, and one for its end.

    def _found(self) -> None:
        self.up, self._delay = True, FIRST_DELAY
        if self._lost_at is not None:
            seconds = asyncio.get_running_loop().time() - self._lost_at
            self._lost_at = None
            log.info("%s is reachable again after %.1f s: limits are shared", self._name, seconds)

    def _lost(self, cause: str) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
            log.warning("%s: %s", self.warning, cause)


async def _in_time(answers: Awaitable[list[float]]) -> list[float]:
    """Wait for `PATIENCE`, in two halves, so that a loop that was itself held up gets a turn to read the answer.

    Raises:
        TimeoutError: No answer came.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as patience:
        first_half = loop.call_later(PATIENCE / 2, lambda: patience.reschedule(loop.time() + PATIENCE / 2))
        try:
            return await answers
        finally:
            first_half.cancel()
