"""In front of Django Channels under Daphne: a real backend that refuses a handshake without Origin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from relay.checkup import Finding, Visitor, check
from relay.forwarding import Forwarding
from relay.identity.model import Identification
from tests import stack
from tests.conftest import Events
from tests.identity_helpers import identity
from tests.served import ROOT, free_port
from tests.servers import Daemon, running
from tests.stack import ORIGIN

BROWSER = stack.bearer() | {"Origin": ORIGIN}
APPLICATION = "tests.channels_backend:application"


@pytest.fixture(scope="module", params=["app.example.com", "127.0.0.1"])
def channels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its url, and the host that it has in ``ALLOWED_HOSTS``: that of our visitors' pages, or only its own."""
    port = free_port()
    argv = [str(Path(sys.executable).with_name("daphne")), "-p", str(port), APPLICATION]
    environment = {"PYTHONPATH": str(ROOT), "BACKEND_HOSTS": request.param, "PYTHONWARNINGS": ""}
    with running(Daemon(argv, port, tmp_path_factory.mktemp("channels"), environment=environment)):
        yield f"http://127.0.0.1:{port}", request.param


def cure_for(url: str, host: str) -> str:
    return url if host == "127.0.0.1" else "forward"


async def test_it_refuses_a_missing_origin_and_takes_one_it_knows(channels: tuple[str, str], events: Events) -> None:
    """The bare 403 again, under the default ``omit``; the log says that none was sent."""
    url, host = channels
    async with stack.gateway(stack.snapshot(url)) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            await gateway.websocket(additional_headers=BROWSER)
        assert refused.value.response.status_code == 502
    assert "answered 403 'Access denied'" in events.one("backend.error")["detail"]
    assert "was sent none (omit): see websocket_origin" in events.one("backend.error")["detail"]
    async with stack.gateway(stack.snapshot(url, websocket_origin=cure_for(url, host))) as gateway:
        async with gateway.websocket(additional_headers=BROWSER) as client:
            await client.send("it works")
            assert await client.recv() == "it works"


async def checked(url: str, rule: str) -> Finding:
    """What ``check_backends --token`` says about its WebSocket."""
    visitor = Visitor(Forwarding(), Identification(identity(), "header"), ((b"origin", ORIGIN.encode()),))
    found = await check(stack.snapshot(url, with_routes=stack.routes()[1:2], websocket_origin=rule), (), visitor)
    return found[-1]


async def test_the_check_finds_what_opens_it(channels: tuple[str, str]) -> None:
    """And what it advises does."""
    url, host = channels
    cure = cure_for(url, host)
    finding = await checked(url, "omit")
    assert finding.outcome == "FAILS"
    assert "Access denied" in finding.detail
    assert f'websocket_origin = "{cure}"' in finding.advice
    assert (await checked(url, cure)).outcome == "ok"
