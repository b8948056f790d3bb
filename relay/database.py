"""The database connection of a thread that lives as long as the process does: the watcher's, the reporter's."""

from __future__ import annotations

import os
from contextlib import suppress

from django import db
from django.db import connection


class SameFile:
    """Makes sure that this thread's connection leads to the file that is there now; other databases do so themselves.

    SQLite would go on with a file that has been removed or replaced, and make an empty one where there is none.
    """

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None

    def ask(self) -> None:
        """Close a connection to another file than the one that is there.

        Raises:
            OSError: There is no such file.
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
