"""``serve --workers 2`` without Redis: the supervisor counts for its workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests import served, stack
from tests.server_helpers import until
from tests.stack import bearer

BURST = 20
PLACES = 6

CONFIGURATION = """
[[backend]]
name = "main"
url = "http://127.0.0.1:{port}"
[[route]]
path = "/api/"
kind = "http"
backend = "main"
access = "public"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
max_connections_per_user = {places}
"""


class Gateway(stack.Client):
    """Two workers and their supervisor."""

    def __init__(self, server: served.Server) -> None:
        super().__init__(server.port)
        self.server = server

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        pid = self.server.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    async def warned(self, warnings: list[str]) -> None:
        """Wait until ``/health`` says just this, several times, to crowds that no worker answers alone."""
        in_a_row = 0
        while in_a_row < 8:
            answers = await asyncio.gather(*(self.request("/health") for _ in range(2 * BURST)))
            in_a_row = in_a_row + 1 if all(answer.json["warnings"] == warnings for answer in answers) else 0


@pytest.fixture(autouse=True)
async def backend(listener: socket.socket) -> AsyncIterator[stack.BackendServer]:
    async with stack.backend(listener=listener) as it:
        yield it


@pytest.fixture(scope="module")
def gateway(
    migrated: served.Site, tmp_path_factory: pytest.TempPathFactory, listener: socket.socket
) -> Iterator[Gateway]:
    environment = {"RATE_LIMIT": f"1/h;burst={BURST}", "TRUSTED_PROXIES": "127.0.0.1"}
    site = served.copy_of(migrated, tmp_path_factory.mktemp("workers"), **environment)
    site.configure(CONFIGURATION.format(port=listener.getsockname()[1], places=PLACES))
    with served.serving(site, "--workers", "2") as server:
        server.wait_for("server.start")
        yield Gateway(server)


async def passed(gateway: Gateway, client: str) -> int:
    """How many of twice as many requests as there may be pass."""
    headers = {"X-Forwarded-For": client}
    answers = await asyncio.gather(*(gateway.request("/api/x", headers=headers) for _ in range(2 * BURST)))
    assert {answer.status for answer in answers} <= {200, 429}
    return sum(answer.status == 200 for answer in answers)


async def admitted(gateway: Gateway, user: str, ends: AsyncExitStack) -> list[ClientConnection]:
    """The sockets that a user gets, of twice as many handshakes as there may be sockets."""
    headers = bearer(user_id=user)
    racing = [
        ends.enter_async_context(
            gateway.websocket(additional_headers=headers | {"X-Forwarded-For": f"10.1.{user}.{number}"})
        )
        for number in range(2 * PLACES)
    ]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    refused = [json.loads(exc.response.body)["code"] for exc in outcomes if isinstance(exc, InvalidStatus)]
    sockets = [ws for ws in outcomes if isinstance(ws, ClientConnection)]
    assert refused == ["too_many_connections"] * (2 * PLACES - len(sockets))
    return sockets


async def test_a_client_has_one_rate_over_all_workers(gateway: Gateway) -> None:
    """Whichever of them its connections meet."""
    assert await passed(gateway, "10.0.0.1") == BURST


async def test_a_user_has_so_many_sockets_over_all_workers(gateway: Gateway) -> None:
    """A worker that dies takes along what its sockets held, and nothing more."""
    async with AsyncExitStack() as ends:
        sockets = await admitted(gateway, "1", ends)
        while len(sockets) < PLACES:  # of those that race for the last place, each may lose
            sockets += await admitted(gateway, "1", ends)
        assert await admitted(gateway, "1", ends) == []
        worker, _ = gateway.workers
        os.kill(worker, signal.SIGKILL)
        await until(lambda: worker not in gateway.workers and len(gateway.workers) == 2)
        living = [ws for ws in sockets if await alive(ws)]
        while len(living) < PLACES:
            living += await admitted(gateway, "1", ends)
        assert len(living) == PLACES
        assert await admitted(gateway, "1", ends) == []


async def alive(ws: ClientConnection) -> bool:
    try:
        await ws.send("are you there?")
        return await ws.recv() == "are you there?"
    except ConnectionClosedError:
        return False


async def test_a_supervisor_that_hangs(gateway: Gateway) -> None:
    """Each worker counts for itself meanwhile, and says so; then they count together again."""
    os.kill(gateway.server.process.pid, signal.SIGSTOP)
    try:
        await gateway.warned(["supervisor unreachable: limits are counted per process"])
        assert BURST <= await passed(gateway, "10.0.0.2") <= 2 * BURST
    finally:
        os.kill(gateway.server.process.pid, signal.SIGCONT)
    await gateway.warned([])
    assert await passed(gateway, "10.0.0.3") == BURST
