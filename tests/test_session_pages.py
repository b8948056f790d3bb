"""``/gateway/session``, ``/gateway/ticket``, ``/gateway/logout``, on real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from django.db import connection

from relay import database
from relay.identity.model import fingerprint
from relay.models import Renewal, Revocation, Ticket
from tests import stack
from tests.identity_helpers import OTHER_SECRET, token

PAGES = ["/gateway/session", "/gateway/ticket", "/gateway/logout"]
EVIL = "https://evil.example"
PATH = {"path": "/ws"}
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Origin": stack.ORIGIN,
}


@pytest.fixture
def post(gateway):
    """POST to a page of ours: a token in ``Authorization``, one in the cookie, a JSON body."""

    async def send(page, body=None, header=None, cookie=None, **fields):
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        if header is not None:
            headers["Authorization"] = f"Bearer {header}"
        if cookie is not None:
            headers["Cookie"] = f"auth_token={cookie}"
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await gateway.request(page, "POST", headers, content)

    return send


@pytest.fixture
def no_tables(transactional_db):
    """A database that can't be written."""
    with connection.schema_editor() as editor:
        editor.delete_model(Renewal)
        editor.delete_model(Ticket)
        editor.delete_model(Revocation)
    yield
    with connection.schema_editor() as editor:
        editor.create_model(Renewal)
        editor.create_model(Ticket)
        editor.create_model(Revocation)


def assert_unavailable(answer, events, cause, event="http.refused"):
    """503, and when to come again; only the log says why."""
    assert (answer.status, answer.code, answer.get("retry-after")) == (503, "database_unavailable", "5")
    assert cause in events.one(event)["detail"]
    assert cause not in answer.json["error"]


# All three


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_only_post_is_answered(gateway, page, method):
    """A link or an image can't do any of it; 405 names the method (RFC 9110 §15.5.6)."""
    answer = await gateway.request(page, method, stack.bearer())
    assert (answer.status, answer.get("allow")) == (405, "POST")
    assert method == "HEAD" or answer.json["error"] == "This method is not allowed here."


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param({}, "no_token", id="no token"),
        pytest.param({"header": token(OTHER_SECRET)}, "invalid_token", id="not ours"),
        pytest.param({"header": token(exp=1)}, "expired_token", id="expired"),
        pytest.param({"cookie": "nonsense"}, "invalid_token", id="nonsense in the cookie"),
    ],
)
async def test_a_valid_token_is_needed(post, page, sent, code):
    """Contract §4: 401 with the refusal's JSON."""
    answer = await post(page, PATH, **sent)
    assert (answer.status, answer.code, answer.get("www-authenticate")) == (401, code, "Bearer")
    assert answer.json["request_id"] == answer.get("x-request-id")


@pytest.mark.parametrize("page", PAGES)
async def test_another_site_can_not_use_the_users_cookie(post, page):
    """Contract §4, cross-site requests: an unlisted origin with the cookie gets 403."""
    for origin in (EVIL, "null"):
        answer = await post(page, PATH, cookie=token(), Origin=origin)
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
        assert answer.get("access-control-allow-origin") is None


@pytest.mark.parametrize("page", PAGES)
async def test_a_revoked_token_is_refused(gateway, post, page):
    """Contract §4."""
    text = token()
    gateway.runtime.revocations.add([_revocation(gateway, text)])
    assert (await post(page, PATH, header=text)).code == "revoked_token"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"{", "The body is not valid JSON.", id="cut"),
        pytest.param(b"\xff", "The body is not valid JSON.", id="no text"),
        pytest.param(b"[" * 9000, "The body is not valid JSON.", id="nested too deeply"),
        pytest.param(b"[]", "The body is not a JSON object.", id="a list"),
        pytest.param(b'"x"', "The body is not a JSON object.", id="a string"),
        pytest.param(b"path=/ws", "The body is not valid JSON.", id="a form"),
    ],
)
async def test_a_body_that_is_no_json_object_is_explained(post, page, body, says):
    """Whoever writes the client has to learn why."""
    answer = await post(page, body, header=token())
    assert (answer.status, answer.code, answer.json["error"]) == (400, "bad_request", says)


@pytest.mark.parametrize("page", PAGES)
async def test_a_large_body_is_refused(post, page):
    """16 KiB are more than a token and a path need."""
    answer = await post(page, b"{" + b" " * 16384 + b"}", header=token())
    assert (answer.status, answer.code) == (413, "body_too_large")


def _revocation(gateway, text):
    from relay.identity.revocation import of_token

    return of_token(gateway.runtime.verifier.verify(text), 0)


# /gateway/session


OLD, FRESH = token(jti="old"), token(jti="fresh", exp=2_000_000_000)


def renewed(sockets):
    return {"success": True, "sockets": sockets, "expires_at": 2_000_000_000}


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({"header": FRESH, "body": {"previous": OLD}}, id="both named"),
        pytest.param({"header": FRESH, "cookie": OLD}, id="the previous in the cookie"),
        pytest.param({"cookie": FRESH, "body": {"previous": OLD}}, id="the fresh in the cookie"),
        pytest.param({"header": FRESH, "cookie": FRESH, "body": {"previous": OLD}}, id="the fresh in both"),
    ],
)
async def test_sockets_move_to_the_fresh_token(gateway, backend, post, sent):
    """Contract §6; the backend notices nothing, and the sockets are the fresh token's from then on."""
    async with gateway.websocket(additional_headers={"Authorization": f"Bearer {OLD}"}) as socket:
        answer = await post("/gateway/session", **sent)
        assert (answer.status, answer.json) == (200, renewed(1))
        assert answer.get("cache-control") == "no-store"
        assert answer.get("set-cookie") is None
        (live,) = gateway.runtime.registry
        assert (live.identity.expires_at, live.identity.fingerprint) == (2_000_000_000, fingerprint(FRESH))
        await socket.send("still there")
        assert await socket.recv() == "still there"
        assert len(backend.seen) == 1


async def test_a_client_may_ask_again(gateway, post):
    """Its first answer may have got lost: nothing is left to move, and all is well."""
    async with gateway.websocket(additional_headers={"Authorization": f"Bearer {OLD}"}):
        for sockets in (1, 0):
            assert (await post("/gateway/session", {"previous": OLD}, FRESH)).json == renewed(sockets)


class Holding:
    """A backend that echoes, once the test lets it answer a handshake.

    Attributes:
        asked: A handshake has come.
        go_on: Let it be answered.
    """

    def __init__(self):
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, seen, reader, writer):
        self.asked.set()
        await self.go_on.wait()
        await stack.echo(seen, reader, writer)


@pytest.fixture(params=[True, False], ids=["tunnel", "messages"])
async def held(request):
    """A gateway whose backend holds its handshakes, for both ways of carrying."""
    holding = Holding()
    async with stack.backend(holding) as backend:
        async with stack.gateway(stack.snapshot(backend.url), tunnel=request.param) as gateway:
            yield gateway, holding


async def opened(gateway, text):
    return await gateway.websocket(additional_headers={"Authorization": f"Bearer {text}"})


async def renew(gateway, old, fresh):
    headers = {"Authorization": f"Bearer {fresh}", "Cookie": f"auth_token={old}"}
    return await gateway.request("/gateway/session", "POST", headers)


async def test_a_socket_that_is_being_dialled_opens_as_the_fresh_tokens(held):
    """The old one may be over by then: the user has logged in again, and neither side notices anything."""
    gateway, holding = held
    end = int(time.time()) + 2
    old, between = token(exp=end), token(jti="in between")
    holding.go_on.set()
    async with await opened(gateway, token(user_id=2, exp=end)) as another_users:
        holding.asked.clear()
        holding.go_on.clear()
        opening = asyncio.ensure_future(opened(gateway, old))
        await holding.asked.wait()
        assert (await renew(gateway, old, between)).json["sockets"] == 0
        assert (await renew(gateway, between, FRESH)).status == 200
        assert await stack.closed(another_users) == (4401, "token expired")
    holding.go_on.set()
    async with await opening as client:
        gateway.runtime.on_revocations([_revocation(gateway, between)])
        await client.send("still there")
        assert await client.recv() == "still there"
        gateway.runtime.on_revocations([_revocation(gateway, FRESH)])
        assert await stack.closed(client) == (4401, "token revoked")


@pytest.mark.parametrize("which", ["old", "fresh"])
async def test_a_revocation_reaches_a_socket_that_is_being_dialled(held, which):
    """Of the old token before it is renewed, or of the fresh one behind it: no renewal undoes either."""
    gateway, holding = held
    old, fresh = gateway.runtime.verifier.verify(OLD), gateway.runtime.verifier.verify(FRESH)
    opening = asyncio.ensure_future(opened(gateway, OLD))
    await holding.asked.wait()
    if which == "old":
        gateway.runtime.on_revocations([_revocation(gateway, OLD)])
    gateway.runtime.renew(old.fingerprint, fresh)  # another process was shown it
    if which == "fresh":
        gateway.runtime.on_revocations([_revocation(gateway, FRESH)])
    holding.go_on.set()
    async with await opening as client:
        assert await stack.closed(client) == (4401, "token revoked")


async def test_a_handshake_that_fails_leaves_nothing_behind(held):
    """Its client has left; a fresh token finds nobody."""
    gateway, holding = held
    opening = asyncio.ensure_future(opened(gateway, OLD))
    await holding.asked.wait()
    opening.cancel()
    async with asyncio.timeout(10):
        while gateway.runtime.registry._handshakes:
            await gateway.request("/health")
    assert (await renew(gateway, OLD, FRESH)).json["sockets"] == 0


async def test_only_sockets_of_that_token_move(gateway, post):
    """Another login of the same user, in another browser, stays what it is."""
    other = token(jti="another login")
    async with gateway.websocket(additional_headers={"Authorization": f"Bearer {other}"}):
        assert (await post("/gateway/session", {"previous": OLD}, FRESH)).json == renewed(0)
        (live,) = gateway.runtime.registry
        assert live.identity.jti == "another login"


async def test_the_previous_token_may_just_have_expired(post):
    """The client was a moment late; the socket may be there still."""
    assert (await post("/gateway/session", {"previous": token(exp=1)}, FRESH)).json == renewed(0)


@pytest.mark.parametrize(
    ("previous", "code"),
    [
        pytest.param(token(OTHER_SECRET, jti="old"), "invalid_token", id="not ours"),
        pytest.param("nonsense", "invalid_token", id="no token"),
        pytest.param(token(user_id=2), "invalid_token", id="another user's"),
        pytest.param(None, "bad_request", id="null"),
        pytest.param("", "bad_request", id="empty"),
        pytest.param(5, "bad_request", id="a number"),
        pytest.param(["x"], "bad_request", id="a list"),
    ],
)
async def test_the_previous_token_must_be_one_of_the_same_user(post, previous, code):
    """Or a fresh token could keep another user's sockets alive."""
    assert (await post("/gateway/session", {"previous": previous}, FRESH)).code == code


async def test_another_users_token_is_called_that(post):
    """Whoever mixes up two logins finds out which."""
    answer = await post("/gateway/session", {"previous": token(user_id=2)}, FRESH)
    assert answer.json["error"] == "The previous token belongs to user 2, the fresh one to user 1."


async def test_without_a_previous_token_there_is_nothing_to_renew(post):
    """The sentence says what is missing."""
    answer = await post("/gateway/session", {}, FRESH, cookie=FRESH)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert "previous" in answer.json["error"]


async def test_a_revoked_previous_token_saves_nothing(gateway, post):
    """Its sockets are to end, also in a process that has not heard of it yet."""
    gateway.runtime.revocations.add([_revocation(gateway, OLD)])
    assert (await post("/gateway/session", {"previous": OLD}, FRESH)).code == "revoked_token"


async def test_the_fresh_token_must_be_valid_whatever_the_cookie_says(post):
    """The one in ``Authorization`` is meant: a valid cookie is no substitute."""
    assert (await post("/gateway/session", {"previous": OLD}, token(exp=1), cookie=OLD)).code == "expired_token"


@pytest.fixture
def followed(gateway, monkeypatch):
    """A gateway that follows a database: a renewal is written, so that other processes hear of it."""
    watcher = SimpleNamespace(age_seconds=0.0, error="", revision=0, stop=lambda: None)
    monkeypatch.setattr(gateway.runtime, "watcher", watcher)
    return gateway


async def test_a_renewal_that_can_not_be_written_is_none(no_tables, followed, post, events):
    """Or the sockets of this process would have moved, and those of the others not."""
    async with followed.websocket(additional_headers={"Authorization": f"Bearer {OLD}"}):
        answer = await post("/gateway/session", {"previous": OLD}, FRESH)
        assert_unavailable(answer, events, "no such table: relay_renewal")
        (live,) = followed.runtime.registry
        assert live.identity.jti == "old"


@pytest.mark.django_db(transaction=True)
async def test_a_renewal_does_not_wait_for_a_database_that_hangs(followed, post, events, monkeypatch):
    """The client can try again; whoever holds the lock may hold it for long."""
    monkeypatch.setattr(database, "PATIENCE", 0.01)
    release, loop = asyncio.Event(), asyncio.get_running_loop()
    monkeypatch.setattr(Renewal, "save", lambda row: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10))
    answer = await post("/gateway/session", {"previous": OLD}, FRESH)
    release.set()
    assert_unavailable(answer, events, "did not answer within 0.01 s")


@pytest.mark.django_db(transaction=True)
async def test_the_watcher_may_be_quicker(followed, post, monkeypatch):
    """It reads the row as soon as it is committed; the answer counts what has moved all the same."""
    loop = asyncio.get_running_loop()

    async def watcher_reads(row):
        followed.runtime.on_renewals([SimpleNamespace(fingerprint=row.fingerprint, identity=row.identity)])

    monkeypatch.setattr(
        Renewal, "save", lambda row: asyncio.run_coroutine_threadsafe(watcher_reads(row), loop).result(10)
    )
    async with followed.websocket(additional_headers={"Authorization": f"Bearer {OLD}"}):
        assert (await post("/gateway/session", {"previous": OLD}, FRESH)).json == renewed(1)


@pytest.mark.django_db(transaction=True)
async def test_a_fresh_token_that_is_revoked_meanwhile_saves_nothing(followed, post, monkeypatch):
    """The revocation found no socket of that token: those that come to it later must not outlive it."""
    loop = asyncio.get_running_loop()

    async def revokes():
        followed.runtime.on_revocations([_revocation(followed, FRESH)])

    monkeypatch.setattr(Renewal, "save", lambda row: asyncio.run_coroutine_threadsafe(revokes(), loop).result(10))
    async with followed.websocket(additional_headers={"Authorization": f"Bearer {OLD}"}) as client:
        await post("/gateway/session", {"previous": OLD}, FRESH)
        assert await stack.closed(client) == (4401, "token revoked")


# /gateway/ticket


@pytest.mark.django_db(transaction=True)
async def test_a_ticket_opens_a_socket_once(gateway, backend, post):
    """Contract §6; the backend sees the user, and neither ticket nor token."""
    answer = await post("/gateway/ticket", PATH, token(user_id=7), Origin=stack.ORIGIN)
    assert answer.status == 200
    assert answer.json == {"ticket": answer.json["ticket"], "expires_in": 30}
    assert answer.get("cache-control") == "no-store"
    assert answer.get("access-control-allow-origin") == stack.ORIGIN
    path = f"/ws?a=1&ticket={answer.json['ticket']}"
    async with gateway.websocket(path, additional_headers={}, origin=stack.ORIGIN):
        assert (backend.last.target, backend.last.get("x-user-id")) == ("/ws?a=1", "7")
    again = await gateway.request(path, headers=HANDSHAKE)
    assert (again.status, again.code) == (401, "invalid_ticket")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/ws", "/ws"),
        ("/", "/"),
        ("/a%20b", "/a b"),
        ("/a b", "/a b"),
        ("/%C3%BC", "/ü"),
        ("/ü", "/ü"),
        ("/100%", "/100%"),
    ],
)
async def test_a_path_is_kept_as_a_handshake_will_have_it(post, path, stored):
    """Decoded once, in whichever form the page has it."""
    assert (await post("/gateway/ticket", {"path": path}, token())).status == 200
    assert (await Ticket.objects.aget()).path == stored


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(None, "The path is missing", id="no body"),
        pytest.param({}, "The path is missing", id="no path"),
        pytest.param({"path": 5}, "The path is missing", id="a number"),
        pytest.param({"path": "ws"}, "The path is missing", id="not absolute"),
        pytest.param({"path": "ws://gateway/ws"}, "The path is missing", id="a url"),
        pytest.param({"path": "/ws?x=1"}, "has a query", id="with a query"),
        pytest.param({"path": "/ws#x"}, "has a query or fragment", id="with a fragment"),
        pytest.param({"path": "/" + "x" * 2000}, "longer than 2000", id="too long"),
        pytest.param({"path": "/a%00b"}, "unprintable", id="NUL"),
        pytest.param({"path": "/a\nb"}, "unprintable", id="a line break"),
        pytest.param({"path": "/\ud800"}, "unprintable", id="half a surrogate pair"),
    ],
)
async def test_a_path_that_no_handshake_can_have_is_explained(post, body, says):
    """400, and no ticket."""
    answer = await post("/gateway/ticket", body, token())
    assert (answer.status, answer.code) == (400, "bad_request")
    assert says in answer.json["error"]


async def test_an_endless_origin_is_refused(post):
    """The column has its length."""
    answer = await post("/gateway/ticket", PATH, token(), Origin="https://" + "x" * 300)
    assert (answer.status, answer.code) == (400, "bad_request")


async def test_no_ticket_without_a_database(no_tables, post, events):
    """The client may ask again; the cause is for the log."""
    answer = await post("/gateway/ticket", PATH, token())
    assert_unavailable(answer, events, "no such table: relay_ticket")


async def test_a_ticket_that_can_not_be_looked_up_may_be_good(no_tables, gateway, events):
    """Not 401: a client that drops its login for that would be wrong."""
    answer = await gateway.request(f"/ws?ticket={'a' * 43}", headers=HANDSHAKE)
    assert_unavailable(answer, events, "no such table: relay_ticket", "ws.refused")


# /gateway/logout


@pytest.mark.django_db(transaction=True)
async def test_logging_out_revokes_the_token_and_clears_the_cookie(gateway, post):
    """Contract §7; the row brings it to every other process."""
    text = token()
    answer = await post("/gateway/logout", cookie=text)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert answer.get("cache-control") == "no-store"
    name_and_value, *attributes = answer.get("set-cookie").split("; ")
    assert name_and_value in ('auth_token=""', "auth_token=")
    assert {"Max-Age=0", "Path=/", "HttpOnly", "SameSite=Lax"} <= set(attributes)
    assert "Secure" not in attributes
    assert (await Revocation.objects.aget()).value == fingerprint(text)
    assert (await post("/gateway/logout", cookie=text)).code == "revoked_token"
    assert (await gateway.request("/api/x", headers={"Authorization": f"Bearer {text}"})).code == "revoked_token"
    assert (await gateway.request("/api/x", headers=stack.bearer(jti="another"))).status == 200


@pytest.mark.django_db(transaction=True)
async def test_a_cookie_without_a_name_is_not_cleared(backend):
    """Contract §2: JWT_COOKIE may be empty."""
    async with stack.gateway(stack.snapshot(backend.url), jwt_cookie="") as gateway:
        answer = await gateway.request("/gateway/logout", "POST", stack.bearer())
        assert (answer.status, answer.get("set-cookie")) == (200, None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["__Host-auth", "__Secure-auth", "__host-auth"])
async def test_a_cookie_with_a_prefix_is_always_cleared_as_a_secure_one(backend, name):
    """Browsers ignore any other (RFC 6265bis §4.1.3), and TLS may have ended before a proxy that does not say so."""
    async with stack.gateway(stack.snapshot(backend.url), jwt_cookie=name) as gateway:
        for status, text in ((200, token()), (401, token(exp=1))):
            answer = await gateway.request("/gateway/logout", "POST", {"Cookie": f"{name}={text}"})
            assert answer.status == status
            name_and_value, *attributes = answer.get("set-cookie").split("; ")
            assert name_and_value in (f'{name}=""', f"{name}=")
            assert {"Max-Age=0", "Path=/", "Secure"} <= set(attributes)
            assert not [attribute for attribute in attributes if attribute.startswith("Domain")]


@pytest.mark.django_db(transaction=True)
async def test_over_https_the_cookie_is_cleared_as_a_secure_one(backend):
    """A browser keeps a Secure cookie that an insecure one would replace (RFC 6265bis §5.7)."""
    from ipaddress import ip_network

    proxies = (ip_network("127.0.0.0/8"),)
    async with stack.gateway(stack.snapshot(backend.url), trusted_proxies=proxies) as gateway:
        headers = stack.bearer() | {"X-Forwarded-Proto": "https"}
        answer = await gateway.request("/gateway/logout", "POST", headers)
        assert "Secure" in answer.get("set-cookie").split("; ")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param({"cookie": token(exp=1)}, "expired_token", id="expired"),
        pytest.param({"cookie": token(OTHER_SECRET)}, "invalid_token", id="not ours"),
        pytest.param({"cookie": token(exp=1), "Origin": stack.ORIGIN}, "expired_token", id="from an allowed origin"),
        pytest.param({"cookie": token(exp=1), "header": token(exp=2)}, "expired_token", id="beside another"),
    ],
)
async def test_a_cookie_whose_token_counts_no_more_is_cleared(post, sent, code):
    """Who logs out after its end wants it gone; the refusal says that there was nothing to revoke."""
    answer = await post("/gateway/logout", **sent)
    assert (answer.status, answer.code, answer.get("www-authenticate")) == (401, code, "Bearer")
    assert answer.get("set-cookie").startswith("auth_token=")
    assert "Max-Age=0" in answer.get("set-cookie").split("; ")


async def test_a_revoked_cookie_is_cleared(gateway, post):
    """An administrator was quicker than the user."""
    text = token()
    gateway.runtime.revocations.add([_revocation(gateway, text)])
    answer = await post("/gateway/logout", cookie=text)
    assert (answer.code, answer.get("set-cookie").partition("=")[0]) == ("revoked_token", "auth_token")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({}, id="no token"),
        pytest.param({"header": token(exp=1)}, id="none in a cookie"),
        pytest.param({"header": token(jti="a"), "cookie": token(jti="b")}, id="two that are valid"),
        pytest.param({"cookie": token(exp=1), "Origin": EVIL}, id="another site asks"),
    ],
)
async def test_no_other_refusal_clears_the_cookie(post, sent):
    """It may be worth something yet, or it is nobody's business."""
    answer = await post("/gateway/logout", **sent)
    assert (answer.status, answer.get("set-cookie")) == (401, None)


async def test_a_link_clears_no_cookie(gateway):
    """Only POST does anything."""
    answer = await gateway.request("/gateway/logout", headers={"Cookie": f"auth_token={token(exp=1)}"})
    assert (answer.status, answer.get("set-cookie")) == (405, None)


async def test_a_logout_that_can_not_be_written_is_none(no_tables, gateway, post, events):
    """A 200 would be a lie for every other process: the client has to try again, and for that it keeps its cookie."""
    text = token()
    answer = await post("/gateway/logout", cookie=text)
    assert_unavailable(answer, events, "no such table: relay_revocation")
    assert answer.get("set-cookie") is None
    assert (await gateway.request("/api/x", headers={"Authorization": f"Bearer {text}"})).status == 200


async def test_no_log_line_of_a_page_holds_a_token(post, events):
    """Whatever became of it."""
    for page in PAGES:
        await post(page, {"previous": OLD, "path": "x"}, FRESH, cookie=token(OTHER_SECRET))
    for text in (OLD, FRESH):
        assert text not in str(events.all)
