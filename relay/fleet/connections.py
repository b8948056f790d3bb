"""The current live WebSockets of all processes: requested through the database, answered within a second.

A viewer increments `Revision.watched`, and waits until every living process has listed its sockets for that view. While
nobody is viewing, there is nothing to do, and no list is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Sum

from relay.fleet.models import LiveConnection, Process
from relay.identity.model import Identity
from relay.models import Revision
from relay.routing.snapshot import Backend, Route, Url

PATIENCE = 1.2
"""Seconds to wait for all processes: a watcher polls every 0.4 s, and a long list takes a while to write."""

_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Look:
    """How complete the lists are.

    Attributes:
        silent: Processes whose list is out of date, as they have not answered in time.
        unlisted: Number of sockets that exceeded the length of the lists.
    """

    silent: tuple[Process, ...] = ()
    unlisted: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A listed socket, in the form that `relay.routing.endings` and `relay.identity.revocation` judge."""

    row: LiveConnection
    identity: Identity | None
    route: Route
    backend: Backend
    url: Url
    origin: str

    @classmethod
    def of(cls, row: LiveConnection) -> Listed:
        roles, url = tuple(row.roles), Url.parse(row.url)
        return cls(
            row,
            Identity(row.user_id, row.email, ",".join(roles), roles, 0, None, row.jti, row.fingerprint)
            if row.user_id
            else None,
            Route(row.route, "websocket", row.backend, upstream_path=row.upstream_path),
            Backend(row.backend, (url,)),
            url,
            row.origin,
        )


def look(patience: float = PATIENCE) -> Look:
    """Have every living process list its sockets anew, and wait for that. Don't call this inside a transaction, which
    would hide the request from them.

    Raises:
        django.db.Error: The database can't be reached.
    """
    if not Process.objects.living().exists():
        return Look()
    with Revision.counting("watched"):
        wanted = Revision.objects.values_list("watched", flat=True).get(pk=1)
    late = Process.objects.living().filter(watched__lt=wanted)
    end = time.monotonic() + patience
    while late.exists() and time.monotonic() < end:
        time.sleep(_PAUSE)
    unlisted: int | None = Process.objects.living().aggregate(n=Sum("unlisted"))["n"]
    return Look(tuple(late), unlisted or 0)


def listed() -> Iterator[Listed]:
    """The sockets of the living processes, as last listed."""
    rows = LiveConnection.objects.filter(process__in=Process.objects.living())
    return map(Listed.of, rows.iterator())
