"""relay.fleet.reporter: what a process says of itself gets into the database, and an outage is waited out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models.functions import Now
from pytest_django import DjangoDbBlocker

from relay.fleet import records, reporter
from relay.fleet.models import LiveConnection, Process, RefusalRecord, Sample
from relay.fleet.reporter import Reporter
from relay.live import events, log
from relay.typing import Traffic
from tests.config_helpers import file_database
from tests.fleet_helpers import IDLE, process, report, slot, until
from tests.live_helpers import Socket, identity

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoxfQ.c2lnbmF0dXJl"


@pytest.fixture
def database(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with django_db_blocker.unblock(), file_database(tmp_path) as path:
        yield path


@pytest.fixture
def running(database: Path) -> Iterator[Reporter]:
    """A reporter at work."""
    it = Reporter(("auth_token",))
    it.start()
    yield it
    it.stop(20)
    assert not it._thread.is_alive()


def refused(detail: str = "no token in any place", code: str = "no_token", **facts: object) -> None:
    known = {"request_id": "r1", "client": "192.0.2.1", "method": "GET", "path": "/api/x", "status": 401}
    log.tell(events.HttpRefused(**{**known, **facts}, code=code, detail=detail, duration_ms=1))  # type: ignore[arg-type]


# A process


def test_a_report_makes_one_row_that_is_kept_up_to_date(running: Reporter) -> None:
    """The newest report counts; the row says when it was."""
    running.feed(report(revision=1))
    until(lambda: Process.objects.living().filter(pk=running.id, revision=1))
    running.feed(report(revision=2, draining=True, config_error="x" * 300, figures={**IDLE, "requests": 1.5}))
    row = until(lambda: Process.objects.filter(pk=running.id, revision=2).first())
    assert (row.draining, row.figures["requests"], len(row.config_error)) == (True, 1.5, 200)
    assert Process.objects.count() == 1


def test_a_process_that_ends_takes_its_row_along(database: Path) -> None:
    """Its sockets' rows as well; its samples stay, for the curves."""
    it = Reporter()
    it.start()
    it.list_connections(1, [Socket()])
    it.feed(report(slot(100)))
    until(lambda: Sample.objects.exists() and LiveConnection.objects.exists())
    it.stop(20)
    assert (Process.objects.count(), LiveConnection.objects.count(), Sample.objects.count()) == (0, 0, 1)
    assert it._trouble.note not in log.listeners


def test_one_that_was_taken_for_gone_comes_back(running: Reporter) -> None:
    """Others removed its row, as the database did not hear of it for long."""
    running.feed(report())
    until(Process.objects.exists)
    Process.objects.all().delete()
    running.feed(report())
    until(lambda: Process.objects.filter(pk=running.id).exists())


def test_an_outage_is_waited_out(running: Reporter, database: Path) -> None:
    """Nothing is raised, no empty database is made, and the curves have no hole afterwards."""
    running.feed(report(slot(100)))
    until(lambda: Sample.objects.filter(slot=100))
    connection.close()
    away = database.rename(database.with_suffix(".away"))
    refused()
    for begin in (110, 120):
        running.feed(report(slot(begin)))
    until(lambda: not running._wake.is_set())
    assert not database.exists()
    away.rename(database)
    running.feed(report(slot(130)))
    until(lambda: Sample.objects.filter(slot=130))
    assert sorted(Sample.objects.values_list("slot", flat=True)) == [100, 110, 120, 130]
    assert until(RefusalRecord.objects.first).request_id == "r1"


def test_a_clock_that_is_put_back(running: Reporter, database: Path) -> None:
    """Slots that come again replace the old ones, and none is written for ever."""
    for begin in (100, 110, 120):
        running.feed(report(slot(begin)))
        until(lambda begin=begin: Sample.objects.filter(slot=begin))
    running.feed(report(replace(slot(100), requests=7)))
    until(lambda: Sample.objects.filter(slot=100, requests=7))
    connection.close()
    away = database.rename(database.with_suffix(".away"))
    for requests, begin in enumerate((130, 110, 110)):  # twice: while the database was away
        running.feed(report(replace(slot(begin), requests=requests)))
    away.rename(database)
    running.feed(report(slot(120)))
    until(lambda: not running._slots)
    assert dict(Sample.objects.values_list("slot", "requests")) == {100: 7, 110: 2, 120: slot(120).requests, 130: 0}


def test_a_database_that_hangs_holds_up_nobody(running: Reporter) -> None:
    """What the event loop calls returns at once while another writer has the database."""
    running.feed(report())
    until(Process.objects.exists)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        began = time.perf_counter()
        for n in range(1000):
            running.feed(report(slot(n * 10)))
            running.list_connections(n, ())
            refused()
        passed = time.perf_counter() - began
        cursor.execute("ROLLBACK")
    assert passed < 1.0
    until(lambda: Process.objects.filter(watched=999))
    assert len(running._slots) <= reporter.SAMPLES_KEPT // 10


def test_a_row_that_cannot_be_made_ends_nothing(running: Reporter) -> None:
    """A bug in one report is logged, and the next report is written."""
    running.feed(report(figures={"sockets": {1, 2}}))
    running.feed(report(figures=object()))
    running.feed(report(revision=7))
    until(lambda: Process.objects.filter(revision=7))


# Refusals


def test_a_refusal_is_kept_with_what_the_log_says(running: Reporter) -> None:
    """Whatever LOG_LEVEL is: an operator who logs little wants to know why all the more."""
    log.logger.setLevel("ERROR")
    try:
        detail = "origin https://x.example:8443 is not on the list; nearest: https://x.example"
        log.tell(
            events.WsRefused(
                request_id="r2",
                client="192.0.2.7",
                user_id="7",
                path="/ws?token=1",
                route="/ws",
                backend="main",
                status=403,
                close_code=4403,
                code="origin_not_allowed",
                detail=detail,
                duration_ms=100,
            )
        )
    finally:
        log.logger.setLevel("NOTSET")
    running.feed(report())
    row = until(RefusalRecord.objects.first)
    assert (row.kind, row.code, row.status, row.close_code) == ("websocket", "origin_not_allowed", 403, 4403)
    assert (row.request_id, row.path, row.client, row.user_id) == ("r2", "/ws", "192.0.2.7", "7")
    assert (row.route, row.backend, row.detail, row.origin) == ("/ws", "main", detail, "https://x.example:8443")
    assert row.process == f"{running._host}:{running._pid}"


def test_a_failure_and_its_refusal_are_one_record(running: Reporter) -> None:
    """They are of one request; a failure by itself, of a health poll say, is one too."""
    log.tell(events.BackendError(request_id="r1", backend="main", code="backend_unreachable", detail="refused"))
    refused(code="backend_unreachable", detail="refused", status=502, backend="main", route="/api/")
    for _ in range(2):
        log.tell(
            events.BackendError(backend="main", code="no_healthy_backend", phase="health", detail="/up answered 500")
        )
    running.feed(report())
    until(lambda: RefusalRecord.objects.count() == 3)
    assert sorted(RefusalRecord.objects.values_list("kind", "code", "status", "path")) == [
        ("backend", "no_healthy_backend", None, ""),
        ("backend", "no_healthy_backend", None, ""),
        ("http", "backend_unreachable", 502, "/api/x"),
    ]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        pytest.param(f"saw {SECRET} there", "saw *** there", id="a token"),
        pytest.param("auth_token=hunter2; a=b", "auth_token=***; a=b", id="the configured cookie"),
        pytest.param("Cookie: session=1; a=b", "Cookie: ***", id="a field with credentials"),
        pytest.param("a\x00b\nc\ud800", "a\\x00b\\nc\\ud800", id="what no database takes"),
        pytest.param("x" * 5000, "x" * 2000, id="too long"),
    ],
)
def test_what_a_stranger_wrote_is_made_fit_to_be_kept(running: Reporter, written: str, kept: str) -> None:
    """No secret, no control character, no end of it."""
    refused(detail=written, path=written.replace("?", ""))
    running.feed(report())
    row = until(RefusalRecord.objects.first)
    assert (row.detail, row.path) == (kept, kept)


def test_of_a_flood_the_newest_are_kept(running: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many a write, so many in all: neither memory nor the database fills."""
    monkeypatch.setattr(reporter, "REFUSALS_KEPT", 60)
    for round_ in range(2):
        for n in range(200):
            refused(request_id=f"r{round_}-{n}")
        running.feed(report())
        until(lambda r=round_: RefusalRecord.objects.filter(request_id=f"r{r}-199"))
    until(lambda: RefusalRecord.objects.count() == 60)
    kept = list(RefusalRecord.objects.order_by("pk").values_list("request_id", flat=True))
    assert kept == [f"r0-{n}" for n in range(190, 200)] + [f"r1-{n}" for n in range(150, 200)]
    assert records.MOST_AT_ONCE == 50


def test_a_flood_of_one_code_hides_no_other(running: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scanner's 404s, within one write and over many: the one refused origin is still there."""
    monkeypatch.setattr(reporter, "REFUSALS_KEPT", 60)
    refused(code="origin_not_allowed", request_id="wanted")
    for round_ in range(3):
        for n in range(200):
            refused(code="no_route", request_id=f"r{round_}-{n}")
        running.feed(report())
        until(lambda r=round_: RefusalRecord.objects.filter(request_id=f"r{r}-199"))
    until(lambda: RefusalRecord.objects.count() == 61)
    assert RefusalRecord.objects.order_by("pk")[0].request_id == "wanted"


def test_while_the_database_is_away_each_code_keeps_its_newest() -> None:
    """In order, bounded however long it takes."""
    codes = ["no_route", "origin_not_allowed", *["no_route"] * 4]
    rows = [RefusalRecord(code=code, request_id=str(n)) for n, code in enumerate(codes)]
    assert [row.request_id for row in records.newest(rows, 3)] == ["1", "3", "4", "5"]


# Connections


def test_connections_are_listed_on_demand(running: Reporter) -> None:
    """All of them, instead of those of the last look; the answer says for which look it is."""
    ada = identity(user_id="1", roles=("user", "admin"))
    first = Socket(ada, origin="https://app.example.com", opened_at=1.5, traffic=Traffic(0, 3, 9, 0))
    running.list_connections(4, [first, Socket()])
    until(lambda: Process.objects.filter(pk=running.id, watched=4))
    row = LiveConnection.objects.get(pk=first.id)
    assert (row.user_id, row.roles, row.origin, row.route) == ("1", ["user", "admin"], first.origin, "/ws")
    assert (row.backend, row.url, row.client) == ("main", "http://127.0.0.1:9000", "127.0.0.1")
    assert (row.fingerprint, row.jti) == (ada.fingerprint, ada.jti)
    assert (row.opened_at.timestamp(), row.messages_to_client, row.bytes_to_backend) == (1.5, 3, 9)
    running.list_connections(5, [first])
    until(lambda: Process.objects.filter(pk=running.id, watched=5))
    assert [row.pk for row in LiveConnection.objects.all()] == [first.id]


def test_a_token_that_lives_for_ever_has_no_end(running: Reporter) -> None:
    """``exp`` may be a number that no calendar knows."""
    who = identity()
    running.list_connections(1, [Socket(type(who)("1", "", "", (), 1e300, None, "", "f"))])
    until(lambda: Process.objects.filter(pk=running.id, watched=1))
    assert LiveConnection.objects.get().expires_at is None


def test_a_list_is_bounded_and_says_so(running: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not listed is counted."""
    monkeypatch.setattr(reporter, "MOST_CONNECTIONS", 3)
    running.list_connections(1, [Socket() for _ in range(5)])
    row = until(lambda: Process.objects.filter(pk=running.id, watched=1).first())
    assert (LiveConnection.objects.count(), row.unlisted) == (3, 2)


# What is removed


def test_what_is_past_is_removed(running: Reporter) -> None:
    """Samples of an hour ago, processes silent for ten minutes, a list that nobody looks at."""
    running.list_connections(1, [Socket()])
    until(LiveConnection.objects.exists)
    process(pid=9, seen_at=Now() - timedelta(minutes=11))
    kept = process(pid=8, seen_at=Now() - timedelta(minutes=9))
    Sample.objects.create(process=kept.pk, slot=int(time.time()) - 4000, sockets=0, requests=0, errors=0, messages=0)
    Sample.objects.create(process=kept.pk, slot=int(time.time()) - 3000, sockets=0, requests=0, errors=0, messages=0)
    running._listed_at -= reporter.CONNECTIONS_KEPT
    running._prune_at = 0.0
    running.feed(report())
    until(lambda: not LiveConnection.objects.exists())
    assert Sample.objects.count() == 1
    assert set(Process.objects.values_list("pk", flat=True)) == {running.id, kept.pk}


def test_only_its_own_thread_touches_the_database(running: Reporter) -> None:
    """The loop's thread hands over, and that is all."""
    assert running._thread.name == "relay-fleet"
    assert running._thread is not threading.current_thread()
    assert running._thread.daemon
