"""The contract, sections 4 to 6, for WebSockets: real sockets, the whole gateway, both ways of carrying."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from relay.live.registry import DRAIN, KICKED
from relay.routing.snapshot import Rate, Route
from relay.routing.watch import KickEntry, RevocationEntry
from relay.websocket.lifetime import Limits
from tests import stack, ws_helpers
from tests.conftest import Events
from tests.identity_helpers import OTHER_SECRET, SECRET, token
from tests.stack import ORIGIN, Ends, Seen, bearer, closed, observed

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

EVIL = {"Origin": "https://evil.test"}
FOREIGN = {"Authorization": f"Bearer {token(OTHER_SECRET)}"}
COOKIE = {"Cookie": f"auth_token={token(SECRET)}"}
CLOSE_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4401, 4999]


@pytest.fixture(params=["tunnel", "messages"])
def carrier(request: pytest.FixtureRequest) -> str:
    """How sockets are carried; a promise of the contract holds for both."""
    way: str = request.param
    return way


@asynccontextmanager
async def relayed(
    carrier: str,
    behaviour: stack.Behaviour,
    limits: Limits | None = None,
    route: dict[str, Any] | None = None,
    **fields: Any,
) -> AsyncIterator[stack.Stack]:
    """A gateway in front of one backend; at the end no socket, place, connection or task of it may be left."""
    settings = {k: fields.pop(k) for k in list(fields) if k in ("jwt_leeway", "drain_seconds")}
    async with stack.backend(behaviour) as backend:
        snapshot = stack.snapshot(backend.url, with_routes=stack.routes(**route or {}), **fields)
        options = {"limits": limits} if limits else {}
        async with stack.gateway(snapshot, tunnel=carrier == "tunnel", **options, **settings) as it:
            yield it
            await nothing_left(it)


async def nothing_left(gateway: stack.Stack) -> None:
    """Wait until every socket has ended, then look for leaks."""
    await until(lambda: not gateway.host.applications and not len(gateway.runtime.registry))
    assert gateway.runtime.registry._places == {}
    assert all(url.in_use == 0 for b in gateway.runtime.connector.status().values() for url in b.urls)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that no event tells of."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# Section 4: who gets in.


@pytest.mark.parametrize(
    ("path", "headers", "status", "code", "detail"),
    [
        pytest.param("/ws", {}, 401, "no_token", "no token", id="no token"),
        pytest.param("/ws", {"Authorization": "Bearer x"}, 401, "invalid_token", "JWS", id="no token at all"),
        pytest.param("/ws", FOREIGN, 401, "invalid_token", "signature", id="foreign"),
        pytest.param("/ws", bearer(exp=1), 401, "expired_token", "exp", id="expired"),
        pytest.param("/ws", bearer() | EVIL, 403, "origin_not_allowed", "evil.test", id="origin"),
        pytest.param("/ws", bearer() | {"Origin": "null"}, 403, "origin_not_allowed", "null", id="null origin"),
        pytest.param("/ws", COOKIE, 403, "origin_not_allowed", "cookie", id="a cookie without an origin"),
        pytest.param("/open-ws", EVIL, 403, "origin_not_allowed", "list", id="public, origin"),
        pytest.param("/admins-ws", bearer(), 403, "role_required", "admin or staff", id="role"),
        pytest.param("/nowhere", bearer(), 404, "no_route", "/nowhere", id="no route"),
        pytest.param("/api/x", bearer(), 404, "no_route", "websocket", id="a handshake on an HTTP route"),
        pytest.param("/ws/../x", bearer(), 400, "bad_path", "dot segment", id="bad path"),
        pytest.param("/ws?ticket=nonsense", {}, 401, "invalid_ticket", "ticket", id="a ticket that is none"),
    ],
)  # fmt: skip
async def test_refused_handshakes(
    gateway: stack.Stack, backend: stack.BackendServer, events: Events,
    path: str, headers: dict[str, str], status: int, code: str, detail: str,
) -> None:  # fmt: skip
    """A status on the handshake with the contract's JSON; the log says what was compared; the backend hears nothing."""
    with pytest.raises(InvalidStatus) as refused:
        async with gateway.websocket(path, additional_headers=headers):
            pass
    response = refused.value.response
    answer = stack.Answer(
        response.status_code, [(k.encode(), v.encode()) for k, v in response.headers.raw_items()], response.body
    )
    assert (answer.status, answer.code) == (status, code)
    assert answer.get("x-request-id") == answer.json["request_id"]
    assert answer.get("www-authenticate") == ("Bearer" if status == 401 else None)
    event = events.one("ws.refused")
    assert (event["code"], event["status"]) == (code, status)
    assert detail in event["detail"]
    assert backend.seen == []


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        pytest.param("/ws", {}, 4401, id="no token"),
        pytest.param("/ws", bearer() | EVIL, 4403, id="origin"),
        pytest.param("/admins-ws", bearer(), 4403, id="role"),
    ],
)
async def test_refused_with_a_close(carrier: str, path: str, headers: dict[str, str], code: int) -> None:
    """`refuse_with = "close"`: the accept names the first real subprotocol, and a 44xx close follows."""
    ends = Ends()
    async with relayed(carrier, observed(ends), route={"refuse_with": "close"}) as gateway:
        gateway.configure(routes=tuple(replace(r, refuse_with="close") for r in gateway.runtime.snapshot.routes))
        async with gateway.websocket(path, additional_headers=headers, subprotocols=["bearer.x", "chat"]) as client:
            assert client.subprotocol == "chat"
            assert (await closed(client))[0] == code


async def test_what_the_backend_sees(carrier: str, events: Events) -> None:
    """Section 5: identity, no token in any place, the real subprotocols; its choice of one is the client's."""
    alice = token(SECRET)
    seen: list[Seen] = []

    async def behaviour(it: Seen, reader: Reader, writer: Writer) -> None:
        seen.append(it)
        await stack.echo(it, reader, writer)

    async with relayed(carrier, behaviour) as gateway:
        headers = {"Origin": ORIGIN, "X-User-ID": "666", "x_user_role": "admin", "Cookie": f"a=1; auth_token={alice}"}
        options: dict[str, Any] = {"subprotocols": ["bearer." + alice, "v2", "v1"], "additional_headers": headers}
        async with gateway.websocket(f"/ws?x=%20&token={alice}", **options) as client:
            assert client.subprotocol == "v2"
    (it,) = seen
    assert it.target == "/ws?x=%20"
    assert (it.get("x-user-id"), it.get("x-user-role"), it.get("cookie")) == ("1", "user", "a=1")
    assert it.get("sec-websocket-protocol") == "v2, v1"
    assert it.get("origin") is None
    assert it.get("x-forwarded-proto") == "http"
    assert it.get("x-forwarded-for") == "127.0.0.1"
    assert events.one("ws.open")["subprotocol"] == "v2"


async def test_an_empty_query_crosses(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """Section 5: the rest of the query byte for byte, also where it is a question mark alone."""
    fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    asked = f"GET /ws? HTTP/1.1\r\nHost: a\r\n{fields}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    answer = await gateway.raw(f"{asked}Authorization: {bearer()['Authorization']}\r\n\r\n".encode())
    assert (answer.status, backend.last.target) == (101, "/ws?")


@pytest.mark.parametrize(
    ("rule", "sent"),
    [("omit", None), ("forward", ORIGIN), ("https://inside.test", "https://inside.test")],
)
async def test_the_origin_that_the_backend_sees(carrier: str, rule: str, sent: str | None) -> None:
    """`websocket_origin`."""
    seen: list[Seen] = []

    async def behaviour(it: Seen, reader: Reader, writer: Writer) -> None:
        seen.append(it)
        await stack.echo(it, reader, writer)

    async with relayed(carrier, behaviour, websocket_origin=rule) as gateway:
        async with gateway.websocket(additional_headers=bearer() | {"Origin": ORIGIN}):
            pass
    assert seen[0].get("origin") == sent


# Section 6: messages.


async def test_messages_pass_unchanged(carrier: str, events: Events) -> None:
    """Text, binary, empty, fragmented and large ones, in order, both ways; the log has counted them."""
    messages: list[str | bytes] = ["a", "", b"", b"\x00\xff", "ö" * 1000, b"x" * 300_000, "last"]
    async with relayed(carrier, observed(Ends())) as gateway:
        async with gateway.websocket(max_size=None) as client:
            for message in messages:
                await client.send(message)
            assert [await client.recv() for _ in messages] == messages
            await client.send(iter(["frag", "men", "", "ted"]))
            assert await client.recv() == "fragmented"
    event = events.one("ws.close")
    assert (event["messages_to_backend"], event["messages_to_client"]) == (8, 8)
    assert (event["close_code"], event["closed_by"]) == (1000, "client")


async def test_frames_that_come_with_the_101_arrive(carrier: str) -> None:
    """Section 6: what the backend glues to its answer is not lost."""
    glued = ws_helpers.text("first") + ws_helpers.text("second")
    async with relayed(carrier, observed(Ends(), glued)) as gateway:
        async with gateway.websocket() as client:
            assert [await client.recv(), await client.recv()] == ["first", "second"]


@pytest.mark.parametrize("code", CLOSE_CODES)
async def test_a_clients_close_reaches_the_backend(carrier: str, code: int, events: Events) -> None:
    """The same code and reason, and the backend's answer comes back."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket() as client:
            client.protocol.send_close(code, "därför")
            for out in client.protocol.data_to_send():
                client.transport.write(out)
            assert await ends.next() == (code, "därför")
            assert await closed(client) == (code, "därför")
    event = events.one("ws.close")
    assert (event["close_code"], event["reason"], event["closed_by"]) == (code, "därför", "client")


@pytest.mark.parametrize("code", CLOSE_CODES)
async def test_a_backends_close_reaches_the_client(carrier: str, code: int, events: Events) -> None:
    """The same code and reason."""
    async with relayed(carrier, observed(Ends(), ws_helpers.close(code, "därför"))) as gateway:
        async with gateway.websocket() as client:
            assert await closed(client) == (code, "därför")
    event = events.one("ws.close")
    assert (event["close_code"], event["closed_by"]) == (code, "backend")


@pytest.mark.parametrize("side", ["client", "backend"])
async def test_a_close_reason_that_repeats_a_cookie_is_masked_in_the_log(
    carrier: str, side: str, events: Events
) -> None:
    """Section 9, whoever repeats it, as it was sent or decoded, also cut; the other side gets it as it is."""
    cookies = "sid=sessionsecretvalue123; name=J%C3%A4germeister; q=verylongcookievalue"
    reason = "bye sessionsecretvalue123, Jägermeister, verylongcook"
    ends = Ends()
    first = ws_helpers.close(4000, reason) if side == "backend" else b""
    async with relayed(carrier, observed(ends, first)) as it:
        async with it.websocket(additional_headers={**bearer(), "Cookie": cookies}) as client:
            if side == "client":
                await client.close(4000, reason)
                assert await ends.next() == (4000, reason)
            else:
                assert await closed(client) == (4000, reason)
    event = events.one("ws.close")
    assert (event["close_code"], event["reason"]) == (4000, "bye ***, ***, ***")


async def test_a_close_without_a_code(carrier: str) -> None:
    """It stays one, in both directions; to the client, as far as ASGI has a word for it."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket() as client:
            client.protocol.send_close()
            for out in client.protocol.data_to_send():
                client.transport.write(out)
            assert await ends.next() == (None, "")
    async with relayed(carrier, observed(Ends(), ws_helpers.close())) as gateway:
        async with gateway.websocket() as client:
            assert await closed(client) == (1005 if carrier == "tunnel" else 1000, "")


async def test_a_client_that_vanishes(carrier: str, events: Events) -> None:
    """1001 to the backend."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        client = await gateway.websocket()
        client.transport.abort()
        assert await ends.next() == (1001, "")
    assert events.one("ws.close")["closed_by"] == "client"


async def test_a_backend_that_vanishes(carrier: str, events: Events) -> None:
    """1014 to the client."""

    async def dies(seen: Seen, reader: Reader, writer: Writer) -> None:
        await stack.accept(seen, writer)
        await writer.drain()
        await reader.read(1)
        writer.transport.abort()

    async with relayed(carrier, dies) as gateway:
        async with gateway.websocket() as client:
            await client.send("now")
            assert (await closed(client))[0] == 1014
    assert events.one("ws.close")["closed_by"] == "backend"


async def test_a_message_over_the_limit(carrier: str) -> None:
    """1009 to the sender, 1001 to the other: by a client, then by the backend."""
    ends = Ends()
    async with relayed(carrier, observed(ends), max_message_size=100) as gateway:
        async with gateway.websocket() as client:
            await client.send("x" * 100)
            assert len(await client.recv()) == 100
            await client.send("x" * 101)
            assert (await closed(client))[0] == 1009
            assert (await ends.next())[0] == 1001
    ends = Ends()
    async with relayed(carrier, observed(ends, ws_helpers.text("x" * 101)), max_message_size=100) as gateway:
        async with gateway.websocket() as client:
            assert (await closed(client))[0] == 1001
            assert (await ends.next())[0] == 1009


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(ws_helpers.frame(ws_helpers.TEXT, b"x", rsv=4), 1002, id="a reserved bit"),
        pytest.param(ws_helpers.frame(0x3), 1002, id="a reserved opcode"),
        pytest.param(ws_helpers.frame(ws_helpers.CONTINUATION, b"x"), 1002, id="a continuation of nothing"),
        pytest.param(ws_helpers.frame(ws_helpers.PING, b"x" * 126), 1002, id="a long ping"),
        pytest.param(ws_helpers.close(999), 1002, id="a close code that is none"),
        pytest.param(ws_helpers.close(1005), 1002, id="1005 on the wire"),
        pytest.param(ws_helpers.frame(ws_helpers.CLOSE, b"x"), 1002, id="half a close code"),
        pytest.param(ws_helpers.frame(ws_helpers.CLOSE, b"\x03\xe8\xff"), 1007, id="a reason that is no UTF-8"),
        pytest.param(ws_helpers.frame(ws_helpers.TEXT, b"x", masked=True), 1002, id="a mask"),
    ],
)  # fmt: skip
async def test_a_backend_that_breaks_the_protocol(carrier: str, frame: bytes, code: int, events: Events) -> None:
    """1002 (or 1007) to it, 1014 to the client."""
    ends = Ends()
    async with relayed(carrier, observed(ends, frame, then="mute"), limits=Limits(close=0.2)) as gateway:
        async with gateway.websocket(compression=None) as client:
            assert (await closed(client))[0] == 1014
    assert (await ends.next())[0] == code
    assert events.one("ws.close")["close_code"] == 1014


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(ws_helpers.text("x"), 1002, id="no mask"),
        pytest.param(ws_helpers.frame(ws_helpers.TEXT, b"x", rsv=2, masked=True), 1002, id="a reserved bit"),
        pytest.param(ws_helpers.frame(0xB, masked=True), 1002, id="a reserved opcode"),
        pytest.param(ws_helpers.close(1006, masked=True), 1002, id="1006 on the wire"),
        pytest.param(ws_helpers.frame(ws_helpers.CLOSE, b"\x03\xe8\xff", masked=True), 1007, id="no UTF-8"),
    ],
)  # fmt: skip
async def test_a_client_that_breaks_the_protocol(carrier: str, frame: bytes, code: int) -> None:
    """1002 (or 1007) to it, 1001 to the backend."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket(compression=None) as client:
            client.transport.write(frame)
            assert (await closed(client))[0] == code
            assert (await ends.next())[0] == 1001


# Section 6: what the gateway does on a live socket.


async def test_the_token_expires(carrier: str, events: Events) -> None:
    """4401 `token expired` within a second of `exp`, 1001 to the backend."""
    ends = Ends()
    exp = int(time.time()) + 2
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket(additional_headers=bearer(exp=exp)) as client:
            assert await closed(client) == (4401, "token expired")
            assert exp <= time.time() < exp + 1
            assert (await ends.next())[0] == 1001
    assert (events.one("ws.close")["close_code"], events.one("ws.close")["closed_by"]) == (4401, "gateway")


async def test_a_revoked_user(carrier: str) -> None:
    """4401 `token revoked`, nobody else's socket is touched, and the door is shut."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket() as alice, gateway.websocket(additional_headers=bearer(user_id=2)) as bob:
            gateway.runtime.on_revocations([RevocationEntry("user", "1", time.time(), None)])
            assert await closed(alice) == (4401, "token revoked")
            assert (await ends.next())[0] == 1001
            await bob.send("still here")
            assert await bob.recv() == "still here"
        with pytest.raises(InvalidStatus) as refused:
            await gateway.websocket()
        assert b"revoked_token" in refused.value.response.body


async def test_kicked_in_the_admin(carrier: str) -> None:
    """4403 with the contract's reason."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket() as client:
            gateway.runtime.on_kicks([KickEntry("user", "1")])
            assert await closed(client) == (KICKED.code, "disconnected by an administrator")
            assert (await ends.next())[0] == 1001


async def test_a_configuration_change_is_surgical(carrier: str) -> None:
    """1012 for the sockets whose route is gone; the others and an unchanged row notice nothing."""
    ends = Ends()
    async with relayed(carrier, observed(ends)) as gateway:
        async with gateway.websocket() as main, gateway.websocket("/open-ws") as other:
            gateway.configure(revision=7)
            await main.send("same")
            assert await main.recv() == "same"
            gateway.configure(routes=tuple(r for r in gateway.runtime.snapshot.routes if r.path != "/ws"))
            assert (await closed(main))[0] == 1012
            assert (await ends.next())[0] == 1001
            await other.send("still here")
            assert await other.recv() == "still here"


async def test_drain(carrier: str) -> None:
    """1012 `service restart` to the client, 1001 to the backend."""
    ends = Ends()
    async with relayed(carrier, observed(ends), drain_seconds=0.2) as gateway:
        async with gateway.websocket() as client:
            gateway.runtime.drain()
            assert await closed(client) == (DRAIN.code, "service restart")
            assert (await ends.next())[0] == 1001


async def test_idle(carrier: str) -> None:
    """4408 `idle`; a message in either direction is what keeps it alive."""
    ends = Ends()
    async with relayed(carrier, observed(ends), route={"idle_timeout": 0.3}) as gateway:
        async with gateway.websocket() as client:
            await client.ping()
            assert await closed(client) == (4408, "idle")
            assert (await ends.next())[0] == 1001


async def test_the_message_rate(carrier: str) -> None:
    """1008 once the burst is used up; what came before has arrived."""
    ends = Ends()
    async with relayed(carrier, observed(ends), route={"message_rate": Rate(1, 3600.0, 3)}) as gateway:
        async with gateway.websocket() as client:
            for _ in range(3):
                await client.send("x")
            assert [await client.recv() for _ in range(3)] == ["x"] * 3
            await client.send("one too many")
            assert (await closed(client))[0] == 1008
            assert (await ends.next())[0] == 1001


async def test_the_limit_of_connections(carrier: str) -> None:
    """429 past `max_connections_per_user`; a place is free again when its socket is gone."""
    async with relayed(carrier, observed(Ends()), route={"max_connections_per_user": 2}) as gateway:
        async with gateway.websocket() as first, gateway.websocket():
            with pytest.raises(InvalidStatus) as refused:
                await gateway.websocket()
            assert refused.value.response.status_code == 429
            assert b"too_many_connections" in refused.value.response.body
            assert int(refused.value.response.headers["Retry-After"]) > 0
            async with gateway.websocket(additional_headers=bearer(user_id=2)):
                pass
            await first.close()
            key = Route("/ws", "websocket", "main").key
            await until(lambda: gateway.runtime.registry.count(key, "1") == 1)
            async with gateway.websocket():
                pass


async def test_pings_find_out_who_has_vanished(carrier: str, events: Events) -> None:
    """A side that stays silent after a ping has vanished: 1014 to the client of a silent backend."""

    async def deaf(seen: Seen, reader: Reader, writer: Writer) -> None:
        await stack.accept(seen, writer)
        await writer.drain()
        await asyncio.Event().wait()

    async with relayed(carrier, deaf, limits=Limits(ping=0.05, pong=0.2, close=0.2)) as gateway:
        async with gateway.websocket() as client:
            assert (await closed(client))[0] == 1014
    assert events.one("ws.close")["closed_by"] == "backend"


async def test_a_close_that_is_never_answered(carrier: str) -> None:
    """The gateway cuts the backend after its limit, and the client with it: nothing waits for ever."""
    async with relayed(carrier, observed(Ends(), then="mute"), limits=Limits(close=0.2)) as gateway:
        client = await gateway.websocket(close_timeout=10)
        await client.close()
        assert client.close_code in (1000, 1006), "answered in the backend's place, or cut"


# The seed's story.


def gorilla(allowed: str) -> stack.Behaviour:
    """A backend with gorilla/websocket's own origin check: a bare 403 and one line, as the team saw it."""

    async def behaviour(seen: Seen, reader: Reader, writer: Writer) -> None:
        if seen.get("origin") in (None, allowed):
            await stack.echo(seen, reader, writer)
            return
        body = b"websocket: request origin not allowed by Upgrader.CheckOrigin\n"
        head = f"HTTP/1.1 403 Forbidden\r\nSec-Websocket-Version: 13\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return behaviour


async def test_the_failure_that_this_gateway_was_made_for(carrier: str, events: Events) -> None:
    """A backend that checks Origin: 502 with the exact cause in the log; by default the handshake just works."""
    headers = bearer() | {"Origin": ORIGIN}
    async with relayed(carrier, gorilla("http://127.0.0.1"), websocket_origin="forward") as gateway:
        with pytest.raises(InvalidStatus) as refused:
            await gateway.websocket(additional_headers=headers)
        assert refused.value.response.status_code == 502
        assert b"backend_refused" in refused.value.response.body
    cause = events.one("backend.error")["detail"]
    for word in ("403", "request origin not allowed by Upgrader.CheckOrigin", ORIGIN, "websocket_origin"):
        assert word in cause
    async with relayed(carrier, gorilla("http://127.0.0.1")) as gateway:
        async with gateway.websocket(additional_headers=headers) as client:
            await client.send("it works")
            assert await client.recv() == "it works"


async def test_a_client_that_leaves_while_the_backend_is_dialled(events: Events) -> None:
    """Its dial is cancelled: the backend is not left with half a handshake."""
    dialled, hung_up = asyncio.Event(), asyncio.Event()

    async def slow(seen: Seen, reader: Reader, writer: Writer) -> None:
        dialled.set()
        await reader.read()
        hung_up.set()

    async with relayed("tunnel", slow) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        fields = {"Host": "a", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        fields |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} | bearer()
        lines = ["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(10):
            await dialled.wait()
            writer.transport.abort()
            await hung_up.wait()


async def test_compression_is_agreed_end_to_end(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """Under `serve` the client's offer goes to the backend; one that declines means none for the client."""
    async with gateway.websocket(compression="deflate") as client:
        assert "permessage-deflate" in (backend.last.get("sec-websocket-extensions") or "")
        assert client.protocol.extensions == []
        await client.send("plain")
        assert await client.recv() == "plain"


def test_the_client_library_is_the_one_that_is_imported() -> None:
    """`connect` without proxies and redirects of the environment."""
    assert connect.__module__ == "websockets.asyncio.client"


async def test_the_rate_limit_is_told_as_the_route_wants(backend: stack.BackendServer) -> None:
    """429, or a close with 4429 where a script is to read it (section 4)."""
    routes = (Route("/ws", "websocket", "main"), Route("/told-ws", "websocket", "main", refuse_with="close"))
    async with stack.gateway(stack.snapshot(backend.url, with_routes=routes), rate_limit=Rate(1, 3600.0, 1)) as gateway:
        assert (await gateway.request("/nowhere")).status == 404
        with pytest.raises(InvalidStatus, match="429"):
            await gateway.websocket()
        async with gateway.websocket("/told-ws", subprotocols=["v1"]) as client:
            assert (await stack.closed(client))[0] == 4429
            assert client.subprotocol == "v1"


UNREACHABLE = "http://127.0.0.1:1"


async def say_nothing(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the gateway hangs up."""
    await reader.read()


@pytest.mark.parametrize(
    ("status", "code", "unreachable", "fields"),
    [
        pytest.param(502, "backend_unreachable", True, {}, id="unreachable"),
        pytest.param(503, "backend_disabled", False, {"enabled": False}, id="disabled"),
        pytest.param(503, "no_healthy_backend", True, {"health_path": "/up"}, id="out"),
        pytest.param(504, "backend_timeout", False, {"read_timeout": 0.05}, id="silent"),
    ],
)
async def test_a_backend_that_can_not_be_had(status: int, code: str, unreachable: bool, fields: dict[str, Any]) -> None:
    """Section 4: the same code for a request and a handshake, and as a close where the route wants it."""
    routes = (*stack.routes(), Route("/told-ws", "websocket", "main", refuse_with="close"))
    async with stack.backend(say_nothing) as silent:
        configuration = stack.snapshot(UNREACHABLE if unreachable else silent.url, with_routes=routes, **fields)
        async with stack.gateway(configuration) as gateway:
            if "health_path" in fields:
                await until(lambda: not gateway.runtime.connector.status()["main"].healthy)
            asked = await gateway.request("/api/x", headers=bearer())
            assert (asked.status, asked.code) == (status, code)
            assert (asked.get("retry-after") is not None) is (status == 503)
            with pytest.raises(InvalidStatus) as refused:
                await gateway.websocket()
            answer = refused.value.response
            assert (answer.status_code, json.loads(answer.body)["code"]) == (status, code)
            assert ("retry-after" in answer.headers) is (status == 503)
            async with gateway.websocket("/told-ws") as client:
                assert (await closed(client))[0] == 4000 + status
