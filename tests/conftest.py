"""Fixtures of the whole stack; the machinery is in `tests.stack`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import uvloop

from tests import served, stack
from tests.browser import CHROMIUM, FLAGS
from tests.demo_helpers import Demo, running_demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# How long an example takes says how busy the machine is, nothing else.
hypothesis.settings.register_profile("relay", deadline=None)
hypothesis.settings.load_profile("relay")

BOTH_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
ON_BOTH_LOOPS = ("test_server_http.py", "test_server_hygiene.py", "test_server_websocket.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what reads and writes sockets by itself on the loop of production too; the rest once."""
    if item.path.name in ON_BOTH_LOOPS:
        return BOTH_LOOPS
    return {"asyncio": asyncio.new_event_loop}


class Events(logging.Handler):
    """Every event of the relay, as its fields; waits for none."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append({"event": record.getMessage(), **getattr(record, "fields", {})})

    def named(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.all if e["event"] == event]

    def one(self, event: str) -> dict[str, Any]:
        """The only event of that name."""
        found = self.named(event)
        assert len(found) == 1, f"{len(found)} of {event} in {[e['event'] for e in self.all]}"
        return found[0]


@pytest.fixture
def events() -> Iterator[Events]:
    """What the gateway logs during the test."""
    handler, logger = Events(), logging.getLogger("relay")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
async def backend() -> AsyncIterator[stack.BackendServer]:
    """An echoing backend."""
    async with stack.backend() as it:
        yield it


@pytest.fixture
async def gateway(backend: stack.BackendServer) -> AsyncIterator[stack.Stack]:
    """A gateway in front of `backend`, with the routes of `stack.routes`."""
    async with stack.gateway(stack.snapshot(backend.url)) as it:
        yield it


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> served.Site:
    """A migrated database; migrating takes a while, copying does not."""
    return served.template_site(tmp_path_factory.mktemp("migrated"))


@pytest.fixture
def site(migrated: served.Site, tmp_path: Path) -> served.Site:
    """A site of the test's own."""
    return served.copy_of(migrated, tmp_path)


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Where the backend listens; each test brings its own."""
    with socket.create_server(("127.0.0.1", 0)) as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for as long as a file's tests need it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """``make run``'s demo."""
    with running_demo(tmp_path_factory.mktemp("demo")) as demo:
        yield demo
