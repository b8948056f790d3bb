"""The book of one machine: kept by the supervisor, used by its workers over a Unix socket, in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from relay.routing.snapshot import Rate
from relay.shared.book import Ask, Book
from relay.shared.link import Unreachable

_LONGEST_LINE = 2**20  # bytes; a full batch has a tenth of it


class Keeper:
    """Keeps the book, as an asynchronous context manager. What a worker holds is released when its connection ends.

    Args:
        path: The socket's path.
        rate: The rate limit of each client.
    """

    def __init__(self, path: str, rate: Rate | None) -> None:
        self._path, self._book = path, Book(rate)
        self._workers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LONGEST_LINE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for worker in self._workers:
            worker.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._workers.add(writer)
        try:
            while line := await reader.readline():
                answers = self._book.answer(writer, json.loads(line), time.monotonic())
                writer.write(json.dumps(answers).encode() + b"\n")
                await writer.drain()
        except OSError:
            pass  # the worker is gone
        finally:
            self._workers.discard(writer)
            self._book.forget(writer)
            writer.close()


class KeeperLine:
    """A worker's connection to the keeper."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def dial(cls, path: str) -> KeeperLine:
        """Connect.

        Raises:
            OSError: The keeper can't be reached.
        """
        return cls(*await asyncio.open_unix_connection(path, limit=_LONGEST_LINE))

    async def exchange(self, asks: Sequence[Ask]) -> list[float]:
        self._writer.write(json.dumps(asks).encode() + b"\n")
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise Unreachable("it closed the connection")
        answers: list[float] = json.loads(line)
        return answers

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
