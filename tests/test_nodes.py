"""Two nodes of two workers each, on one PostgreSQL and one Redis: one gateway, whichever process a client meets."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests import served, servers, stack
from tests.server_helpers import until
from tests.stack import bearer, closed

BURST = 20
PLACES = 3
WORKERS = 2

CONFIGURATION = (
    served.CONFIGURATION
    + """[[route]]
path = "/other-ws"
kind = "websocket"
backend = "main"
[[route]]
path = "/few-ws"
kind = "websocket"
backend = "main"
max_connections_per_user = {places}
"""
)

_numbers = itertools.count(1)


def fresh() -> dict[str, str]:
    """A client that nobody has seen before, and its user."""
    number = next(_numbers)
    return bearer(user_id=f"user-{number}", jti=str(number)) | address(number)


def address(number: int) -> dict[str, str]:
    """The address of a client, as a proxy that is trusted says it."""
    return {"X-Forwarded-For": f"10.0.{number // 256}.{number % 256}"}


@dataclass
class Cluster:
    """All of it."""

    site: served.Site
    redis: servers.Redis
    postgres: servers.Postgres | None
    nodes: list[served.Server]
    clients: list[stack.Client]

    async def commit(self, change: str) -> float:
        """Change something in the database, in another process; give back when that was committed (unix time)."""
        script = f"from relay.models import *; import time; {change}; print(time.time())"
        done = await asyncio.to_thread(self.site.command, "shell", "--no-imports", "-v", "0", "-c", script)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    async def warned(self, text: str) -> None:
        """Wait until ``/health`` says so, with status 200 all the same."""
        while not any(text in warning for warning in await self._warnings()):
            pass

    async def healed(self) -> None:
        """Wait until no process warns any more; which of them answers is chance, so each node is asked often."""
        while any([warning for _ in range(6) for warning in await self._warnings()]):  # noqa: C419 - it awaits
            pass

    async def _warnings(self) -> list[str]:
        answers = [await client.request("/health") for client in self.clients]
        assert [answer.status for answer in answers] == [200] * len(answers)
        return [warning for answer in answers for warning in answer.json["warnings"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Iterator[Cluster]:
    """Started once: it takes a while."""
    with ExitStack() as ends:
        redis = ends.enter_context(servers.redis(tmp_path_factory.mktemp("redis")))
        postgres = ends.enter_context(servers.postgres())
        site = served.Site(
            tmp_path_factory.mktemp("site"),
            DATABASE_URL=postgres.url,
            REDIS_URL=redis.url,
            RATE_LIMIT=f"1/h;burst={BURST}",
            TRUSTED_PROXIES="127.0.0.1",
        )
        site.migrate()
        site.configure(CONFIGURATION.format(port=listener.getsockname()[1], places=PLACES))
        nodes = [ends.enter_context(served.serving(site, "--workers", str(WORKERS))) for _ in range(2)]
        for node in nodes:
            node.wait_for("server.start")
        yield Cluster(site, redis, postgres, nodes, [stack.Client(node.port) for node in nodes])


@pytest.fixture(autouse=True)
async def backend(listener: socket.socket) -> AsyncIterator[stack.BackendServer]:
    async with stack.backend(listener=listener) as it:
        yield it


async def open_sockets(
    clients: list[stack.Client], path: str, headers: dict[str, str], ends: AsyncExitStack, each: int = 3
) -> list[ClientConnection]:
    """Several on each node, so that they are likely to be in several processes."""
    return [
        await ends.enter_async_context(client.websocket(path, additional_headers=headers))
        for client in clients
        for _ in range(each)
    ]


async def ended(sockets: list[ClientConnection]) -> tuple[set[tuple[int, str]], float]:
    """How they were closed, and when the last one was (unix time)."""
    ends = await asyncio.gather(*(closed(ws) for ws in sockets))
    return set(ends), time.time()


async def alive(ws: ClientConnection) -> bool:
    """Whether a message comes back."""
    await ws.send("are you there?")
    async with asyncio.timeout(10):
        return await ws.recv() == "are you there?"


async def test_a_logout_on_one_node_ends_the_sockets_of_all(cluster: Cluster) -> None:
    """Within 1 s; the token opens nothing on any of them any more."""
    headers, other = fresh(), fresh()
    async with AsyncExitStack() as ends:
        sockets = await open_sockets(cluster.clients, "/ws", headers, ends)
        (bystander,) = await open_sockets(cluster.clients[1:], "/ws", other, ends, each=1)
        assert (await cluster.clients[0].request("/gateway/logout", "POST", headers)).status == 200
        revoked_at = time.time()
        how, at = await ended(sockets)
        assert how == {(4401, "token revoked")}
        assert at - revoked_at < 1
        assert await last_admitted(cluster, headers) - revoked_at < 1
        assert await alive(bystander)


async def last_admitted(cluster: Cluster, headers: dict[str, str]) -> float:
    """When a revoked token was last admitted (unix time; 0: never), once no process is likely to admit it any more."""
    admitted_at, refused = 0.0, 0
    while refused < 8 * WORKERS:
        for client in cluster.clients:
            asked_at = time.time()
            answer = await client.request("/api/x", headers=headers | address(next(_numbers)))
            if answer.status == 200:
                admitted_at, refused = asked_at, 0
            else:
                assert answer.code == "revoked_token"
                refused += 1
    return admitted_at


async def test_a_kick_reaches_every_process(cluster: Cluster) -> None:
    """Within 1 s of its commit, whoever gives the order; nobody else's sockets."""
    headers, other = bearer(user_id="kicked") | address(next(_numbers)), fresh()
    async with AsyncExitStack() as ends:
        sockets = await open_sockets(cluster.clients, "/ws", headers, ends)
        (bystander,) = await open_sockets(cluster.clients[:1], "/ws", other, ends, each=1)
        ending = asyncio.create_task(ended(sockets))
        kicked_at = await cluster.commit("Kick(kind='user', value='kicked').save()")
        how, at = await ending
        assert how == {(4403, "disconnected by an administrator")}
        assert at - kicked_at < 1
        assert await alive(bystander)


async def test_a_change_of_the_configuration_reaches_every_process(cluster: Cluster) -> None:
    """Within 1 s of its commit; only sockets without a route any more are closed."""
    headers = fresh()
    async with AsyncExitStack() as ends:
        sockets = await open_sockets(cluster.clients, "/other-ws", headers, ends)
        bystanders = await open_sockets(cluster.clients, "/ws", headers, ends, each=1)
        ending = asyncio.create_task(ended(sockets))
        changed_at = await cluster.commit("Route.objects.filter(path='/other-ws').update(enabled=False)")
        how, at = await ending
        assert how == {(1012, "")}
        assert at - changed_at < 1
        for node in cluster.nodes:
            await until(lambda node=node: len(changes(node, changed_at)) == WORKERS)
            assert max(changes(node, changed_at)) - changed_at < 1
            with pytest.raises(InvalidStatus, match="404"):
                await stack.Client(node.port).websocket("/other-ws", additional_headers=headers)
        assert [await alive(ws) for ws in bystanders] == [True, True]


def changes(node: served.Server, since: float) -> list[float]:
    """When each process of a node put another configuration in force (unix time), of late."""
    lines = [line for line in node.lines if line.get("event") == "config.changed"]
    return [at for line in lines if (at := datetime.fromisoformat(line["time"]).timestamp()) > since - 0.1]


async def test_a_client_has_one_rate_over_all_nodes(cluster: Cluster) -> None:
    """As much at once as the burst says, however it is spread; another client has its own."""
    headers = fresh()
    asks = [client.request("/api/x", headers=headers) for client in cluster.clients for _ in range(BURST)]
    answers = await asyncio.gather(*asks)
    assert sorted(answer.status for answer in answers) == [200] * BURST + [429] * BURST
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.code == "rate_limited"
    assert 3500 < int(refused.get("retry-after") or 0) <= 3600
    assert (await cluster.clients[0].request("/api/x", headers=fresh())).status == 200


async def test_a_user_has_so_many_sockets_over_all_nodes(cluster: Cluster) -> None:
    """Handshakes that race for the last place get no more than there are; a socket that ends leaves its own."""
    user = bearer(user_id="many")
    async with AsyncExitStack() as ends:
        racing = [try_to_open(client, user, ends) for client in cluster.clients for _ in range(PLACES)]
        sockets = [ws for ws in await asyncio.gather(*racing) if ws is not None]
        assert len(sockets) <= PLACES
        while len(sockets) < PLACES:  # two that race may both lose
            sockets += await open_another(cluster.clients[0], user, ends)
        assert [await try_to_open(client, user, ends) for client in cluster.clients * WORKERS] == [None] * 4
        await sockets[0].close()
        await open_another(cluster.clients[1], user, ends)
        assert [await try_to_open(client, user, ends) for client in cluster.clients * WORKERS] == [None] * 4


async def try_to_open(client: stack.Client, user: dict[str, str], ends: AsyncExitStack) -> ClientConnection | None:
    """A socket on the route with few places; None where there is none left."""
    try:
        ws = client.websocket("/few-ws", additional_headers=user | address(next(_numbers)))
        return await ends.enter_async_context(ws)
    except InvalidStatus as exc:
        assert json.loads(exc.response.body)["code"] == "too_many_connections"  # noqa: PT017 - None says the rest
        return None


async def open_another(client: stack.Client, user: dict[str, str], ends: AsyncExitStack) -> list[ClientConnection]:
    """A socket in a place that was just left: the word of it may be under way for a moment."""
    async with asyncio.timeout(1):
        while (ws := await try_to_open(client, user, ends)) is None:
            pass
        return [ws]


async def test_a_ticket_of_one_node_is_good_once_on_any(cluster: Cluster) -> None:
    """Whichever process issued it, one handshake gets in."""
    issuing, other = cluster.clients
    body = json.dumps({"path": "/ws"}).encode()
    answer = await issuing.request("/gateway/ticket", "POST", fresh(), body)
    path = f"/ws?ticket={answer.json['ticket']}"
    handshakes = [client.websocket(path, additional_headers=address(0)) for client in (other, issuing) * 3]
    outcomes = await asyncio.gather(*handshakes, return_exceptions=True)
    admitted = [ws for ws in outcomes if isinstance(ws, ClientConnection)]
    assert len(admitted) == 1
    assert {exc.response.status_code for exc in outcomes if isinstance(exc, InvalidStatus)} == {401}
    assert await alive(admitted[0])
    await admitted[0].close()


class Traffic:
    """Requests and messages without a pause, through every node.

    Attributes:
        requests, messages: How many came back as they should.
        failures: What did not.
    """

    def __init__(self) -> None:
        self.requests = self.messages = 0
        self.failures: list[object] = []

    async def ask(self, client: stack.Client) -> None:
        """One request after the other, each of a client of its own: none is over a limit."""
        while True:
            try:
                answer = await client.request("/api/x", headers=fresh())
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.failures.append(exc)
            else:
                self.requests += answer.status == 200
                if answer.status != 200:
                    self.failures.append((answer.status, answer.body))
            await asyncio.sleep(0.01)

    async def chat(self, ws: ClientConnection) -> None:
        """One message after the other on one socket."""
        while True:
            try:
                self.messages += await alive(ws)
            except Exception as exc:
                self.failures.append(exc)
                return
            await asyncio.sleep(0.01)

    async def goes_on(self) -> None:
        """Wait until some more of everything has come back."""
        requests, messages = self.requests, self.messages
        while self.requests < requests + 10 or self.messages < messages + 10:
            assert not self.failures, self.failures
            await asyncio.sleep(0.01)


@asynccontextmanager
async def traffic(cluster: Cluster) -> AsyncIterator[Traffic]:
    """Traffic until the block ends, of which nothing may be lost."""
    it = Traffic()
    async with AsyncExitStack() as ends:
        sockets = await open_sockets(cluster.clients, "/ws", fresh(), ends)
        running = [asyncio.create_task(it.chat(ws)) for ws in sockets]
        running += [asyncio.create_task(it.ask(client)) for client in cluster.clients]
        await it.goes_on()
        yield it
        await it.goes_on()
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    assert it.failures == []


async def test_redis_goes_and_comes_back(cluster: Cluster) -> None:
    """No request and no socket is lost; what comes through the database still comes in time; limits hold afterwards."""
    user, leaving = bearer(user_id="some"), fresh()
    async with traffic(cluster) as flow, AsyncExitStack() as ends:
        for client in cluster.clients:
            await open_another(client, user, ends)
        sockets = await open_sockets(cluster.clients, "/ws", leaving, ends)
        cluster.redis.stop(signal.SIGKILL)
        await cluster.warned("redis unreachable: limits are counted per process")
        await flow.goes_on()
        await cluster.clients[0].request("/gateway/logout", "POST", leaving)
        revoked_at = time.time()
        how, at = await ended(sockets)
        assert how == {(4401, "token revoked")}
        assert at - revoked_at < 1
        cluster.redis.start()
        await cluster.healed()
        await open_another(cluster.clients[0], user, ends)
        assert [await try_to_open(client, user, ends) for client in cluster.clients * WORKERS] == [None] * 4
    for node in cluster.nodes:
        assert not [line for line in node.lines if "Traceback" in str(line)]


async def test_postgresql_stops_and_comes_back(cluster: Cluster) -> None:
    """Traffic goes on with the last good configuration; afterwards changes arrive again."""
    headers = fresh()
    assert cluster.postgres is not None
    async with traffic(cluster) as flow, AsyncExitStack() as ends:
        sockets = await open_sockets(cluster.clients, "/ws", headers, ends)
        cluster.postgres.stop(cluster.postgres.STOP)
        await cluster.warned("database unreachable")
        await flow.goes_on()
        for page in ("/gateway/ticket", "/gateway/logout"):
            answer = await cluster.clients[0].request(page, "POST", headers, b'{"path": "/ws"}')
            assert (answer.status, answer.code) == (503, "database_unavailable")
        cluster.postgres.start()
        await cluster.healed()
        assert (await cluster.clients[1].request("/gateway/logout", "POST", headers)).status == 200
        how, _ = await ended(sockets)
        assert how == {(4401, "token revoked")}
    for node in cluster.nodes:
        assert not [line for line in node.lines if "Traceback" in str(line)]
