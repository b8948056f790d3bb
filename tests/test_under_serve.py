"""What an operator does, under the real ``serve``: the contract's promises from the command to the open socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests import served, stack
from tests.front import Front, fronting
from tests.identity_helpers import SECRET, token
from tests.stack import ORIGIN, Answer, Ends, Seen, bearer, closed, observed

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

LIVE = 2.0
"""Seconds until a change is live, from the end of the command that made it. The contract says one; a busy machine may
take another."""

CONFIGURATION = (
    served.CONFIGURATION
    + f"""[[route]]
path = "/second-ws"
kind = "websocket"
backend = "main"
[[origin]]
origin = "{ORIGIN}"
"""
)
ADDED = """
[[route]]
path = "/added/"
kind = "http"
backend = "main"
[[route]]
path = "/added-ws"
kind = "websocket"
backend = "main"
"""


@pytest.fixture(scope="module")
def front(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway that all tests share who leave it as it is: each has users of its own."""
    site = served.copy_of(migrated, tmp_path_factory.mktemp("shared"))
    with fronting(site, CONFIGURATION) as it:
        yield it


@pytest.fixture
async def backend(front: Front) -> AsyncIterator[stack.BackendServer]:
    """The shared gateway's backend: echoes requests and messages."""
    async with front.backend() as it:
        yield it


@pytest.fixture(autouse=True)
def no_token_in_the_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Section 9, whatever a test does."""
    yield
    if "front" in request.fixturenames:
        front: Front = request.getfixturevalue("front")
        assert not [line for line in front.server.lines if "eyJ" in str(line)]


async def command(front: Front, *words: str, stdin: str = "") -> None:
    """Run a management command beside the gateway."""
    done = await asyncio.to_thread(front.site.command, *words, stdin=stdin)
    assert done.returncode == 0, done.stderr


async def in_django(front: Front, code: str) -> None:
    """Run a line with the models at hand, in another process on the same database."""
    await command(front, "shell", "-c", f"from relay.models import *; {code}")


async def until(check: Callable[[], Awaitable[bool]], within: float = LIVE) -> None:
    """Ask the gateway again and again until something is so."""
    async with asyncio.timeout(within):
        while not await check():
            pass


async def echoes(client: ClientConnection) -> bool:
    """Whether a socket still carries messages."""
    async with asyncio.timeout(10):
        await client.send("still there?")
        return await client.recv() == "still there?"


async def status(front: Front, path: str, headers: dict[str, str]) -> int:
    """How a request ends."""
    return (await front.request(path, headers=headers)).status


async def refusal_of_handshake(front: Front, path: str, headers: dict[str, str]) -> str:
    """The code with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with front.websocket(path, additional_headers=headers):
            pass
    code: str = json.loads(refused.value.response.body)["code"]
    return code


async def test_the_admin_without_its_slash(front: Front) -> None:
    """What people type leads there."""
    answer = await front.request("/admin")
    assert (answer.status, answer.get("location")) == (302, "/admin/")


# Configuration (section 3).


async def test_an_import_is_live_and_touches_nobody_else(front: Front, backend: stack.BackendServer) -> None:
    """For HTTP and WebSocket, without a restart; a socket that it does not concern goes on."""
    alice = bearer(user_id=10)
    async with front.websocket(additional_headers=alice) as other:
        assert await status(front, "/added/x", alice) == 404
        await command(front, "import_config", "-", stdin=ADDED)

        async def is_live() -> bool:
            return await status(front, "/added/x", alice) == 200

        await until(is_live)
        async with front.websocket("/added-ws", additional_headers=alice) as added:
            assert await echoes(added)
        assert await echoes(other)


async def test_a_disabled_route_ends_its_own_sockets(front: Front, backend: stack.BackendServer) -> None:
    """1012 to the client; sockets of another route stay; enabled again, it lets in again."""
    bob = bearer(user_id=11)
    route = 'Route.objects.get(kind="websocket", path="/second-ws")'
    async with (
        front.websocket(additional_headers=bob) as other,
        front.websocket("/second-ws", additional_headers=bob) as concerned,
    ):
        await in_django(front, f"r = {route}; r.enabled = False; r.save()")
        assert await closed(concerned, LIVE) == (1012, "")
        assert await refusal_of_handshake(front, "/second-ws", bob) == "no_route"
        assert await echoes(other)
    await in_django(front, f"r = {route}; r.enabled = True; r.save()")

    async def is_live() -> bool:
        try:
            async with front.websocket("/second-ws", additional_headers=bob) as again:
                return await echoes(again)
        except InvalidStatus:
            return False

    await until(is_live)


# Revocation, kicks, logout (section 6).


@pytest.mark.parametrize("how", ["--user-id", "--token", "--jti"])
async def test_a_revocation_ends_sockets(front: Front, backend: stack.BackendServer, how: str) -> None:
    """4401 to the token's sockets, 401 to its requests; the backend is told 1001; other users' sockets stay."""
    user_id = {"--user-id": "21", "--token": "22", "--jti": "23"}[how]
    taken = token(SECRET, user_id=user_id, jti=f"jti-{user_id}")
    its = {"Authorization": f"Bearer {taken}"}
    async with (
        front.websocket(additional_headers=its) as ended,
        front.websocket(additional_headers=bearer(user_id=24)) as other,
    ):
        await command(front, "revoke", how, {"--user-id": user_id, "--token": taken, "--jti": f"jti-{user_id}"}[how])
        assert await closed(ended, LIVE) == (4401, "token revoked")
        assert (await front.request("/api/x", headers=its)).code == "revoked_token"
        assert await refusal_of_handshake(front, "/ws", its) == "revoked_token"
        assert await echoes(other)


@pytest.mark.parametrize(("kind", "value"), [("user", "31"), ("route", "/second-ws")])
async def test_a_kick_ends_sockets(front: Front, backend: stack.BackendServer, kind: str, value: str) -> None:
    """4403 to the picked sockets; who was kicked may come back."""
    kicked = bearer(user_id=31)
    async with (
        front.websocket("/second-ws", additional_headers=kicked) as ended,
        front.websocket(additional_headers=bearer(user_id=32)) as other,
    ):
        await in_django(front, f"Kick.objects.create(kind={kind!r}, value={value!r})")
        assert await closed(ended, LIVE) == (4403, "disconnected by an administrator")
        assert await echoes(other)
        async with front.websocket("/second-ws", additional_headers=kicked) as again:
            assert await echoes(again)


async def test_a_logout_revokes_the_token(front: Front, backend: stack.BackendServer) -> None:
    """Its sockets end, its requests are refused, its cookie is cleared; another token of the user goes on."""
    left, kept = bearer(user_id=41), bearer(user_id=41, jti="another")
    async with (
        front.websocket(additional_headers=left) as ended,
        front.websocket(additional_headers=kept) as other,
    ):
        answer = await front.request("/gateway/logout", "POST", left)
        assert answer.status == 200
        assert (answer.get("set-cookie") or "").startswith('auth_token="";')
        assert (await front.request("/api/x", headers=left)).code == "revoked_token"
        assert await closed(ended, LIVE) == (4401, "token revoked")
        assert await echoes(other)
        assert await status(front, "/api/x", kept) == 200


# Tickets and re-authentication (section 6).


async def ticket(front: Front, headers: dict[str, str]) -> str:
    """A ticket for /ws."""
    answer = await front.request("/gateway/ticket", "POST", headers, json.dumps({"path": "/ws"}).encode())
    assert answer.status == 200, answer.body
    found: str = answer.json["ticket"]
    return found


async def test_a_ticket_is_good_once(front: Front, backend: stack.BackendServer) -> None:
    """It stands for the token that it was issued to, and the backend does not see it."""
    once = await ticket(front, bearer(user_id=51) | {"Origin": ORIGIN})
    async with front.websocket(f"/ws?a=1&ticket={once}", additional_headers={"Origin": ORIGIN}) as client:
        assert await echoes(client)
        assert (backend.last.target, backend.last.get("x-user-id")) == ("/ws?a=1", "51")
        assert await refusal_of_handshake(front, f"/ws?ticket={once}", {"Origin": ORIGIN}) == "invalid_ticket"
        assert await echoes(client)
    assert not [line for line in front.server.lines if once in str(line)]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/second-ws", {"Origin": ORIGIN}, id="another path"),
        pytest.param("/ws", {}, id="without the origin"),
        pytest.param("/ws", bearer(user_id=52), id="without the origin, beside a token"),
    ],
)
async def test_a_ticket_is_for_one_path_and_origin(
    front: Front, backend: stack.BackendServer, path: str, headers: dict[str, str]
) -> None:
    """Elsewhere it is refused; it decides beside a token, too."""
    issued = await ticket(front, bearer(user_id=52) | {"Origin": ORIGIN})
    assert await refusal_of_handshake(front, f"{path}?ticket={issued}", headers) == "invalid_ticket"


async def test_a_fresh_token_moves_the_deadline_of_a_live_socket(front: Front, backend: stack.BackendServer) -> None:
    """It lives on when the old token is over, and ends with the new one; the backend notices nothing."""
    begun = int(time.time()) + 1
    old = token(SECRET, user_id=61, exp=begun + 3)
    fresh = token(SECRET, user_id=61, exp=begun + 5)
    witness = bearer(user_id=62, exp=begun + 3)
    async with (
        front.websocket(additional_headers={"Authorization": f"Bearer {old}"}) as renewed,
        front.websocket(additional_headers=witness) as forgotten,
    ):
        connections = backend.connections
        answer = await front.request(
            "/gateway/session", "POST", {"Authorization": f"Bearer {fresh}"}, json.dumps({"previous": old}).encode()
        )
        assert (answer.status, answer.json["expires_at"]) == (200, begun + 5)
        assert await closed(forgotten) == (4401, "token expired")
        assert begun + 3 <= time.time()
        assert await echoes(renewed)
        assert backend.connections == connections
        assert await closed(renewed) == (4401, "token expired")
        assert begun + 5 <= time.time() < begun + 5 + LIVE


# The database goes away (section 3).


@asynccontextmanager
async def own(site: served.Site, *options: str, **environment: str) -> AsyncIterator[Front]:
    """A gateway of the test's own."""
    site.environment |= environment
    with fronting(site, CONFIGURATION, *options) as front:
        yield front
        assert not [line for line in front.server.lines if "eyJ" in str(line)]


async def warnings(front: Front) -> list[str]:
    """What ``/health`` warns of; warnings alone leave it 200."""
    answer = await front.request("/health")
    assert answer.status == 200, answer.body
    found: list[str] = answer.json["warnings"]
    return found


def move(directory: Path, away: Path) -> None:
    """Take a site's database away, with the files that SQLite keeps beside it."""
    away.mkdir()
    for file in directory.glob("gateway.sqlite3*"):
        file.rename(away / file.name)


async def test_the_database_may_go_and_come_back(site: served.Site, tmp_path: Path) -> None:
    """The last good configuration stays in force, with one line in the log and a warning; then changes count again."""
    away = tmp_path / "away"

    async def warns() -> bool:
        return bool(await warnings(front))

    async def is_well() -> bool:
        return not await warnings(front)

    async def new_route_is_live() -> bool:
        return await status(front, "/added/x", bearer()) == 200

    async with own(site) as front, front.backend(), front.websocket() as client:
        move(tmp_path, away)
        await until(warns)
        (warning,) = await warnings(front)
        assert warning.startswith("configuration is ")
        assert warning.endswith(" s old: database unreachable")
        assert await echoes(client)
        assert await status(front, "/api/x", bearer()) == 200
        async with front.websocket() as another:
            assert await echoes(another)
        shutil.copytree(away, tmp_path, dirs_exist_ok=True)
        await until(is_well)
        await command(front, "import_config", "-", stdin=ADDED)
        await until(new_route_is_live)
        assert await echoes(client)
        assert len([line for line in front.server.lines if line["event"] == "config.stale"]) == 1


async def test_a_database_that_somebody_writes_to_for_long(site: served.Site) -> None:
    """A writer that keeps its lock is in nobody's way (SQLite, "WAL"): there is nothing to warn of."""
    async with own(site) as front, front.backend(), front.websocket() as client:
        with closing(sqlite3.connect(site.directory / "gateway.sqlite3", isolation_level=None)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            assert await echoes(client)
            assert await status(front, "/api/x", bearer()) == 200
            async with front.websocket() as another:
                assert await echoes(another)
            assert await warnings(front) == []
            writer.execute("ROLLBACK")


# Stopping (section 8).


class Slow:
    """A backend whose answers wait for the test; WebSockets are echoed, and their ends are told.

    Attributes:
        asked: A request has come.
        go_on: Let the answers go.
    """

    def __init__(self) -> None:
        self.asked, self.go_on, self.ends = asyncio.Event(), asyncio.Event(), Ends()

    async def __call__(self, seen: Seen, reader: Reader, writer: Writer) -> None:
        if seen.get("upgrade"):
            return await observed(self.ends)(seen, reader, writer)
        self.asked.set()
        await self.go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")


async def ended(front: Front, within: float) -> int:
    """The exit status of the process."""
    return await asyncio.to_thread(front.server.process.wait, within)


async def test_a_drain(site: served.Site) -> None:
    """Requests in flight finish, sockets are told, new work is refused; the process ends before its time is up."""
    slow = Slow()
    async with own(site, DRAIN_SECONDS="8") as front, front.backend(slow):
        clients = [await front.websocket() for _ in range(3)]
        in_flight = asyncio.ensure_future(front.request("/api/slow", headers=bearer()))
        await slow.asked.wait()
        begun = time.monotonic()
        front.server.process.send_signal(signal.SIGTERM)
        await front.logged("server.drain")
        answer: Answer = await front.request("/api/new", headers=bearer())
        assert (answer.status, answer.code, answer.get("connection")) == (503, "draining", "close")
        assert await refusal_of_handshake(front, "/ws", bearer()) == "draining"
        assert (await front.request("/health/ready")).status == 503
        assert (await front.request("/health/live")).status == 200
        assert {await closed(client, 15) for client in clients} == {(1012, "service restart")}
        assert {await slow.ends.next() for _ in clients} == {(1001, "")}
        slow.go_on.set()
        assert ((await in_flight).status, (await in_flight).body) == (200, b"done")
        assert await ended(front, 10) == 0
        assert time.monotonic() - begun < 8


async def test_a_drain_ends_when_its_time_is_up(site: served.Site) -> None:
    """A request that does not finish is cut; exit status 0 all the same."""
    slow = Slow()
    async with own(site, DRAIN_SECONDS="1") as front, front.backend(slow):
        in_flight = asyncio.ensure_future(front.request("/api/slow", headers=bearer()))
        await slow.asked.wait()
        front.server.process.send_signal(signal.SIGTERM)
        assert await ended(front, 10) == 0
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await in_flight


async def test_a_second_signal_ends_it_at_once(site: served.Site) -> None:
    """Sockets are cut, requests too."""
    slow = Slow()
    async with own(site, DRAIN_SECONDS="60") as front, front.backend(slow), front.websocket():
        in_flight = asyncio.ensure_future(front.request("/api/slow", headers=bearer()))
        await slow.asked.wait()
        front.server.process.send_signal(signal.SIGTERM)
        await front.logged("server.drain")
        front.server.process.send_signal(signal.SIGTERM)
        assert await ended(front, 10) == 0
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await in_flight


# Several workers.


def workers(front: Front) -> list[int]:
    """The process ids of the workers."""
    pid = front.server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def alone(front: Front, worker: int) -> AsyncIterator[None]:
    """Hold the other workers still, so that this one takes what comes."""
    others = [pid for pid in workers(front) if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


ANSWERS = 'relay_http_requests_total{backend="main",route="/api/"'


async def metric(front: Front, name: str) -> float:
    """The sum of a metric's samples; the name may go on into the labels."""
    text = (await front.request("/metrics")).body.decode()
    begins = (name + "{", name + ",")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(begins))


async def test_workers_are_one_gateway(site: served.Site) -> None:
    """Revocations and changes reach sockets in each of them, metrics are summed, and one that dies is replaced."""
    carol, dave = bearer(user_id=81), bearer(user_id=82)
    async with own(site, "--workers", "2") as front, front.backend():
        await front.logged("server.start")
        first, second = workers(front)
        sockets: dict[str, list[ClientConnection]] = {"revoked": [], "disabled": [], "untouched": []}
        for worker in (first, second):
            async with alone(front, worker):
                sockets["revoked"].append(await front.websocket(additional_headers=carol))
                sockets["disabled"].append(await front.websocket("/second-ws", additional_headers=dave))
                sockets["untouched"].append(await front.websocket(additional_headers=dave))
                answer = await front.request("/api/x", headers=dave)
                assert answer.status == 200
                mine = answer.get("x-request-id")
                line = await front.logged(lambda line, mine=mine: line.get("request_id") == mine)  # type: ignore[misc]
                assert line["pid"] == worker

        before = await metric(front, ANSWERS)
        answers = await asyncio.gather(*(front.request("/api/x", headers=dave) for _ in range(40)))
        assert {answer.status for answer in answers} == {200}

        async def sums_up() -> bool:
            all_counted = await metric(front, ANSWERS) == before + 40
            return all_counted and await metric(front, "relay_websocket_connections") == 6

        await until(sums_up, 10)
        await command(front, "revoke", "--user-id", "81")
        assert [await closed(client, LIVE) for client in sockets["revoked"]] == [(4401, "token revoked")] * 2
        await in_django(front, 'r = Route.objects.get(path="/second-ws"); r.enabled = False; r.save()')
        assert [await closed(client, LIVE) for client in sockets["disabled"]] == [(1012, "")] * 2
        assert [await echoes(client) for client in sockets["untouched"]] == [True] * 2

        os.kill(first, signal.SIGKILL)
        await front.logged(lambda line: "a new one starts" in line.get("message", ""))
        assert (await closed(sockets["untouched"][0]))[0] == 1006

        async def is_replaced() -> bool:
            return len(workers(front)) == 2

        await until(is_replaced, 10)
        (third,) = set(workers(front)) - {second}
        async with alone(front, third):
            assert await status(front, "/api/x", dave) == 200
            assert (await front.request("/api/x", headers=carol)).code == "revoked_token"
        assert await echoes(sockets["untouched"][1])
