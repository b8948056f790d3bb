"""`relay.server` as an ASGI HTTP server, byte by byte on real sockets."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.server.connection import Connection
from relay.server.limits import Limits
from relay.typing import Message, Receive, Scope, Send
from tests.server_helpers import (
    GET,
    POST,
    QUICK,
    Recorder,
    echo,
    read_body,
    respond,
    serving,
    until,
)

if TYPE_CHECKING:
    from tests.conftest import Events

MIB = 2**20


# --- what the application sees ----------------------------------------------------------------------------------------


async def test_the_scope_holds_the_request_as_it_was_sent() -> None:
    """ASGI's HTTP scope: names lowercase, everything else untouched, in order, repeats and underscores included."""
    application = Recorder()
    async with serving(application) as served, served.client() as client:
        client.send(b"GET /a%20b/%C3%A9?x=%20y HTTP/1.1\r\nHost: a:1\r\nX-One: 1 \r\nx_two:\t2\r\nX-One: \xff\r\n\r\n")
        await client.response()
        address = client.writer.get_extra_info("sockname")
    scope = application.scopes[0]
    assert scope["type"] == "http"
    assert scope["asgi"]["version"] == "3.0"
    assert (scope["method"], scope["http_version"], scope["scheme"]) == ("GET", "1.1", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b/é", b"/a%20b/%C3%A9", b"x=%20y")
    assert scope["headers"] == [(b"host", b"a:1"), (b"x-one", b"1"), (b"x_two", b"2"), (b"x-one", b"\xff")]
    assert (scope["client"], scope["server"]) == (address, ("127.0.0.1", served.port))
    assert "relay.cancel" in scope["extensions"]


@pytest.mark.parametrize(
    ("target", "query", "told"),
    [
        pytest.param(b"/x", b"", False, id="no query"),
        pytest.param(b"/x?", b"", True, id="an empty one"),
        pytest.param(b"/x??", b"?", False, id="a question mark as query"),
        pytest.param(b"http://a?", b"", True, id="of an absolute form"),
    ],
)
async def test_an_empty_query_is_told_from_none(target: bytes, query: bytes, told: bool) -> None:
    """``relay.empty_query``: in ASGI both are an empty ``query_string``."""
    application = Recorder()
    async with serving(application) as served, served.client() as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.response()
    (scope,) = application.scopes
    assert (scope["query_string"], "relay.empty_query" in scope["extensions"]) == (query, told)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param(b"/%ff", "/\ufffd", id="bytes that are no UTF-8"),
        pytest.param(b"/%zz%", "/%zz%", id="percent signs that encode nothing"),
        pytest.param(b"//a//b", "//a//b", id="empty segments"),
        pytest.param(b"/a\\b", "/a\\b", id="a backslash"),
        pytest.param(b"/?", "/", id="an empty query"),
    ],
)
async def test_no_path_makes_the_server_fail(target: bytes, path: str) -> None:
    """Judging paths is the application's."""
    application = Recorder()
    async with serving(application) as served:
        assert (await served.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)).status == 200
    assert application.scopes[0]["path"] == path


@pytest.mark.parametrize(
    ("request_line", "host", "path", "query"),
    [
        pytest.param(
            b"GET http://b.example:81/x?y=1", b"b.example:81", b"/x", b"y=1", id="its authority replaces Host"
        ),
        pytest.param(b"GET HTTPS://b", b"b", b"/", b"", id="without a path"),
        pytest.param(b"GET http://b?y=//z", b"b", b"/", b"y=//z", id="a query without a path"),
        pytest.param(b"OPTIONS http://b", b"b", b"*", b"", id="OPTIONS for the server"),
        pytest.param(b"OPTIONS *", b"a", b"*", b"", id="asterisk-form"),
    ],
)
async def test_targets_that_are_no_paths(request_line: bytes, host: bytes, path: bytes, query: bytes) -> None:
    """RFC 9112 §3.2.2 and §3.2.4."""
    application = Recorder()
    async with serving(application) as served:
        await served.ask(request_line + b" HTTP/1.1\r\nX: 1\r\nHost: a\r\n\r\n")
    scope = application.scopes[0]
    assert (scope["raw_path"], scope["query_string"]) == (path, query)
    assert scope["headers"] == [(b"x", b"1"), (b"host", host)]


async def test_only_the_operator_sets_the_root_path() -> None:
    """Daphne lets any client do that."""
    application = Recorder()
    async with serving(application, root_path="/gw") as served:
        await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nDaphne-Root-Path: /evil\r\n\r\n")
    assert application.scopes[0]["root_path"] == "/gw"
    assert (b"daphne-root-path", b"/evil") in application.scopes[0]["headers"]


async def test_the_application_starts_before_the_body_is_there() -> None:
    """Bodies stream: each piece arrives when it was sent."""
    events: asyncio.Queue[Message] = asyncio.Queue()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            events.put_nowait(await receive())
            if not events._queue[-1].get("more_body"):  # type: ignore[attr-defined]
                return await respond(send)

    async with serving(application) as served, served.client() as client:
        client.send(POST + b"Content-Length: 5\r\n\r\nab")
        assert await events.get() == {"type": "http.request", "body": b"ab", "more_body": True}
        client.send(b"cde")
        assert await events.get() == {"type": "http.request", "body": b"cde", "more_body": False}
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        pytest.param(POST + b"Content-Length: 3\r\n\r\nabc", b"abc", id="Content-Length"),
        pytest.param(POST + b"Content-Length: 0\r\n\r\n", b"", id="Content-Length 0"),
        pytest.param(POST + b"\r\n", b"", id="none"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", id="no chunk"),
        pytest.param(
            POST + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n00b;x=y\r\n01234567890\r\n0\r\nT: 1\r\n\r\n",
            b"ab01234567890",
            id="chunks, an extension and a trailer",
        ),
        pytest.param(GET[:-2] + b"Content-Length: 1\r\n\r\nx", b"x", id="with GET"),
        pytest.param(
            POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
            b"ab",
            id="beside an h2c upgrade",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
            b"x",
            id="an upgrade by HTTP/1.0",
        ),
    ],
)
async def test_bodies_end_where_they_say(request_: bytes, body: bytes) -> None:
    """RFC 9112 §6 and §7.1; upgrades to anything but WebSocket are not taken (RFC 9110 §7.8)."""
    async with serving(echo) as served:
        assert (await served.ask(request_)).body.split(b" ", 2)[2] == body


async def test_receive_says_disconnect_behind_the_response() -> None:
    """ASGI: nothing else can come."""
    seen: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        seen.append(await receive())
        seen.append(await receive())

    async with serving(application) as served:
        await served.ask(GET)
        await until(lambda: len(seen) == 2)
    assert seen == [{"type": "http.disconnect"}] * 2


STREAM = (
    b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/\r\n"
    b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nx\r\n\r\n1\r\ny\r\n0\r\nT: 1\r\n\r\n"
    b"HEAD /4 HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 300 + b"\r\n\r\n"
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
    b"GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=30), st.booleans())
def test_requests_read_the_same_however_they_are_split(cuts: list[int], at_once: bool) -> None:
    """TCP keeps no boundaries, and clients may pipeline (RFC 9112 §9.3.2)."""
    edges = [0, *sorted(set(cuts)), len(STREAM)]

    async def talk() -> bytes:
        async with serving(echo) as served, served.client() as client:
            for start, end in pairwise(edges):
                client.send(STREAM[start:end])
                if not at_once:
                    await asyncio.sleep(0)
            return await client.ended()

    answers = asyncio.run(talk())
    bodies = [b"GET /1 ", b"POST /2 GET / HTTP/", b"POST /3 x\r\ny", None, b"OPTIONS * ", b"GET /5 "]
    expected = [
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b"
        % (len(body or b"HEAD /4 "), b"connection: close\r\n" if body == b"GET /5 " else b"", body or b"")
        for body in bodies
    ]
    assert answers == b"".join(expected)


# --- what the client gets ---------------------------------------------------------------------------------------------


async def test_fields_go_out_as_the_application_gives_them() -> None:
    """In its order and spelling, repeats and all; no Server, no Date, nothing else."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Set-Cookie", b"a=1"), (b"x-b", b"\xe9"), (b"Set-Cookie", b"b=2"), (b"Content-Length", b"2")]
        await respond(send, b"ok", 299, headers)

    async with serving(application) as served, served.client() as client:
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        assert await client.ended() == (
            b"HTTP/1.1 299 \r\nSet-Cookie: a=1\r\nx-b: \xe9\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n"
            b"connection: close\r\n\r\nok"
        )


async def test_a_server_name_is_sent_when_the_operator_wants_one() -> None:
    """Daphne's ``--server-name``; the application's own wins."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, headers=[(b"content-length", b"0"), *scope["headers"][1:]])

    async with serving(application, server_name="gw") as served:
        assert (await served.ask(GET)).get(b"server") == b"gw"
        assert (await served.ask(GET[:-2] + b"Server: own\r\n\r\n")).get(b"server") == b"own"


FRAMINGS = [
    pytest.param("GET", 200, b"1.1", [], [b"ab", b"cd"], b"transfer-encoding: chunked", b"abcd", id="chunks"),
    pytest.param("GET", 200, b"1.1", [(b"transfer-encoding", b"x")], [b"ab"], b"transfer-encoding: chunked", b"ab",
                 id="the server's own coding"),
    pytest.param("GET", 200, b"1.1", [], [b"", b""], b"transfer-encoding: chunked", b"", id="chunks of nothing"),
    pytest.param("GET", 200, b"1.0", [], [b"ab", b"cd"], b"connection: close", b"abcd", id="HTTP/1.0 until close"),
    pytest.param("GET", 200, b"1.0", [(b"content-length", b"2")], [b"ab"], b"content-length: 2\r\nconnection: close",
                 b"ab", id="HTTP/1.0 with a length"),
    pytest.param("HEAD", 200, b"1.1", [(b"content-length", b"9")], [b"dropped"], b"content-length: 9", b"", id="HEAD"),
    pytest.param("HEAD", 200, b"1.1", [], [b"dropped"], b"", b"", id="HEAD without a length"),
    pytest.param("GET", 204, b"1.1", [(b"content-length", b"0")], [b""], b"", b"", id="204 has no length"),
    pytest.param("GET", 304, b"1.1", [(b"content-length", b"9")], [b"dropped"], b"content-length: 9", b"", id="304"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "status", "version", "headers", "pieces", "fields", "body"), FRAMINGS)
async def test_responses_end_where_they_say(
    method: str, status: int, version: bytes, headers: Any, pieces: list[bytes], fields: bytes, body: bytes
) -> None:
    """RFC 9112 §6.3; RFC 9110 §8.6 for 204."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for index, piece in enumerate(pieces):
            more = index < len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async with serving(application) as served, served.client() as client:
        client.send(b"%b / HTTP/%b\r\nHost: a\r\n\r\n" % (method.encode(), version))
        head = (await client.reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[2]
        assert head == fields + (b"\r\n\r\n" if fields else b"\r\n")
        if body == b"" and b"chunked" not in head:
            client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode())  # its answer is where a body would be
            assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 %d" % status)
        elif b"chunked" in head:
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
            assert await client.reader.readexactly(len(chunks)) == chunks
        else:
            assert await client.ended() == body


async def test_an_http_1_0_client_may_keep_its_connection() -> None:
    """RFC 9112 §9.3: where it asks for it and the length is known."""
    async with serving(echo) as served, served.client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            assert (await client.response()).get(b"connection") == b"keep-alive"


async def test_the_application_may_close_the_connection() -> None:
    """Its ``connection: close`` counts; what else it says there is the server's matter."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, headers=[(b"content-length", b"0"), (b"connection", b"Close"), (b"keep-alive", b"9")])

    async with serving(application) as served, served.client() as client:
        client.send(GET)
        assert await client.ended() == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def test_the_head_goes_out_before_there_is_a_body() -> None:
    """An event stream may be silent for long, and its client wants to know that it is connected."""
    go_on = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data"})

    async with serving(application) as served, served.client() as client:
        client.send(GET)
        status, _ = await client.head()
        assert status == 200
        go_on.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"4\r\ndata\r\n0\r\n\r\n"


async def test_large_pieces_arrive_whole() -> None:
    """They are written apart from their frame, which must not tear it."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})
        await send({"type": "http.response.body", "body": b"y" * MIB})

    async with serving(application) as served:
        assert (await served.ask(GET)).body == b"x" * MIB + b"y" * MIB


# --- one request after the other --------------------------------------------------------------------------------------


async def test_requests_sent_ahead_wait_their_turn_and_then_their_sender_has_to() -> None:
    """One request at a time; what comes ahead is bounded by one read."""
    go_on = asyncio.Event()
    application = Recorder()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    application.handler = slow
    async with serving(application) as served, served.client() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(3)))
        await until(lambda: application.scopes)
        (connection,) = served.host.connections
        assert not connection.reading
        assert len(application.scopes) == 1
        go_on.set()
        assert [(await client.response()).body for _ in range(3)] == [b"GET /0 ", b"GET /1 ", b"GET /2 "]
        await until(lambda: connection.reading)


async def test_an_application_may_work_on_behind_its_response() -> None:
    """The connection goes on, and a client that leaves then cancels nothing."""
    go_on, worked = asyncio.Event(), asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await go_on.wait()
        worked.set()

    async with serving(application) as served:
        async with served.client() as client:
            client.send(GET)
            await client.response()
            client.send(GET)
            await client.response()
        await until(lambda: not served.host.connections)
        go_on.set()
        await worked.wait()


# --- applications that fail -------------------------------------------------------------------------------------------


async def raises(send: Send) -> None:
    raise RuntimeError("secret detail")


async def sends_nothing(send: Send) -> None:
    pass


async def only_starts(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})


async def splits_the_response(send: Send) -> None:
    await respond(send, headers=[(b"x", b"1\r\nset-cookie: evil=1")])


async def sends_text(send: Send) -> None:
    await respond(send, headers=[("x", "1")])  # type: ignore[list-item]


async def sends_1xx(send: Send) -> None:
    await respond(send, status=101)


async def sends_a_body_only(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"x"})


async def sends_too_much_at_once(send: Send) -> None:
    await respond(send, b"12345", headers=[(b"content-length", b"4")])


async def sends_two_lengths(send: Send) -> None:
    await respond(send, b"x", headers=[(b"content-length", b"1"), (b"Content-Length", b"2")])


async def sends_no_length(send: Send) -> None:
    await respond(send, b"x", headers=[(b"content-length", b"+1")])


async def sends_something_else(send: Send) -> None:
    await send({"type": "websocket.accept"})


@pytest.mark.parametrize(
    "fails",
    [raises, sends_nothing, only_starts, splits_the_response, sends_text, sends_1xx, sends_a_body_only,
     sends_too_much_at_once, sends_two_lengths, sends_no_length, sends_something_else],
)  # fmt: skip
async def test_an_application_without_a_response_makes_a_500(fails: Any, events: Events) -> None:
    """The contract's JSON; the cause is for the log."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await fails(send)

    async with serving(application) as served, served.client() as client:
        client.send(GET)
        response = await client.response()
        assert await client.ended() == b""
    assert (response.status, response.get(b"connection")) == (500, b"close")
    assert response.json["code"] == "internal_error"
    assert response.json["request_id"].encode() == response.get(b"x-request-id")
    assert b"secret" not in response.body
    assert events.one("http.refused")["request_id"] == response.json["request_id"]


@pytest.mark.parametrize(
    ("version", "length", "too_long", "body"),
    [
        pytest.param(b"1.1", b"9", False, b"1234", id="a length, too short"),
        pytest.param(b"1.1", b"9", True, b"1234", id="a length, too long"),
        pytest.param(b"1.0", b"9", False, b"1234", id="a length, HTTP/1.0"),
        pytest.param(b"1.1", None, False, b"4\r\n1234\r\n", id="chunks"),
        pytest.param(b"1.0", None, False, b"1234(reset)", id="until close"),
    ],
)
async def test_a_response_that_breaks_off_never_looks_complete(
    version: bytes, length: bytes | None, too_long: bool, body: bytes
) -> None:
    """RFC 9112 §8. In HTTP/1.0 without a length only a reset can say it. Bytes beyond the length are not sent."""
    sent = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", length)] if length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"1234", "more_body": True})
        await sent.wait()
        if too_long:
            await send({"type": "http.response.body", "body": b"567890"})
        raise RuntimeError

    async with serving(application) as served, served.client() as client:
        client.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        await client.head()
        got = await client.reader.readuntil(b"1234")
        sent.set()
        try:
            got += await client.reader.read()
        except ConnectionResetError:
            got += b"(reset)"
    assert got == body


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "while it streams", "inside its body"])
async def test_a_client_that_leaves_cancels_the_application(how: str) -> None:
    """``relay.cancel``: nobody waits for what it does."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "while it streams":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(application, leave_time=0.01, **QUICK) as served:
        async with served.client() as client:
            client.send(POST + b"Content-Length: 3\r\n\r\nab" if how == "inside its body" else GET)
            await started.wait()
            if how == "reset":
                client.vanish()
            else:
                client.writer.close()
            await cancelled.wait()
        await until(lambda: not served.host.connections)
        assert not served.host.applications


async def test_a_cut_upload_never_looks_complete() -> None:
    """``http.disconnect`` comes in place of the rest; what is still sent is dropped without an error."""
    seen: list[Message] = []
    done = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while not seen or seen[-1]["type"] == "http.request":
                seen.append(await receive())
        except asyncio.CancelledError:
            seen.append(await receive())
            await respond(send)
            done.set()

    async with serving(application) as served, served.client() as client:
        client.send(POST + b"Content-Length: 3\r\n\r\nab")
        await until(lambda: seen)
        client.vanish()
        await done.wait()
    assert seen == [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}]


async def test_a_client_that_only_stops_sending_gets_its_answers() -> None:
    """A half-closed connection, as ``nc -N`` makes it, pipelined requests included."""
    async with serving(echo) as served, served.client() as client:
        client.send(GET * 3)
        client.writer.write_eof()
        assert (await client.ended()).count(b"HTTP/1.1 200 OK") == 3
        await until(lambda: not served.host.connections)


async def test_a_client_that_leaves_unseen_is_found() -> None:
    """Its end lies behind bytes that the application doesn't read: the loop can't see it, the sweep does."""
    cancelled = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(application, buffer=1000, **QUICK) as served, served.client() as client:
        client.send(POST + b"Content-Length: 9000\r\n\r\n" + b"x" * 2000)
        await until(lambda: [c for c in served.host.connections if not c.reading])
        client.writer.close()
        await cancelled.wait()


# --- slow peers -------------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_makes_the_application_wait() -> None:
    """``send`` waits; what waits for the client stays bounded."""
    sent = 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(128):
            await send({"type": "http.response.body", "body": bytes(MIB // 4), "more_body": True})
            sent += MIB // 4
        await send({"type": "http.response.body"})

    async with serving(application) as served, served.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(GET)
        await until(lambda: [c for c in served.host.connections if c.writable and not c.writable.is_set()])
        (connection,) = served.host.connections
        held = sent
        assert connection.transport.get_write_buffer_size() < MIB
        assert held < 16 * MIB  # the kernel's buffers hold some
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.response()).body) == 32 * MIB


async def test_an_application_that_does_not_read_makes_the_client_wait() -> None:
    """Reading stops; what waits for the application is bounded by the buffer and one read."""
    go_on, length = asyncio.Event(), 32 * MIB

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await respond(send, b"%d" % len(await read_body(receive)))

    async with serving(application) as served, served.client() as client:
        client.send(POST + b"Content-Length: %d\r\n\r\n" % length)
        client.send(bytes(length))
        await until(lambda: [c for c in served.host.connections if not c.reading])
        (run,) = served.host.applications
        assert run.buffered < MIB  # type: ignore[union-attr]
        assert client.writer.transport.get_write_buffer_size() > 8 * MIB  # the rest is still the client's
        go_on.set()
        assert (await client.response()).body == b"%d" % length


# --- responses that end first -----------------------------------------------------------------------------------------


async def test_an_early_answer_reaches_a_client_that_still_sends() -> None:
    """It comes at once, whole, and says that the connection ends; then the server reads on for a while."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"too large", 413)

    async with serving(application) as served, served.client() as client:
        client.send(POST + b"Content-Length: 100000000\r\n\r\n" + bytes(100_000))
        response = await client.response()
        assert (response.status, response.body, response.get(b"connection")) == (413, b"too large", b"close")
        assert await client.ended() == b""
        for _ in range(20):
            client.send(bytes(MIB))
            await client.writer.drain()  # no reset
    assert served.refusals == []


async def test_reading_on_behind_an_early_answer_has_an_end() -> None:
    """`Limits.linger_time`, or the end of the request."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    async with serving(application, linger_time=0.05, **QUICK) as served, served.client() as client:
        client.send(POST + b"Content-Length: 10\r\n\r\n")
        await client.response()
        await until(lambda: not served.host.connections)
    async with serving(application) as served, served.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n")
        await client.response()
        client.send(b"x\r\n0\r\n\r\n")
        await until(lambda: not served.host.connections)


async def test_a_body_that_came_but_was_not_read_costs_no_connection() -> None:
    """A refusal of a small POST leaves the connection to the next request."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["raw_path"], 401)

    async with serving(application) as served, served.client() as client:
        for path in (b"/1", b"/2"):
            client.send(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % path)
            assert (await client.response()).body == path


# --- Expect: 100-continue ---------------------------------------------------------------------------------------------

EXPECT = POST + b"Content-Length: 2\r\nExpect: 100-Continue\r\n\r\n"


async def test_a_client_is_told_to_continue_when_its_body_is_wanted() -> None:
    """RFC 9110 §10.1.1: once, when the application waits for the body, and not before."""
    go_on = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await respond(send, await read_body(receive))

    async with serving(application) as served, served.client() as client:
        client.send(EXPECT)
        await until(lambda: served.host.applications)
        go_on.set()
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"a")
        await asyncio.sleep(0)
        client.send(b"b")
        assert (await client.response()).body == b"ab"


async def test_a_client_that_is_refused_is_not_told_to_continue() -> None:
    """The final status comes alone, and the connection ends: the client may or may not send the body now."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=403)

    async with serving(application) as served, served.client() as client:
        client.send(EXPECT)
        response = await client.response()
        assert (response.status, response.get(b"connection")) == (403, b"close")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(EXPECT + b"ab", id="the body is there"),
        pytest.param(EXPECT.replace(b"1.1", b"1.0") + b"ab", id="HTTP/1.0"),
        pytest.param(GET[:-2] + b"Expect: 100-continue\r\n\r\n", id="there is no body"),
    ],
)
async def test_nobody_is_told_to_continue_without_need(request_: bytes) -> None:
    """RFC 9110 §10.1.1."""
    async with serving(echo) as served:
        assert (await served.ask(request_)).status == 200


# --- time -------------------------------------------------------------------------------------------------------------


async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize(
    ("limit", "sent", "status", "code"),
    [
        pytest.param("idle_time", b"", None, None, id="no request"),
        pytest.param("head_time", GET[:-1], 408, "bad_request", id="a head that never ends"),
        pytest.param("head_time", b"\r\n", None, None, id="nothing but an empty line"),
        pytest.param("body_time", POST + b"Content-Length: 2\r\n\r\nx", 408, "bad_request", id="a body that stops"),
        pytest.param("request_time", GET, 504, "backend_timeout", id="no response"),
    ],
)
async def test_limits_of_time(limit: str, sent: bytes, status: int | None, code: str | None) -> None:
    """`Limits`; a client that sends nothing at all is not answered."""
    async with serving(hangs, **{limit: 0.05, **QUICK}) as served, served.client() as client:
        client.send(sent)
        answer = await client.ended()
        await until(lambda: not served.host.applications)
    if status is None:
        assert answer == b""
    else:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(body)["code"] == code


async def test_a_head_that_trickles_in_is_not_waited_for() -> None:
    """Slow-loris: the limit counts from the first byte, and is not moved by the next ones."""
    async with serving(echo, head_time=0.1, **QUICK) as served, served.client() as client:
        client.send(GET[:-2])
        answer = asyncio.ensure_future(client.ended())
        while not answer.done():
            client.send(b"X: 1\r\n")
            await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.1 408 ")


async def test_a_body_may_take_long_as_long_as_it_comes() -> None:
    """`Limits.body_time` counts from the last byte, and only while the application waits."""
    async with serving(echo, body_time=1, **QUICK) as served, served.client() as client:
        client.send(POST + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.12)
            client.send(b"x")
        assert (await client.response()).status == 200


async def test_a_client_that_takes_nothing_is_cut() -> None:
    """`Limits.write_time`: or it would hold a backend's connection for as long as it likes."""
    cancelled = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(application, write_time=0.05, **QUICK) as served, served.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(GET)
        await cancelled.wait()
        await until(lambda: not served.host.connections)


def test_a_client_that_was_slow_before_has_all_of_its_time_again() -> None:
    """Two pauses with the same number of bytes unsent, and time enough in between, are not one long one."""
    transport = Mock(
        spec=asyncio.Transport, **{"is_closing.return_value": False, "get_write_buffer_size.return_value": 9}
    )
    connection = Connection(Mock(limits=Limits(write_time=10)))
    connection.transport = transport
    for begin in (100.0, 200.0):
        connection.pause_writing()
        connection.check_timeouts(begin)
        connection.check_timeouts(begin + 9)
        connection.resume_writing()
    transport.abort.assert_not_called()
    connection.pause_writing()
    connection.check_timeouts(300.0)
    connection.check_timeouts(311.0)
    transport.abort.assert_called_once()
