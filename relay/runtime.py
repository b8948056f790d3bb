"""The state shared within one process, and how it reacts to changes.

Everything here belongs to the event loop's thread. The configuration, revocations and kicks come from the database
through the `Watcher`, whose thread hands them over; no request waits for them.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from channels.db import database_sync_to_async
from django import db

from relay.backends.connector import Connector
from relay.database import trouble
from relay.fleet.figures import Observer, Report
from relay.fleet.reporter import Reporter
from relay.forwarding import Forwarding
from relay.http.client import Client
from relay.http.journal import Journal
from relay.identity.middleware import Examiner
from relay.identity.model import Identity
from relay.identity.places import Places
from relay.identity.revocation import Revocations, revokes
from relay.identity.tickets import Tickets
from relay.identity.tokens import Verifier
from relay.live import events, log
from relay.live.metrics import Metrics
from relay.live.registry import CONFIG_CHANGED, DRAIN, KICKED, REVOKED, Handshake, LiveSocket, Registry, end_each
from relay.revision import changed
from relay.routing import loader
from relay.routing.difference import difference
from relay.routing.endings import ended_by
from relay.routing.snapshot import Snapshot
from relay.routing.watch import (
    UNREACHABLE,
    ConfigurationUnavailable,
    KickEntry,
    RenewalEntry,
    RevocationEntry,
    Watcher,
)
from relay.settings import RelaySettings
from relay.shared.bell import Listener
from relay.shared.keeper import KeeperLine
from relay.shared.quotas import Quotas, SharedQuotas
from relay.shared.redis_book import RedisBook
from relay.websocket.upstream import Dialler, dial

logger = logging.getLogger("relay")

LOOK_INTERVAL = 2.0
"""Seconds between samples of the live sockets for the shared metrics, and between checks of the keys' age."""


class Runtime:
    """What the parts of one process share.

    Args:
        settings: The environment's settings.
        snapshot: A fixed configuration, for tests; None: the database is watched once `start` is called.

    Attributes:
        snapshot: The configuration in force.
        draining: Whether the process refuses new work.
        started: Whether there is a configuration.
        watcher, reporter: Watch the database and write to it; None with a fixed configuration.
        client, dial: Send requests and handshakes to the backends; `relay.tracing` wraps them.
    """

    def __init__(self, settings: RelaySettings, snapshot: Snapshot | None = None) -> None:
        self.settings = settings
        self.snapshot = snapshot if snapshot is not None else Snapshot()
        self.draining = False
        self.registry = Registry()
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self.connector = Connector()
        self.client = Client(self.connector)
        self.dial: Dialler = partial(dial, self.connector)
        self.revocations = Revocations()
        self.verifier = Verifier(settings)
        self.places = Places(*settings.token_names)
        self.examiner = Examiner(self.verifier, self.revocations)
        self.tickets = Tickets()
        self.forwarding = Forwarding(*settings.token_names)
        self.quotas = self._quotas()
        self.bell = Listener(settings.redis_url, self.nudge) if settings.redis_url else None
        self.watcher: Watcher | None = None
        self.reporter: Reporter | None = None
        if snapshot is None:
            self.reporter = Reporter(settings.token_names)
        self._observer = Observer()
        self.started = False
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    # Life

    @property
    def ready(self) -> bool:
        """Whether new work is accepted: there is a configuration, and no drain."""
        return self.started and not self.draining

    @property
    def warnings(self) -> list[str]:
        """Problems that don't stop clients from being served, for ``/health``."""
        said = [self.quotas.warning, self.bell.warning if self.bell is not None else ""]
        if self.watcher is not None and self.watcher.error:
            said.insert(0, f"configuration is {self.watcher.age_seconds:.0f} s old: {self.watcher.error}")
        if self.verifier.jwks is not None:
            said.append(self.verifier.jwks.warning)
        return [warning for warning in said if warning]

    def _quotas(self) -> Quotas:
        rate, url = self.settings.rate_limit, self.settings.redis_url
        if not url:
            return Quotas(rate, self.registry)
        return SharedQuotas(rate, self.registry, "redis", RedisBook(url, rate).dial)

    def share_with_workers(self, path: str) -> None:
        """Let the supervisor count for all workers, unless Redis does; call before `start`.

        Args:
            path: The supervisor's socket.
        """
        if not self.settings.redis_url:
            rate = self.settings.rate_limit
            self.quotas = SharedQuotas(rate, self.registry, "supervisor", lambda: KeeperLine.dial(path))

    async def start(self) -> None:
        """Load the configuration and start watching it; several callers may wait for the same start.

        Raises:
            ConfigurationUnavailable: The database can't be read; the next call tries again.
            ImproperlyConfigured: ``MAIN_SERVICE_URL`` or ``ALLOWED_ORIGINS`` can't be used.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except BaseException:
            if self._starting is starting and starting.done():
                self._starting = None
            raise

    async def _start(self) -> None:
        if self.reporter is not None:
            await self._bootstrap()
            watcher = Watcher(asyncio.get_running_loop(), self)
            await asyncio.to_thread(watcher.load_first)
            self.reporter.start()
            self.watcher = watcher
            # The results of the first poll were queued before the thread returned.
            await asyncio.sleep(0)
            changed.connect(self.nudge)
            if self.bell is not None:
                self._spawn(self.bell.listen())
        else:
            self.connector.update(self.snapshot)
            self.quotas.follow(self.snapshot)
        self._spawn(self._look_regularly())
        atexit.register(self.journal.flush)  # not every server ends the lifespan
        self.started = True

    async def _bootstrap(self) -> None:
        """Create the first configuration from the environment if there is none."""
        bootstrap = database_sync_to_async(loader.bootstrap, thread_sensitive=False)
        try:
            await bootstrap(self.settings.main_service_url, self.settings.allowed_origins)
        except db.Error as exc:
            raise ConfigurationUnavailable(f"{UNREACHABLE}: {trouble(exc)}") from exc

    async def stop(self) -> None:
        """Stop background work; sockets and requests have ended by now, or are cut."""
        changed.disconnect(self.nudge)
        self.journal.flush()
        atexit.unregister(self.journal.flush)
        for thread in (self.watcher, self.reporter):
            if thread is not None:
                await asyncio.to_thread(thread.stop)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.verifier.jwks is not None:
            await self.verifier.jwks.close()
        await self.quotas.close()
        await self.client.close()
        await self.connector.close()

    def drain(self) -> None:
        """Refuse new work, and close the sockets, spread over half of ``DRAIN_SECONDS`` (contract, section 8)."""
        if not self.draining:
            self.draining = True
            self._spawn(self.registry.end_all(DRAIN, self.settings.drain_seconds / 2))

    # What follows from a change

    def nudge(self, **_: object) -> None:
        """Poll the database now, as something has changed. May be called from any thread."""
        if self.watcher is not None:
            self.watcher.nudge()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Put a configuration in force, and close only the sockets that it rules out."""
        before, self.snapshot = self.snapshot, snapshot
        self.connector.update(snapshot)
        self.quotas.follow(snapshot)
        closed = end_each(filter(ended_by(snapshot), self.registry), CONFIG_CHANGED) if before.routes else 0
        log.tell(
            events.ConfigChanged(
                revision=snapshot.revision,
                backends=len(snapshot.backends),
                routes=len(snapshot.routes),
                origins=len(snapshot.origins),
                changed="; ".join(difference(before, snapshot)) if self.started else None,
                sockets_closed=closed,
            )
        )

    def on_revocations(self, entries: list[RevocationEntry]) -> None:
        """Refuse revoked tokens from now on, and close their sockets."""
        self.revocations.add(entries)
        if not self.started:  # already in force before the start: there are no sockets yet, and nothing new to log
            return
        by_jti: dict[str, list[LiveSocket]] = {}
        if any(entry.kind == "jti" for entry in entries):
            for socket in self.registry:
                by_jti.setdefault(socket.identity.jti if socket.identity else "", []).append(socket)
        for entry in entries:
            match entry.kind:
                case "token":
                    among: Iterable[LiveSocket] = self.registry.by_fingerprint(entry.value)
                case "user":
                    among = self.registry.of_user(entry.value)
                case _:
                    among = by_jti.get(entry.value, ())
            closed = end_each([socket for socket in among if revokes(entry, socket.identity)], REVOKED)
            value = entry.value[:12] if entry.kind == "token" else entry.value
            log.tell(events.AuthRevoked(sockets_closed=closed, kind=entry.kind, value=value))

    def on_kicks(self, entries: list[KickEntry]) -> None:
        """Close the sockets that an administrator selected."""
        for entry in entries:
            match entry.kind:
                case "socket":
                    socket = self.registry.get(entry.value)
                    kicked: Iterable[LiveSocket] = [socket] if socket is not None else ()
                case "user":
                    kicked = self.registry.of_user(entry.value)
                case _:
                    kicked = [socket for socket in self.registry if socket.route.path == entry.value]
            end_each(kicked, KICKED)

    def on_renewals(self, entries: list[RenewalEntry]) -> None:
        """Move sockets to fresh tokens that other processes received."""
        for entry in entries:
            self.renew(entry.fingerprint, Identity(**{**entry.identity, "roles": tuple(entry.identity["roles"])}))

    def on_watched(self, look: int) -> None:
        """List the live sockets for somebody viewing them in the admin."""
        if self.reporter is not None:
            self.reporter.list_connections(look, tuple(self.registry))

    def renew(self, fingerprint: str, identity: Identity) -> None:
        """Move a user's sockets from an old token to a fresh one, if it is allowed on their routes.

        A fresh token that has been revoked by now closes them instead. A socket whose backend is still being dialled
        belongs to the fresh token once it opens, unless the old one has been revoked.
        """

        def may(socket: LiveSocket | Handshake) -> bool:
            known = socket.identity is not None and self.revocations.check(socket.identity) is None
            return known and socket.route.admits(identity)

        self.registry.reauthenticate(fingerprint, identity, may)
        if self.revocations.check(identity) is not None:
            end_each(self.registry.by_fingerprint(identity.fingerprint), REVOKED)

    # Metrics

    def flush_metrics(self) -> None:
        """Update the metrics, for a scrape."""
        self.journal.flush()
        health = {name: state.healthy for name, state in self.connector.status().items()}
        self.metrics.flush(self.registry, health, self.watcher.age_seconds if self.watcher else 0.0)

    async def _look_regularly(self) -> None:
        """Do the periodic work: refresh the issuer's keys, and publish figures for other processes."""
        while True:
            if self.verifier.jwks is not None:
                self.verifier.jwks.refresh_if_due()
            self.flush_metrics()
            if self.reporter is not None:
                self.reporter.feed(self._report())
            await asyncio.sleep(LOOK_INTERVAL)

    def _report(self) -> Report:
        totals, watcher = self.metrics.totals(), self.watcher
        return Report(
            figures=self._observer.look(totals, self.connector.status(), time.monotonic()),
            draining=self.draining,
            revision=watcher.revision if watcher else self.snapshot.revision,
            config_age=watcher.age_seconds if watcher else 0.0,
            config_error=watcher.error if watcher else "",
            slot=self._observer.slot(totals, time.time()),
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[object] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        with suppress(asyncio.CancelledError):
            if (exc := task.exception()) is not None:
                logger.error("a background task failed", exc_info=exc)
