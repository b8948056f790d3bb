"""Writes what this process is doing to the database, from its own thread.

The event loop hands over what it has and goes on, without waiting for the database. While that is unavailable, the
reporter keeps an hour of curves and the newest refusals, logs nothing (the watcher does), and tries again with the next
report.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django import db
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from relay import __version__
from relay.database import SameFile, disconnect
from relay.fleet import records
from relay.fleet.figures import SLOT, Report, Slot
from relay.fleet.models import LiveConnection, Process, RefusalRecord, Sample
from relay.live import log
from relay.live.masking import Masker
from relay.live.registry import LiveSocket

logger = logging.getLogger("relay.fleet")

SAMPLES_KEPT = 3600
"""How many seconds the curves go back."""

REFUSALS_KEPT = 100
"""Per code: hundreds caused by a scanner must not push out the one that somebody is looking for."""

PROCESSES_KEPT = timedelta(minutes=10)
"""How long a process that ended without signing off is shown as gone."""

MOST_CONNECTIONS = 20_000
"""Maximum listed per process; any more are only counted."""

CONNECTIONS_KEPT = 60.0
"""Seconds without a viewer after which a list of connections is removed, as it contains personal data."""

PRUNE_INTERVAL = 60.0

_BATCH = 50
"""Rows per statement: few, as the event loop's thread has to wait while Python builds it."""


class Reporter:
    """The reporting thread. All public methods except `stop` return at once.

    Args:
        secret_names: The configured cookie and query parameter, whose values are masked in what is stored.
    """

    def __init__(self, secret_names: Iterable[str] = ()) -> None:
        self.id = uuid4()
        self._host, self._pid, self._started_at = platform.node() or "localhost", os.getpid(), timezone.now()
        self._clean = records.cleaner(Masker(secret_names))
        self._trouble = records.Trouble()
        # Handed over by the loop; only the newest of the first two counts.
        self._report: deque[Report] = deque(maxlen=1)
        self._look: deque[tuple[int, Sequence[LiveSocket]]] = deque(maxlen=1)
        self._slots: deque[Slot] = deque(maxlen=SAMPLES_KEPT // SLOT)
        # The thread's own:
        self._refusals: list[RefusalRecord] = []
        self._listed_at = 0.0
        self._prune_at = time.monotonic() + PRUNE_INTERVAL
        self._file = SameFile()
        self._thread = threading.Thread(target=self._run, name="relay-fleet", daemon=True)
        self._wake, self._stopping = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start listening and writing."""
        log.listeners.append(self._trouble.note)
        self._thread.start()

    def feed(self, report: Report) -> None:
        """Write a report, unless a newer one comes first."""
        self._report.append(report)
        if report.slot is not None:
            self._slots.append(report.slot)
        self._wake.set()

    def list_connections(self, look: int, sockets: Sequence[LiveSocket]) -> None:
        """Write this process's live sockets, for the view with this number (`Revision.watched`)."""
        self._look.append((look, sockets))
        self._wake.set()

    def stop(self, timeout: float = 2) -> None:
        """Write the rest, delete this process's row and end; wait at most `timeout` seconds if the database hangs."""
        with suppress(ValueError):
            log.listeners.remove(self._trouble.note)
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake.wait()
                self._wake.clear()
                self._try(self._write_connections, self._write_report, self._write_refusals, self._prune)
            self._try(self._write_refusals, self._leave)
        finally:
            disconnect()

    def _try(self, *writes: Callable[[], None]) -> None:
        """Write as much as possible; the rest waits for the next time."""
        try:
            self._file.ask()
            for write in writes:
                write()
        except (db.Error, OSError):
            disconnect()
        except Exception:
            # Our own bug must not end the thread.
            logger.exception("writing the state of this process failed")
            disconnect()

    # What is written

    def _write_connections(self) -> None:
        """Write the list of connections, first of all, as somebody is waiting for it."""
        if not self._look:
            return
        look, sockets = self._look.pop()
        listed = sockets[:MOST_CONNECTIONS]
        with transaction.atomic():
            self._write_process(watched=look, unlisted=len(sockets) - len(listed))
            LiveConnection.objects.filter(process_id=self.id).delete()
            for begin in range(0, len(listed), _BATCH):
                batch = listed[begin : begin + _BATCH]
                LiveConnection.objects.bulk_create(records.connection(it, self.id, self._clean) for it in batch)
        self._listed_at = time.monotonic()

    def _write_report(self) -> None:
        if not self._report:
            return
        report, slots = self._report.pop(), list(self._slots)
        with transaction.atomic():
            self._write_process(
                draining=report.draining,
                revision=report.revision,
                config_age=report.config_age,
                config_error=report.config_error[:200],
                figures=report.figures,
            )
            # If the clock was set back, a repeated slot replaces the old row; a slot occurs once per statement.
            samples = {slot.begin: _sample(self.id, slot) for slot in slots}
            Sample.objects.bulk_create(
                samples.values(),
                batch_size=_BATCH,
                update_conflicts=True,
                unique_fields=("process", "slot"),
                update_fields=("sockets", "requests", "errors", "messages", "refusals"),
            )
        written = set(map(id, slots))
        while self._slots and id(self._slots[0]) in written:
            self._slots.popleft()

    def _write_process(self, **values: Any) -> None:
        """Update the process's row, or create it again: others remove it after a long silence."""
        if not Process.objects.filter(pk=self.id).update(seen_at=Now(), **values):
            Process.objects.create(
                id=self.id,
                host=self._host,
                pid=self._pid,
                version=__version__,
                started_at=self._started_at,
                seen_at=Now(),
                **values,
            )

    def _write_refusals(self) -> None:
        taken = self._trouble.take(f"{self._host}:{self._pid}", self._clean)
        self._refusals = records.newest([*self._refusals, *taken])
        if not self._refusals:
            return
        try:
            RefusalRecord.objects.bulk_create(self._refusals)
        except db.DataError:  # one of them can't be stored, and would block all that follow
            self._refusals.clear()
            raise
        codes = {row.code for row in self._refusals}
        self._refusals.clear()
        for code in codes:
            of_code = RefusalRecord.objects.filter(code=code)
            for oldest in of_code.order_by("-pk").values_list("pk", flat=True)[REFUSALS_KEPT:][:1]:
                of_code.filter(pk__lte=oldest).delete()

    def _leave(self) -> None:
        Process.objects.filter(pk=self.id).delete()

    # What is removed

    def _prune(self) -> None:
        """Remove old rows. Every process does so for all, as none of them is certain to be running."""
        now = time.monotonic()
        if now < self._prune_at:
            return
        self._prune_at = now + PRUNE_INTERVAL
        Sample.objects.filter(slot__lt=time.time() - SAMPLES_KEPT - SLOT).delete()
        Process.objects.filter(seen_at__lt=Now() - PROCESSES_KEPT).delete()
        if now - self._listed_at > CONNECTIONS_KEPT:
            LiveConnection.objects.filter(process_id=self.id).delete()


def _sample(process: UUID, slot: Slot) -> Sample:
    return Sample(
        process=process,
        slot=slot.begin,
        sockets=slot.sockets,
        requests=slot.requests,
        errors=slot.errors,
        messages=slot.messages,
        refusals=slot.refusals,
    )
