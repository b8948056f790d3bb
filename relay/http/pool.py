"""A pool of idle connections."""

from __future__ import annotations

from relay.http.connection import Connection

MAX_IDLE = 128
"""Maximum per url; beyond that, the one idle longest is closed."""

Key = tuple[str, str, bool]
"""Backend, url, and whether the certificate is verified: only requests with equal keys may share a connection."""


class Pool:
    """Idle connections by url. The most recent is reused first, so that the others can expire."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[Connection]] = {}

    def take(self, key: Key) -> Connection | None:
        """A connection that is alive as far as we can tell, or None."""
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if connection.is_quiet():
                return connection
            connection.abort()
        return None

    def put(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.key, [])
        idle.append(connection)
        if len(idle) > MAX_IDLE:
            idle.pop(0).abort()

    def forget(self, connection: Connection) -> None:
        """Remove a connection that is gone, if it is here."""
        idle = self._idle.get(connection.key)
        if idle and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        while self._idle:
            for connection in self._idle.popitem()[1]:
                connection.abort()
