"""relay.routing.watch: what is written to the database reaches the event loop, and an outage changes nothing."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from relay.database import without_password
from relay.models import Backend, Kick, Origin, Revision, Revocation, Route, Ticket
from relay.routing import watch
from relay.routing.watch import ConfigurationUnavailable, KickEntry, RevocationEntry, Watcher
from tests.config_helpers import TIMEOUT, Following, file_database


@pytest.fixture
def database(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """A database file with one backend and one route."""
    with django_db_blocker.unblock(), file_database(tmp_path) as path:
        main = Backend.objects.create(name="main", urls="http://127.0.0.1:9000")
        Route.objects.create(path="/api/", backend=main)
        yield path


@pytest.fixture
def following(database: Path) -> Iterator[Following]:
    """A watcher that has its first configuration, and nothing in its queues."""
    with Following() as it:
        it.watcher.load_first()
        it.snapshots.get(timeout=TIMEOUT)
        yield it


def away(path: Path) -> Path:
    """Move a database out of the way, as a volume that is gone."""
    connection.close()
    return path.rename(path.with_suffix(".away"))


# The first look


def test_the_first_configuration_is_handed_over(database: Path) -> None:
    """In the loop's own thread."""
    with Following() as following:
        following.watcher.load_first()
        assert list(following.snapshots.get(timeout=TIMEOUT).backends) == ["main"]
        assert following.threads == {following.thread}


def test_without_a_database_there_is_no_first_configuration(database: Path) -> None:
    """The reason names the file; and no empty database is made in its place."""
    away(database)
    with (
        Following() as following,
        pytest.raises(ConfigurationUnavailable, match=r"database unreachable: .*gateway\.sqlite3"),
    ):
        following.watcher.load_first()
    assert not database.exists()


def test_without_tables_there_is_no_first_configuration(database: Path) -> None:
    """A database that nobody migrated: its own words say what is missing."""
    away(database)
    database.touch()
    with Following() as following, pytest.raises(ConfigurationUnavailable, match="no such table: relay_revision"):
        following.watcher.load_first()


def test_an_invalid_row_is_no_first_configuration(database: Path) -> None:
    """The row and the field are named: it was written by other means than ours."""
    Route.objects.filter(path="/api/").update(access="everybody")
    with Following() as following, pytest.raises(ConfigurationUnavailable, match=r'route http "/api/": access: '):
        following.watcher.load_first()


def test_a_watcher_that_may_wait_gets_its_first_configuration_later(database: Path) -> None:
    """Started without `load_first`, it goes on looking until there is a database."""
    moved = away(database)
    with Following() as following:
        following.watcher.start()
        assert "gateway.sqlite3" in following.line("config.stale")["detail"]
        moved.rename(database)
        assert list(following.snapshots.get(timeout=TIMEOUT).backends) == ["main"]


# What changes


def test_a_change_is_handed_over_once(following: Following) -> None:
    """One snapshot for one change."""
    Origin.objects.create(origin="https://app.example.com")
    snapshot = following.snapshots.get(timeout=TIMEOUT)
    assert [o.origin for o in snapshot.origins] == ["https://app.example.com"]
    following.settle()
    assert following.snapshots.empty()


def test_a_save_that_changes_nothing_is_not_handed_over(following: Following) -> None:
    """Snapshots are compared by what they say."""
    Backend.objects.get().save()
    following.settle()
    assert following.snapshots.empty()


def test_a_nudge_does_not_wait_for_the_interval(database: Path) -> None:
    """News from another process is looked at at once."""
    with Following(interval=3600) as following:
        following.watcher.load_first()
        Origin.objects.create(origin="https://app.example.com")
        following.snapshots.get(timeout=TIMEOUT)
        following.watcher.nudge()
        assert following.snapshots.get(timeout=TIMEOUT).origins


def test_revocations_in_force_come_at_the_start_and_new_ones_after(database: Path) -> None:
    """What has expired by itself is left out."""
    now = timezone.now()
    Revocation.objects.create(kind="token", value="a" * 64, revoked_at=now, expires_at=now + timedelta(hours=1))
    Revocation.objects.create(kind="jti", value="over", expires_at=now - timedelta(seconds=1))
    Revocation.objects.create(kind="user", value="42", revoked_at=now)
    with Following() as following:
        following.watcher.load_first()
        assert following.revocations.get(timeout=TIMEOUT) == [
            RevocationEntry("token", "a" * 64, now.timestamp(), now.timestamp() + 3600),
            RevocationEntry("user", "42", now.timestamp(), None),
        ]
        Revocation.objects.create(kind="user", value="43", revoked_at=now)
        assert following.revocations.get(timeout=TIMEOUT) == [RevocationEntry("user", "43", now.timestamp(), None)]
        assert following.snapshots.get(timeout=TIMEOUT).routes  # the first one
        assert following.snapshots.empty()


def test_only_kicks_after_the_start_count(database: Path) -> None:
    """A process that starts has no sockets that an older kick could mean."""
    Kick.objects.create(kind="user", value="old")
    with Following() as following:
        following.watcher.load_first()
        Kick.objects.create(kind="socket", value="s1")
        assert following.kicks.get(timeout=TIMEOUT) == [KickEntry("socket", "s1")]
        Kick.objects.create(kind="route", value="/ws")
        assert following.kicks.get(timeout=TIMEOUT) == [KickEntry("route", "/ws")]


def test_an_invalid_row_holds_up_neither_revocations_nor_the_old_configuration(following: Following) -> None:
    """One line says what to mend; when it is mended, everything goes on."""
    Route.objects.filter(path="/api/").update(path="no slash")
    fields = following.line("config.stale")
    assert fields["detail"].startswith("the configuration in the database is invalid: route http")
    assert "must begin with a slash" in fields["detail"]
    assert following.watcher.error == "the configuration in the database is invalid"
    Revocation.objects.create(kind="user", value="42")
    assert following.revocations.get(timeout=TIMEOUT)[0].value == "42"
    assert following.snapshots.empty()
    Route.objects.update(path="/new/")
    assert following.snapshots.get(timeout=TIMEOUT).routes[0].path == "/new/"
    following.line("the configuration is up to date again")


def test_an_invalid_row_that_is_mended_by_other_means_is_seen(following: Following) -> None:
    """Whoever writes rows by hand does not count revisions; while something is wrong, every look is a full one."""
    Route.objects.filter(path="/api/").update(path="no slash")
    following.line("config.stale")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE relay_route SET path = '/by-hand/'")
    assert following.snapshots.get(timeout=TIMEOUT).routes[0].path == "/by-hand/"


# Outages


def test_an_outage_is_logged_once_and_ends(following: Following, database: Path) -> None:
    """While the file is away, the configuration ages; back again, changes are seen as before."""
    moved = away(database)
    fields = following.line("config.stale")
    assert str(database) in fields["detail"]
    assert following.watcher.error == "database unreachable"
    aged = following.watcher.age_seconds
    while following.watcher.age_seconds < aged + 0.1:
        following.watcher.nudge()  # many looks, and no second line
    assert not database.exists()
    moved.rename(database)
    following.line("the configuration is up to date again")
    assert following.lines.queue.empty()
    assert following.watcher.error == ""
    Origin.objects.create(origin="https://app.example.com")
    assert following.snapshots.get(timeout=TIMEOUT).origins


def test_a_database_put_in_place_of_another_is_followed(following: Following, database: Path, tmp_path: Path) -> None:
    """A backup that is restored: SQLite would go on reading the file that is gone."""
    copy = tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(database)) as before, closing(sqlite3.connect(copy)) as after:
        before.backup(after)
        after.execute("INSERT INTO relay_origin (origin, note, enabled) VALUES ('https://b.example', '', 1)")
        after.execute("UPDATE relay_revision SET config = config + 100")
        after.commit()
    connection.close()
    for left in database.parent.glob(f"{database.name}-*"):
        left.unlink()
    copy.rename(database)
    assert following.snapshots.get(timeout=TIMEOUT).origins[0].origin == "https://b.example"


def test_a_database_that_is_damaged_is_an_outage(following: Following, database: Path) -> None:
    """Its own words go to the log, and only that it can't be reached to a page."""
    away(database)
    database.write_bytes(b"this is no database, but it is long enough to look like one" * 100)
    following.line("config.stale")
    assert following.watcher.error == "database unreachable"


def test_a_database_that_hangs_is_an_outage(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nothing, not even an error: a frozen server, or a disk that stalls."""
    goes_on, current = threading.Event(), Revision.current
    monkeypatch.setattr(watch, "HANGS", 0.1)
    monkeypatch.setattr(Revision, "current", lambda: goes_on.wait(TIMEOUT) and current())
    assert following.line("config.stale")["detail"] == "database unreachable: no answer for 0.1 s"
    assert following.watcher.error == "database unreachable"
    goes_on.set()
    following.line("the configuration is up to date again")


def test_revocations_of_an_earlier_state_of_the_database_are_read_again(following: Following) -> None:
    """A backup that is restored may hold keys that were seen before with other content."""
    Revocation.objects.create(kind="user", value="1")
    Revocation.objects.create(kind="user", value="2")
    seen: list[RevocationEntry] = []
    while len(seen) < 2:
        seen += following.revocations.get(timeout=TIMEOUT)
    Revision.objects.update(revocations=0)
    assert [entry.value for entry in following.revocations.get(timeout=TIMEOUT)] == ["1", "2"]


def test_a_password_stays_out_of_what_is_said(database: Path) -> None:
    """Drivers don't repeat it, and if one did, it would be masked."""
    connections.settings["default"]["PASSWORD"] = "hunter2"
    assert without_password("can't log in\n with hunter2") == "can't log in with …"


# The end


def test_stopping_ends_the_thread(following: Following) -> None:
    """And its connection with it: no file is left open."""
    following.watcher.stop()
    assert "relay-config" not in {thread.name for thread in threading.enumerate()}
    Origin.objects.create(origin="https://app.example.com")
    with pytest.raises(queue.Empty):
        following.snapshots.get_nowait()


def test_a_watcher_ends_with_its_loop(following: Following) -> None:
    """Nobody is left to follow for: the thread ends by itself."""
    loop = asyncio.new_event_loop()
    loop.close()
    watcher = Watcher(loop, following)
    watcher.start()
    watcher._thread.join(TIMEOUT)
    assert not watcher._thread.is_alive()


# Rows past their time


def test_rows_past_their_time_are_removed(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded work each time; what may still be wanted stays."""
    now, over = timezone.now(), timezone.now() - timedelta(hours=2)
    for number in range(5):
        Revocation.objects.create(kind="jti", value=f"over {number}", expires_at=over)
    Revocation.objects.create(kind="jti", value="in force", expires_at=now + timedelta(hours=1))
    Revocation.objects.create(kind="user", value="for good")
    Ticket.objects.create(digest="0" * 64, identity={}, path="/ws", expires_at=over)
    Ticket.objects.create(digest="1" * 64, identity={}, path="/ws", expires_at=now + timedelta(seconds=30))
    Kick.objects.create(kind="user", value="old", created_at=over)
    Kick.objects.create(kind="user", value="new")
    monkeypatch.setattr(watch, "PRUNE_ROWS", 3)
    watch.prune()
    assert (Revocation.objects.count(), Ticket.objects.count(), Kick.objects.count()) == (7 - 3, 2 - 1, 2 - 1)
    watch.prune()
    watch.prune()
    assert sorted(Revocation.objects.values_list("value", flat=True)) == ["for good", "in force"]
    assert list(Ticket.objects.values_list("digest", flat=True)) == ["1" * 64]
    assert list(Kick.objects.values_list("value", flat=True)) == ["new"]


def test_the_watcher_prunes_and_survives_a_database_that_is_read_only(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica can be followed, though nothing can be removed from it."""
    Kick.objects.create(kind="user", value="old", created_at=timezone.now() - timedelta(hours=2))
    monkeypatch.setattr(watch, "PRUNE_INTERVAL", 0.0)
    options = connections.settings["default"]["OPTIONS"]
    monkeypatch.setitem(options, "init_command", "PRAGMA query_only=1")
    with Following() as following:
        following.watcher.load_first()
        following.line("expired rows could not be removed: attempt to write a readonly database")
        assert following.watcher.error == ""
    monkeypatch.setitem(options, "init_command", "")
    with Following() as following:
        following.watcher.load_first()
        while Kick.objects.exists():
            following.watcher.nudge()
