"""The relaying view through the whole gateway: bodies that flow, answers that come early, peers that go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvicorn

from relay.gateway import Gateway
from relay.http.handler import RelayHandler
from relay.routing.snapshot import Snapshot
from relay.runtime import Runtime
from relay.settings import RelaySettings
from relay.typing import Receive, Scope, Send
from tests import stack
from tests.conftest import Events
from tests.http_helpers import Peer, RawBackend, Talk, raw_backend, response, until_quiet
from tests.identity_helpers import SECRET
from tests.stack import ORIGIN, Answer, Stack, bearer

OK = b"HTTP/1.1 200 OK\r\n"
NEVER = 30.0
"""Seconds; longer than any of these tests takes unless it fails."""


ServedBy = Callable[[Snapshot], AbstractAsyncContextManager[Stack]]


@asynccontextmanager
async def uvicorn_gateway(configuration: Snapshot) -> AsyncIterator[Stack]:
    """`stack.gateway` under a server that knows none of our extensions."""
    runtime = Runtime(RelaySettings(jwt_secret=SECRET), configuration)
    await runtime.start()
    config = uvicorn.Config(Gateway(runtime, RelayHandler(runtime), no_websocket), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        # Connections wait in the listener's queue until it is up.
        yield Stack(runtime, None, listener.getsockname()[1])  # type: ignore[arg-type]
    finally:
        server.should_exit = server.force_exit = True
        await serving
        listener.close()
        await runtime.stop()


async def no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("there are no WebSockets here")


@pytest.fixture(params=[stack.gateway, uvicorn_gateway], ids=["our server", "uvicorn"])
def server(request: pytest.FixtureRequest) -> ServedBy:
    found: ServedBy = request.param
    return found


@asynccontextmanager
async def relaying(
    talk: Talk, server: ServedBy = stack.gateway, **backend_fields: object
) -> AsyncIterator[tuple[RawBackend, Stack]]:
    """A backend made of a function, and the gateway before it."""
    async with raw_backend(talk) as backend:
        url = f"http://127.0.0.1:{backend.port}"
        async with server(stack.snapshot(url, **backend_fields)) as gateway:
            yield backend, gateway


@asynccontextmanager
async def visitor(gateway: Stack) -> AsyncIterator[Peer]:
    """A client on a bare socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=2**20)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


def request(method: str = "GET", target: str = "/api/x", *fields: str) -> bytes:
    """A request of Alice's."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test", f"Authorization: {bearer()['Authorization']}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode()


async def ended(events: Events, name: str) -> dict[str, object]:
    """The event of that name, once it has been logged."""
    async with asyncio.timeout(NEVER):
        while not events.named(name):  # noqa: ASYNC110  # a log tells nobody
            await asyncio.sleep(0.002)
    return events.one(name)


# Answers


@pytest.mark.parametrize(
    ("method", "sent", "status", "fields"),
    [
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 200, {"content-length": "7"}, id="HEAD"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, {}, id="204"),
        pytest.param(
            "GET", b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304, {"etag": '"x"'}, id="304"
        ),
        pytest.param(
            "GET",
            response(b"", b"302 Found", b"Location: http://127.0.0.1:9/elsewhere"),
            302,
            {"location": "http://127.0.0.1:9/elsewhere"},
            id="a redirect is the client's to follow",
        ),
        pytest.param("GET", response(b"", b"503 Busy"), 503, {}, id="an error of the backend's is an answer"),
        pytest.param("GET", response(b"", b"418 Teapot", b"Vary: Accept"), 418, {"vary": "Accept, Origin"}, id="Vary"),
        pytest.param(
            "GET", response(b"", b"200 OK", b"Content-Encoding: gzip"), 200, {"content-encoding": "gzip"}, id="coded"
        ),
    ],
)  # fmt: skip
async def test_an_answer_is_passed_on(method: str, sent: bytes, status: int, fields: dict[str, str]) -> None:
    """Whatever its status: a response is no refusal (contract, section 4)."""

    async def talk(peer: Peer) -> None:
        await peer.request()
        peer.send(sent)

    async with relaying(talk) as (_, gateway):
        answer = await gateway.request("/api/x", method, bearer())
    assert answer.status == status
    assert {name: answer.get(name) for name in fields} == fields
    assert answer.body == b""
    assert len(answer.get("x-request-id") or "") == 32


async def test_the_request_id_is_the_gateways() -> None:
    """A backend's own is replaced: one id names the request in every log."""
    async with relaying(lambda peer: peer.answer(b"", b"200 OK", b"X-Request-ID: mine")) as (_, gateway):
        answer = await gateway.request("/api/x", headers=bearer())
    assert answer.get("x-request-id") not in (None, "mine")


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example", None])
@pytest.mark.parametrize(
    ("target", "token", "status"),
    [
        pytest.param("/api/x", True, 200, id="an answer"),
        pytest.param("/api/x", False, 401, id="a refusal"),
        pytest.param("/nowhere", True, 404, id="no route"),
        pytest.param("/gateway/session", False, 405, id="a page of the gateway"),
    ],
)
async def test_cors_on_every_answer(origin: str | None, target: str, token: bool, status: int) -> None:
    """Section 4: on errors too; a backend's own fields are dropped; what is not allowed gets none."""
    fields = (b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Headers: *")
    async with relaying(lambda peer: peer.answer(b"", b"200 OK", *fields)) as (_, gateway):
        headers = (bearer() if token else {}) | ({"Origin": origin} if origin else {})
        answer = await gateway.request(target, headers=headers)
    assert answer.status == status
    allowed = origin == ORIGIN
    assert answer.get("access-control-allow-origin") == (ORIGIN if allowed else None)
    assert answer.get("access-control-allow-credentials") == ("true" if allowed else None)
    assert answer.get("access-control-allow-headers") is None
    assert answer.get("vary") == "Origin"


async def test_a_preflight_of_a_stranger_is_an_ordinary_request() -> None:
    """It is not answered for the backend: there is no token, so there is no answer."""
    async with relaying(Peer.answer) as (backend, gateway):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
        answer = await gateway.request("/api/x", "OPTIONS", headers)
        assert (answer.status, answer.get("access-control-allow-methods")) == (401, None)
        assert not backend.peers


async def test_an_options_request_is_the_backends() -> None:
    """What is no preflight is passed on like any other method."""
    async with relaying(lambda peer: peer.answer(b"", b"200 OK", b"Allow: GET")) as (_, gateway):
        answer = await gateway.request("/api/x", "OPTIONS", bearer() | {"Origin": ORIGIN})
    assert (answer.status, answer.get("allow")) == (200, "GET")


# Bodies


async def test_an_event_stream_arrives_event_by_event(server: ServedBy) -> None:
    """The head goes out when it is there, the first bytes at once (section 5)."""
    go = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.request()
        peer.send(OK + b"Content-Type: text/event-stream\r\n\r\n")
        await go.wait()
        peer.send(b"data: 1\n\n")
        await peer.ended()

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.send(request())
        assert b"200 OK" in (await client.head()).head
        go.set()
        assert b"data: 1\n\n" in await client.reader.readuntil(b"\n\n")


async def test_a_large_answer_arrives_whole() -> None:
    """And with the length that was announced."""
    body = bytes(range(256)) * 40_000
    async with relaying(lambda peer: peer.answer(body)) as (_, gateway):
        answer = await gateway.request("/api/x", headers=bearer())
    assert answer.get("content-length") == str(len(body))
    assert answer.body == body


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_upload_arrives_whole(chunked: bool) -> None:
    """Its framing is the client's."""
    body = bytes(range(256)) * 8_000

    async def talk(peer: Peer) -> None:
        got.append(await peer.answer(b"thanks"))

    got: list[object] = []
    async with relaying(talk) as (_, gateway):
        fields = [*bearer().items(), ("Transfer-Encoding", "chunked")] if chunked else bearer()
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        answer = await gateway.request("/api/x", "POST", fields, sent)
        assert answer.body == b"thanks"
    (received,) = got
    assert received.body == body  # type: ignore[attr-defined]
    assert (received.field(b"content-length") is None) is chunked  # type: ignore[attr-defined]


async def test_an_answer_comes_while_the_client_still_uploads(server: ServedBy) -> None:
    """Section 5: an early answer reaches a client that still uploads."""

    async def talk(peer: Peer) -> None:
        await peer.head()
        peer.send(response(b"no", b"403 Forbidden"))
        await peer.ended()

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.send(request("POST", "/api/x", "Content-Length: 1000000") + b"begin")
        answer = await stack.read_answer(client.reader)
        assert (answer.status, answer.body) == (403, b"no")


async def test_a_refusal_comes_while_the_client_still_uploads(events: Events) -> None:
    """And the backend hears nothing."""
    async with relaying(Peer.answer) as (backend, gateway), visitor(gateway) as client:
        client.send(b"POST /api/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 1000000\r\n\r\nbegin")
        assert (await stack.read_answer(client.reader)).status == 401
        assert not backend.peers
    assert events.one("http.refused")["code"] == "no_token"


async def test_100_continue_goes_from_end_to_end(server: ServedBy) -> None:
    """The client's body waits for the backend's word (RFC 9110 §10.1.1)."""

    async def talk(peer: Peer) -> None:
        got = await peer.head()
        assert got.field(b"expect") == b"100-continue"
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.reader.readexactly(4) == b"body"
        peer.send(response(b"got it"))

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.send(request("POST", "/api/x", "Content-Length: 4", "Expect: 100-continue"))
        assert (await client.head()).head == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert (await stack.read_answer(client.reader)).body == b"got it"


async def test_a_refused_expectation_asks_for_no_body(server: ServedBy) -> None:
    """The client sees the final answer and no 100."""

    async def talk(peer: Peer) -> None:
        await peer.head()
        peer.send(response(b"", b"417 Expectation Failed"))
        assert await peer.ended() == b""

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.send(request("POST", "/api/x", "Content-Length: 4", "Expect: 100-continue"))
        assert b"417" in (await client.head()).lines[0]


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        pytest.param(b"Content-Length: 10\r\n\r\n", b"half", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n4\r\n", b"half", id="chunked"),
    ],
)
async def test_a_backend_that_fails_inside_a_body_breaks_the_clients_transfer(
    server: ServedBy, events: Events, framing: bytes, part: bytes
) -> None:
    """Section 5: never a clean short one; the log says after how many bytes."""

    async def talk(peer: Peer) -> None:
        await peer.request()
        peer.send(OK + framing + part + (b"\r\n" if b"chunked" in framing else b""))
        await go.wait()

    go = asyncio.Event()
    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.send(request())
        await client.head()
        assert part in await client.reader.readuntil(part)
        go.set()
        rest = await client.ended()
        assert b"0\r\n\r\n" not in rest
        error = await ended(events, "backend.error")
        answered = await ended(events, "http.request")
    assert (error["code"], error["phase"]) == ("backend_protocol_error", "body")
    assert error["detail"].endswith(": connection closed by the backend inside the body, after 4 bytes")
    assert error["request_id"] == answered["request_id"]
    assert (answered["status"], answered["bytes_to_client"]) == (200, 4)


async def test_a_slow_client_slows_the_backend(server: ServedBy) -> None:
    """Section 5: memory per request is bounded, whatever the backend has to say."""
    written = 0
    moved = asyncio.Event()

    async def talk(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1024):
            peer.send(b"10000\r\n%b\r\n" % bytes(65536))
            await peer.writer.drain()
            written += 65536
            moved.set()

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(request())
        await until_quiet(moved)
        assert written < 32 << 20


async def test_a_slow_backend_slows_the_client(server: ServedBy) -> None:
    """The other way round: an upload waits in the client, not in the gateway."""

    async def talk(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    written = 0
    moved = asyncio.Event()

    async def upload(client: Peer) -> None:
        nonlocal written
        client.send(request("POST", "/api/x", "Content-Length: 67108864"))
        for _ in range(1024):
            client.send(bytes(65536))
            await client.writer.drain()
            written += 65536
            moved.set()

    async with relaying(talk, server) as (_, gateway), visitor(gateway) as client:
        uploading = asyncio.create_task(upload(client))
        await until_quiet(moved)
        assert written < 32 << 20
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)


# Peers that go


async def test_a_client_that_leaves_ends_its_backend_request(server: ServedBy, events: Events) -> None:
    """Section 5, within 2 s: here as soon as it is known."""

    async def talk(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.ended()
        gone.set()

    asked, gone = asyncio.Event(), asyncio.Event()
    async with relaying(talk, server) as (_, gateway):
        async with visitor(gateway) as client:
            client.send(request())
            await asked.wait()
            client.reset()
        async with asyncio.timeout(2):
            await gone.wait()
        assert (await ended(events, "http.request"))["status"] == 499


async def test_a_client_that_leaves_inside_an_answer_ends_it(server: ServedBy, events: Events) -> None:
    """An endless stream has an end."""

    async def talk(peer: Peer) -> None:
        await peer.request()
        peer.send(OK + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await peer.ended()
        gone.set()

    gone = asyncio.Event()
    async with relaying(talk, server) as (_, gateway):
        async with visitor(gateway) as client:
            client.send(request())
            await client.reader.readuntil(b"data: 1\n\n")
            client.reset()
        async with asyncio.timeout(2):
            await gone.wait()
        assert (await ended(events, "http.request"))["status"] == 200


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        pytest.param("Content-Length: 1000", b"half", id="length"),
        pytest.param("Transfer-Encoding: chunked", b"4\r\nhalf\r\n", id="chunked"),
    ],
)
async def test_a_cut_upload_never_arrives_as_a_complete_one(server: ServedBy, framing: str, part: bytes) -> None:
    """Section 5: the backend sees a cut, and may not believe that this was all."""

    async def talk(peer: Peer) -> None:
        await peer.head()
        assert await peer.reader.readexactly(len(part)) == part
        begun.set()
        rest.set_result(await peer.ended())

    begun = asyncio.Event()
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with relaying(talk, server) as (_, gateway):
        async with visitor(gateway) as client:
            client.send(request("POST", "/api/x", framing) + part)
            await begun.wait()
            client.reset()
        async with asyncio.timeout(2):
            assert await rest == b""


# The log


async def test_one_line_tells_the_story(events: Events) -> None:
    """Section 9; bodies are counted as they are, without their framing."""
    async with relaying(lambda peer: peer.answer(b"answer")) as (_, gateway):
        answer = await gateway.request("/api/x?secret=1", "POST", bearer(), b"question!")
    line = events.one("http.request")
    assert line.pop("duration_ms") > 0
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "event": "http.request",
        "request_id": answer.get("x-request-id"),
        "client": "127.0.0.1",
        "user_id": "1",
        "method": "POST",
        "path": "/api/x",
        "route": "/api/",
        "backend": "main",
        "status": 200,
        "bytes_to_backend": 9,
        "bytes_to_client": 6,
    }


async def test_of_several_urls_the_one_that_answered_is_told(events: Events) -> None:
    """Which instance was slow is the first thing one wants to know."""
    async with stack.backend() as one, stack.gateway(stack.snapshot(one.url, f"{one.url}/")) as gateway:
        await gateway.request("/api/x", headers=bearer())
        async with gateway.websocket():
            pass
    assert events.one("http.request")["url"] in (one.url, f"{one.url}/")
    assert events.one("ws.open")["url"] in (one.url, f"{one.url}/")


@pytest.mark.parametrize(
    ("talk", "fields", "status", "detail"),
    [
        pytest.param(
            Peer.head, {}, 502, "connection closed by the backend before an answer", id="502: closed without a word"
        ),
        pytest.param(Peer.ended, {"read_timeout": 0.05}, 504, "no response within 0.05 s", id="504: silence"),
    ],
)
async def test_a_502_and_a_504_are_told_twice(
    events: Events, talk: Talk, fields: dict[str, float], status: int, detail: str
) -> None:
    """Section 9: as a refused request, and as a failing backend; with the exact cause both times."""
    async with relaying(talk, **fields) as (_, gateway):
        answer: Answer = await gateway.request("/api/x", "POST", bearer())
    refused, failed = events.one("http.refused"), events.one("backend.error")
    assert answer.status == refused["status"] == status
    assert refused["detail"] == failed["detail"]
    assert failed["detail"].startswith("http://127.0.0.1:"), "of several urls it is told which one"
    assert failed["detail"].endswith(detail)
    assert refused["request_id"] == failed["request_id"] == answer.get("x-request-id")
    assert not events.named("http.request")
