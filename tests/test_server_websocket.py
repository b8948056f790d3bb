"""`relay.server` as an ASGI WebSocket server: handshakes, messages, codes, and the hand-over to a tunnel."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from relay.typing import Message, RawHeaders, Receive, Scope, Send
from tests.server_helpers import (
    ACCEPT,
    GET,
    HANDSHAKE,
    KEY,
    QUICK,
    Client,
    Recorder,
    Served,
    respond,
    serving,
    until,
)
from tests.ws_helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, text

if TYPE_CHECKING:
    from tests.conftest import Events

MIB = 2**20
CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]


class Socket:
    """An application: accepts, keeps its events, and sends what the test wants.

    Attributes:
        events: As they came, up to the last.
        send: ASGI's.
    """

    send: Send

    def __init__(self, accept: Message | None = None, reads: bool = True) -> None:
        self.accept = {"type": "websocket.accept"} | (accept or {})
        self.reads = reads
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.scope: Scope = {}
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.send = scope, send
        try:
            assert await receive() == {"type": "websocket.connect"}
            await send(self.accept)
            if not self.reads:
                await asyncio.Event().wait()
            while True:
                event = await receive()
                self.events.put_nowait(event)
                if event["type"] == "websocket.disconnect":
                    return
        finally:
            self.ended.set()


async def shake_hands(client: Client, handshake: bytes = HANDSHAKE, behind: bytes = b"") -> RawHeaders:
    client.send(handshake + behind)
    status, headers = await client.head()
    assert status == 101
    return headers


def connection_of(served: Served) -> Any:
    (connection,) = served.host.connections
    return connection


# --- the handshake ----------------------------------------------------------------------------------------------------


async def test_a_handshake_is_answered_by_the_application() -> None:
    """RFC 6455 §4.2.2: the proof, its subprotocol, its fields in order, and nothing of HTTP."""
    socket = Socket(
        {"subprotocol": "b", "headers": [(b"X-One", b"1"), (b"sec-websocket-extensions", b"x"), (b"x-one", b"2")]}
    )
    async with serving(socket) as served, served.client() as client:
        offer = b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        assert await shake_hands(client, HANDSHAKE[:-2] + offer) == [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", ACCEPT),
            (b"Sec-WebSocket-Protocol", b"b"),
            (b"X-One", b"1"),
            (b"sec-websocket-extensions", b"x"),
            (b"x-one", b"2"),
        ]
    assert socket.scope["subprotocols"] == ["a", "b"]
    assert (socket.scope["path"], socket.scope["raw_path"], socket.scope["scheme"]) == ("/ws", b"/ws", "ws")
    assert (b"sec-websocket-extensions", b"permessage-deflate") in socket.scope["headers"]
    assert {"websocket.http.response", "relay.tunnel"} <= set(socket.scope["extensions"])


async def test_header_names_and_tokens_of_a_handshake_have_no_case() -> None:
    """RFC 6455 §4.2.1; Firefox sends ``keep-alive, Upgrade``."""
    async with serving(Socket()) as served, served.client() as client:
        changed = HANDSHAKE.replace(b"Connection: Upgrade", b"connection: keep-alive, UPGRADE")
        await shake_hands(client, changed.replace(b"Upgrade: websocket", b"UPGRADE: WebSocket"))


REFUSED_HANDSHAKES = [
    pytest.param(HANDSHAKE.replace(b"GET", b"POST"), 400, id="POST"),
    pytest.param(HANDSHAKE[:-2] + b"Content-Length: 1\r\n\r\nx", 400, id="a body"),
    pytest.param(HANDSHAKE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="an empty body in chunks"),
    pytest.param(HANDSHAKE.replace(b"Version: 13", b"Version: 8"), 426, id="an old version"),
    pytest.param(HANDSHAKE.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426, id="no version"),
    pytest.param(HANDSHAKE[:-2] + b"Sec-WebSocket-Version: 13\r\n\r\n", 426, id="two versions"),
    pytest.param(HANDSHAKE.replace(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""), 400, id="no key"),
    pytest.param(HANDSHAKE[:-2] + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n", 400, id="two keys"),
    pytest.param(HANDSHAKE.replace(KEY, b"AAAA"), 400, id="a short key"),
    pytest.param(HANDSHAKE.replace(KEY, b64encode(bytes(17))), 400, id="a key of the wrong length"),
    pytest.param(HANDSHAKE.replace(KEY, b"!" * 24), 400, id="a key that is no base64"),
    pytest.param(HANDSHAKE.replace(b"Host: a\r\n", b""), 400, id="no Host"),
]  # fmt: skip


@pytest.mark.parametrize(("handshake", "status"), REFUSED_HANDSHAKES)
async def test_malformed_handshakes_are_refused(handshake: bytes, status: int, events: Events) -> None:
    """RFC 6455 §4.2.1 and §4.4: the contract's JSON, never the application."""
    application = Recorder()
    async with serving(application) as served, served.client() as client:
        client.send(handshake)
        response = await client.response()
        assert await client.ended() == b""
    assert (response.status, response.json["code"], application.scopes) == (status, "bad_request", [])
    assert response.get(b"sec-websocket-version") == (b"13" if status == 426 else None)
    name = "http.refused" if b"Host" not in handshake else "ws.refused"
    assert events.one(name)["status"] == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 502, 503, 504])
async def test_the_application_may_refuse_with_any_response(status: int) -> None:
    """ASGI's ``websocket.http.response``; the connection ends, and the application learns it."""
    events: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        fields = [(b"content-length", b"4"), (b"Retry-After", b"1")]
        await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"pe"})
        events.append(await receive())

    async with serving(application) as served, served.client() as client:
        client.send(HANDSHAKE)
        expected = [(b"content-length", b"4"), (b"Retry-After", b"1"), (b"connection", b"close")]
        response = await client.response()
        assert (response.status, response.headers, response.body) == (status, expected, b"nope")
        assert await client.ended() == b""
        await until(lambda: not served.host.connections)
    assert events == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def closes(receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 4000})


async def returns(receive: Receive, send: Send) -> None:
    pass


async def raises(receive: Receive, send: Send) -> None:
    raise RuntimeError


async def accepts_what_was_not_offered(receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept", "subprotocol": "x"})


async def splits_the_response(receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept", "headers": [(b"x", b"1\r\ny: 2")]})


async def sends_too_early(receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send", "text": "x"})


async def breaks_its_response_off(receive: Receive, send: Send) -> None:
    fields = [(b"content-length", b"4")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": b"x"})


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        (closes, 403),
        (returns, 500),
        (raises, 500),
        (accepts_what_was_not_offered, 500),
        (splits_the_response, 500),
        (sends_too_early, 500),
        (breaks_its_response_off, 500),
    ],
)
async def test_a_handshake_is_always_answered(fails: Any, status: int) -> None:
    """ASGI: a close before the accept is a 403; the rest are faults of the application."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await fails(receive, send)

    async with serving(application) as served, served.client() as client:
        client.send(HANDSHAKE)
        response = await client.response()
        assert response.status == status
        if status == 500:
            assert response.json["code"] == "internal_error"
        assert await client.ended() == b""
        await until(lambda: not served.host.connections)


async def test_a_handshake_may_follow_requests_on_its_connection() -> None:
    """RFC 9110 §7.8; also when it was sent ahead."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            return await respond(send, b"http")
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x"})
        await receive()

    async with serving(application) as served, served.client() as client:
        client.send(GET + GET + HANDSHAKE)
        assert (await client.response()).body == b"http"
        assert (await client.response()).body == b"http"
        assert (await client.head())[0] == 101
        assert await client.frame() == (TEXT, b"x")


async def test_an_application_that_never_answers_a_handshake() -> None:
    """`Limits.accept_time`, Daphne's ``--websocket_connect_timeout``."""
    ended = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"
        ended.set()

    async with serving(application, accept_time=0.05, **QUICK) as served, served.client() as client:
        client.send(HANDSHAKE)
        assert (await client.response()).json["code"] == "backend_timeout"
        await ended.wait()


@pytest.mark.parametrize("how", ["close", "reset", "behind data that nobody reads"])
async def test_a_client_that_leaves_before_the_answer(how: str) -> None:
    """relay.cancel: the application stops dialling at once, without listening for it."""
    seen: list[Message] = []
    ended = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(await receive())
            await send({"type": "websocket.accept"})  # too late: dropped
            ended.set()

    async with serving(application, buffer=1000, **QUICK) as served, served.client() as client:
        client.send(HANDSHAKE + (text("x" * 2000, masked=True) if "data" in how else b""))
        await until(lambda: seen)
        if "data" in how:
            await until(lambda: not connection_of(served).reading)
        if how == "reset":
            client.vanish()
        else:
            client.writer.close()
        await ended.wait()
        await until(lambda: not served.host.connections)
    assert seen == [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_a_handshake_behind_a_request_whose_client_is_gone() -> None:
    """It is cancelled before its first step; whoever it was, the connection is not kept for it."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.set()
            await go.wait()
            await respond(send, b"http")

    async with serving(application, application_close_time=3600, **QUICK) as served:
        for _ in range(20):
            async with served.client() as client:
                client.send(GET + HANDSHAKE)
                await asked.wait()
                await until(lambda: not connection_of(served).reading)
                client.vanish()
                go.set()
                await until(lambda: not served.host.connections)
            asked.clear()
            go.clear()


# --- messages ---------------------------------------------------------------------------------------------------------

MESSAGES = [
    pytest.param(TEXT, "", id="empty text"),
    pytest.param(BINARY, b"", id="empty binary"),
    pytest.param(TEXT, "é\0", id="text"),
    pytest.param(BINARY, bytes(range(256)), id="binary"),
    pytest.param(BINARY, bytes(70_000), id="more than 64 KiB"),
]


@pytest.mark.parametrize(("opcode", "message"), MESSAGES)
async def test_messages_pass_both_ways(opcode: int, message: str | bytes) -> None:
    """RFC 6455 §5.6: each kind stays what it is, empty ones included."""
    key = "text" if opcode == TEXT else "bytes"
    payload = message.encode() if isinstance(message, str) else message
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client, behind=frame(opcode, payload, masked=True))
        assert await socket.events.get() == {"type": "websocket.receive", key: message}
        await socket.send({"type": "websocket.send", key: message})
        assert await client.frame() == (opcode, payload)


async def test_fragments_make_one_message() -> None:
    """RFC 6455 §5.4: with control frames between them, and a character split in two."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client)
        for part in (
            frame(TEXT, b"\xc3", fin=False, masked=True),
            frame(PING, b"p", masked=True),
            frame(CONTINUATION, b"\xa9", fin=False, masked=True),
            frame(CONTINUATION, b"", masked=True),
        ):
            client.send(part)
        assert await client.frame() == (PONG, b"p")
        assert await socket.events.get() == {"type": "websocket.receive", "text": "é"}


@pytest.mark.parametrize("code", CODES)
async def test_a_close_of_the_client_reaches_the_application_and_is_answered(code: int) -> None:
    """RFC 6455 §5.5.1 and §7.4: every code that can be in a close frame, and the reason."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client)
        client.send(close(code, "why, é", masked=True))
        assert await socket.events.get() == {"type": "websocket.disconnect", "code": code, "reason": "why, é"}
        assert await client.frame() == (CLOSE, code.to_bytes(2) + "why, é".encode())
        assert await client.ended() == b""


async def test_a_close_without_a_code_is_1005() -> None:
    """RFC 6455 §7.1.5; it is answered in kind."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client, behind=close(masked=True))
        assert (await socket.events.get())["code"] == 1005
        assert await client.frame() == (CLOSE, b"")


@pytest.mark.parametrize("code", [None, *CODES])
async def test_the_application_closes_with_any_code_and_a_reason(code: int | None) -> None:
    """No code is ASGI's 1000."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client)
        message: Message = {"type": "websocket.close", "reason": "because"}
        await socket.send(message if code is None else message | {"code": code})
        await socket.send({"type": "websocket.send", "text": "dropped"})
        payload = (code or 1000).to_bytes(2) + b"because"
        assert await client.frame() == (CLOSE, payload)
        client.send(text("dropped too", masked=True) + frame(CLOSE, payload, masked=True))
        assert await client.ended() == b""
        event = await socket.events.get()
    assert event == {"type": "websocket.disconnect", "code": code or 1000, "reason": "because"}


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_codes_that_no_close_frame_can_hold(code: int) -> None:
    """RFC 6455 §7.4: an error of the application, which ends the socket with 1011."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": code})

    async with serving(application) as served, served.client() as client:
        await shake_hands(client)
        assert await client.frame() == (CLOSE, (1011).to_bytes(2))


@pytest.mark.parametrize("fails", [True, False], ids=["raises", "returns"])
async def test_an_application_that_leaves_its_socket_open(fails: bool) -> None:
    """1011: it is not the client's doing."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if fails:
            raise RuntimeError

    async with serving(application, close_time=0.05, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        assert await client.frame() == (CLOSE, (1011).to_bytes(2))
        assert await client.ended() == b""  # an unanswered close is cut
        await until(lambda: not served.host.connections)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(text("x"), 1002, id="no mask"),
        pytest.param(frame(TEXT, b"x", rsv=4, masked=True), 1002, id="a reserved bit"),
        pytest.param(frame(0x3, masked=True), 1002, id="a reserved opcode"),
        pytest.param(frame(CONTINUATION, b"x", masked=True), 1002, id="a continuation of nothing"),
        pytest.param(frame(TEXT, b"x", fin=False, masked=True) + text("y", masked=True), 1002, id="a torn message"),
        pytest.param(frame(PING, b"x" * 126, masked=True), 1002, id="a long ping"),
        pytest.param(frame(PING, b"", fin=False, masked=True), 1002, id="a fragmented ping"),
        pytest.param(frame(CLOSE, b"x", masked=True), 1002, id="a close of one byte"),
        pytest.param(close(1006, masked=True), 1002, id="a code that can't be sent"),
        pytest.param(close(5000, masked=True), 1002, id="a code out of range"),
        pytest.param(frame(TEXT, b"\xff", masked=True), 1007, id="text that is no UTF-8"),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff", masked=True), 1007, id="a reason that is no UTF-8"),
        pytest.param(frame(BINARY, bytes(2000), masked=True), 1009, id="too large"),
        pytest.param(
            frame(BINARY, bytes(600), fin=False, masked=True) + frame(CONTINUATION, bytes(600), masked=True),
            1009,
            id="too large together",
        ),
    ],
)
async def test_a_client_that_breaks_the_protocol_is_told_so(sent: bytes, code: int) -> None:
    """RFC 6455 §7.1.7; for the application it has vanished, as it sent no valid close frame. What it sends on is read,
    or a reset would destroy our close frame."""
    socket = Socket()
    async with serving(socket, message_size=1000) as served, served.client() as client:
        await shake_hands(client, behind=text("before", masked=True) + sent)
        client.send(text("x" * 999, masked=True) * 5000)
        opcode, payload = await client.frame()
        assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, code)
        assert await client.ended() == b""
        assert (await socket.events.get())["text"] == "before"
        event = await socket.events.get()
        assert (event["type"], event["code"]) == ("websocket.disconnect", 1006)
        assert event["reason"]


async def test_a_client_that_vanishes() -> None:
    """1006: no close frame came (RFC 6455 §7.1.5); what came before it is still read."""
    socket = Socket()
    async with serving(socket) as served, served.client() as client:
        await shake_hands(client, behind=text("last words", masked=True))
        assert (await socket.events.get())["text"] == "last words"
        client.vanish()
        assert await socket.events.get() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        await until(lambda: not served.host.connections)


async def test_an_application_that_ignores_the_end_is_cancelled() -> None:
    """`Limits.application_close_time`, Daphne's ``--application-close-timeout``."""
    socket = Socket(reads=False)
    async with serving(socket, application_close_time=0.05, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        client.vanish()
        await socket.ended.wait()
        await until(lambda: not served.host.connections)


# --- slow peers -------------------------------------------------------------------------------------------------------


async def test_an_application_that_does_not_read_makes_its_client_wait() -> None:
    """Few messages wait for it, however small they are; none is lost."""
    go_on, got = asyncio.Event(), 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal got
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await go_on.wait()
        while (await receive())["type"] == "websocket.receive":
            got += 1

    async with serving(application) as served, served.client() as client:
        await shake_hands(client)
        client.send(text("x" * 99, masked=True) * 100_000)
        await until(lambda: not connection_of(served).reading)
        assert len(connection_of(served)._events) < 300
        assert client.writer.transport.get_write_buffer_size() > MIB
        go_on.set()
        client.send(close(1000, masked=True))
        assert await client.frame() == (CLOSE, (1000).to_bytes(2))
        await until(lambda: got == 99_999)


async def test_a_client_that_does_not_read_makes_the_application_wait() -> None:
    """``send`` waits; what waits for the client stays bounded, pongs for a flood of pings included."""
    sent = 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(512):
            await send({"type": "websocket.send", "bytes": bytes(MIB // 16)})
            sent += 1

    async with serving(application) as served, served.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(HANDSHAKE)
        await until(lambda: served.host.connections and connection_of(served).writable)
        connection = connection_of(served)
        assert sent < 512
        held = connection.transport.get_write_buffer_size()
        assert held < MIB
        client.send(frame(PING, b"p" * 125, masked=True) * 20_000)
        client.send(frame(PING, b"last", masked=True))
        await until(lambda: connection._pong == frame(PONG, b"last"))
        assert connection.transport.get_write_buffer_size() == held
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.head()
        opcodes = [(await client.frame())[0] for _ in range(513)]
    assert opcodes.count(BINARY) == 512
    assert opcodes.count(PONG) == 1


# --- pings ------------------------------------------------------------------------------------------------------------


async def test_a_silent_client_is_pinged_and_then_given_up() -> None:
    """`Limits.ping_interval` and `ping_timeout`: without any byte it has vanished."""
    socket = Socket()
    async with serving(socket, ping_interval=0.02, ping_timeout=0.05, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        assert await client.frame() == (PING, b"")
        assert await socket.events.get() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


async def test_a_client_that_answers_pings_stays() -> None:
    """Any byte will do."""
    socket = Socket()
    async with serving(socket, ping_interval=0.02, ping_timeout=0.5, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        for _ in range(5):
            assert await client.frame() == (PING, b"")
            client.send(frame(PONG, masked=True))
        assert socket.events.empty()


async def test_sockets_have_no_maximal_age_unless_the_operator_wants_one() -> None:
    """`Limits.socket_time`, Daphne's ``--websocket_timeout``."""
    async with serving(Socket(), socket_time=0.05, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        assert await client.frame() == (CLOSE, (1001).to_bytes(2))


# --- the tunnel -------------------------------------------------------------------------------------------------------


class Leg(asyncio.Protocol):
    """What an application puts on the client's transport: echoes in upper case."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport, leftover: bytes) -> asyncio.Future[None]:
        self.transport = transport
        transport.set_protocol(self)
        if leftover:
            self.data_received(leftover)
        return self.ended

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def test_a_tunnel_gets_every_byte_and_the_transport() -> None:
    """``relay.tunnel``: what came behind the handshake first, unparsed; then the socket is the application's."""
    outcome: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        leg = Leg()
        await send({"type": "websocket.accept", "headers": [(b"sec-websocket-extensions", b"permessage-deflate")]})
        await send({"type": "relay.tunnel", "attach": leg.attach})
        await leg.ended
        outcome.append("ended")

    async with serving(application, idle_time=0.01, ping_interval=0.01, **QUICK) as served, served.client() as client:
        await shake_hands(client, behind=b"not a frame, ")
        client.send(b"nor is this")
        assert await client.reader.readexactly(24) == b"NOT A FRAME, NOR IS THIS"
        assert len(served.host.connections) == 1
        client.writer.close()
        await until(lambda: outcome)
        await until(lambda: not served.host.connections)


async def test_a_tunnel_outlives_its_application() -> None:
    """The server waits for the future; ``receive`` brings nothing meanwhile."""
    leg: list[Leg] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        leg.append(Leg())
        await send({"type": "websocket.accept"})
        await send({"type": "relay.tunnel", "attach": leg[0].attach})

    async with serving(application, **QUICK) as served, served.client() as client:
        await shake_hands(client)
        await until(lambda: not served.host.applications)
        client.send(b"still here")
        assert await client.reader.readexactly(10) == b"STILL HERE"
        assert served.host.connections
        client.vanish()
        await until(lambda: not served.host.connections)


async def test_a_reader_that_waits_since_the_handshake_takes_nothing_from_the_tunnel() -> None:
    """An application listens for the client's end while it dials, and stops listening when it attaches."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        leg = Leg()
        await send({"type": "websocket.accept"})
        await send({"type": "relay.tunnel", "attach": leg.attach})
        listening.cancel()
        await leg.ended

    async with serving(application) as served, served.client() as client:
        await shake_hands(client)
        client.send(b"x")
        assert await client.reader.readexactly(1) == b"X"


async def test_a_hand_over_that_fails_ends_the_socket() -> None:
    """Nobody owns it then."""

    def attach(transport: asyncio.Transport, leftover: bytes) -> asyncio.Future[None]:
        raise RuntimeError

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "relay.tunnel", "attach": attach})

    async with serving(application) as served, served.client() as client:
        await shake_hands(client)
        assert await client.ended() == b""
        await until(lambda: not served.host.connections)


async def test_a_tunnel_comes_too_late_behind_messages() -> None:
    """Some bytes are parsed already: the application is told, and the socket ends with 1011."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "relay.tunnel", "attach": Leg().attach})

    async with serving(application) as served, served.client() as client:
        await shake_hands(client, behind=text("x", masked=True))
        assert await client.frame() == (CLOSE, (1011).to_bytes(2))


async def test_no_value_of_a_field_reaches_the_log(events: Events) -> None:
    """A refused handshake may carry a token."""
    async with serving(Socket()) as served, served.client() as client:
        client.send(HANDSHAKE.replace(b"/ws", b"/ws?token=s3cret").replace(KEY, b"s3cret"))
        assert (await client.response()).status == 400
    assert "s3cret" not in json.dumps(events.all, default=str)
    assert events.one("ws.refused")["path"] == "/ws"
