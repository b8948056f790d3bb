"""The same application under stock Daphne and under uvicorn: what every server keeps, and what each of them can't.

Where they differ, a test pins what lies beneath us (README, "Which server"). If it fails, a server has learnt
something: see what can go, and what can be promised.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests import served, stack, ws_helpers
from tests.front import OTHER_SERVERS, Front, fronting
from tests.identity_helpers import SECRET, token
from tests.served import ROOT, Line
from tests.stack import ORIGIN, Ends, Seen, bearer, closed, observed

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

CONFIGURATION = f"""
[[backend]]
name = "main"
url = "http://127.0.0.1:{{port}}"
[[route]]
path = "/api/"
kind = "http"
backend = "main"
access = "authenticated"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
access = "authenticated"
[[route]]
path = "/polite-ws"
kind = "websocket"
backend = "main"
access = "authenticated"
refuse_with = "close"
[[origin]]
origin = "{ORIGIN}"
"""


@pytest.fixture(scope="module")
def fronts(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Front]]:
    """Gives a server by its name, started when it is first asked for."""
    running: dict[str, Front] = {}
    with ExitStack() as ends:

        def front(name: str) -> Front:
            if name not in running:
                site = served.copy_of(migrated, tmp_path_factory.mktemp(name), PYTHONPATH=str(ROOT))
                running[name] = ends.enter_context(fronting(site, CONFIGURATION, under=name))
            return running[name]

        yield front


@pytest.fixture(params=list(OTHER_SERVERS))
def front(request: pytest.FixtureRequest, fronts: Callable[[str], Front]) -> Front:
    """The application under each of the servers."""
    return fronts(request.param)


@pytest.fixture
def daphne(fronts: Callable[[str], Front]) -> Front:
    """The application under stock Daphne."""
    return fronts("daphne")


@pytest.fixture
def uvicorn(fronts: Callable[[str], Front]) -> Front:
    """The application under uvicorn."""
    return fronts("uvicorn")


def head(method: str, path: str, *fields: str) -> bytes:
    """A request's head with Alice's token."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", f"Authorization: {bearer()['Authorization']}", *fields, "", ""]
    return "\r\n".join(lines).encode()


# HTTP.


async def test_a_request_is_relayed_with_its_identity(front: Front) -> None:
    """Sections 4 and 5: who asks is in the backend's headers, the token is not; path and query are untouched."""
    async with front.backend() as backend:
        headers = [("X-User-ID", "666"), ("Cookie", f"a=1; auth_token={token(SECRET)}"), ("X-Own", "ö")]
        answer = await front.request("/api/a%20b/?x=%2F&y", headers=headers)
    assert answer.status == 200
    assert backend.last.target == "/api/a%20b/?x=%2F&y"
    assert [backend.last.get(n) for n in ("x-user-id", "x-user-role", "cookie", "x-own")] == ["1", "user", "a=1", "ö"]
    assert answer.get("x-request-id") == backend.last.get("x-request-id")


@pytest.mark.parametrize(
    ("target", "headers", "status", "code"),
    [
        pytest.param("/api/x", {}, 401, "no_token", id="no token"),
        pytest.param("/api/x", bearer(exp=1), 401, "expired_token", id="expired"),
        pytest.param("/nowhere", bearer(), 404, "no_route", id="no route"),
        pytest.param("/api/%2e%2e/x", bearer(), 400, "bad_path", id="bad path"),
    ],
)
async def test_a_refusal_is_the_contracts_json(
    front: Front, target: str, headers: dict[str, str], status: int, code: str
) -> None:
    """Section 4: status, code and request id; the origin's CORS headers on errors too."""
    async with front.backend() as backend:
        answer = await front.request(target, headers=headers | {"Origin": ORIGIN})
    assert (answer.status, answer.code) == (status, code)
    assert answer.json["request_id"] == answer.get("x-request-id")
    assert answer.get("access-control-allow-origin") == ORIGIN
    assert backend.seen == []


async def test_a_backend_that_is_not_there(front: Front) -> None:
    """502, and not a word about its address."""

    async def hangs_up(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.transport.abort()

    async with front.backend(hangs_up):
        answer = await front.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (502, "backend_protocol_error")
    assert b"127.0.0.1" not in answer.body


async def test_the_first_event_of_a_stream_comes_at_once(front: Front) -> None:
    """Section 5: bytes go to the client when they are there; here the second event waits for the first to arrive."""
    arrived = asyncio.Event()

    async def events(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await arrived.wait()
        writer.write(b"data: 2\n\n")
        writer.close()

    async with front.backend(events):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(
            f"GET /api/events HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer()['Authorization']}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            await reader.readuntil(b"data: 1\n\n")
            arrived.set()
            await reader.readuntil(b"data: 2\n\n")
        writer.close()


async def fails_inside_a_body(seen: Seen, reader: Reader, writer: Writer) -> None:
    """A backend that announces more than it sends."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def test_uvicorn_breaks_a_transfer_that_the_backend_broke(uvicorn: Front) -> None:
    """Section 5: the end of TCP before the announced length, never a response that looks whole."""
    async with uvicorn.backend(fails_inside_a_body):
        with pytest.raises(asyncio.IncompleteReadError):
            await uvicorn.request("/api/cut", headers=bearer())


async def test_daphne_leaves_the_client_of_a_broken_transfer_waiting(daphne: Front) -> None:
    """Pins Daphne 4.2: an application has no way to end a response that it can't complete, by an exception neither."""
    async with daphne.backend(fails_inside_a_body):
        reader, writer = await asyncio.open_connection("127.0.0.1", daphne.port)
        writer.write(head("GET", "/api/cut"))
        async with asyncio.timeout(10):
            await reader.readuntil(b"half")
        await daphne.logged(lambda line: line.get("event") == "http.request" and line["path"] == "/api/cut")
        await daphne.request("/health/live")
        assert not reader.at_eof()
        writer.close()


async def upload_in_halves(front: Front, go_on: asyncio.Event, *fields: str) -> stack.Answer:
    """Send half a body, and the rest when told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(head("POST", "/api/upload", "Content-Length: 8", *fields) + b"half")
    await go_on.wait()
    writer.write(b"rest")
    try:
        return await stack.read_answer(reader)
    finally:
        writer.close()


async def test_uvicorn_streams_an_upload(uvicorn: Front) -> None:
    """The backend has the first half while the client still holds the second."""
    first_half_arrived = asyncio.Event()

    async def reads_slowly(seen: Seen, reader: Reader, writer: Writer) -> None:
        body = await reader.readexactly(4)
        first_half_arrived.set()
        body += await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + body)

    async with uvicorn.backend(reads_slowly), asyncio.timeout(10):
        answer = await upload_in_halves(uvicorn, first_half_arrived, "Expect: 100-continue")  # leaves it to us to read
    assert (answer.status, answer.body) == (200, b"halfrest")


async def test_daphne_gives_an_upload_when_it_is_whole(daphne: Front) -> None:
    """Pins Daphne 4.2, which spools a body before the application starts: until then the backend hears nothing."""
    go_on = asyncio.Event()
    async with daphne.backend() as backend, asyncio.timeout(10):
        answer = asyncio.ensure_future(upload_in_halves(daphne, go_on))
        await daphne.request("/health/live")
        assert backend.seen == []
        go_on.set()
        assert (await answer).status == 200
    assert backend.last.body == b"halfrest"


async def test_a_client_that_leaves_ends_its_request(front: Front) -> None:
    """Section 5: the backend's connection is closed within 2 s."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def slow(seen: Seen, reader: Reader, writer: Writer) -> None:
        asked.set()
        await reader.read()
        left.set()

    async with front.backend(slow):
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(
            f"GET /api/slow HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer()['Authorization']}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            await asked.wait()
        writer.close()
        async with asyncio.timeout(2):
            await left.wait()


# WebSocket: what every server keeps.


async def test_messages_pass_unchanged(front: Front) -> None:
    """Text and binary, fragmented and large, in order, both ways."""
    messages: list[str | bytes] = ["a", b"\x00\xff", "ö" * 1000, b"x" * 300_000, "last"]
    async with front.backend(observed(Ends())), front.websocket() as client, asyncio.timeout(20):
        for message in messages:
            await client.send(message)
        assert [await client.recv() for _ in messages] == messages
        await client.send(iter(["frag", "men", "", "ted"]))
        assert await client.recv() == "fragmented"


async def test_the_subprotocol_is_the_backends_choice(front: Front) -> None:
    """Section 6; the entry with the token is neither forwarded nor echoed."""
    async with front.backend(observed(Ends())) as backend:
        offered = [f"bearer.{token(SECRET)}", "v2", "v1"]
        async with front.websocket(subprotocols=offered, additional_headers={}) as client:
            assert client.subprotocol == "v2"
    assert backend.last.get("sec-websocket-protocol") == "v2, v1"


async def test_compression_is_not_offered_to_the_backend(front: Front) -> None:
    """Messages are the server's to decompress, if it negotiates anything with the client."""
    async with front.backend(observed(Ends())) as backend, front.websocket(compression="deflate") as client:
        await client.send("x" * 1000)
        assert await client.recv() == "x" * 1000
    assert backend.last.get("sec-websocket-extensions") is None


async def test_a_refusal_by_close(front: Front) -> None:
    """`refuse_with = "close"` works everywhere: the codes of a refusal are such that every server can send them."""
    async with front.backend() as backend, front.websocket("/polite-ws", additional_headers={}) as client:
        code, reason = await closed(client)
    assert (code, reason) == (4401, "" if front.name == "daphne" else "A token is required here, and none was sent.")
    assert backend.seen == []


async def test_a_backend_that_vanishes(front: Front) -> None:
    """1014 to the client, or what is next to it: never a normal end."""

    async def dies(seen: Seen, reader: Reader, writer: Writer) -> None:
        await stack.accept(seen, writer)
        await writer.drain()
        await reader.read(1)
        writer.transport.abort()

    async with front.backend(dies), front.websocket() as client:
        await client.send("now")
        assert (await closed(client))[0] == {"daphne": 4502, "uvicorn": 1014}[front.name]


async def test_a_client_that_vanishes(front: Front) -> None:
    """Within 2 s the backend is told 1001; uvicorn 0.54 calls the cut of a line a close without a code, so we do."""
    ends = Ends()
    async with front.backend(observed(ends)):
        client = await front.websocket()
        client.transport.abort()
        async with asyncio.timeout(2):
            assert await ends.next() == ({"daphne": 1001, "uvicorn": None}[front.name], "")


# WebSocket: what each server keeps of the rest.

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4401, 4999]
AS_DAPHNE_CAN = {
    # Its autobahn sends 1000 and 3000-4999; the rest become 4000 plus the status that comes closest.
    **dict.fromkeys((1002, 1003, 1007, 1010), 4400),
    **dict.fromkeys((1001, 1012, 1013), 4503),
    **{1008: 4403, 1009: 4413, 1011: 4500, 1014: 4502},
}


@pytest.mark.parametrize("code", CODES)
async def test_a_backends_close_under_uvicorn(uvicorn: Front, code: int) -> None:
    """The same code and reason, as under our own server."""
    async with uvicorn.backend(observed(Ends(), ws_helpers.close(code, "därför"))), uvicorn.websocket() as client:
        assert await closed(client) == (code, "därför")


@pytest.mark.parametrize("code", CODES)
async def test_a_backends_close_under_daphne(daphne: Front, code: int) -> None:
    """Pins Daphne 4.2: few codes and no reason; what it can't send becomes something that no client takes for 1000."""
    async with daphne.backend(observed(Ends(), ws_helpers.close(code, "därför"))), daphne.websocket() as client:
        assert await closed(client) == (AS_DAPHNE_CAN.get(code, code), "")


async def test_a_backends_close_without_a_code(front: Front) -> None:
    """ASGI has no such close: it becomes 1000."""
    async with front.backend(observed(Ends(), ws_helpers.close())), front.websocket() as client:
        assert await closed(client) == (1000, "")


async def told_by_the_client(front: Front, code: int | None, reason: str = "") -> tuple[int | None, str]:
    """What the backend hears when the client closes so."""
    ends = Ends()
    async with front.backend(observed(ends)), front.websocket() as client:
        client.protocol.send_close(code, reason)
        for out in client.protocol.data_to_send():
            client.transport.write(out)
        return await ends.next()


@pytest.mark.parametrize("code", CODES)
async def test_a_clients_close_under_uvicorn(uvicorn: Front, code: int) -> None:
    """The same code and reason."""
    assert await told_by_the_client(uvicorn, code, "därför") == (code, "därför")


@pytest.mark.parametrize("code", CODES)
async def test_a_clients_close_under_daphne(daphne: Front, code: int) -> None:
    """Pins Daphne 4.2: the code passes and the reason is lost; for 1014 its autobahn drops the client."""
    assert await told_by_the_client(daphne, code, "därför") == (1001 if code == 1014 else code, "")


async def test_a_clients_close_without_a_code(front: Front) -> None:
    """It stays one."""
    assert await told_by_the_client(front, None) == (None, "")


async def test_empty_messages(front: Front) -> None:
    """Pins Daphne 4.2, which drops them on their way to the client."""
    async with front.backend(observed(Ends())), front.websocket() as client, asyncio.timeout(10):
        for message in ("", b"", "last"):
            await client.send(message)
        got = [await client.recv()]
        while got[-1] != "last":
            got.append(await client.recv())
    assert got == (["last"] if front.name == "daphne" else ["", b"", "last"])


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        pytest.param("/ws", {}, 401, "no_token", id="no token"),
        pytest.param("/ws", bearer() | {"Origin": "https://evil.test"}, 403, "origin_not_allowed", id="origin"),
        pytest.param("/nowhere", bearer(), 404, "no_route", id="no route"),
    ],
)
async def test_a_refused_handshake(front: Front, path: str, headers: dict[str, str], status: int, code: str) -> None:
    """uvicorn answers as our own server; stock Daphne has one answer, 403. The log has the code under both."""
    async with front.backend() as backend:
        with pytest.raises(InvalidStatus) as refused:
            async with front.websocket(path, additional_headers=headers):
                pass
    response = refused.value.response
    if front.name == "daphne":
        assert (response.status_code, response.body) == (403, b"")
    else:
        assert (response.status_code, json.loads(response.body)["code"]) == (status, code)
    await front.logged(
        lambda line: line.get("event") == "ws.refused" and (line["status"], line["code"]) == (status, code)
    )
    assert backend.seen == []


async def test_the_handshakes_own_fields(front: Front) -> None:
    """What the backend adds to its 101 reaches the client under uvicorn; stock Daphne can't send any."""

    async def sets_a_cookie(seen: Seen, reader: Reader, writer: Writer) -> None:
        class Adding:
            @staticmethod
            def write(data: bytes) -> None:
                writer.write(data.replace(b"\r\n", b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n", 1))

        await stack.accept(seen, Adding)  # type: ignore[arg-type]
        await reader.read()

    async with front.backend(sets_a_cookie), front.websocket() as client:
        assert client.response is not None
        found = client.response.headers.get_all("Set-Cookie"), "X-Request-ID" in client.response.headers
    assert found == (([], False) if front.name == "daphne" else (["a=1", "b=2"], True))


# The log, the start and the end.


async def test_what_the_server_cannot_keep_is_said_once(front: Front) -> None:
    """At the start or at the first request, and not again."""
    async with front.backend(), front.websocket():
        await front.request("/api/x", headers=bearer())

    def says_it(line: Line) -> bool:
        return line.get("level") == "WARNING" and "manage.py serve" in line.get("message", "")

    assert says_it(await front.logged(says_it))
    assert len([line for line in front.server.lines if says_it(line)]) == 1


async def test_no_token_in_the_servers_own_log(front: Front) -> None:
    """Section 9: access logs write queries; ours may not."""
    secret = token(SECRET, jti="in-the-query")
    async with front.backend():
        async with front.websocket(f"/ws?token={secret}", additional_headers={}):
            pass
        assert (await front.request(f"/api/last?token={secret}")).status == 200
    await front.logged(lambda line: line.get("path") == "/api/last")
    await front.request("/health/live?so=that+all+before+is+written")
    await front.logged(lambda line: line.get("path") == "/health/live")
    assert not [line for line in front.server.lines if secret.rpartition(".")[2] in str(line)]


def is_an_accident(line: Line) -> bool:
    """A traceback, a warning of Python's own, or something that nobody has waited for."""
    text = line.get("text", "") + line.get("message", "") + line.get("exception", "")
    return any(sign in text for sign in ("Traceback", "Warning:", "never awaited", "was destroyed", "never retrieved"))


@pytest.fixture
def site(migrated: served.Site, tmp_path: Path) -> served.Site:
    """A site of the test's own, for a server of its own."""
    return served.copy_of(migrated, tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("name", OTHER_SERVERS)
async def test_start_and_stop(name: str, site: served.Site) -> None:
    """With a socket open the end is clean as well, and no line is lost; uvicorn has run the lifespan, and ends by the
    signal it got.
    """
    ends, paths = Ends(), [f"/nowhere/{n}" for n in range(5)]
    with fronting(site, CONFIGURATION, under=name) as front:
        async with front.backend(observed(ends)):
            client = await front.websocket()
            await client.send("hello")
            assert await client.recv() == "hello"
            for path in paths:
                assert (await front.request(path)).status == 404
            status = await asyncio.to_thread(front.server.stop)
            await ends.next()
            client.transport.abort()
        for path in paths:
            front.server.wait_for(lambda line, path=path: line.get("path") == path)  # type: ignore[misc]
    assert status == {"daphne": 0, "uvicorn": -signal.SIGTERM}[name]
    if name == "uvicorn":
        front.server.wait_for(lambda line: line.get("message") == "Application shutdown complete.", 0)
    assert not [line for line in front.server.lines if is_an_accident(line)]


@pytest.fixture(params=["absent", "not migrated"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> served.Site:
    """A site whose database holds no configuration yet."""
    if request.param == "not migrated":
        (tmp_path / "gateway.sqlite3").touch()
    return served.Site(tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("environment", [{}, {"MAIN_SERVICE_URL": "http://127.0.0.1:9"}], ids=["empty", "bootstrap"])
async def test_daphne_waits_for_a_database(unusable: served.Site, environment: dict[str, str]) -> None:
    """It knows no lifespan: the process runs, lets nobody in, and is ready once the database has been made.

    So it is with a first configuration in the environment, which the start writes before it reads.
    """
    unusable.environment |= environment
    with served.serving(unusable, argv=OTHER_SERVERS["daphne"]) as server:
        client = stack.Client(server.port)
        answers = {path: await client.request(path) for path in ("/health/live", "/health/ready", "/health", "/api/x")}
        assert [answer.status for answer in answers.values()] == [200, 503, 503, 503]
        assert answers["/api/x"].get("retry-after")
        with pytest.raises(InvalidStatus):
            async with client.websocket():
                pass
        assert (await client.request("/health/ready")).status == 503
        await asyncio.to_thread(unusable.migrate)
        async with asyncio.timeout(10):  # it tries again after `START_INTERVAL`
            while (await client.request("/health/ready")).status != 200:
                pass
        assert (await client.request("/api/x")).code == ("no_token" if environment else "no_route")
    assert any("database unreachable" in line.get("message", "") for line in server.lines)
    assert not [line for line in server.lines if is_an_accident(line)]


def test_uvicorn_does_not_start_without_a_database(unusable: served.Site) -> None:
    """The lifespan says why; an orchestrator tries again."""
    with (
        pytest.raises(AssertionError, match="database unreachable") as told,
        served.serving(unusable, argv=OTHER_SERVERS["uvicorn"]),
    ):
        pass
    assert "Application startup failed" in str(told.value)
    assert "Traceback" not in str(told.value)
