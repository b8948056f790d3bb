"""A database in a file, as a gateway has it, and a watcher that follows it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from django.core.management import call_command
from django.db import connections
from django.db.utils import load_backend

from relay.routing.snapshot import Snapshot
from relay.routing.watch import KickEntry, RevocationEntry, Watcher

TIMEOUT = 20
"""Seconds after which a test gives up; nothing takes so long when it works."""

_T = TypeVar("_T")


@contextmanager
def database_at(path: Path) -> Iterator[Path]:
    """Let Django's default database be this SQLite file, in every thread; the tests' own stays open and untouched."""
    settings, own = connections.settings["default"], connections["default"]
    file_settings = {
        **settings,
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {"timeout": 10, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }
    connections.settings["default"] = file_settings
    connections["default"] = load_backend(file_settings["ENGINE"]).DatabaseWrapper(file_settings, "default")
    try:
        yield path
    finally:
        connections["default"].close()
        connections.settings["default"], connections["default"] = settings, own


@cache
def _migrated() -> bytes:
    """An empty database with all tables."""
    with TemporaryDirectory() as directory, database_at(Path(directory) / "migrated.sqlite3") as path:
        call_command("migrate", verbosity=0, interactive=False)
        connections["default"].close()
        return path.read_bytes()


@contextmanager
def file_database(directory: Path) -> Iterator[Path]:
    """An empty database in a file of its own; the caller sees to it that databases may be used."""
    path = directory / "gateway.sqlite3"
    path.write_bytes(_migrated())
    with database_at(path):
        yield path


class Lines(logging.Handler):
    """What the relay logs, as (event or message, fields), in a queue to wait at."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put((record.getMessage(), getattr(record, "fields", {})))


class Following:
    """A watcher's follower, with its event loop in another thread; what it is told waits in queues.

    Attributes:
        threads: Those in which it was told.
    """

    def __init__(self, interval: float = 0.01) -> None:
        self.snapshots: queue.Queue[Snapshot] = queue.Queue()
        self.revocations: queue.Queue[list[RevocationEntry]] = queue.Queue()
        self.kicks: queue.Queue[list[KickEntry]] = queue.Queue()
        self.lines = Lines()
        self.threads: set[threading.Thread] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.on_snapshot = self._into(self.snapshots)
        self.on_revocations = self._into(self.revocations)
        self.on_kicks = self._into(self.kicks)
        self.on_renewals = self.on_watched = lambda news: None
        self.watcher = Watcher(self.loop, self, interval)

    def _into(self, events: queue.Queue[_T]) -> Callable[[_T], None]:
        def put(event: _T) -> None:
            self.threads.add(threading.current_thread())
            events.put(event)

        return put

    def __enter__(self) -> Following:
        logging.getLogger("relay").addHandler(self.lines)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.watcher.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        logging.getLogger("relay").removeHandler(self.lines)

    def line(self, beginning: str) -> dict[str, Any]:
        """Wait for a line of the log; give back its fields."""
        while True:
            message, fields = self.lines.queue.get(timeout=TIMEOUT)
            if message.startswith(beginning):
                return fields

    def settle(self) -> None:
        """Return when the watcher has looked at the database twice more: what was there before has been seen."""
        for _ in range(2):
            before = self.watcher.age_seconds
            while self.watcher.age_seconds >= before:
                self.watcher.nudge()
