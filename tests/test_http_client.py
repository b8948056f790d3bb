"""relay.http.client over real sockets, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.http import client as client_module
from relay.http import exchange as exchange_module
from relay.http.client import Client
from relay.http.connection import Connection
from relay.http.exchange import Exchange, Unanswered
from relay.refusals import BackendError, BackendProtocolError, BackendTimeout, BackendUnreachable, Refused
from relay.routing.snapshot import Backend, Url
from tests.http_helpers import (
    Peer,
    RawBackend,
    ask,
    body_of,
    http_client,
    pieces,
    raw_backend,
    response,
    self_signed,
    until_quiet,
)

# The hook that pytest-asyncio would have instead is one for the whole suite.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request):
    return request.param()


NEVER = 30.0
"""Seconds; a limit that only a hanging test meets."""


async def held(peer: Peer) -> None:
    """Take a request and say nothing."""
    await peer.request()
    await peer.ended()


# What stands on the wire


async def test_a_request_is_what_it_was_told_to_be_and_nothing_else():
    """RFC 9112 §3: Host first, order and repeats kept; no Accept, no User-Agent, no Connection."""
    got = []

    async def talk(peer):
        got.append(await peer.answer())

    headers = [(b"x-b", b"1"), (b"cookie", b"a=1"), (b"x-b", b"2"), (b"x-raw", b"\xe9 \xc3\xa9")]
    async with raw_backend(talk) as backend, http_client() as client:
        await ask(client, backend.configured(), "PATCH", b"/p%20q?x=%41", headers=headers)
        host = b"host: 127.0.0.1:%d" % backend.port
    assert got[0].lines == [
        b"PATCH /p%20q?x=%41 HTTP/1.1",
        host,
        b"x-b: 1",
        b"cookie: a=1",
        b"x-b: 2",
        b"x-raw: \xe9 \xc3\xa9",
    ]


@pytest.mark.parametrize(
    ("length", "parts", "framing"),
    [
        pytest.param(6, [b"abc", b"def"], (b"content-length", b"6"), id="announced length is kept"),
        pytest.param(None, [b"abc", b"def"], (b"transfer-encoding", b"chunked"), id="no length: chunked"),
        pytest.param(None, [b"abc", b"", b"def"], (b"transfer-encoding", b"chunked"), id="an empty piece ends nothing"),
        pytest.param(6, [b"", b"abcdef"], (b"content-length", b"6"), id="an empty piece is no error"),
    ],
)
async def test_a_body_is_framed_as_announced(length, parts, framing):
    """RFC 9112 §6.2, §7.1."""
    got = []

    async def talk(peer):
        got.append(await peer.answer())

    async with raw_backend(talk) as backend, http_client() as client:
        await ask(client, backend.configured(), "POST", body=pieces(*parts), length=length)
    assert got[0].fields[-1] == framing
    assert got[0].body == b"abcdef"


async def test_an_empty_body_that_was_announced_stays_announced():
    """``Content-Length: 0`` on a POST means something to servers that answer 411 without."""
    got = []

    async def talk(peer):
        got.append(await peer.answer())

    async with raw_backend(talk) as backend, http_client() as client:
        await ask(client, backend.configured(), "POST", length=0)
    assert got[0].fields[-1] == (b"content-length", b"0")


@pytest.mark.parametrize("where", ["value", "name", "target", "host"])
@pytest.mark.parametrize("what", [b"\r\nx: y", b"\n", b"\r", b"\0"])
async def test_what_would_make_another_request_is_not_sent(where, what):
    """RFC 9110 §5.5: a CR, LF or NUL never reaches a backend, wherever it came from."""
    bad = {place: b"a" + what if place == where else b"a" for place in ("value", "name", "target", "host")}
    async with raw_backend(held) as backend, http_client() as client:
        request = client_module.Request(
            "GET", lambda url: (b"/" + bad["target"], bad["host"]), [(bad["name"], bad["value"])]
        )
        with pytest.raises(Refused):
            await client.request(backend.configured(), request)
        assert not backend.peers


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    """The contract, section 5."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_backend(lambda peer: peer.answer()) as backend, http_client() as client:
        assert (await ask(client, backend.configured())).status == 200


# Responses


@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("method", "sent", "status", "body"),
    [
        pytest.param("GET", response(b"abc"), 200, b"abc", id="length"),
        pytest.param("GET", response(b""), 200, b"", id="length of 0"),
        pytest.param(
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n",
            200,
            b"abc",
            id="chunked with an extension and a trailer",
        ),
        pytest.param("GET", b"HTTP/1.1 200 OK\r\n\r\nabc", 200, b"abc", id="until the connection closes"),
        pytest.param("GET", b"HTTP/1.0 200 OK\r\n\r\nabc", 200, b"abc", id="HTTP/1.0"),
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200, b"", id="HEAD"),
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b"", id="HEAD, chunked"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", id="304"),
        pytest.param("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + response(), 200, b"ok", id="100 first"),
        pytest.param(
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + response(),
            200,
            b"ok",
            id="103 three times first",
        ),
        pytest.param("GET", b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", 404, b"no", id="no reason phrase"),
        pytest.param("GET", response(b"x", b"503 Busy"), 503, b"x", id="an error of the backend's own"),
    ],
)
async def test_a_response_is_passed_on(method, sent, status, body, slowly):
    """RFC 9112 §6.3: where a message ends; what is interim or trailing is dropped."""

    async def talk(peer):
        await peer.request()
        for at in range(0, len(sent), 1 if slowly else len(sent)):
            peer.send(sent[at : at + (1 if slowly else len(sent))])
            await asyncio.sleep(0)

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), method)
        assert (answer.status, await body_of(answer)) == (status, body)
        assert not any(name == b"link" for name, _ in answer.headers)


async def test_the_fields_of_a_response_keep_order_repeats_and_bytes():
    """RFC 9110 §5.3: Set-Cookie lines stay apart."""
    fields = (b"Set-Cookie: a=1", b"X-B: \xe9", b"Set-Cookie: b=2", b"X-Empty:", b"X-Space:  v \t ")
    async with raw_backend(lambda peer: peer.answer(b"", b"200 OK", *fields)) as backend, http_client() as client:
        answer = await ask(client, backend.configured())
    assert answer.headers == [
        (b"content-length", b"0"),
        (b"set-cookie", b"a=1"),
        (b"x-b", b"\xe9"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
        (b"x-space", b"v"),
    ]


OK = b"HTTP/1.1 200 OK\r\n"
INVALID_HEADS = [
    pytest.param(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length and chunked"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", id="chunked and length"),
    pytest.param(OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", id="two lengths"),
    pytest.param(OK + b"Content-Length: 3, 4\r\n\r\nabcd", id="a list of lengths"),
    pytest.param(OK + b"Content-Length: -1\r\n\r\n", id="a negative length"),
    pytest.param(OK + b"Content-Length: 99999999999999999999999\r\n\r\n", id="a length beyond 64 bits"),
    pytest.param(OK + b"Transfer-Encoding: gzip\r\n\r\nabc", id="an unknown coding"),
    pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="a coding under chunked"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked twice"),
    pytest.param(OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", id="obs-fold"),
    pytest.param(OK + b"X : a\r\nContent-Length: 0\r\n\r\n", id="a space before the colon"),
    pytest.param(OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n", id="a NUL in a value"),
    pytest.param(OK + b"X: a\rY: b\r\nContent-Length: 0\r\n\r\n", id="a bare CR"),
    pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", id="bare LFs"),
    pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", id="HTTP/2.0 in a status line"),
    pytest.param(b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", id="HTTP/0.9 in a status line"),
    pytest.param(b"HTTP/2.0 103 Early Hints\r\n\r\n" + response(), id="an interim response in HTTP/2.0"),
    pytest.param(b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", id="status 000"),
    pytest.param(b"HTTP/1.1 199 Odd\r\nContent-Length: 2\r\n\r\nok" + response(), id="an interim response with a body"),
    pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="101 nobody asked for"),
    pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="101 to nothing"),
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
    pytest.param(b"<html>hello</html>", id="HTTP/0.9"),
    pytest.param(OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n", id="a head over 64 KiB"),
    pytest.param(OK + b"X: a\r\n" * 12_000 + b"\r\n", id="a head of very many fields"),
    pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3_000, id="interim responses without end"),
]
CUT_HEADS = [
    pytest.param(OK + b"Content-Le", True, id="cut inside the head"),
    pytest.param(b"", True, id="closed without a byte"),
]


@pytest.mark.parametrize(("sent", "cut"), [pytest.param(*p.values, False, id=p.id) for p in INVALID_HEADS] + CUT_HEADS)
async def test_what_is_no_valid_response_is_an_error_and_its_connection_is_closed(sent, cut):
    """RFC 9112 §6.3: ambiguous framing is never guessed at; nothing else comes over that connection."""
    ended = asyncio.Event()

    async def talk(peer):
        await peer.request()
        peer.send(sent)
        if cut:
            await peer.finish()
        await peer.ended()
        ended.set()

    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(BackendProtocolError) as caught:
            await ask(client, backend.configured(), "POST", length=0)
        assert (caught.value.phase, caught.value.backend) == ("head", "main")
        await ended.wait()
        assert in_use(client, backend) == 0


@pytest.mark.parametrize(
    ("sent", "first", "cause"),
    [
        pytest.param(OK + b"Content-Length: 5\r\n\r\nabc", b"abc", "after 3 bytes", id="a short body"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc", "after 3 bytes", id="no last chunk"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabc", b"abc", "after 3 bytes", id="cut inside a chunk"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", b"abc", "chunk size", id="a bad chunk size"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", b"abc", "chunk", id="a long chunk"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 600_000,
            b"abc",
            "65536 bytes",
            id="a trailer without end",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;" + b"a" * 600_000,
            b"abc",
            "65536 bytes",
            id="a chunk extension without end",
        ),
    ],
)
async def test_a_body_that_breaks_off_is_an_error_after_what_came(sent, first, cause):
    """RFC 9112 §8: never a clean short end."""

    async def talk(peer):
        await peer.request()
        peer.send(sent)
        await peer.finish()
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured())
        assert answer.status == 200
        assert await answer.read() == first
        with pytest.raises(BackendProtocolError, match=cause) as caught:
            await answer.read()
        assert caught.value.phase == "body"
        assert in_use(client, backend) == 0


FRAGMENTS = [
    OK,
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"abc",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=8),
    then=st.lists(st.sampled_from(FRAGMENTS), max_size=4),
)
async def test_whatever_a_backend_says_ends_in_an_answer_or_an_error(first, then):
    """No bytes, however split, hang a request, end in another error, or leave a connection that is out of step."""

    async def talk(peer):
        await peer.request()
        for part in first:
            peer.send(part)
            await asyncio.sleep(0)
        for part in then:
            peer.send(part)
        await peer.finish()
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        with suppress(BackendError):
            answer = await ask(client, backend.configured(read_timeout=NEVER))
            assert answer.status >= 200
            await body_of(answer)
        await backend.peers[0].ended()
        assert in_use(client, backend) == 0


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"X-Framing: until close"])
async def test_a_reset_inside_a_body_is_an_error(framing):
    """A cut cable is no end, even of a body that lasts until the connection closes."""

    async def talk(peer):
        await peer.request()
        peer.send(OK + framing + b"\r\n\r\nabc")
        await go.wait()
        peer.reset()

    go = asyncio.Event()
    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured())
        assert await answer.read() == b"abc"
        go.set()
        with pytest.raises(BackendProtocolError, match="cut"):
            await answer.read()


# Kept connections


async def keep_answering(peer: Peer) -> None:
    while True:
        await peer.answer()


async def test_a_connection_is_used_again():
    """And the one used last is used first, so that the others may grow old."""
    async with raw_backend(keep_answering) as backend, http_client() as client:
        configured = backend.configured()
        for _ in range(3):
            await body_of(await ask(client, configured))
        assert len(backend.peers) == 1
        await asyncio.gather(ask(client, configured), ask(client, configured))
        assert len(backend.peers) == 2
        assert in_use(client, backend) == 0


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        pytest.param("GET", response(b"ok", b"200 OK", b"Connection: close"), id="Connection: close"),
        pytest.param("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param("GET", response() + b"more", id="bytes after the response"),
        pytest.param("GET", response() * 2, id="a second response"),
        pytest.param("HEAD", response(b"body"), id="a body after HEAD"),
        pytest.param("GET", b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", id="a body after 204"),
    ],
)
async def test_a_connection_that_could_be_out_of_step_is_not_used_again(method, sent):
    """What follows a response could be taken for the answer to another user's request."""
    ended = asyncio.Event()

    async def talk(peer):
        await peer.request()
        peer.send(sent)
        await peer.ended()
        ended.set()

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), method)
        assert answer.status in (200, 204)
        await body_of(answer)
        await ended.wait()


async def test_an_answer_that_nobody_asked_for_never_answers_anybody():
    """It stands in the kernel when the next request begins: that goes over another connection."""

    async def talk(peer):
        await peer.answer(b"asked for")
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        with backend.peers[0].socket() as bare:
            bare.send(response(b"poison"))
        answer = await ask(client, backend.configured())
        assert await body_of(answer) == b"asked for"
        assert len(backend.peers) == 2


async def test_a_connection_that_the_backend_has_closed_just_now_is_not_used():
    """Died before anything was sent: replaced, even for a POST, and the backend sees that once."""
    got = []

    async def talk(peer):
        got.append(await peer.answer())
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        with backend.peers[0].socket() as bare:
            bare.shutdown(socket.SHUT_WR)  # in the kernel; no event loop has seen it yet
        answer = await ask(client, backend.configured(), "POST", body=pieces(b"once"), length=4)
        assert answer.status == 200
    assert [request.body for request in got] == [b"", b"once"]


async def answer_once_then_die(peer: Peer) -> None:
    """Answer one request, and close on the next one without a word: the race of every kept connection."""
    await peer.answer()
    await peer.head()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_kept_connection_that_dies_without_a_word_is_replaced_once(method):
    """RFC 9110 §9.2.2: an idempotent request may be sent again."""
    async with raw_backend(answer_once_then_die) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        assert (await ask(client, backend.configured(), method)).status == 200
        assert len(backend.peers) == 2


@pytest.mark.parametrize(
    ("method", "body"),
    [
        pytest.param("POST", None, id="POST is not idempotent"),
        pytest.param("PATCH", None, id="PATCH is not idempotent"),
        pytest.param("PUT", b"body", id="a body that is gone can't be sent again"),
    ],
)
async def test_a_request_that_may_have_been_read_is_not_sent_again(method, body):
    """The client decides about that: it gets 502."""
    async with raw_backend(answer_once_then_die) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        upload = {"length": 0} if body is None else {"body": pieces(body, body), "length": 2 * len(body)}
        with pytest.raises(Unanswered):
            await ask(client, backend.configured(), method, **upload)
        assert len(backend.peers) == 1


async def test_a_fresh_connection_that_dies_is_not_replaced():
    """Once is enough: a backend that dies of a request must not get it again and again."""

    async def talk(peer):
        await peer.head()

    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(Unanswered, match="closed by the backend before an answer"):
            await ask(client, backend.configured())
        assert len(backend.peers) == 1


async def test_a_fresh_connection_that_dies_before_the_request_is_no_answer():
    """A balancer with nobody behind it accepts and closes; whoever comes then must not wait for an event that was."""

    async def talk(peer):
        pass

    async with raw_backend(talk) as backend, http_client() as client:
        configured = backend.configured()
        (state,) = client._connector.candidates(configured)
        lost = asyncio.Event()
        factory = lambda: Connection(state, ("", "", True), print, lambda connection: lost.set())  # noqa: E731
        _, connection = await client._connector.dial(configured, state, factory)
        await lost.wait()
        with pytest.raises(Unanswered):
            await Exchange(configured, connection, "GET").start(b"GET / HTTP/1.1\r\n\r\n", None, None, False)
        assert state.in_use == 0


async def test_half_an_answer_is_not_asked_for_again():
    """Bytes of an answer have come: the request was read."""

    async def talk(peer):
        await peer.answer()
        await peer.head()
        peer.send(b"HTTP/1.1 2")

    async with raw_backend(talk) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        with pytest.raises(BackendProtocolError, match="inside the response's head"):
            await ask(client, backend.configured())
        assert len(backend.peers) == 1


@pytest.mark.parametrize(
    ("idle", "field"),
    [
        pytest.param(0.01, b"X-Nothing: said", id="our own limit"),
        pytest.param(60, b"Keep-Alive: timeout=0, max=5", id="the backend's Keep-Alive"),
    ],
)
async def test_a_kept_connection_is_closed_before_the_backend_would(monkeypatch, idle, field):
    """A request must not meet a connection that is just being closed."""
    monkeypatch.setattr(exchange_module, "IDLE", idle)
    ended = asyncio.Event()

    async def talk(peer):
        await peer.answer(b"ok", b"200 OK", field)
        await peer.ended()
        ended.set()

    async with raw_backend(talk) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured()))
        await ended.wait()


async def test_backends_do_not_share_connections():
    """Not even two that have the same url."""
    async with raw_backend(keep_answering) as backend, http_client() as client:
        for name in ("one", "two"):
            await body_of(await ask(client, backend.configured(name=name)))
        assert len(backend.peers) == 2


async def test_no_answer_ever_reaches_another_user():
    """Two users share kept connections; requests are cancelled, cut and answered late, in an order made by chance."""
    chance = random.Random(4711)

    async def talk(peer):
        while True:
            got = await peer.request()
            user = got.field(b"x-user-id") or b"nobody"
            mood = chance.random()
            if mood < 0.1:
                return
            if mood < 0.2:
                peer.send(OK + b"Content-Length: 50\r\n\r\n" + user)
                return
            if mood < 0.5:
                await asyncio.sleep(chance.random() / 200)
            peer.send(response(user, b"200 OK", b"Set-Cookie: user=" + user))

    async def user(client: Client, backend: Backend, name: bytes) -> int:
        answered = 0
        for _ in range(150):
            with suppress(TimeoutError, BackendError):
                async with asyncio.timeout(chance.random() / 100):
                    answer = await ask(client, backend, headers=[(b"x-user-id", name)])
                    assert dict(answer.headers).get(b"set-cookie", b"user=" + name) == b"user=" + name
                    assert await body_of(answer) == name
                    answered += 1
        return answered

    async with raw_backend(talk) as backend, http_client() as client:
        configured = backend.configured()
        answered = await asyncio.gather(*(user(client, configured, name) for name in (b"alice", b"bob") * 3))
        assert min(answered) > 0
        assert in_use(client, backend) == 0


# Limits of time


@pytest.mark.parametrize(
    ("sent", "phase", "cause"),
    [
        pytest.param(b"", "head", "no response within 0.05 s", id="no head"),
        pytest.param(b"HTTP/1.1 200", "head", "no response within 0.05 s", id="half a head"),
        pytest.param(b"HTTP/1.1 103 Hint\r\n\r\n", "head", "no response within 0.05 s", id="an interim response only"),
        pytest.param(
            OK + b"Content-Length: 9\r\n\r\nabc", "body", "nothing more of the body within 0.05 s", id="no body"
        ),
    ],
)
async def test_a_silent_backend_is_given_up_after_read_timeout(sent, phase, cause):
    """Until the head, then between two chunks."""

    async def talk(peer):
        await peer.request()
        peer.send(sent)
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(BackendTimeout, match=cause) as caught:
            await body_of(await ask(client, backend.configured(read_timeout=0.05)))
        assert caught.value.phase == phase
        await backend.peers[0].ended()


async def test_read_timeout_is_for_each_chunk_not_for_the_sum():
    """A slow stream is not a dead one."""

    async def talk(peer):
        await peer.request()
        peer.send(OK + b"Content-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.15)
            peer.send(b"x")

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(read_timeout=1))
        assert await body_of(answer) == b"x" * 8


@pytest.mark.parametrize(
    ("read_timeout", "content_type"),
    [
        pytest.param(0.02, b"Content-Type: text/event-stream; charset=utf-8", id="an event stream may be silent"),
        pytest.param(0, b"Content-Type: text/plain", id="0 is none"),
    ],
)
async def test_some_streams_may_be_silent(read_timeout, content_type):
    """The contract, section 3: read_timeout is not for text/event-stream, and 0 is none."""

    async def talk(peer):
        await peer.request()
        peer.send(OK + content_type + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.1)
        peer.send(b"2\r\nhi\r\n")
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(read_timeout=read_timeout))
        assert await answer.read() == b"hi"
        answer.close()


async def test_a_slow_client_is_no_slow_backend():
    """While nobody reads, and while the client sends nothing, no limit of the backend's passes."""
    go = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.4)
        yield b"late"

    async def talk(peer):
        await peer.request()
        peer.send(OK + b"Content-Length: 4\r\n\r\nab")
        await go.wait()
        peer.send(b"cd")

    async with raw_backend(talk) as backend, http_client() as client:
        configured = backend.configured(read_timeout=0.3)
        answer = await ask(client, configured, "POST", body=slow_body(), length=4)
        await asyncio.sleep(0.4)
        go.set()
        assert await body_of(answer) == b"abcd"


async def test_a_backend_that_takes_no_body_is_given_up():
    """The limit counts while the backend is the one who is waited for, in either direction."""

    async def talk(peer):
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(BackendTimeout, match="accepted none of the request's body"):
            await ask(client, backend.configured(read_timeout=0.1), "POST", body=endless())


# Streaming


async def test_the_head_and_the_first_bytes_come_at_once():
    """Server-sent events: nothing is held back until there is more."""
    go = asyncio.Event()

    async def talk(peer):
        await peer.request()
        peer.send(OK + b"Content-Type: text/event-stream\r\n\r\n")
        await go.wait()
        peer.send(b"data: 1\n\n")
        await peer.ended()

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured())
        assert answer.status == 200
        go.set()
        assert await answer.read() == b"data: 1\n\n"
        answer.close()


async def test_a_slow_reader_slows_the_backend():
    """Memory stays bounded: what is not read waits at the backend."""
    written = 0

    async def talk(peer):
        nonlocal written
        await peer.request()
        peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%b\r\n" % (65536, bytes(65536))
        for _ in range(1024):
            peer.send(piece)
            await peer.writer.drain()
            written += 65536
            moved.set()

    moved = asyncio.Event()
    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured())
        await until_quiet(moved)
        assert written < 16 << 20
        before = written
        while written <= before:
            assert await answer.read()
        answer.close()


async def test_a_slow_backend_slows_the_reading_of_the_upload():
    """The request's body is taken only as fast as the backend takes it."""
    taken = 0
    moved = asyncio.Event()

    async def talk(peer):
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async def large() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1024):
            taken += 65536
            moved.set()
            yield bytes(65536)

    async with raw_backend(talk) as backend, http_client() as client:
        asking = asyncio.create_task(ask(client, backend.configured(), "POST", body=large()))
        await backend.came(1)
        await until_quiet(moved)
        assert taken < 16 << 20
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


async def test_an_early_answer_does_not_wait_for_the_upload():
    """It is there at once; the rest of the body is not sent, and the connection not kept."""
    stuck = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await stuck.wait()
        yield b"never"

    async def talk(peer):
        await peer.head()
        peer.send(response(b"no", b"413 Too Large"))
        rest.append(await peer.ended())

    rest: list[bytes] = []
    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), "POST", body=body())
        assert (answer.status, await body_of(answer)) == (413, b"no")
        await backend.peers[0].ended()
    assert not rest or not rest[0].endswith(b"0\r\n\r\n")


async def test_a_head_does_not_wait_for_a_body_that_is_not_here():
    """A client may want to see the answer to its head before it sends anything."""

    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def talk(peer):
        await peer.head()
        peer.send(response(b"", b"401 Unauthorized"))
        assert await peer.ended() == b""

    async with raw_backend(talk) as backend, http_client() as client:
        assert (await ask(client, backend.configured(), "POST", body=silent())).status == 401
        await backend.peers[0].ended()


async def test_an_early_head_goes_on_beside_the_upload():
    """Both bodies flow at the same time, to their ends."""
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        await answered.wait()
        yield b"two"

    async def talk(peer):
        await peer.head()
        peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        assert await peer.reader.readexactly(7) == b"one two"
        peer.send(b"4\r\ndone\r\n0\r\n\r\n")
        await peer.answer(b"again")

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), "POST", body=body(), length=7)
        answered.set()
        assert await body_of(answer) == b"done"
        assert await body_of(await ask(client, backend.configured())) == b"again"
        assert len(backend.peers) == 1


async def test_an_answer_is_heard_although_the_backend_hangs_up_on_the_upload():
    """It answers 413 and closes with our bytes unread: its RST makes our write fail, its answer is in the kernel."""

    async def talk(peer):
        await peer.head()
        peer.send(response(b"too large", b"413 Too Large"))
        await asyncio.sleep(0)
        peer.writer.transport.abort()  # unread bytes: the kernel sends RST

    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    async with raw_backend(talk) as backend, http_client() as client:
        for _ in range(20):
            answer = await ask(client, backend.configured(), "POST", body=flood())
            assert (answer.status, await body_of(answer)) == (413, b"too large")


class Cut(Exception):
    """The client went away."""


@pytest.mark.parametrize("length", [None, 100], ids=["chunked", "length"])
async def test_a_cut_upload_never_looks_complete(length):
    """No last chunk, no full length: the backend sees the connection close."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise Cut

    async def talk(peer):
        await peer.head()
        arrived.set_result(await peer.ended())

    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(Cut):
            await ask(client, backend.configured(), "POST", body=body(), length=length)
        assert await arrived in (b"half", b"4\r\nhalf\r\n", b"")
        assert in_use(client, backend) == 0


@pytest.mark.parametrize("sent", [b"abc", b"abcdefghijk"], ids=["short", "long"])
async def test_a_body_that_is_not_as_long_as_announced_is_cut(sent):
    """Whatever we are told: one request, well-formed, or none."""

    async def talk(peer):
        arrived.set_result(await peer.ended())

    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with raw_backend(talk) as backend, http_client() as client:
        with pytest.raises(ConnectionAbortedError):
            await ask(client, backend.configured(), "POST", body=pieces(sent), length=10)
        _, _, body = (await arrived).partition(b"\r\n\r\n")
        assert len(body) < 10


async def test_a_cancelled_request_ends_at_the_backend_at_once():
    """A client that leaves must not keep a backend busy."""
    ended = asyncio.Event()

    async def talk(peer):
        await peer.request()
        asked.set()
        await peer.ended()
        ended.set()

    asked = asyncio.Event()
    async with raw_backend(talk) as backend, http_client() as client:
        asking = asyncio.create_task(ask(client, backend.configured()))
        await asked.wait()
        asking.cancel()
        await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert in_use(client, backend) == 0


# Expect: 100-continue (RFC 9110 §10.1.1)

EXPECT = {"headers": [(b"expect", b"100-continue")], "length": 4}


async def test_the_body_waits_for_100():
    """The head goes alone; the body follows the backend's 100."""

    async def talk(peer):
        await peer.head()
        assert not body_asked
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.reader.readexactly(4) == b"body"
        peer.send(response())

    body_asked: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        body_asked.append(True)
        yield b"body"

    async with raw_backend(talk) as backend, http_client() as client:
        assert (await ask(client, backend.configured(), "POST", body=body(), **EXPECT)).status == 200


async def test_a_refusal_in_place_of_100_spares_the_body():
    """And a connection on which the backend may still expect it is not kept."""

    async def talk(peer):
        await peer.head()
        peer.send(response(b"", b"417 Expectation Failed"))
        assert await peer.ended() == b""

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    async with raw_backend(talk) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), "POST", body=never(), **EXPECT)
        assert answer.status == 417
        await backend.peers[0].ended()


async def test_a_backend_that_knows_no_100_gets_the_body_all_the_same(monkeypatch):
    """RFC 9110 §10.1.1: a client doesn't wait for ever."""
    monkeypatch.setattr(exchange_module, "CONTINUE_WITHIN", 0.01)
    async with raw_backend(lambda peer: peer.answer()) as backend, http_client() as client:
        answer = await ask(client, backend.configured(), "POST", body=pieces(b"body"), **EXPECT)
        assert answer.status == 200


# TLS


@pytest.fixture(scope="module")
def server_context(tmp_path_factory):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path_factory.mktemp("tls"), "localhost"))
    return context


async def test_over_tls_everything_is_the_same(server_context):
    """Kept connections, large bodies both ways."""
    large = bytes(range(256)) * 4096

    async def talk(peer):
        while True:
            got = await peer.request()
            peer.send(response(got.body))

    async with raw_backend(talk, ssl=server_context) as backend, http_client() as client:
        configured = backend.configured(scheme="https", tls_verify=False)
        for _ in range(3):
            answer = await ask(
                client, configured, "POST", body=pieces(large[:100_000], large[100_000:]), length=len(large)
            )
            assert await body_of(answer) == large
        assert len(backend.peers) == 1


async def test_a_certificate_that_is_not_trusted_is_no_connection(server_context):
    """502 with OpenSSL's own reason; connections made without verification don't help one with it."""
    async with raw_backend(keep_answering, ssl=server_context) as backend, http_client() as client:
        await body_of(await ask(client, backend.configured(scheme="https", tls_verify=False)))
        with pytest.raises(BackendUnreachable, match="certificate verify failed: self-signed certificate"):
            await ask(client, backend.configured(scheme="https"))


async def test_a_tls_connection_cut_inside_a_body(server_context):
    """As without TLS: an error."""

    async def talk(peer):
        await peer.request()
        peer.send(OK + b"Content-Length: 10\r\n\r\nhalf")

    async with raw_backend(talk, ssl=server_context) as backend, http_client() as client:
        answer = await ask(client, backend.configured(scheme="https", tls_verify=False))
        with pytest.raises(BackendProtocolError, match="after 4 bytes"):
            await body_of(answer)


# Several urls


async def test_a_url_that_can_not_be_reached_is_stepped_over():
    """The request goes to the next one; nothing was sent, so any method may."""
    async with raw_backend(keep_answering) as backend, http_client() as client:
        configured = backend.configured()
        both = Backend("main", (Url.parse("http://127.0.0.1:9"), *configured.urls))
        for _ in range(4):
            answer = await ask(client, both, "POST", body=pieces(b"x"), length=1)
            assert answer.status == 200


async def test_no_url_can_be_reached():
    """Each one's cause is told."""
    async with http_client() as client:
        dead = Backend("main", (Url.parse("http://127.0.0.1:9"), Url.parse("http://no-such-host.invalid")))
        with pytest.raises(BackendUnreachable) as caught:
            await ask(client, dead)
    assert "http://127.0.0.1:9: connection refused 127.0.0.1:9" in str(caught.value)
    assert "name not found: no-such-host.invalid" in str(caught.value)


async def test_requests_spread_over_the_urls():
    """Least connections first: requests that last go to different urls."""
    async with raw_backend(held) as one, raw_backend(held) as two, http_client() as client:
        both = Backend("main", (*one.configured().urls, *two.configured().urls))
        asking = [asyncio.create_task(ask(client, both)) for _ in range(6)]
        await asyncio.gather(one.came(3), two.came(3))
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def in_use(client: Client, backend: RawBackend) -> int:
    """Connections that count as busy for the backend."""
    return sum(state.in_use for state in client._connector.candidates(backend.configured()))
