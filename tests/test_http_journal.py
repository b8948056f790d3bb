"""relay.http.journal: what is logged and counted at once, and what may wait."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from relay.http.journal import Journal
from tests import stack
from tests.conftest import Events
from tests.server_helpers import until
from tests.stack import bearer

MILLISECOND = timedelta(milliseconds=1)  # to which a line's time is cut


async def hang_up(seen: stack.Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.fixture
def journal(gateway: stack.Stack) -> Journal:
    """The gateway's, which waits until it has to write."""
    gateway.runtime.journal = Journal(gateway.runtime.metrics, pause=3600)
    return gateway.runtime.journal


async def ask(gateway: stack.Stack, *paths: str) -> None:
    for path in paths:
        await gateway.request(path, headers=bearer())
    await until(lambda: not gateway.host.applications)


def logged(events: Events) -> list[str]:
    return [event["path"] for event in events.all if event["event"].startswith("http.")]


async def test_the_first_is_written_at_once_and_those_that_follow_it_together(
    gateway: stack.Stack, journal: Journal, events: Events
) -> None:
    """Each with the time at which it ended."""
    await ask(gateway, "/api/1")
    await until(lambda: logged(events))
    times = [datetime.now(UTC)]
    for path in ("/api/2", "/nowhere", "/api/4"):
        await ask(gateway, path)
        times.append(datetime.now(UTC))
    assert logged(events) == ["/api/1"]
    journal.flush()
    assert logged(events) == ["/api/1", "/api/2", "/nowhere", "/api/4"]
    for before, event, after in zip(times, events.all[1:], times[1:], strict=False):
        assert before - 2 * MILLISECOND < datetime.fromisoformat(event["time"]) < after + MILLISECOND


async def test_a_warning_is_written_at_once_after_what_waits(
    backend: stack.BackendServer, gateway: stack.Stack, journal: Journal, events: Events
) -> None:
    await ask(gateway, "/api/1", "/api/2", "/api/3")
    backend.behaviour = hang_up
    await ask(gateway, "/api/4")
    assert [event["event"] for event in events.all] == ["http.request"] * 3 + ["backend.error", "http.refused"]
    assert events.all[-1]["status"] == 502


async def test_a_scrape_counts_what_waits(gateway: stack.Stack, journal: Journal, events: Events) -> None:
    await ask(gateway, "/api/1", "/api/2", "/api/3")
    page = await gateway.request("/metrics")
    assert 'relay_http_requests_total{backend="main",route="/api/",status="200"} 3.0' in page.body.decode()
    assert logged(events) == ["/api/1", "/api/2", "/api/3"]


async def test_what_waits_is_written_at_the_end(gateway: stack.Stack, journal: Journal, events: Events) -> None:
    await ask(gateway, "/api/1", "/api/2", "/api/3")
    await gateway.runtime.stop()
    assert logged(events) == ["/api/1", "/api/2", "/api/3"]
