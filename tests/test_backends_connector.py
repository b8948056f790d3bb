"""relay.backends.connector on real sockets: url after url, and health polling with its times set to milliseconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from relay.backends.connector import Connector
from relay.refusals import BackendTimeout, BackendUnreachable, NoHealthyBackend
from relay.routing.snapshot import Backend, Snapshot, Url
from tests.http_helpers import Peer, RawBackend, raw_backend, response

DEAD = Url.parse("http://127.0.0.1:9")


@asynccontextmanager
async def connector(**options: float) -> AsyncIterator[Connector]:
    it = Connector(**options)
    try:
        yield it
    finally:
        await it.close()


def snapshot(*backends: Backend) -> Snapshot:
    return Snapshot.build(backends, [], [])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the polls do to the state."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is looked at is state, and tells nobody
            await asyncio.sleep(0.002)


# Connecting


async def test_a_connection_counts_until_it_is_released():
    """Least connections needs to know who holds one."""
    async with raw_backend(Peer.ended) as backend, connector() as it:
        configured = backend.configured()
        transport, protocol, url = await it.connect(configured, asyncio.Protocol)
        (state,) = it.candidates(configured)
        assert (url, state.in_use, type(protocol)) == (configured.urls[0], 1, asyncio.Protocol)
        it.release(configured, url)
        assert state.in_use == 0
        transport.abort()


async def test_a_failed_or_cancelled_connection_counts_no_longer():
    """A count that only grows would shut a url out for ever."""
    async with connector() as it:
        dead = Backend("main", (DEAD,))
        with pytest.raises(BackendUnreachable):
            await it.connect(dead, asyncio.Protocol)
        connecting = asyncio.create_task(it.connect(dead, asyncio.Protocol))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert it.candidates(dead)[0].in_use == 0


async def test_the_next_url_is_tried():
    """Contract, section 3; the fourth time nothing is lost on the dead one any more."""
    made = 0

    def factory() -> asyncio.Protocol:
        nonlocal made
        made += 1
        return asyncio.Protocol()

    async with raw_backend(Peer.ended) as backend, connector() as it:
        both = Backend("main", (DEAD, *backend.configured().urls))
        for _ in range(8):
            transport, _, url = await it.connect(both, factory)
            assert url.port == backend.port
            transport.abort()
        dead = next(state for state in it.candidates(both) if state.url == DEAD)
        assert it.candidates(both)[-1] is dead


async def test_when_no_url_can_be_reached_the_error_tells_each_cause():
    """With several urls each cause names its own."""
    async with connector() as it:
        with pytest.raises(BackendUnreachable) as caught:
            await it.connect(Backend("main", (DEAD, Url.parse("http://nowhere.invalid"))), asyncio.Protocol)
    assert caught.value.backend == "main"
    assert str(caught.value) == (
        "http://127.0.0.1:9: connection refused 127.0.0.1:9; http://nowhere.invalid: name not found: nowhere.invalid"
    )


async def test_a_timeout_is_told_from_an_unreachable_backend():
    """504 and 502 are different stories."""
    async with raw_backend(Peer.ended) as backend, connector() as it:
        silent = backend.configured(scheme="https", connect_timeout=0.05)
        with pytest.raises(BackendTimeout) as caught:
            await it.connect(silent, asyncio.Protocol)
        assert caught.value.phase == "tls"
        with pytest.raises(BackendUnreachable):
            await it.connect(Backend("main", (*silent.urls, DEAD), connect_timeout=0.5), asyncio.Protocol)


# Health


class Patient:
    """A backend whose health path answers what it is told to."""

    def __init__(self) -> None:
        self.answer: bytes | None = response(b"fine")
        self.heads: list[bytes] = []

    async def talk(self, peer: Peer) -> None:
        self.heads.append((await peer.head()).head)
        if self.answer is None:
            await peer.ended()
        else:
            peer.send(self.answer)
            await peer.writer.drain()


def watched(backend: RawBackend, *others: Url, **options: object) -> Backend:
    return Backend("main", (*backend.configured().urls, *others), health_path="/health", **options)  # type: ignore[arg-type]


@pytest.fixture
def patient() -> Patient:
    return Patient()


FAST = {"interval": 0.01, "limit": 0.05}


async def test_the_poll_is_a_plain_request(patient):
    """GET with the backend's own Host; its url's prefix goes before the path."""
    async with raw_backend(patient.talk) as backend, connector(**FAST) as it:
        url = Url.parse(f"http://127.0.0.1:{backend.port}/app/")
        it.update(snapshot(Backend("main", (url,), health_path="/health?deep=1")))
        await until(lambda: bool(patient.heads))
    assert patient.heads[0] == (
        b"GET /app/health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % backend.port
    )


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        pytest.param(response(b"", b"503 Busy"), "/health answered 503, not 200", id="another status"),
        pytest.param(response(b"", b"204 Empty"), "/health answered 204, not 200", id="204 is no 200"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "answered 302, not 200", id="a redirect"),
        pytest.param(b"SSH-2.0-x\r\n", "/health: no HTTP answer", id="another protocol"),
        pytest.param(b"x" * 100_000, "/health: no HTTP answer", id="a line without end"),
        pytest.param(b"", "/health: closed without an answer", id="nothing"),
        pytest.param(None, "/health: no answer within 0.05 s", id="silence"),
    ],
)
async def test_anything_but_200_in_time_takes_a_url_out(patient, caplog, answer, cause):
    """Contract, section 3; the log says why, and the error is 503."""
    patient.answer = answer
    with caplog.at_level(logging.INFO, logger="relay"):
        async with raw_backend(patient.talk) as backend, connector(**FAST) as it:
            configured = watched(backend)
            it.update(snapshot(configured))
            await until(lambda: not it.status()["main"].healthy)
            with pytest.raises(NoHealthyBackend, match="every url of main is out"):
                it.candidates(configured)
            assert cause in it.status()["main"].urls[0].cause
    (record,) = (r for r in caplog.records if r.getMessage() == "backend.error")
    assert record.fields["backend"] == "main"
    assert cause in record.fields["detail"]


async def test_an_unreachable_url_is_out():
    """The cause is the one of connecting."""
    async with connector(**FAST) as it:
        it.update(snapshot(Backend("main", (DEAD,), health_path="/health")))
        await until(lambda: not it.status()["main"].healthy)
        assert it.status()["main"].urls[0].cause == "connection refused 127.0.0.1:9"


async def test_one_good_answer_brings_a_url_back(patient):
    """Contract, section 3."""
    patient.answer = None
    async with raw_backend(patient.talk) as backend, connector(**FAST) as it:
        configured = watched(backend)
        it.update(snapshot(configured))
        await until(lambda: not it.status()["main"].healthy)
        patient.answer = response()
        await until(lambda: it.status()["main"].healthy)
        transport, _, _ = await it.connect(configured, asyncio.Protocol)
        transport.abort()


async def test_a_backend_is_healthy_while_one_of_its_urls_is(patient):
    """And only that one gets anything."""
    async with raw_backend(patient.talk) as backend, connector(**FAST) as it:
        configured = watched(backend, DEAD)
        it.update(snapshot(configured))
        await until(lambda: not all(url.up for url in it.status()["main"].urls))
        assert it.status()["main"].healthy
        assert [state.url.port for state in it.candidates(configured)] == [backend.port]


async def test_a_url_is_up_until_the_polls_say_otherwise(patient):
    """A gateway that starts serves at once."""
    patient.answer = None
    async with raw_backend(patient.talk) as backend, connector(interval=0.01, limit=20) as it:
        it.update(snapshot(watched(backend)))
        await until(lambda: bool(patient.heads))
        assert it.status()["main"].healthy


async def test_without_a_health_path_a_url_counts_as_healthy():
    """Contract, section 3; taking the path away brings a url back."""
    async with connector(**FAST) as it:
        it.update(snapshot(Backend("main", (DEAD,), health_path="/health"), Backend("other", (DEAD,))))
        await until(lambda: not it.status()["main"].healthy)
        assert it.status()["other"].healthy
        it.update(snapshot(Backend("main", (DEAD,))))
        assert it.status()["main"].healthy
        assert "other" not in it.status()


async def test_a_change_elsewhere_leaves_the_polls_alone(patient):
    """Nobody is polled anew, and nobody forgotten, because of another backend."""
    async with raw_backend(patient.talk) as backend, connector(interval=60) as it:
        configured = watched(backend)
        it.update(snapshot(configured))
        await until(lambda: len(patient.heads) == 1)
        it.update(snapshot(configured, Backend("other", (DEAD,), health_path="/x")))
        await until(lambda: not it.status()["other"].urls[0].up or bool(it._polls))
        assert len(patient.heads) == 1


async def test_a_backend_that_is_disabled_or_gone_is_not_polled(patient):
    """Nor is it reported."""
    async with raw_backend(patient.talk) as backend, connector(**FAST) as it:
        it.update(snapshot(watched(backend)))
        await until(lambda: bool(patient.heads))
        it.update(snapshot(watched(backend, enabled=False)))
        assert not it._polls
        assert it.status() == {}


async def test_what_is_no_longer_configured_is_forgotten():
    """Urls come and go for months; the memory of them must not grow."""
    async with connector() as it:
        for port in range(1, 50):
            gone = Backend("main", (Url.parse(f"http://127.0.0.1:{port}"),))
            it.candidates(gone)
            it.update(snapshot(gone))
            assert len(it._states) == 1
