"""`relay.websocket.upstream`: the handshake with a backend that may do anything, on a raw socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from websockets.utils import accept_key

from relay.access import Grant
from relay.backends.connector import Connector
from relay.entry import Arrival
from relay.forwarding import Forwarding
from relay.identity.model import Identification, Identity, Presented
from relay.refusals import (
    BackendError,
    BackendProtocolError,
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    Refused,
)
from relay.routing.snapshot import Backend, Route, Url
from relay.typing import RawHeaders
from relay.websocket import deflate, upstream
from relay.websocket.opening import Opening
from tests.ws_helpers import on_both_loops, text

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoxfQ.c2lnbmF0dXJl"
ALICE = Identity("1", "a@b.c", "user", ("user",), 4e9, 1.0, "", "f" * 64)
ARRIVAL = Arrival("req-1", "192.0.2.1", "192.0.2.1", False, "https", "gw.test", 443, 0.0)
ROUTE = Route("/ws", "websocket", "main")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

YES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"


def opening(backend: Backend, headers: RawHeaders = (), **changes: Any) -> Opening:  # type: ignore[assignment]
    """Alice's handshake, with these headers of hers beside her token."""
    scope = {
        "type": "websocket",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"x=1&token=" + TOKEN.encode(),
        "headers": [(b"host", b"gw.test"), (b"authorization", b"Bearer " + TOKEN.encode()), *headers],
    }
    who = Identification(ALICE, "header", presented=(Presented("header", TOKEN, ALICE),))
    it = Opening(scope, ARRIVAL, Grant(ROUTE, backend, ALICE, b"/ws"), who, Forwarding(), [])
    return replace(it, **changes)


@dataclass
class Asked:
    """What a backend was asked: the request's first line, and its fields in order."""

    line: bytes = b""
    fields: RawHeaders = field(default_factory=list)

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


@asynccontextmanager
async def answering(answer: Callable[[Asked, Reader, Writer], Awaitable[None]]) -> AsyncIterator[tuple[Backend, Asked]]:
    """A backend that reads a request and does as it is told; at the end its connection must have ended."""
    asked, ended = Asked(), asyncio.Event()

    async def serve(reader: Reader, writer: Writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.line, *lines = head[:-4].split(b"\r\n")
            asked.fields += [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
            await answer(asked, reader, writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    url = Url.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield Backend("main", (url,), read_timeout=30), asked
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def connecting() -> AsyncIterator[Connector]:
    """A connector that has nothing in use at the end."""
    connector = Connector()
    yield connector
    assert not any(state.in_use for state in connector._states.values())
    await connector.close()


def saying(data: bytes, *, then: str = "close") -> Callable[[Asked, Reader, Writer], Awaitable[None]]:
    """Answer with these bytes, ``%b`` being the right Sec-WebSocket-Accept; then close, reset, or wait for the end."""

    async def answer(asked: Asked, reader: Reader, writer: Writer) -> None:
        accept = accept_key(asked.get(b"sec-websocket-key")[0].decode()).encode()
        writer.write(data.replace(b"%b", accept))
        await writer.drain()
        if then == "reset":
            writer.transport.abort()
        elif then == "wait":
            await reader.read()

    return answer


async def failure(backend: Backend, **changes: Any) -> BackendError:
    """How the handshake fails."""
    async with connecting() as connector:
        with pytest.raises(BackendError) as failed:
            await upstream.dial(connector, opening(backend, **changes))
    assert failed.value.backend == "main"
    return failed.value


# A backend that says yes


@on_both_loops
async def test_the_request() -> None:
    """RFC 6455 §4.1; identity and forwarding fields are there, the token is not; Origin is omitted by default."""
    async with answering(saying(YES + b"\r\n", then="wait")) as (backend, asked), connecting() as connector:
        headers = [(b"x-user-id", b"666"), (b"cookie", b"a=b"), (b"user-agent", b"x")]
        it = opening(backend, headers, subprotocols=["v2", "v1"])
        accepted = await upstream.dial(connector, it)
        accepted.transport.abort()
        connector.release(backend, accepted.url)
    assert asked.line == b"GET /ws?x=1 HTTP/1.1"
    assert asked.get(b"host") == [backend.urls[0].authority.encode()]
    assert (asked.get(b"upgrade"), asked.get(b"connection")) == ([b"websocket"], [b"Upgrade"])
    assert asked.get(b"sec-websocket-version") == [b"13"]
    assert len(asked.get(b"sec-websocket-key")[0]) == 24
    assert asked.get(b"sec-websocket-protocol") == [b"v2, v1"]
    assert (asked.get(b"x-user-id"), asked.get(b"cookie"), asked.get(b"user-agent")) == ([b"1"], [b"a=b"], [b"x"])
    for absent in (b"origin", b"authorization", b"sec-websocket-extensions"):
        assert asked.get(absent) == []


@on_both_loops
async def test_nothing_is_offered_where_nothing_is_to_offer() -> None:
    """No empty Sec-WebSocket-Protocol: it would be invalid."""
    async with answering(saying(YES + b"\r\n", then="wait")) as (backend, asked), connecting() as connector:
        accepted = await upstream.dial(connector, opening(backend))
        accepted.transport.abort()
        connector.release(backend, accepted.url)
    assert asked.get(b"sec-websocket-protocol") == []


@on_both_loops
async def test_what_a_yes_brings() -> None:
    """The subprotocol, the extension, end to end fields, and the frames that came in the same segment."""
    chosen = (
        b"Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: 5\r\nAccess-Control-Allow-Origin: *\r\n\r\n"
    )
    answer = saying(YES + chosen + text("early"), then="wait")
    async with answering(answer) as (backend, _), connecting() as connector:
        offers = deflate.offers([b"permessage-deflate"])
        it = await upstream.dial(connector, opening(backend, subprotocols=["v1"], deflate_offers=offers))
        assert it.accepted.subprotocol == "v1"
        assert it.accepted.extensions == b"permessage-deflate"
        assert it.accepted.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        assert it.early == text("early")
        assert not it.transport.is_reading()  # type: ignore[attr-defined]
        it.transport.abort()
        connector.release(backend, it.url)


@on_both_loops
async def test_an_answer_may_come_byte_by_byte_and_after_interim_ones() -> None:
    """1xx answers other than 101 are not the answer (RFC 9110 §15.2)."""

    async def answer(asked: Asked, reader: Reader, writer: Writer) -> None:
        head = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + YES + b"\r\n"
        for byte in head.replace(b"%b", accept_key(asked.get(b"sec-websocket-key")[0].decode()).encode()):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await reader.read()

    async with answering(answer) as (backend, _), connecting() as connector:
        it = await upstream.dial(connector, opening(backend))
        assert it.accepted.headers == []
        it.transport.abort()
        connector.release(backend, it.url)


# Answers that are no yes


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(YES.replace(b"%b", b"x" * 28), "Sec-WebSocket-Accept", id="wrong key"),
        pytest.param(YES + b"Sec-WebSocket-Accept: %b\r\n", "Sec-WebSocket-Accept", id="two keys"),
        pytest.param(YES.replace(b"Upgrade: websocket\r\n", b""), "without Upgrade", id="no Upgrade"),
        pytest.param(YES.replace(b"websocket", b"h2c"), "without Upgrade", id="another upgrade"),
        pytest.param(YES.replace(b"Connection: Upgrade\r\n", b""), "without Connection", id="no Connection"),
        pytest.param(YES.replace(b"HTTP/1.1", b"HTTP/1.0"), "in HTTP/1.0", id="HTTP/1.0"),
        pytest.param(YES + b"Sec-WebSocket-Protocol: v1\r\n", "subprotocol 'v1'; offered: none", id="subprotocol"),
        pytest.param(YES + b"Sec-WebSocket-Protocol: v2\r\n" * 2, "subprotocol 'v2, v2'", id="two subprotocols"),
        pytest.param(YES + b"Sec-WebSocket-Extensions: permessage-deflate\r\n", "extension", id="extension"),
    ],
)
async def test_a_101_that_is_not_valid(answer: bytes, why: str) -> None:
    """`backend_refused`: RFC 6455 §4.1 says what makes a client fail the connection."""
    async with answering(saying(answer + b"\r\n", then="wait")) as (backend, _):
        failed = await failure(backend)
    assert isinstance(failed, BackendRefused)
    assert failed.status == 101
    assert "answered 101" in str(failed)
    assert why in str(failed)


@on_both_loops
@pytest.mark.parametrize("then", ["close", "wait"])
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        pytest.param(
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\norigin not listed",
            403,
            ["403 'Forbidden': 'origin not listed'", "checking Origin", "was sent none (omit)", "websocket_origin"],
            id="403",
        ),
        pytest.param(
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nForbidden\r\n",
            403,
            ["answered 403 'Forbidden'; it may be checking Origin"],
            id="403 that says it twice",
        ),
        pytest.param(
            b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            426,
            ["426 'Upgrade Required'"],
            id="426",
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/ws\r\nContent-Length: 0\r\n\r\n",
            302,
            ["redirects are not followed: 'http://elsewhere/ws'"],
            id="a redirect",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
            200,
            ["200 'OK': 'abcdef'"],
            id="200, chunked",
        ),
        pytest.param(
            b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n\x00\x1b[2J\xff", 500, [r"'\x00\x1b[2J\\xff'"], id="binary"
        ),
        pytest.param(
            b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n" + b"z" * 100_000, 400, ["z" * 200], id="a long body"
        ),
    ],
)
async def test_another_answer(answer: bytes, status: int, words: list[str], then: str) -> None:
    """`backend_refused` with the status and the first 200 bytes of the body, printable."""
    async with answering(saying(answer, then=then)) as (backend, _):
        failed = await failure(backend)
    assert isinstance(failed, BackendRefused)
    assert failed.status == status
    assert failed.refusal.code == "backend_refused"
    assert "z" * 201 not in str(failed)
    for word in words:
        assert word in str(failed)


@on_both_loops
async def test_a_body_that_does_not_come_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is only for our log; the refused client wants its answer."""
    monkeypatch.setattr(upstream, "BODY_TIMEOUT", 0.05)
    answer = saying(b"HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nhalf", then="wait")
    async with answering(answer) as (backend, _):
        assert "503 'Busy': 'half'" in str(await failure(backend))


@on_both_loops
async def test_the_origin_that_a_refusing_backend_was_sent_is_told() -> None:
    """The seed's story: the one line that would have saved days."""
    answer = saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with answering(answer) as (backend, asked):
        forwarding = replace(backend, websocket_origin="forward")
        failed = await failure(forwarding, headers=[(b"origin", b"https://app.example.com")])
        assert asked.get(b"origin") == [b"https://app.example.com"]
        assert "was sent https://app.example.com: see websocket_origin" in str(failed)
        assert "was sent none (forward): see websocket_origin" in str(await failure(forwarding))


@on_both_loops
async def test_secrets_that_a_backend_repeats_are_masked() -> None:
    """The request's own token, credentials and cookie values, wherever they are in the excerpt, cut ones too."""
    cookie = b"session=c00kie-value-of-alice; other=" + b"0123456789" * 8
    body = b"you sent " + TOKEN.encode() + b" and c00kie-value-of-alice and " + b"0123456789" * 8 + b"." + cookie[:20]
    answer = b"HTTP/1.1 401 %b\r\nContent-Length: %d\r\n\r\n%b" % (TOKEN.encode(), len(body) + 1000, body)
    cut = b"HTTP/1.1 400 no\r\nContent-Length: 5000\r\n\r\n" + b"c00kie-value-of"
    chosen = YES + b"Sec-WebSocket-Protocol: c00kie-value-of-alice\r\n\r\n"
    for data in (answer, cut, chosen):
        async with answering(saying(data)) as (backend, _):
            failed = str(await failure(backend, headers=[(b"cookie", cookie)]))
        assert "***" in failed
        for secret in (TOKEN, "c00kie", "0123456789"):
            assert secret not in failed


# No answer


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "then", "words"),
    [
        pytest.param(b"", "close", "closed the connection before its answer", id="closed at once"),
        pytest.param(b"", "reset", "before its answer", id="reset at once"),
        pytest.param(YES[:40], "close", "closed the connection inside its answer", id="cut inside the head"),
        pytest.param(YES[:40], "reset", "inside its answer", id="reset inside the head"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "wait", "it sent 'SSH-2.0-OpenSSH_9.6", id="another protocol"),
        pytest.param(YES.replace(b"1.1", b"2.0") + b"\r\n", "wait", "it answered in HTTP/2.0", id="a 101 in HTTP/2.0"),
        pytest.param(b"HTTP/0.9 403 No\r\n\r\nbody", "wait", "it answered in HTTP/0.9", id="a 403 in HTTP/0.9"),
        pytest.param(b"HTTP/1.1 101 X\nUpgrade: websocket\n\n", "wait", "no valid HTTP answer", id="bare line feeds"),
        pytest.param(YES + b"A : b\r\n\r\n", "wait", "no valid HTTP answer", id="a space before the colon"),
        pytest.param(YES + b"A: b\r\n c\r\n\r\n", "wait", "no valid HTTP answer", id="a folded field"),
        pytest.param(YES + b"A: " + b"x" * 70_000, "wait", "larger than 65536 bytes", id="an endless head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 3000, "wait", "larger than 65536", id="endless 1xx answers"),
    ],
)
async def test_no_answer(answer: bytes, then: str, words: str) -> None:
    """`backend_protocol_error`, with the first bytes of what came instead."""
    async with answering(saying(answer, then=then)) as (backend, _):
        failed = await failure(backend)
    assert isinstance(failed, BackendProtocolError)
    assert (failed.phase, failed.refusal.code) == ("head", "backend_protocol_error")
    assert words in str(failed)


@on_both_loops
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", YES[:50]])
async def test_a_backend_that_is_silent(sent: bytes) -> None:
    """`backend_timeout` after `read_timeout`, before or inside the head."""
    async with answering(saying(sent, then="wait")) as (backend, _):
        failed = await failure(replace(backend, read_timeout=0.1))
    assert isinstance(failed, BackendTimeout)
    assert "the handshake took longer than 0.1 s" in str(failed)


@on_both_loops
async def test_a_backend_that_is_not_there() -> None:
    """`backend_unreachable`, with its address for the log."""
    async with answering(saying(b"")) as (backend, _):
        await failure(backend)
    failed = await failure(backend)
    assert isinstance(failed, BackendUnreachable)


@on_both_loops
async def test_a_cancelled_handshake_leaves_nothing_behind() -> None:
    """The client has left: the backend's connection ends, its place is free."""
    asked = asyncio.Event()

    async def answer(_: Asked, reader: Reader, writer: Writer) -> None:
        asked.set()
        await reader.read()

    async with answering(answer) as (backend, _), connecting() as connector:
        dialling = asyncio.create_task(upstream.dial(connector, opening(backend)))
        await asked.wait()
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling


# Pure


@pytest.mark.parametrize("value", [b"a\r\nX-User-ID: 666", b"a\nb", b"a\0b"])
def test_no_field_can_begin_another(value: bytes) -> None:
    """No server lets such a value in; if one did, it would go no further."""
    backend = Backend("main", (Url.parse("http://127.0.0.1:1"),))
    with pytest.raises(Refused, match="x-odd"):
        opening(backend, [(b"x-odd", value)]).request(backend.urls[0], b"key")
