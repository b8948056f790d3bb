"""relay.fleet.connections: a look asks every living process, waits for it, and for no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection as database_connection
from django.db.models.functions import Now
from pytest_django import DjangoDbBlocker

from relay.fleet.connections import PATIENCE, listed, look
from relay.models import Process, Revision
from relay.routing.endings import ended_by
from relay.routing.snapshot import Backend, Route, Snapshot, Url
from tests.config_helpers import file_database
from tests.fleet_helpers import connection, process, until


@pytest.fixture(autouse=True)
def database(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with django_db_blocker.unblock(), file_database(tmp_path) as path:
        yield path


def test_it_waits_until_all_have_answered() -> None:
    """No longer than the last of them takes."""
    here, there = process(), process(pid=2)

    def answer() -> None:
        try:
            for each in (here, there):
                until(lambda: Revision.current().watched == 1)
                Process.objects.filter(pk=each.pk).update(watched=1, unlisted=2)
        finally:
            database_connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    found = look(20)
    thread.join()
    assert (found.silent, found.unlisted) == ((), 4)


def test_who_does_not_answer_is_named() -> None:
    """After the patience of the page."""
    process(watched=10**9)
    mute = process(pid=2)
    began = time.monotonic()
    assert look(0.05).silent == (mute,)
    assert time.monotonic() - began < PATIENCE


def test_the_gone_are_not_waited_for() -> None:
    """They would never answer; their sockets are gone as well."""
    gone = process(seen_at=Now() - timedelta(seconds=11))
    connection(gone)
    assert look(20).silent == ()
    assert list(listed()) == []


def test_without_processes_nothing_is_asked() -> None:
    """Nobody would hear it."""
    assert look(20).silent == ()
    assert Revision.current().watched == 0


def test_a_listed_socket_is_judged_like_a_live_one() -> None:
    """All that `ended_by` looks at is in the row."""
    connection(process(), roles=["user"], upstream_path="/v1", url="http://127.0.0.1:9000/p")
    (socket,) = listed()
    route = Route("/ws", "websocket", "main", access="roles", roles=("user",), upstream_path="/v1")
    same = Snapshot.build([Backend("main", (Url.parse("http://127.0.0.1:9000/p/"),))], [route], [])
    assert socket.identity is not None
    assert socket.identity.roles == ("user",)
    assert ended_by(same)(socket) is True  # the origin is on no list
    connection(process(), id="o", origin="", roles=["user"], upstream_path="/v1", url="http://127.0.0.1:9000/p")
    assert [ended_by(same)(each) for each in listed() if each.row.pk == "o"] == [False]
    connection(process(), id="n", origin="", user_id="", roles=[], upstream_path="/v1", url="http://127.0.0.1:9000/p")
    assert [ended_by(same)(each) for each in listed() if each.row.pk == "n"] == [True]
