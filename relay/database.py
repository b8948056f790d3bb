"""Diagnose database errors, and use the database from the event loop and from long-lived threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django import db
from django.db import connection

PATIENCE = 5.0
"""Seconds for which a request waits for the database."""

_THREADS = ThreadPoolExecutor(8, "relay-database")
"""Threads for those requests only: while the database hangs, nothing else may queue up, such as the shutdown."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MISSING = ("no such table", "no such column", "has no column named")
"""SQLite's messages for a missing table or column."""

_MISSING_STATES = ("42P01", "42703")
"""PostgreSQL's undefined_table and undefined_column."""


class DatabaseUnavailable(Exception):
    """The database can't serve a request now; ``str()`` is the cause, for the log."""


def place() -> str:
    """Where the database is, without a password."""
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return str(settings["NAME"])
    host, port = settings.get("HOST") or "localhost", settings.get("PORT")
    return f"{settings['NAME']} at {host}{f':{port}' if port else ''}"


def is_unmigrated(exc: db.Error) -> bool:
    """Whether the error means that migrations are missing: tables or columns don't exist yet."""
    said = str(exc)
    return any(words in said for words in _MISSING) or _fact(exc, "sqlstate") in _MISSING_STATES


def trouble(exc: db.Error) -> str:
    """The problem and the fix, on one line (PostgreSQL's own messages have several)."""
    said = without_password(str(exc))
    if is_unmigrated(exc):
        return f"the database {place()}: {said}; if it is new or older than this program, run: python manage.py migrate"
    lite = _fact(exc, "sqlite_errorname")
    if lite.startswith("SQLITE_CANTOPEN"):
        return f"DATABASE_URL: {place()} can't be opened; is it a file, and may this user write to its directory?"
    if lite.startswith("SQLITE_READONLY"):
        return f"DATABASE_URL: {place()}: {said}; this user must be able to write to the file and its directory"
    if lite.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return f"DATABASE_URL: {place()}: {said}; name another file, or restore this one from a backup"
    if lite.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"the database {place()}: {said}; another process is writing to it: wait, and try again"
    if isinstance(exc, db.OperationalError) and connection.vendor != "sqlite" and not _fact(exc, "sqlstate"):
        return f"DATABASE_URL: the database can't be reached: {said}"
    return f"the database {place()}: {said}"


def without_password(text: str) -> str:
    """The database's own message on one line. Drivers don't repeat the password; this makes sure."""
    password = str(connection.settings_dict.get("PASSWORD") or "")
    return " ".join((text.replace(password, "…") if password else text).split())


def _fact(exc: BaseException, name: str) -> str:
    """An attribute of the driver's exception, from which Django's own was raised."""
    return next((str(getattr(cause, name)) for cause in _chain(exc) if getattr(cause, name, None)), "")


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that needs the database from the event loop, for a request that waits for it.

    Raises:
        DatabaseUnavailable: The call failed, or took longer than `PATIENCE`. It then goes on in its thread, and may
            still write.
    """
    call = database_sync_to_async(function, thread_sensitive=False, executor=_THREADS)
    try:
        async with asyncio.timeout(PATIENCE):
            result: _T = await call(*args, **kwargs)
            return result
    except TimeoutError as exc:
        raise DatabaseUnavailable(f"the database {place()} did not answer within {PATIENCE:g} s") from exc
    except db.Error as exc:
        raise DatabaseUnavailable(trouble(exc)) from exc


class SameFile:
    """Makes sure that this thread's SQLite connection uses the file that exists now; other databases need no help.

    SQLite would go on using a file that was removed or replaced, and would create an empty one if there is none.
    """

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None

    def ask(self) -> None:
        """Close the connection if the file has been replaced.

        Raises:
            OSError: The file does not exist.
        """
        name = str(connection.settings_dict["NAME"])
        if connection.vendor != "sqlite" or name.startswith("file:") or name == ":memory:":
            return
        status = os.stat(name)
        file = (status.st_dev, status.st_ino)
        if self._file not in (None, file):
            disconnect()
        self._file = file


def disconnect() -> None:
    """Close this thread's connection; the next query opens another one."""
    with suppress(db.Error):
        connection.close()
