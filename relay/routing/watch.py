"""Follows the database from a thread of its own: configuration, revocations and kicks reach the event loop within 1 s.

One row (`Revision`) is read every `INTERVAL`; the rest only when it says that there is something new. No request waits
for any of this. While the database is away, or holds what can't be used, the last good configuration stays in force.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from django import db
from django.db.models import Max, Q
from django.utils import timezone

from relay import models
from relay.database import SameFile, disconnect, without_password
from relay.live.log import config_stale
from relay.routing.loader import InvalidConfiguration, load_snapshot
from relay.routing.snapshot import Snapshot

log = logging.getLogger("relay.config")
_T = TypeVar("_T")

INTERVAL = 0.4
"""Seconds between two looks: a change has to be live within 1 s, loading included."""

REST = 0.05
"""Seconds between two looks at least, however often it is nudged."""

HANGS = 3.0
"""Seconds that one look may take until the database counts as away."""

PRUNE_INTERVAL = 60.0
"""Seconds between two removals of rows whose time has passed."""

PRUNE_ROWS = 500
"""At most so many rows a table and removal: what has piled up must not lock the database for long."""

KICKS_KEPT = timedelta(hours=1)
"""For processes that lost the database for a while."""

GRACE = timedelta(minutes=5)
"""Kept this long past their time, for machines whose clocks differ."""

UNREACHABLE = "database unreachable"
INVALID = "the configuration in the database is invalid"


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """One revocation.

    Attributes:
        kind: ``token``, ``jti`` or ``user``.
        value: A token's fingerprint, a jti, or a user's id.
        revoked_at: Unix time; a user's tokens issued up to then are refused.
        expires_at: Unix time after which it has no effect any more, as the token is over by itself; None: never.
    """

    kind: str
    value: str
    revoked_at: float
    expires_at: float | None

    @classmethod
    def of(cls, row: models.Revocation) -> RevocationEntry:
        return cls(
            row.kind,
            row.value,
            row.revoked_at.timestamp(),
            row.expires_at.timestamp() if row.expires_at else None,
        )


@dataclass(frozen=True, slots=True)
class KickEntry:
    """An order to end sockets: of one ``socket`` (its id), a ``user`` (id) or a ``route`` (path)."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class RenewalEntry:
    """Sockets of the token with this fingerprint belong to a fresh token from now on; `identity` is what it says."""

    fingerprint: str
    identity: dict[str, Any]


class ConfigurationUnavailable(Exception):
    """There is no first configuration; the text says why, without credentials."""


class Follower(Protocol):
    """Who is told, in the event loop."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """The first configuration, and every later one that differs in more than its revision."""

    def on_revocations(self, entries: list[RevocationEntry]) -> None:
        """All that are in force at the start, then the new ones."""

    def on_kicks(self, entries: list[KickEntry]) -> None:
        """Those that are ordered after the start."""

    def on_renewals(self, entries: list[RenewalEntry]) -> None:
        """Likewise."""

    def on_watched(self, look: int) -> None:
        """Somebody has looked at the live connections again: the count of looks."""


class Watcher:
    """The thread. Everything public may be called from any thread.

    Args:
        interval: Seconds between two looks at the database.

    Attributes:
        error: Why the configuration is stale, in words for a public page; empty while it is fresh.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, follower: Follower, interval: float = INTERVAL) -> None:
        self.error = ""
        self._loop, self._follower, self._interval = loop, follower, interval
        self._thread = threading.Thread(target=self._run, name="relay-config", daemon=True)
        self._wake, self._stopping, self._looked = threading.Event(), threading.Event(), threading.Event()
        self._fresh_at = time.monotonic()
        self._began = 0.0  # a look that has not ended
        self._prune_at = time.monotonic() + PRUNE_INTERVAL
        self._cause = ""
        self._snapshot: Snapshot | None = None
        self._seen = models.Revision(config=-1, revocations=-1, kicks=-1, watched=-1)
        self._last_revocation = self._last_kick = self._last_renewal = 0
        self._file = SameFile()

    def start(self) -> None:
        """Begin to follow. Without a database, the first configuration comes as soon as there is one."""
        self._thread.start()
        self._hand_over(self._mind, None)

    def load_first(self, timeout: float = 30) -> None:
        """Begin to follow, and wait for the first configuration; the follower gets it once the loop turns.

        Raises:
            ConfigurationUnavailable: There was none, or no answer in `timeout` seconds; the watcher is stopped.
        """
        self.start()
        looked = self._looked.wait(timeout)
        if self._snapshot is None:
            self.stop(timeout=0 if not looked else 5)
            raise ConfigurationUnavailable(self._cause or f"{UNREACHABLE}: no answer in {timeout:g} s")

    def nudge(self) -> None:
        """Look at once: someone said that there is something new."""
        self._wake.set()

    def stop(self, timeout: float = 1) -> None:
        """End the thread, which closes its connection; a database that hangs is given `timeout` seconds."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def revision(self) -> int:
        """The count of configuration changes that it has followed up to."""
        return self._seen.config

    @property
    def age_seconds(self) -> float:
        """Seconds since the configuration in force was last known to be the database's."""
        return time.monotonic() - self._fresh_at

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look()
                self._looked.set()
                self._stopping.wait(REST)
                self._wake.wait(self._interval - REST)
                self._wake.clear()
        finally:
            disconnect()

    def _mind(self, _: None) -> None:
        """On the loop, which waits for no database: one that hangs answers nothing, not even with an error."""
        if self._stopping.is_set():
            return
        if (began := self._began) and time.monotonic() - began > HANGS:
            self._stale(UNREACHABLE, f"{UNREACHABLE}: no answer for {HANGS:g} s")
        self._loop.call_later(HANGS / 2, self._mind, None)

    def _look(self) -> None:
        self._began = time.monotonic()
        try:
            self._file.ask()
            now = models.Revision.current()
            # Who is no longer let in comes first: a row that can't be used must not hold it up.
            self._follow_revocations(now.revocations)
            self._follow_orders(now.kicks)
            self._follow_watched(now.watched)
            self._follow_configuration(now.config)
        except InvalidConfiguration as exc:
            self._stale(INVALID, f"{INVALID}: {'; '.join(exc.problems)}")
        except (db.Error, OSError) as exc:
            disconnect()
            self._stale(UNREACHABLE, f"{UNREACHABLE}: {without_password(str(exc)) or type(exc).__name__}")
        except Exception:
            # Whatever it is, the next look may go well; a thread that ended here would follow nothing for good.
            log.exception("the database can't be followed")
            disconnect()
            self._stale(UNREACHABLE, UNREACHABLE)
        else:
            self._fresh()
            self._prune()

    def _follow_configuration(self, count: int) -> None:
        if count == self._seen.config:
            return
        snapshot, before = load_snapshot(), self._snapshot
        self._snapshot, self._seen.config = snapshot, snapshot.revision
        if before is None or replace(snapshot, revision=before.revision) != before:
            self._hand_over(self._follower.on_snapshot, snapshot)

    def _follow_revocations(self, count: int) -> None:
        if count == self._seen.revocations:
            return
        if count < self._seen.revocations:  # the database has been put back to an earlier state
            self._last_revocation = 0
        in_force = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        rows = list(models.Revocation.objects.filter(in_force, pk__gt=self._last_revocation).order_by("pk"))
        self._seen.revocations = count
        if rows:
            self._last_revocation = rows[-1].pk
            self._hand_over(self._follower.on_revocations, [RevocationEntry.of(row) for row in rows])

    def _follow_orders(self, count: int) -> None:
        """Kicks and renewals: those after the last one seen, and at the start none, as there is no socket yet."""
        if count == self._seen.kicks:
            return
        if count < self._seen.kicks or self._seen.kicks < 0:
            self._last_kick, self._last_renewal = _last(models.Kick), _last(models.Renewal)
        kicks = list(models.Kick.objects.filter(pk__gt=self._last_kick).order_by("pk"))
        renewals = list(models.Renewal.objects.filter(pk__gt=self._last_renewal).order_by("pk"))
        self._seen.kicks = count
        # A socket that is renewed and kicked is to end, whichever came first.
        if renewals:
            self._last_renewal = renewals[-1].pk
            entries = [RenewalEntry(row.fingerprint, row.identity) for row in renewals]
            self._hand_over(self._follower.on_renewals, entries)
        if kicks:
            self._last_kick = kicks[-1].pk
            self._hand_over(self._follower.on_kicks, [KickEntry(row.kind, row.value) for row in kicks])

    def _follow_watched(self, count: int) -> None:
        if count != self._seen.watched:
            self._seen.watched = count
            self._hand_over(self._follower.on_watched, count)

    def _hand_over(self, callback: Callable[[_T], object], news: _T) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, news)
        except RuntimeError:  # the loop is closed: nobody is left to follow for
            self._stopping.set()

    def _fresh(self) -> None:
        self._began = 0.0
        was_stale, age = self.error, self.age_seconds
        self.error = self._cause = ""
        self._fresh_at = time.monotonic()
        if was_stale:
            log.info("the configuration is followed again, after %.1f s", age)

    def _stale(self, error: str, cause: str) -> None:
        """Log once for each outage, however its causes vary, and once for each way in which rows are invalid."""
        self._began = 0.0
        is_news = error != self.error or (error == INVALID and cause != self._cause)
        self.error, self._cause = error, cause
        if is_news:
            config_stale(age=self.age_seconds, detail=cause)

    def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + PRUNE_INTERVAL
        try:
            prune()
        except db.Error as exc:  # another writer was quicker, or the database is read-only: it is no outage
            log.warning("rows past their time could not be removed: %s", without_password(str(exc)))


def prune() -> None:
    """Remove rows whose time has passed, at most `PRUNE_ROWS` of each table."""
    now = timezone.now()
    passed: tuple[tuple[type[models.Revocation | models.Ticket | models.Kick | models.Renewal], Q], ...] = (
        (models.Revocation, Q(expires_at__lt=now - GRACE)),
        (models.Ticket, Q(expires_at__lt=now - GRACE)),
        (models.Kick, Q(created_at__lt=now - KICKS_KEPT)),
        (models.Renewal, Q(created_at__lt=now - KICKS_KEPT)),
    )
    for model, condition in passed:
        rows = list(model._default_manager.filter(condition).values_list("pk", flat=True)[:PRUNE_ROWS])
        if rows:
            model._default_manager.filter(pk__in=rows).delete()


def _last(model: type[models.Kick | models.Renewal]) -> int:
    last: int | None = model._default_manager.aggregate(last=Max("pk"))["last"]
    return last or 0
