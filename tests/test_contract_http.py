"""The contract, sections 3 to 5, for HTTP: over real sockets, through the whole gateway."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
from typing import Any

import pytest

from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url
from tests import stack
from tests.conftest import Events
from tests.identity_helpers import OTHER_SECRET, SECRET, token
from tests.server_helpers import until
from tests.stack import ORIGIN, Seen, bearer

Writer = asyncio.StreamWriter
Reader = asyncio.StreamReader


def cookie(**claims: Any) -> dict[str, str]:
    return {"Cookie": f"auth_token={token(SECRET, **claims)}"}


FOREIGN = {"Authorization": f"Bearer {token(OTHER_SECRET)}"}
TWO_USERS = bearer() | cookie(user_id=2)


@pytest.mark.parametrize(
    ("target", "headers", "status", "code", "detail"),
    [
        pytest.param("/api/../x", bearer(), 400, "bad_path", "dot segment", id="a path with a dot segment"),
        pytest.param("/api/%2e%2e/x", bearer(), 400, "bad_path", "dot segment", id="an encoded dot segment"),
        pytest.param("/api/%252fx", bearer(), 400, "bad_path", "doubly encoded", id="a doubly encoded slash"),
        pytest.param("//api/x", bearer(), 400, "bad_path", "/api/", id="empty segments that hide another route"),
        pytest.param("/api/x", {}, 401, "no_token", "no token", id="no token"),
        pytest.param("/api/x", {"Authorization": "Bearer junk"}, 401, "invalid_token", "JWS", id="no token at all"),
        pytest.param("/api/x", FOREIGN, 401, "invalid_token", "signature", id="a foreign key"),
        pytest.param("/api/x", bearer(exp=1), 401, "expired_token", "exp", id="an expired token"),
        pytest.param("/api/x", bearer(exp=...), 401, "invalid_token", "exp", id="a token without exp"),
        pytest.param("/api/x", TWO_USERS, 401, "ambiguous_token", "header and cookie", id="two users at once"),
        pytest.param("/admins/x", bearer(), 403, "role_required", "admin or staff", id="the wrong role"),
        pytest.param("/nowhere", bearer(), 404, "no_route", "/nowhere", id="no route"),
        pytest.param("/apix", bearer(), 404, "no_route", "/apix", id="a prefix ends at a segment"),
        pytest.param("/ws", bearer(), 404, "no_route", "http", id="a request on a WebSocket route"),
    ],
)  # fmt: skip
async def test_refusals(
    backend: stack.BackendServer, gateway: stack.Stack, events: Events,
    target: str, headers: dict[str, str], status: int, code: str, detail: str,
) -> None:  # fmt: skip
    """Section 4: the status, the code in body and log, what was compared with what, and nothing at the backend."""
    answer = await gateway.request(target, headers=headers)
    assert (answer.status, answer.code) == (status, code)
    assert answer.json["success"] is False
    assert answer.json["request_id"] == answer.get("x-request-id")
    assert answer.get("content-type") == "application/json"
    assert answer.get("www-authenticate") == ("Bearer" if status == 401 else None)
    event = events.one("http.refused")
    assert (event["code"], event["status"], event["request_id"]) == (code, status, answer.get("x-request-id"))
    assert detail in event["detail"]
    assert backend.seen == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("/admin/", 302, id="a page of the admin"),
        pytest.param("/gateway/static/nowhere.css", 404, id="a static file that is not there"),
    ],
)
async def test_djangos_own_pages_have_a_request_id_and_a_line(
    gateway: stack.Stack, events: Events, caplog: pytest.LogCaptureFixture, target: str, status: int
) -> None:
    """Sections 4 and 9; they are no traffic; and nobody can write tracebacks into the log."""
    answer = await gateway.request(f"{target}?token=eyJ")
    assert answer.status == status
    await until(lambda: events.all)
    line = events.one("http.request")
    assert (line["request_id"], line["path"], line["status"]) == (answer.get("x-request-id"), target, status)
    assert line["bytes_to_client"] == len(answer.body)
    assert gateway.runtime.metrics.totals().requests == 0
    assert "Traceback" not in caplog.text


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("target", ["/admin/login/", "/admin", "/gateway/static/relay/admin.css"])
@pytest.mark.parametrize(
    ("framing", "body", "detail"),
    [
        pytest.param("Content-Length: 1000000000000", b"x", "announced with 1000000000000 bytes", id="announced"),
        pytest.param(
            "Transfer-Encoding: chunked", b"120000\r\n" + b"x" * 0x120000, "at least 1", id="without a length"
        ),
    ],
)
async def test_nobody_fills_the_disk_by_way_of_django(
    gateway: stack.Stack, events: Events, target: str, framing: str, body: bytes, detail: str
) -> None:
    """Section 5: Django would write it to a file before it asks for a login; the answer comes while the body does."""
    head = f"POST {target} HTTP/1.1\r\nHost: gateway.test\r\n{framing}\r\n\r\n"
    async with asyncio.timeout(10):
        answer = await gateway.raw(head.encode() + body)
    assert (answer.status, answer.code) == (413, "body_too_large")
    event = events.one("http.refused")
    assert (event["code"], event["request_id"]) == ("body_too_large", answer.get("x-request-id"))
    assert event["detail"].startswith(f"the body is {detail}")
    assert event["detail"].endswith("1048576 are allowed")


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "without a length"])
async def test_a_form_of_the_admin_reaches_django_whole(gateway: stack.Stack, chunked: bool) -> None:
    """Up to 1 MiB; here it is refused for its lack of a CSRF token, by which time it has been read."""
    if not chunked:
        answer = await gateway.request("/admin/login/", "POST", FORM, b"a=" + b"x" * (2**20 - 2))
    else:
        lines = f"POST /admin/login/ HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM['Content-Type']}\r\n"
        chunk = b"80000\r\n" + b"x" * 2**19 + b"\r\n"
        answer = await gateway.raw(lines.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2 + b"0\r\n\r\n")
    assert answer.status == 403
    assert b"CSRF" in answer.body


async def test_a_client_that_leaves_inside_its_form_leaves_nothing_open(
    gateway: stack.Stack, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's own reader of bodies would leave a temporary file open. Each such request has its line."""
    unraised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"POST /admin/login/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na=")
        await until(lambda: gateway.host.applications)
        writer.transport.abort()
        await until(lambda: not gateway.host.applications)
    gc.collect()
    assert unraised == []
    assert [line["status"] for line in events.named("http.request")] == [499] * 3


async def garbage(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    writer.close()


async def hangs_up(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.close()


async def resets_inside_the_head(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await writer.drain()
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


async def switches(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


async def two_lengths(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")


async def another_version(seen: Seen, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nab")


async def silence(seen: Seen, reader: Reader, writer: Writer) -> None:
    await reader.read()


@pytest.mark.parametrize(
    ("behaviour", "status", "code", "cause"),
    [
        pytest.param(garbage, 502, "backend_protocol_error", "", id="it speaks another protocol"),
        pytest.param(hangs_up, 502, "backend_protocol_error", "closed", id="it hangs up"),
        pytest.param(resets_inside_the_head, 502, "backend_protocol_error", "", id="it resets inside the head"),
        pytest.param(switches, 502, "backend_protocol_error", "101", id="it switches protocols unasked"),
        pytest.param(two_lengths, 502, "backend_protocol_error", "", id="its framing is ambiguous"),
        pytest.param(another_version, 502, "backend_protocol_error", "HTTP/2.0", id="it answers in HTTP/2.0"),
        pytest.param(silence, 504, "backend_timeout", "0.2 s", id="it says nothing"),
    ],
)
async def test_backends_that_fail(
    events: Events, behaviour: stack.Behaviour, status: int, code: str, cause: str
) -> None:
    """Section 4: 502 and 504 by cause; the log names it, the answer never names the backend's address."""
    async with stack.backend(behaviour) as backend:
        async with stack.gateway(stack.snapshot(backend.url, read_timeout=0.2)) as gateway:
            answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (status, code)
    assert backend.url.removeprefix("http://").encode() not in answer.body
    event = events.one("backend.error")
    assert event["backend"] == "main"
    assert event["code"] == code
    assert cause in event["detail"]
    assert events.one("http.refused")["status"] == status


async def test_a_port_nobody_listens_on(events: Events) -> None:
    """`backend_unreachable`, with the operating system's own word in the log."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with stack.gateway(stack.snapshot(f"http://127.0.0.1:{port}")) as gateway:
            answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (502, "backend_unreachable")
    assert "refused" in events.one("backend.error")["detail"]


async def test_a_name_that_does_not_exist(events: Events) -> None:
    """`backend_unreachable`, and the log says that it is the name."""
    async with stack.gateway(stack.snapshot("http://no-such-host.invalid:9000")) as gateway:
        answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (502, "backend_unreachable")
    assert "no-such-host.invalid" in events.one("backend.error")["detail"]
    assert b"no-such-host" not in answer.body


async def test_a_disabled_backend(backend: stack.BackendServer, events: Events) -> None:
    """503 `backend_disabled` with `Retry-After`, but only for those who may know."""
    async with stack.gateway(stack.snapshot(backend.url, enabled=False)) as gateway:
        assert (await gateway.request("/api/x")).status == 401
        answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (503, "backend_disabled")
    assert int(answer.get("retry-after") or 0) > 0


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(backend: stack.BackendServer) -> None:
    """413 by the announced length: the backend never hears of it."""
    async with stack.gateway(stack.snapshot(backend.url, max_body_size=10)) as gateway:
        assert (await gateway.request("/api/x", "POST", bearer(), b"0123456789")).status == 200
        answer = await gateway.request("/api/x", "POST", bearer(), b"0123456789+")
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert len(backend.seen) == 1


async def test_a_chunked_body_over_the_limit(backend: stack.BackendServer) -> None:
    """413 while it grows; the backend never takes it for a complete one."""
    async with stack.gateway(stack.snapshot(backend.url, max_body_size=10)) as gateway:
        head = (
            "POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: "
            + bearer()["Authorization"]
        )
        answer = await gateway.raw(head.encode() + b"\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n")
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert backend.seen == []


async def test_a_host_that_is_not_ours(gateway: stack.Stack, settings: Any) -> None:
    """Section 4: 400 everywhere but on the health pages."""
    from relay import door as module

    settings.ALLOWED_HOSTS = ["gateway.test"]
    module._host_allowed.cache_clear()
    try:
        refused = await gateway.request("/api/x", headers={"Host": "evil.test"} | bearer())
        assert (refused.status, refused.code) == (400, "bad_request")
        assert (await gateway.request("/gateway/session", "POST", {"Host": "evil.test"})).status == 400
        assert (await gateway.request("/health/live", headers={"Host": "10.0.0.1:8000"})).status == 200
        assert (await gateway.request("/api/x", headers={"Host": "gateway.test:8443"} | bearer())).status == 200
    finally:
        module._host_allowed.cache_clear()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_methods_that_are_never_relayed(backend: stack.BackendServer, gateway: stack.Stack, method: str) -> None:
    """Section 4: 405."""
    target = "/api/x" if method == "TRACE" else "backend:80"
    answer = await gateway.request(target, method, bearer())
    assert (answer.status, answer.get("vary")) == (405, "Origin")
    assert backend.seen == []


async def test_an_allowed_origin_may_read_that_the_gateway_restarts(gateway: stack.Stack) -> None:
    """A script that can't read `draining` would not know that it may come back (section 4, CORS: on errors too)."""
    await gateway.host.drain(1)
    answer = await gateway.request("/api/x", headers=bearer() | {"Origin": ORIGIN})
    assert (answer.status, answer.code, answer.get("vary")) == (503, "draining", "Origin")
    assert answer.get("access-control-allow-origin") == ORIGIN
    other = await gateway.request("/api/x", headers=bearer() | {"Origin": "https://evil.example"})
    assert (other.code, other.get("access-control-allow-origin")) == ("draining", None)


async def test_the_rate_limit(backend: stack.BackendServer, events: Events) -> None:
    """429 `rate_limited` with `Retry-After`, requests and handshakes together; health and metrics are never limited."""
    from relay.routing.snapshot import Rate

    async with stack.gateway(stack.snapshot(backend.url), rate_limit=Rate(1, 60.0, 2)) as gateway:
        assert (await gateway.request("/api/x", headers=bearer())).status == 200
        assert (await gateway.request("/gateway/nothing", headers=bearer())).status == 404
        answer = await gateway.request("/api/x", headers=bearer() | {"Origin": ORIGIN})
        assert (answer.status, answer.code) == (429, "rate_limited")
        assert 0 < int(answer.get("retry-after") or 0) <= 60
        assert answer.get("access-control-allow-origin") == ORIGIN, "errors are shared with allowed origins too"
        assert (await gateway.request("/health/live")).status == 200
        assert (await gateway.request("/metrics")).status == 200
    assert "127.0.0.1" in events.named("http.refused")[-1]["detail"]


# Section 5: what the backend sees.


async def test_the_backend_sees_the_user_and_no_token(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """Identity from the token, forged fields gone in every spelling, no copy of the token anywhere."""
    alice = token(SECRET, email="ålice@example.com", role=["user", "staff"])
    await gateway.request(
        f"/api/a%20b?x=1&token={alice}&y=%2F",
        headers=[
            ("Authorization", f"Bearer {alice}"),
            ("Cookie", f"theme=dark; auth_token={alice}; lang=sv"),
            ("X-User-ID", "666"),
            ("x_user_id", "666"),
            ("X-USER-ROLE", "admin"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("X_Forwarded_For", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Request-ID", "forged"),
            ("Connection", "X-Secret-Hop, x-user-id"),
            ("X-Secret-Hop", "1"),
            ("Accept", "a"),
            ("Accept", "b"),
            ("traceparent", "00-1-2-01"),
        ],
    )
    seen = backend.last
    assert seen.target == "/api/a%20b?x=1&y=%2F"
    assert (seen.get("x-user-id"), seen.get("x-user-email"), seen.get("x-user-role")) == (
        "1",
        "ålice@example.com",
        "user,staff",
    )
    assert seen.get("cookie") == "theme=dark; lang=sv"
    assert seen.get("x-forwarded-for") == "127.0.0.1"
    assert seen.get("x-forwarded-host") == "gateway.test"
    assert seen.get("x-forwarded-proto") == "http"
    assert seen.get("x-forwarded-port") == "80"
    assert seen.get("accept") == "a|b"
    assert seen.get("traceparent") == "00-1-2-01"
    assert seen.get("x-request-id") not in (None, "forged")
    assert seen.get("host") == backend.url.removeprefix("http://")
    names = [name for name, _ in seen.headers]
    for gone in (b"authorization", b"x_user_id", b"x-secret-hop", b"forwarded", b"x_forwarded_for", b"connection"):
        assert gone not in names
    for invented in (b"accept-encoding", b"user-agent", b"content-type", b"content-length"):
        assert invented not in names


async def test_a_public_route_passes_strangers_untouched(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """Section 4: what is no valid token of ours passes there, `Authorization` and all."""
    headers = {"Authorization": "Bearer of-the-backend", "Cookie": "auth_token=old", "X-User-ID": "666"}
    assert (await gateway.request("/open/reset?token=abc", headers=headers)).status == 200
    assert backend.last.target == "/open/reset?token=abc"
    assert backend.last.get("authorization") == "Bearer of-the-backend"
    assert backend.last.get("x-user-id") is None


async def test_a_public_route_names_a_user_who_is_known(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """A valid token counts on a public route too, and goes no further."""
    assert (await gateway.request("/open/x", headers=bearer())).status == 200
    assert backend.last.get("x-user-id") == "1"
    assert backend.last.get("authorization") is None


async def answer_with(raw: bytes) -> stack.Behaviour:
    async def behaviour(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(raw)

    return behaviour


@pytest.mark.parametrize("status", [299, 451, 599, 600, 999])
async def test_any_status_crosses(status: int) -> None:
    """A response of the backend, whatever its status, is no refusal (section 4)."""
    raw = b"HTTP/1.1 %d Any\r\nContent-Length: 2\r\n\r\nno" % status
    async with stack.backend(await answer_with(raw)) as backend:
        async with stack.gateway(stack.snapshot(backend.url)) as gateway:
            answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.body) == (status, b"no")


async def test_a_fault_right_behind_the_head_is_the_backends(events: Events) -> None:
    """As nothing has gone out yet, the client can still be told: one answer, one line, and the backend's fault."""
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    async with stack.backend(await answer_with(raw)) as backend:
        async with stack.gateway(stack.snapshot(backend.url)) as gateway:
            answer = await gateway.request("/api/x", headers=bearer())
    assert (answer.status, answer.code) == (502, "backend_protocol_error")
    assert events.one("http.refused")["request_id"] == answer.get("x-request-id")
    assert not events.named("http.request")


async def test_the_response_crosses_as_it_is(events: Events) -> None:
    """Status, repeats and values as the backend gave them; hop-by-hop fields and its CORS gone; nothing invented."""
    raw = (
        b"HTTP/1.1 201 Made\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nX-Latin: caf\xe9\r\n"
        b"Keep-Alive: timeout=9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nAccess-Control-Allow-Origin: *\r\n"
        b"Vary: Accept\r\nLocation: http://inside/\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00"
    )
    async with stack.backend(await answer_with(raw)) as backend:
        async with stack.gateway(stack.snapshot(backend.url)) as gateway:
            answer = await gateway.request("/api/x", headers=bearer() | {"Origin": ORIGIN})
    assert (answer.status, answer.body) == (201, b"\x1f\x8b\x00")
    assert answer.get("set-cookie") == "a=1; Path=/|b=2"
    assert answer.get("x-latin") == "caf\xe9"
    assert answer.get("location") == "http://inside/"
    assert answer.get("access-control-allow-origin") == ORIGIN
    assert answer.get("access-control-allow-credentials") == "true"
    assert answer.get("vary") == "Accept, Origin"
    assert answer.get("content-length") == "3"
    for gone in ("x-hop", "keep-alive", "server", "date", "content-type"):
        assert answer.get(gone) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_reaches_the_backend(
    backend: stack.BackendServer, gateway: stack.Stack, method: str
) -> None:
    """With its body where it has one; a HEAD's length is the backend's."""
    body = b"body" if method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND") else b""
    answer = await gateway.request("/api/x", method, bearer(), body)
    assert answer.status == 200
    assert (backend.last.method, backend.last.body) == (method, body)
    assert backend.last.get("content-length") == (str(len(body)) if body else None)
    assert int(answer.get("content-length") or 0) > 0


async def test_identities_never_mix_on_shared_connections(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """Two users, twice 200 requests at once over kept connections: everybody gets their own."""
    users = [str(1 + n % 2) for n in range(200)]
    headers = {u: bearer(user_id=int(u)) | {"Cookie": f"mine={u}"} for u in ("1", "2")}
    for _ in range(2):
        answers = await asyncio.gather(*(gateway.request(f"/api/{u}", headers=headers[u]) for u in users))
        for user, answer in zip(users, answers, strict=True):
            got = dict(map(tuple, answer.json["headers"]))
            assert (got["x-user-id"], got["cookie"], answer.json["target"]) == (user, f"mine={user}", f"/api/{user}")
    assert backend.connections < 400, "connections were kept and shared"


@pytest.mark.parametrize(
    ("headers", "status", "backend_sees"),
    [
        pytest.param({"Origin": "https://evil.test"} | cookie(), 403, False, id="a foreign origin with the cookie"),
        pytest.param({"Origin": "null"} | cookie(), 403, False, id="a null origin with the cookie"),
        pytest.param({"Origin": ORIGIN} | cookie(), 200, True, id="an allowed origin with the cookie"),
        pytest.param({"Origin": "https://gateway.test"} | cookie(), 200, True, id="our own host, whatever the scheme"),
        pytest.param(cookie(), 200, True, id="no origin: no browser"),
        pytest.param({"Origin": "https://evil.test"} | bearer(), 200, True, id="a foreign origin with a header"),
    ],
)
async def test_cross_site_requests(
    backend: stack.BackendServer, gateway: stack.Stack, headers: dict[str, str], status: int, backend_sees: bool
) -> None:
    """Section 4: an unsafe method with the user's cookie from elsewhere is refused, without CORS fields."""
    answer = await gateway.request("/api/x", "POST", headers, b"x")
    assert answer.status == status
    assert bool(backend.seen) is backend_sees
    if status == 403:
        assert answer.code == "origin_not_allowed"
        assert answer.get("access-control-allow-origin") is None


async def test_preflights_are_answered_before_authentication(
    backend: stack.BackendServer, gateway: stack.Stack
) -> None:
    """204 with what was asked for; a stranger's preflight is a request like any other."""
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-a, authorization"}
    answer = await gateway.request("/api/x", "OPTIONS", asked | {"Origin": ORIGIN})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.get("access-control-allow-origin") == ORIGIN
    assert "PUT" in (answer.get("access-control-allow-methods") or "")
    assert "x-a" in (answer.get("access-control-allow-headers") or "")
    assert answer.get("access-control-allow-credentials") == "true"
    stranger = await gateway.request("/api/x", "OPTIONS", asked | {"Origin": "https://evil.test"})
    assert stranger.status == 401
    assert stranger.get("access-control-allow-origin") is None
    assert stranger.get("vary") == "Origin"
    assert backend.seen == []


async def test_rewriting_the_path(backend: stack.BackendServer) -> None:
    """Section 3: `upstream_path` replaces the matched prefix behind the url's own one; escapes and query stay."""
    routes = (
        Route("/old/", "http", "main", upstream_path="/new/"),
        Route("/one", "http", "main", upstream_path="/two"),
        Route("/strip/", "http", "main", upstream_path="/"),
    )
    async with stack.gateway(stack.snapshot(backend.url + "/base", with_routes=routes)) as gateway:
        for path in ("/old/a%2Cb/?q=%20", "/old", "/old/", "/one?x", "/strip//host/x"):
            assert (await gateway.request(path, headers=bearer())).status == 200
    seen = [s.target.removeprefix("/base") for s in backend.seen]
    assert seen == ["/new/a%2Cb/?q=%20", "/new", "/new/", "/two?x", "/host/x"]


@pytest.mark.parametrize("target", ["/api/x?", "/api/x??", "/api/x?&", "/api/x/?=", "/api/?"])
async def test_the_query_crosses_byte_for_byte(backend: stack.BackendServer, gateway: stack.Stack, target: str) -> None:
    """An empty one too: it is part of what some clients sign."""
    assert (await gateway.request(target, headers=bearer())).status == 200
    assert backend.last.target == target


async def test_several_urls(backend: stack.BackendServer) -> None:
    """Section 3: where one can't be connected to, the next is tried; the client notices nothing."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with stack.gateway(stack.snapshot(dead, backend.url)) as gateway:
            answers = [await gateway.request("/api/x", headers=bearer()) for _ in range(6)]
    assert [a.status for a in answers] == [200] * 6


async def test_the_token_goes_on_where_it_is_wanted(backend: stack.BackendServer) -> None:
    """`forward_token`: every copy stays where it was found."""
    alice = token(SECRET)
    async with stack.gateway(stack.snapshot(backend.url, forward_token=True)) as gateway:
        await gateway.request(f"/api/x?token={alice}", headers={"Authorization": f"Bearer {alice}"})
    assert backend.last.target == f"/api/x?token={alice}"
    assert backend.last.get("authorization") == f"Bearer {alice}"


async def test_the_clients_host_where_it_is_wanted(backend: stack.BackendServer) -> None:
    """`forward_host`."""
    async with stack.gateway(stack.snapshot(backend.url, forward_host=True)) as gateway:
        await gateway.request("/api/x", headers=bearer() | {"Host": "shop.test:8443"})
    assert backend.last.get("host") == "shop.test:8443"
    assert backend.last.get("x-forwarded-port") == "8443"


async def test_trusted_proxies_are_believed(backend: stack.BackendServer) -> None:
    """Section 2 and 5: the right-most address that is no proxy is the client, the chain is appended to."""
    from ipaddress import ip_network

    trusted = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))
    async with stack.gateway(stack.snapshot(backend.url), trusted_proxies=trusted) as gateway:
        headers = bearer() | {
            "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.1.1",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "app.test",
            "X-Request-ID": "from-the-proxy",
        }
        answer = await gateway.request("/api/x", headers=headers)
    assert answer.get("x-request-id") == "from-the-proxy"
    seen = backend.last
    assert seen.get("x-forwarded-for") == "6.6.6.6, 203.0.113.9, 10.1.1.1, 127.0.0.1"
    assert (seen.get("x-forwarded-proto"), seen.get("x-forwarded-host")) == ("https", "app.test")
    assert (seen.get("x-forwarded-port"), seen.get("x-request-id")) == ("443", "from-the-proxy")


async def test_one_configuration_from_beginning_to_end(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """A change is live at once, for new requests only."""
    assert (await gateway.request("/api/x", headers=bearer())).status == 200
    gateway.configure(routes=())
    assert (await gateway.request("/api/x", headers=bearer())).code == "no_route"


async def test_no_token_reaches_log_or_answer(
    gateway: stack.Stack, events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    """Section 9: whatever place it came in, and whatever became of it."""
    marked = token(SECRET, email="marked@example.com").replace("=", "")
    bad = "eyJhbGciOiJIUzI1NiJ9.bWFya2Vk.c2VjcmV0LW1hcms"
    texts = []
    for value in (marked, bad):
        for target, headers in (
            (f"/api/x?token={value}", {}),
            ("/api/x", {"Authorization": f"Bearer {value}"}),
            ("/api/x", {"Cookie": f"auth_token={value}"}),
            (f"/nowhere?token={value}", {}),
            (f"/gateway/ticket?token={value}", {}),
        ):
            texts.append((await gateway.request(target, headers=headers)).body.decode())
    logged = json.dumps(events.all, default=str) + capsys.readouterr().out
    for value in (marked, bad):
        assert value not in logged
        assert all(value not in text for text in texts if "x-user-id" not in text)


def test_the_snapshot_used_here_is_a_fair_one() -> None:
    """The harness configures what the loader would."""
    made = Snapshot.build([Backend("main", (Url.parse("http://a"),))], stack.routes(), [Origin(ORIGIN)])
    assert made.allows(ORIGIN)


async def test_tokens_too_many_to_judge_go_nowhere(backend: stack.BackendServer, gateway: stack.Stack) -> None:
    """On a public route a valid one among hundreds could be hidden from us, not from the backend."""
    pairs = "; ".join(f"auth_token={token(SECRET, jti=str(n))}" for n in range(20))
    assert (await gateway.request("/open/x", headers={"Cookie": f"a=1; {pairs}"})).status == 200
    assert backend.last.get("cookie") == "a=1"
    assert backend.last.get("x-user-id") is None
