"""`relay.websocket.consumer`: who is refused how, what may happen during a handshake, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from websockets.exceptions import InvalidStatus

from relay.gateway import Gateway
from relay.http.handler import RelayHandler
from relay.routing.snapshot import Url
from relay.routing.watch import RevocationEntry
from relay.runtime import Runtime
from relay.settings import RelaySettings
from relay.websocket.consumer import RelayConsumer
from tests import stack
from tests.conftest import Events
from tests.http_helpers import self_signed
from tests.identity_helpers import SECRET, token
from tests.stack import BackendServer, Behaviour, Seen, bearer, closed
from tests.ws_helpers import CLOSE, Peer, frame, on_both_loops, text

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

ALICE = (b"authorization", b"Bearer " + token(SECRET).encode())


@dataclass
class Door:
    """The application, with a server in memory."""

    runtime: Runtime
    backend: BackendServer

    def knock(self, *headers: tuple[bytes, bytes], path: str = "/ws", **extensions: Any) -> WebsocketCommunicator:
        """A handshake under a server with these ASGI extensions (``_`` stands for a dot)."""
        consumer = RelayConsumer.as_asgi(runtime=self.runtime)
        application = Gateway(self.runtime, RelayHandler(self.runtime), consumer)
        communicator = WebsocketCommunicator(application, path, headers=[(b"host", b"gw.test"), *headers])
        communicator.scope["extensions"] = {name.replace("_", "."): {} for name in extensions}
        return communicator


@asynccontextmanager
async def door(behaviour: Behaviour = stack.echo, **route: Any) -> AsyncIterator[Door]:
    """The application before one backend; at the end no place, connection or task may be left."""
    async with stack.backend(behaviour) as backend:
        runtime = Runtime(
            RelaySettings(jwt_secret=SECRET), stack.snapshot(backend.url, with_routes=stack.routes(**route))
        )
        await runtime.start()
        try:
            yield Door(runtime, backend)
            await nothing_left(runtime)
        finally:
            await runtime.stop()


async def nothing_left(runtime: Runtime) -> None:
    """Wait until the last socket is gone; then nobody holds a place, and no backend counts a connection."""
    async with asyncio.timeout(10):
        while len(runtime.registry) or any(  # noqa: ASYNC110
            url.in_use for backend in runtime.connector.status().values() for url in backend.urls
        ):
            await asyncio.sleep(0.005)
    assert runtime.registry._places == {}


# Refusals


async def test_a_server_that_can_answers_with_a_status(events: Events) -> None:
    """The contract's JSON on the handshake; the log, the metrics and the body have one code."""
    async with door() as it:
        client = it.knock(websocket_http_response=True)
        await client.send_input({"type": "websocket.connect"})
        start = await client.receive_output(5)
        body = await client.receive_output(5)
        await client.wait()
        headers = dict(start["headers"])
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert headers[b"www-authenticate"] == b"Bearer"
        said = json.loads(body["body"])
        assert (said["success"], said["code"]) == (False, "no_token")
        assert said["request_id"].encode() == headers[b"x-request-id"]
        assert it.backend.connections == 0
    event = events.one("ws.refused")
    assert (event["code"], event["status"], event["route"]) == ("no_token", 401, "/ws")


async def test_another_server_just_refuses() -> None:
    """Stock Daphne makes a 403 of it."""
    async with door() as it:
        client = it.knock()
        assert await client.connect(5) == (False, 1000)
        await client.wait()


@pytest.mark.parametrize(
    ("headers", "path", "code"),
    [
        pytest.param([], "/ws", 4401, id="no token"),
        pytest.param([ALICE, (b"origin", b"https://evil.test")], "/ws", 4403, id="origin"),
        pytest.param([ALICE, (b"origin", b"null"), (b"origin", b"null")], "/ws", 4403, id="two origins"),
        pytest.param([ALICE], "/admins-ws", 4403, id="role"),
    ],
)
async def test_refused_with_a_close(headers: list[tuple[bytes, bytes]], path: str, code: int, events: Events) -> None:
    """`refuse_with = "close"`: accepted with the first real subprotocol, then closed with a sentence."""
    async with door() as it:
        routes = tuple(replace(route, refuse_with="close") for route in it.runtime.snapshot.routes)
        it.runtime.on_snapshot(replace(it.runtime.snapshot, routes=routes))
        offer = (b"sec-websocket-protocol", b"bearer.x.y.z, v2, v1")
        client = it.knock(*headers, offer, path=path, websocket_http_response=True)
        assert await client.connect(5) == (True, "v2")
        closing = await client.receive_output(5)
        await client.wait()
        assert (closing["type"], closing["code"]) == ("websocket.close", code)
        assert closing["reason"].endswith(".")
    assert events.one("ws.refused")["close_code"] == code


@pytest.mark.parametrize("path", ["/nowhere", "/ws/../ws"])
async def test_what_has_no_close_code_is_always_a_status(path: str) -> None:
    """Without a route there is no `refuse_with`."""
    async with door(refuse_with="close") as it:
        client = it.knock(ALICE, path=path, websocket_http_response=True)
        await client.send_input({"type": "websocket.connect"})
        assert (await client.receive_output(5))["type"] == "websocket.http.response.start"
        await client.receive_output(5)
        await client.wait()


async def test_a_backend_that_fails_is_told_apart_from_one_that_is_off(events: Events) -> None:
    """502 and 504 log the exact cause as `backend.error`, too; a backend that is switched off has not failed."""
    async with door() as it:
        gone = replace(it.runtime.snapshot.backends["main"], urls=(Url.parse("http://127.0.0.1:1"),))
        it.runtime.on_snapshot(replace(it.runtime.snapshot, backends={"main": gone}))
        assert await it.knock(ALICE).connect(5) == (False, 1000)
        failed = events.one("backend.error")
        assert (failed["code"], failed["user_id"], failed["route"]) == ("backend_unreachable", "1", "/ws")
        it.runtime.on_snapshot(replace(it.runtime.snapshot, backends={"main": replace(gone, enabled=False)}))
        assert await it.knock(ALICE).connect(5) == (False, 1000)
    assert len(events.named("backend.error")) == 1
    assert [event["code"] for event in events.named("ws.refused")] == ["backend_unreachable", "backend_disabled"]


# The handshake


async def test_the_accept(events: Events) -> None:
    """The backend's subprotocol and end to end fields, and our request id, reach the client."""

    async def behaviour(seen: Seen, reader: Reader, writer: Writer) -> None:
        fields = [(name, value) for name, value in seen.headers if name != b"sec-websocket-protocol"]
        protocol = await stack.accept(replace(seen, headers=fields), _Inserting(writer, b"Set-Cookie: a=1\r\n"))
        assert protocol is not None
        await reader.read()

    async with door(behaviour) as it:
        client = it.knock(ALICE, (b"sec-websocket-protocol", b"v2, v1"))
        assert await client.connect(5) == (True, None)
        assert (b"set-cookie", b"a=1") in client.response_headers
        assert b"x-request-id" in dict(client.response_headers)
        assert len(it.runtime.registry) == 1
        await client.disconnect(1000)
    assert events.one("ws.open")["user_id"] == "1"
    assert events.one("ws.close")["closed_by"] == "client"


class _Inserting:
    """A writer that puts a field behind the status line."""

    def __init__(self, writer: Writer, field: bytes) -> None:
        self._writer, self._field = writer, field

    def write(self, data: bytes) -> None:
        line, rest = data.split(b"\r\n", 1)
        self._writer.write(line + b"\r\n" + self._field + rest)


class Slow:
    """A backend that answers handshakes when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.left = asyncio.Event()
        self.told: list[int] = []

    async def __call__(self, seen: Seen, reader: Reader, writer: Writer) -> None:
        self.asked.set()
        leaving = asyncio.create_task(reader.read(1))
        answering = asyncio.create_task(self.may_answer.wait())
        await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        answering.cancel()
        await asyncio.wait((leaving, answering))
        if self.may_answer.is_set():
            await stack.accept(seen, writer)
            peer = Peer(reader, writer, client=False)
            while (got := await peer.next()).opcode != CLOSE:
                peer.send(got.opcode, got.payload)
            self.told.append(got.close[0] or 1005)
            peer.close(got.close[0])
        self.left.set()


async def test_a_client_that_leaves_during_the_dial(events: Events) -> None:
    """The dial ends with it; its place is free."""
    slow = Slow()
    async with door(slow, max_connections_per_user=1) as it:
        client = it.knock(ALICE)
        await client.send_input({"type": "websocket.connect"})
        await slow.asked.wait()
        assert it.runtime.registry.count(("websocket", "/ws", ()), "1") == 1
        await client.send_input({"type": "websocket.disconnect", "code": 1006})
        await client.wait(5)
        async with asyncio.timeout(10):
            await slow.left.wait()
    event = events.one("ws.close")
    assert (event["close_code"], event["closed_by"]) == (1006, "client")
    assert "during the handshake" in event["detail"]


async def test_a_server_that_stops_during_the_dial() -> None:
    """A cancelled handshake leaves nothing behind."""
    slow = Slow()
    async with door(slow) as it:
        client = it.knock(ALICE)
        await client.send_input({"type": "websocket.connect"})
        await slow.asked.wait()
        client.future.cancel()
        async with asyncio.timeout(10):
            await slow.left.wait()


async def test_places_are_taken_before_the_dial(events: Events) -> None:
    """Two handshakes that arrive together can't both be the last one allowed."""
    slow = Slow()
    async with door(slow, max_connections_per_user=1) as it:
        first = it.knock(ALICE)
        await first.send_input({"type": "websocket.connect"})
        await slow.asked.wait()
        assert await it.knock(ALICE).connect(5) == (False, 1000)
        bob = (b"authorization", b"Bearer " + token(SECRET, user_id=2).encode())
        slow.may_answer.set()
        other = it.knock(bob)
        assert (await other.connect(5))[0]
        assert (await first.receive_output(5))["type"] == "websocket.accept"
        await first.disconnect(1000)
        await other.disconnect(1000)
    assert events.one("ws.refused")["code"] == "too_many_connections"


@pytest.mark.parametrize(
    ("what", "code"), [("revoked", 4401), ("route gone", 1012), ("origin gone", 1012), ("drain", 1012), ("nothing", 0)]
)
async def test_what_happens_during_the_dial_counts(what: str, code: int) -> None:
    """The socket is in no registry yet, all the same it ends as the others do."""
    slow = Slow()
    async with door(slow) as it:
        client = it.knock(ALICE, (b"origin", stack.ORIGIN.encode()), websocket_http_response=True)
        await client.send_input({"type": "websocket.connect"})
        await slow.asked.wait()
        now = it.runtime.snapshot
        if what == "revoked":
            it.runtime.on_revocations([RevocationEntry("user", "1", 4e9, None)])
        elif what == "route gone":
            it.runtime.on_snapshot(replace(now, routes=now.routes[:1]))
        elif what == "origin gone":
            it.runtime.on_snapshot(replace(now, origins=()))
        elif what == "drain":
            it.runtime.drain()
        else:
            it.runtime.on_snapshot(replace(now, revision=7))
        slow.may_answer.set()
        assert (await client.receive_output(5))["type"] == "websocket.accept"
        if code:
            assert (await client.receive_output(5))["code"] == code
        else:
            await client.send_input({"type": "websocket.receive", "text": "here"})
            assert (await client.receive_output(5))["text"] == "here"
            await client.send_input({"type": "websocket.disconnect", "code": 1000})
        await client.wait(10)
        assert slow.told == [1001 if code else 1000]


# On the wire, under our own server


async def test_re_authentication_moves_the_deadline(gateway: stack.Stack) -> None:
    """The registry gives the socket another identity; from then on that one's deadline counts."""
    async with gateway.websocket(additional_headers=bearer()) as client:
        (socket,) = gateway.runtime.registry
        assert socket.identity is not None
        socket.identity = replace(socket.identity, expires_at=1.0)
        assert await closed(client) == (4401, "token expired")


async def test_frames_behind_the_clients_handshake_arrive(gateway: stack.Stack) -> None:
    """A client need not wait for the 101 before it writes; nothing of it is lost in the hand-over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = (
        "GET /ws HTTP/1.1\r\nHost: gw.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: {bearer()['Authorization']}\r\n\r\n"
    )
    writer.write(request.encode() + text("behind it", masked=True))
    peer = Peer(reader, writer, client=True)
    try:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await peer.next()).payload == b"behind it"
        peer.close(1000)
        assert (await peer.next()).close == (1000, "")
        assert await peer.end() == "end"
    finally:
        writer.close()


async def test_permessage_deflate_is_between_client_and_backend() -> None:
    """The backend's answer to the client's offer is the client's; compressed frames pass as they are."""
    offers: list[str | None] = []

    async def behaviour(seen: Seen, reader: Reader, writer: Writer) -> None:
        offers.append(seen.get("sec-websocket-extensions"))
        chosen = b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n"
        await stack.accept(seen, _Inserting(writer, chosen))  # type: ignore[arg-type]
        peer = Peer(reader, writer, client=False)
        while (got := await peer.next()).opcode != CLOSE:
            assert got.rsv == 4
            peer.write(frame(got.opcode, got.payload, rsv=4))
        peer.close(1000)

    async with stack.backend(behaviour) as backend, stack.gateway(stack.snapshot(backend.url)) as gateway:
        async with gateway.websocket(compression="deflate") as client:
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            for message in ("compressed " * 100, "again"):
                await client.send(message)
                assert await client.recv() == message
    assert offers[0] is not None
    assert offers[0].startswith("permessage-deflate")


async def test_an_answer_to_an_offer_that_was_not_made_is_no_yes() -> None:
    """502 for the client, whose library would fail the connection otherwise."""

    async def behaviour(seen: Seen, reader: Reader, writer: Writer) -> None:
        chosen = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        await stack.accept(seen, _Inserting(writer, chosen))  # type: ignore[arg-type]
        await reader.read()

    async with stack.backend(behaviour) as backend, stack.gateway(stack.snapshot(backend.url)) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            await gateway.websocket(compression=None)
        assert json.loads(refused.value.response.body)["code"] == "backend_refused"


@on_both_loops
async def test_a_backend_behind_tls(tmp_path: Path) -> None:
    """All of it over ``https``: large messages, the closing handshake, a backend that vanishes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path, "localhost"))
    server = BackendServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        async with stack.gateway(stack.snapshot(url, tls_verify=False)) as gateway:
            async with gateway.websocket(max_size=None) as client:
                for message in ("small", b"x" * 2_000_000, ""):
                    await client.send(message)
                    assert await client.recv() == message
                await client.close(4000, "bye")
                assert (client.close_code, client.close_reason) == (4000, "bye")
            async with gateway.websocket() as client:
                await server.close()
                assert (await closed(client))[0] == 1014
            await nothing_left(gateway.runtime)
    finally:
        listening.close()
        await listening.wait_closed()
