"""relay/shared/bell.py: a change is heard of at once, and is none the worse for not being heard."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from django.db import transaction
from redis.asyncio import Redis

from relay.models import Origin
from relay.revision import changed
from relay.shared import bell as module
from relay.shared.bell import Bell, Listener
from tests import servers
from tests.server_helpers import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are noticed and healed within moments."""
    for name, seconds in {"BEAT": 0.4, "RETRY": 0.02}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[servers.Redis]:
    with servers.redis(tmp_path) as it:
        yield it


class Ear:
    """A listener, and how often it has heard the bell."""

    def __init__(self, url: str) -> None:
        self.heard = 0
        self.listener = Listener(url, self._rung)

    def _rung(self) -> None:
        self.heard += 1


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ear]:
    """An ear that has begun to listen; having begun counts as the first ring."""
    ear = Ear(url)
    task = asyncio.create_task(ear.listener.listen())
    try:
        await until(lambda: ear.heard or ear.listener.warning)
        yield ear
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_every_listener_hears_a_ring(server: servers.Redis) -> None:
    """Whoever rings; several rings may be one, but none is lost."""
    bell = Bell(server.url)
    async with listening(server.url) as one, listening(server.url) as other:
        await asyncio.to_thread(bell.ring)
        await until(lambda: one.heard == other.heard == 2)


async def test_redis_that_goes_and_comes_back(server: servers.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and listened again; as something may have been missed, that counts as a ring."""
    caplog.set_level(logging.INFO, "relay")
    async with listening(server.url) as ear:
        server.stop(signal.SIGKILL)
        await until(lambda: ear.listener.warning)
        assert ear.listener.warning.startswith("redis unreachable: ")
        server.start()
        await until(lambda: ear.heard == 2)
        assert ear.listener.warning == ""
        await asyncio.to_thread(Bell(server.url).ring)
        await until(lambda: ear.heard == 3)
    lost, found = [record.getMessage() for record in caplog.records]
    assert lost.startswith("redis unreachable: changes are found in the database, a moment later: ")
    assert found == "redis is reachable again: changes take effect at once"
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_transport_that_closes_under_a_write(server: servers.Redis) -> None:
    """uvloop says RuntimeError then, which is neither redis's nor the system's; the listener outlives it."""

    class Dropped(Listener):
        drops = 1

        async def _listen(self, client: Redis) -> None:
            if self.drops:
                self.drops -= 1
                raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")
            await super()._listen(client)

    rings: list[bool] = []
    task = asyncio.create_task(Dropped(server.url, lambda: rings.append(True)).listen())
    await until(lambda: rings or task.done())
    assert not task.done()
    task.cancel()
    await asyncio.wait((task,))


async def test_redis_that_falls_silent(server: servers.Redis) -> None:
    """A connection to nowhere looks like one on which nothing happens, unless somebody asks."""
    async with listening(server.url) as ear:
        server.send(signal.SIGSTOP)
        await until(lambda: ear.listener.warning)
        server.send(signal.SIGCONT)
        await until(lambda: not ear.listener.warning)


async def test_silence_is_no_outage(server: servers.Redis) -> None:
    """Redis answers when it is asked whether it is there."""
    async with listening(server.url) as ear, Redis.from_url(server.url) as client:
        async with asyncio.timeout(10):
            while (await client.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0) < 3:
                pass
        assert (ear.listener.warning, ear.heard) == ("", 1)


async def test_a_ring_that_nobody_hears_does_no_harm() -> None:
    """What has changed is found in the database. For a while, the next rings are not even tried."""
    now, attempts = 0.0, 0

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as nobody:
        bell = Bell(f"redis://127.0.0.1:{nobody.sockets[0].getsockname()[1]}/0", clock=lambda: now)
        for _ in range(3):
            await asyncio.to_thread(bell.ring)
        assert attempts == 1
        now = module.REST + 1
        await asyncio.to_thread(bell.ring)
        assert attempts == 2


def test_a_ring_takes_little_time(server: servers.Redis) -> None:
    """Somebody waits behind a button, and Redis does not answer."""
    bell = Bell(server.url)
    server.send(signal.SIGSTOP)
    started = time.monotonic()
    for _ in range(100):
        bell.ring()
    assert time.monotonic() - started < 5
    server.send(signal.SIGCONT)


@pytest.fixture
def rings() -> Iterator[list[bool]]:
    """One for each time that somebody was told of a change: whether it was committed by then."""
    told: list[bool] = []

    def ring(**_: object) -> None:
        told.append(not transaction.get_connection().in_atomic_block)

    changed.connect(ring)
    yield told
    changed.disconnect(ring)


@pytest.mark.django_db(transaction=True)
def test_a_change_rings_once_it_is_committed(rings: list[bool]) -> None:
    """Whoever hears it and looks must find it."""
    with transaction.atomic():
        Origin(origin="https://app.example.com").save()
        assert rings == []
    assert rings == [True]
    Origin.objects.update(note="x")
    Origin.objects.all().delete()
    assert rings == [True] * 3


@pytest.mark.django_db(transaction=True)
def test_what_did_not_come_about_does_not_ring(rings: list[bool]) -> None:
    """A transaction that was rolled back has changed nothing."""
    with transaction.atomic():
        Origin(origin="https://app.example.com").save()
        transaction.set_rollback(True)
    assert rings == []


@pytest.mark.django_db(transaction=True)
def test_a_bell_that_breaks_breaks_no_change() -> None:
    """The row is saved, whatever becomes of the news."""

    def broken(**_: object) -> None:
        raise RuntimeError

    changed.connect(broken)
    try:
        Origin(origin="https://app.example.com").save()
    finally:
        changed.disconnect(broken)
    assert Origin.objects.count() == 1
