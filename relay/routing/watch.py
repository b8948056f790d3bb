"""Watches the database from its own thread: configuration, revocations and kicks reach the event loop within 1 s.

One row (`Revision`) is read every `INTERVAL`, and the rest only when that row has changed. No request waits for this.
While the database is unavailable, or its configuration invalid, the last good configuration stays in force.
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
from relay.live import events, log
from relay.routing.loader import InvalidConfiguration, load_snapshot
from relay.routing.snapshot import Snapshot

logger = logging.getLogger("relay.config")
_T = TypeVar("_T")

INTERVAL = 0.4
"""Seconds between polls: a change has to take effect within 1 s, loading included."""

REST = 0.05
"""Minimum seconds between polls, however often the watcher is nudged."""

HANGS = 3.0
"""Seconds that one poll may take before the database counts as unreachable."""

PRUNE_INTERVAL = 60.0
"""Seconds between removals of expired rows."""

PRUNE_ROWS = 500
"""Maximum rows deleted per table and removal: a backlog must not lock the database for long."""

KICKS_KEPT = timedelta(hours=1)
"""How long kicks are kept, for processes that lose the database for a while."""

GRACE = timedelta(minutes=5)
"""How long rows are kept after they expire, for machines whose clocks differ."""

UNREACHABLE = "database unreachable"
INVALID = "the configuration in the database is invalid"


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """One revocation.

    Attributes:
        kind: ``token``, ``jti`` or ``user``.
        value: A token's fingerprint, a jti, or a user's id.
        revoked_at: Unix time; a user's tokens issued up to then are refused.
        expires_at: Unix time after which it has no effect, as the token itself has expired; None: never.
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
    """An order to close one ``socket`` (by id), or those of a ``user`` (id) or a ``route`` (path)."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class RenewalEntry:
    """An order to move the sockets of the token with this fingerprint to a fresh token, whose claims are `identity`."""

    fingerprint: str
    identity: dict[str, Any]


class ConfigurationUnavailable(Exception):
    """No first configuration could be loaded; the text says why, without credentials."""


class Follower(Protocol):
    """Receives the watcher's news, in the event loop."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """The first configuration, and every later one that differs in more than its revision."""

    def on_revocations(self, entries: list[RevocationEntry]) -> None:
        """All revocations in force at the start, then each new one."""

    def on_kicks(self, entries: list[KickEntry]) -> None:
        """Kicks ordered after the start."""

    def on_renewals(self, entries: list[RenewalEntry]) -> None:
        """Renewals ordered after the start."""

    def on_watched(self, look: int) -> None:
        """Somebody is viewing the live connections: `look` counts the views."""


class Watcher:
    """The watching thread. Public methods may be called from any thread.

    Args:
        interval: Seconds between polls of the database.

    Attributes:
        error: Why the configuration is stale, worded for a public page; empty while it is fresh.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, follower: Follower, interval: float = INTERVAL) -> None:
        self.error = ""
        self._loop, self._follower, self._interval = loop, follower, interval
        self._thread = threading.Thread(target=self._run, name="relay-config", daemon=True)
        self._wake, self._stopping, self._looked = threading.Event(), threading.Event(), threading.Event()
        self._fresh_at = time.monotonic()
        self._began = 0.0  # when the current poll started; 0: none is running
        self._prune_at = time.monotonic() + PRUNE_INTERVAL
        self._cause = ""
        self._snapshot: Snapshot | None = None
        self._seen = models.Revision(config=-1, revocations=-1, kicks=-1, watched=-1)
        self._last_revocation = self._last_kick = self._last_renewal = 0
        self._file = SameFile()

    def start(self) -> None:
        """Start watching. If there is no database yet, the first configuration comes once there is."""
        self._thread.start()
        self._hand_over(self._mind, None)

    def load_first(self, timeout: float = 30) -> None:
        """Start watching, and wait for the first configuration; the follower gets it at the loop's next turn.

        Raises:
            ConfigurationUnavailable: There is none, or no answer came in `timeout` seconds; the watcher is stopped.
        """
        self.start()
        looked = self._looked.wait(timeout)
        if self._snapshot is None:
            self.stop(timeout=0 if not looked else 5)
            raise ConfigurationUnavailable(self._cause or f"{UNREACHABLE}: no answer within {timeout:g} s")

    def nudge(self) -> None:
        """Poll now: there is news."""
        self._wake.set()

    def stop(self, timeout: float = 1) -> None:
        """Stop the thread, which closes its connection; wait at most `timeout` seconds if the database hangs."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def revision(self) -> int:
        """The revision of the configuration last loaded."""
        return self._seen.config

    @property
    def age_seconds(self) -> float:
        """Seconds since the configuration in force was last known to match the database."""
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
        """Notice, on the event loop, a database that hangs: the thread itself gets no answer and no error."""
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
            # Revocations and kicks come first: an invalid configuration must not delay them.
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
            # The next poll may succeed; if the thread ended here, it would never follow a change again.
            logger.exception("watching the database failed")
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
        if count < self._seen.revocations:  # the database was restored to an earlier state
            self._last_revocation = 0
        in_force = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        rows = list(models.Revocation.objects.filter(in_force, pk__gt=self._last_revocation).order_by("pk"))
        self._seen.revocations = count
        if rows:
            self._last_revocation = rows[-1].pk
            self._hand_over(self._follower.on_revocations, [RevocationEntry.of(row) for row in rows])

    def _follow_orders(self, count: int) -> None:
        """Hand over kicks and renewals after the last one seen; at the start none, as there are no sockets yet."""
        if count == self._seen.kicks:
            return
        if count < self._seen.kicks or self._seen.kicks < 0:
            self._last_kick, self._last_renewal = _last(models.Kick), _last(models.Renewal)
        kicks = list(models.Kick.objects.filter(pk__gt=self._last_kick).order_by("pk"))
        renewals = list(models.Renewal.objects.filter(pk__gt=self._last_renewal).order_by("pk"))
        self._seen.kicks = count
        # A socket that is both renewed and kicked must close, whichever came first.
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
        except RuntimeError:  # the loop is closed: there is no follower any more
            self._stopping.set()

    def _fresh(self) -> None:
        self._began = 0.0
        was_stale, age = self.error, self.age_seconds
        self.error = self._cause = ""
        self._fresh_at = time.monotonic()
        if was_stale:
            logger.info("the configuration is up to date again, after %.1f s", age)

    def _stale(self, error: str, cause: str) -> None:
        """Log once for each outage, even if its cause varies, and once for each different set of invalid rows."""
        self._began = 0.0
        is_news = error != self.error or (error == INVALID and cause != self._cause)
        self.error, self._cause = error, cause
        if is_news:
            log.tell(events.ConfigStale(age_seconds=round(self.age_seconds, 1), detail=cause))

    def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + PRUNE_INTERVAL
        try:
            prune()
        except db.Error as exc:  # another writer was faster, or the database is read-only: not an outage
            logger.warning("expired rows could not be removed: %s", without_password(str(exc)))


def prune() -> None:
    """Remove expired rows, at most `PRUNE_ROWS` from each table."""
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
