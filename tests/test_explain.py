"""relay.explain and ``manage.py explain``: what would become of a request."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from relay.explain import METHODS, explain, question
from relay.forwarding import Forwarding
from relay.identity.middleware import Examiner
from relay.identity.places import Places
from relay.identity.revocation import Revocations
from relay.identity.tokens import Verifier
from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url
from tests import stack
from tests.identity_helpers import SECRET, relay_settings, token

ALICE = token(SECRET, user_id=1, email="alice@example.com", role="user")
APP = "https://app.example.com"
MAIN = Backend("main", (Url.parse("http://10.0.0.5:9000/base"),))
CHAT = Backend(
    "chat", (Url.parse("http://10.0.0.6:9001"), Url.parse("http://10.0.0.7:9001")), websocket_origin="forward"
)
OFF = Backend("off", (Url.parse("http://10.0.0.8"),), enabled=False)
ROUTES = (
    Route("/api/", "http", "main", upstream_path="/v2/"),
    Route("/api/reports/<int:id>", "http", "main", methods=("GET",)),
    Route("/admins/", "http", "main", access="roles", roles=("admin", "staff")),
    Route("/open/", "http", "main", access="public"),
    Route("/gone/", "http", "main", enabled=False),
    Route("/off/", "http", "off"),
    Route("/ws", "websocket", "chat", refuse_with="close"),
    Route("/plain-ws", "websocket", "main"),
    Route("/fixed-ws", "websocket", "fixed"),
)
FIXED = replace(MAIN, name="fixed", websocket_origin="https://internal.example")
SNAPSHOT = Snapshot.build((MAIN, CHAT, OFF, FIXED), ROUTES, (Origin(APP),))


async def told(*request: str, own: bool = False, **options: Any) -> str:
    """What explain says, with the identity room's own judgement."""
    asked = question(*request, **options)
    settings = relay_settings(jwt_secret=SECRET)
    found = Places("auth_token", "token").find(asked.scope)
    who = await Examiner(Verifier(settings), Revocations()).identify(found)
    return explain(asked, SNAPSHOT, who, Forwarding("auth_token", "token"), time.time(), own=own)


def row(text: str, label: str) -> str:
    """The line with this label."""
    return next(line.removeprefix(label).strip() for line in text.splitlines() if line.startswith(label))


async def test_a_request_that_gets_in_is_told_to_the_last_field():
    """Route, user, backend, request line, headers."""
    text = await told("GET", "/api/users/%31?x=1&y=a%20b", token=ALICE)
    assert row(text, "asked") == "GET /api/users/%31?x=1&y=a%20b"
    assert row(text, "route") == "/api/ (http, authenticated) -> main"
    assert row(text, "who") == "user 1 <alice@example.com>, role user; token in header"
    assert "it expires" in text
    assert re.search(r", in [1-5]?[0-9] min|, in 60 min", text), "the token was made when the tests were collected"
    assert row(text, "answer") == "the backend's"
    assert row(text, "backend") == "main: http://10.0.0.5:9000/base"
    assert row(text, "sends") == "GET /base/v2/users/%31?x=1&y=a%20b HTTP/1.1"
    for field in (
        "host: 10.0.0.5:9000",
        "x-forwarded-for: <client address>",
        "x-request-id: <one per request>",
        "x-user-id: 1",
        "x-user-email: alice@example.com",
        "x-user-role: user",
    ):
        assert f"\n           {field}\n" in text
    assert row(text, "limits") == "connect 5 s, head 60 s, body 64 MiB"
    assert row(text, "next") == "run check_backends main to actually connect"


async def test_what_is_told_is_what_goes_out(backend, gateway):
    """The same request through the real gateway: the backend sees the fields that were told."""
    sent = {**stack.bearer(), "Accept": "text/html", "X-User-ID": "7", "Connection": "X-Hop", "X-Hop": "1"}
    await gateway.request("/api/x?a=1", headers={**sent, "Host": "gateway.test"})
    asked = question("GET", "/api/x?a=1", host="gateway.test", fields=[f"{k}: {v}" for k, v in sent.items()])
    runtime = gateway.runtime
    who = await runtime.examiner.identify(runtime.places.find(asked.scope))
    text = explain(asked, runtime.snapshot, who, runtime.forwarding, time.time())
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("sends"))
    end = next(n for n, line in enumerate(lines) if line.startswith("limits"))
    told_fields = dict(line.strip().split(": ", 1) for line in lines[start + 1 : end])
    seen = {name.decode(): value.decode() for name, value in backend.last.headers}
    for placeholder, real in (("x-forwarded-for", "127.0.0.1"), ("x-request-id", seen["x-request-id"])):
        assert told_fields.pop(placeholder).startswith("<")
        assert seen.pop(placeholder) == real
    assert told_fields == seen


@pytest.mark.parametrize(
    ("request_", "options", "answer", "why", "mend"),
    [
        pytest.param(("GET", "/api/x"), {}, "401 no_token", "no token in any place", "Bearer", id="without a token"),
        pytest.param(
            ("GET", "/api/x"), {"token": "abc"}, "401 invalid_token", "token in header", "JWT_SECRET", id="a bad token"
        ),
        pytest.param(
            ("GET", "/api/x"),
            {"token": token(SECRET, exp=1)},
            "401 expired_token",
            "exp",
            "issue_token",
            id="an old token",
        ),
        pytest.param(
            ("GET", "/api/x"),
            {"token": ALICE, "fields": [f"Cookie: auth_token={token(SECRET, user_id=2)}"]},
            "401 ambiguous_token",
            "header and cookie",
            "one place",
            id="two tokens",
        ),
        pytest.param(
            ("GET", "/admins/x"),
            {"token": ALICE},
            "403 role_required",
            "requires admin or staff",
            "role",
            id="the role",
        ),
        pytest.param(
            ("POST", "/api/x"),
            {"fields": [f"Cookie: auth_token={ALICE}"], "origin": "https://evil.example"},
            "403 origin_not_allowed",
            "https://evil.example",
            "[[origin]]",
            id="a cross-site request",
        ),
        pytest.param(
            ("GET", "/plain-ws"),
            {"token": ALICE, "origin": "https://ap.example.com", "websocket": True},
            "403 origin_not_allowed",
            "nearest: https://app.example.com",
            "[[origin]]",
            id="an origin",
        ),
        pytest.param(
            ("GET", "/ws"),
            {"websocket": True},
            'accepted, then closed with 4401 no_token (refuse_with = "close")',
            "no token",
            "Bearer",
            id="a route that closes",
        ),
        pytest.param(
            ("GET", "/off/x"), {"token": ALICE}, "503 backend_disabled", "off", "Enable", id="a disabled backend"
        ),
        pytest.param(("GET", "/api/../x"), {}, "400 bad_path", "dot segment", "plain form", id="a bad path"),
        pytest.param(("GET", "/api/a%2Fb"), {}, "400 bad_path", "encoded slash", "plain form", id="an encoded slash"),
    ],
)
async def test_a_refusal_is_told_with_code_reason_and_mend(request_, options, answer, why, mend):
    """Exactly what the client would get, and what the operator can do."""
    text = await told(*request_, **options)
    assert row(text, "answer") == f"refused: {answer}"
    assert why in row(text, "why")
    assert mend in row(text, "mend")
    assert "sends" not in text


@pytest.mark.parametrize(
    ("request_", "websocket", "nearest"),
    [
        pytest.param(
            ("GET", "/apix"), False, "/api/ (http, authenticated) -> main: it matches /api and", id="a prefix ends"
        ),
        pytest.param(("GET", "/ws"), False, "it is for WebSockets (--websocket)", id="a handshake's route"),
        pytest.param(("GET", "/api/x"), True, "it is for HTTP requests", id="a request's route"),
        pytest.param(("GET", "/gone/x"), False, "/gone/ (http, authenticated) -> main: it is disabled", id="disabled"),
        pytest.param(("GET", "/ws/"), True, "it matches exactly this path", id="a slash too many"),
        pytest.param(
            ("GET", "/zzzzzzzzz"), True, "none is similar; the websocket routes are /fixed-ws,", id="nothing alike"
        ),
    ],
)
async def test_without_a_route_the_nearest_ones_are_told(request_, websocket, nearest):
    """And why each of them does not match."""
    text = await told(*request_, websocket=websocket)
    assert row(text, "route") == "none"
    assert row(text, "answer") == "refused: 404 no_route"
    assert nearest in text


async def test_an_empty_query_is_sent():
    """As `serve` does."""
    assert row(await told("GET", "/api/x?", token=ALICE), "sends") == "GET /base/v2/x? HTTP/1.1"


async def test_a_method_that_no_route_serves_is_told():
    """With the methods that there are."""
    text = explain(
        question("POST", "/only"),
        Snapshot.build((MAIN,), (Route("/only", "http", "main", methods=("GET", "PUT")),), ()),
        await Examiner(Verifier(relay_settings(jwt_secret=SECRET)), Revocations()).identify([]),
        Forwarding(),
        0,
    )
    assert "/only (http, GET PUT, authenticated) -> main: it does not serve POST" in text


async def test_routes_that_match_as_well_are_told():
    """The most specific wins; who wonders why sees the others."""
    text = await told("GET", "/api/reports/7", token=ALICE)
    assert row(text, "route") == "/api/reports/<int:id> (http, GET, authenticated) -> main"
    assert "more specific than /api/ (http, authenticated) -> main" in text


async def test_nobody_on_a_public_route_is_told():
    """No X-User-* fields then, and a bad token does not matter."""
    text = await told("GET", "/open/x", token="bad")
    assert "the route is public, so that does not matter" in row(text, "who")
    assert "x-user-" not in text
    assert "no X-User-* fields" in text


@pytest.mark.parametrize(
    ("path", "origin", "note"),
    [
        pytest.param("/ws", APP, "the backend sees Origin https://app.example.com", id="forwarded"),
        pytest.param("/ws", None, "there is no Origin to forward", id="nothing to forward"),
        pytest.param("/plain-ws", APP, "the backend sees no Origin", id="left out"),
        pytest.param("/fixed-ws", APP, "the backend sees Origin https://internal.example", id="fixed"),
    ],
)
async def test_what_the_backend_sees_as_origin_is_told(path, origin, note):
    """A backend's own check of it was the cause of the 403 that took days (DESIGN.md)."""
    text = await told("GET", path, websocket=True, origin=origin, token=ALICE)
    assert row(text, "answer") == "the backend's"
    assert note in text
    assert ("Django Channels" in text) == (note == "the backend sees no Origin"), "it refuses a missing one"
    if "sees Origin" in note:
        assert "must allow it itself" in text


async def test_a_handshake_is_told_as_it_would_be_made():
    """With its own fields, the real subprotocols, and every url."""
    text = await told(
        "GET", "/ws", websocket=True, origin=APP, fields=[f"Sec-WebSocket-Protocol: chat, bearer.{ALICE}"]
    )
    assert "token in subprotocol" in row(text, "who")
    assert row(text, "backend") == "chat: http://10.0.0.6:9001 or http://10.0.0.7:9001"
    for field in ("upgrade: websocket", "sec-websocket-protocol: chat\n", f"origin: {APP}", "x-user-id: 1"):
        assert f"           {field}" in text
    assert "idle without limit" in row(text, "limits")


async def test_a_ticket_is_left_alone():
    """It would be used up."""
    text = await told("GET", "/plain-ws?ticket=abc", websocket=True, token=ALICE)
    assert "the ticket was not checked" in text
    assert "abc" not in text


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"token": ALICE}, id="header"),
        pytest.param({"fields": [f"Cookie: theme=dark; auth_token={ALICE}"]}, id="cookie"),
        pytest.param({"fields": [f"Authorization: Basic {ALICE}"]}, id="another scheme"),
        pytest.param({"fields": [f"X-Debug: {ALICE}"]}, id="anywhere"),
        pytest.param({"fields": [f"Sec-WebSocket-Protocol: a, bearer.{ALICE}"], "websocket": True}, id="subprotocol"),
    ],
)
@pytest.mark.parametrize("path", ["/api/x", "/open/x", f"/open/{ALICE}", f"/open/?token={ALICE}", "/plain-ws", "/none"])
async def test_no_token_is_told(options, path):
    """Wherever it was put, and whatever becomes of it."""
    text = await told("GET", path, **options)
    assert ALICE not in text
    assert ALICE.split(".")[2] not in text


async def test_the_gateways_own_pages_are_not_relayed():
    """They come before any route."""
    assert "a page of the gateway itself" in await told("GET", "/health", own=True)


async def test_what_is_never_relayed_is_told():
    """TRACE and CONNECT: 405."""
    text = await told("TRACE", "/api/x")
    assert row(text, "answer") == "refused: 405 method_not_allowed"
    assert row(text, "why") == "TRACE is never relayed"


@pytest.mark.parametrize("method", METHODS)
async def test_whatever_the_server_takes_can_be_asked_about(backend, gateway, method):
    """WebDAV and its like are relayed, so they are explained: the same answer in both."""
    text = await told(method, "/api/x", token=ALICE)
    answer = await gateway.request("/api/x", method, {"Authorization": f"Bearer {ALICE}"})
    if answer.status == 405:
        assert row(text, "answer") == "refused: 405 method_not_allowed"
    else:
        assert row(text, "sends") == f"{method} /base/v2/x HTTP/1.1"
        assert backend.last.method == method


@pytest.mark.parametrize(("host", "port"), [("gw.test", "80"), ("gw.test:8443", "8443"), ("[::1]:8000", "8000")])
async def test_the_port_is_that_of_the_host(host, port):
    """As for a request that came with it."""
    text = await told("GET", "/api/x", token=ALICE, fields=[f"Host: {host}"])
    assert f"           x-forwarded-port: {port}\n" in text


@pytest.mark.parametrize(
    ("typed", "options", "said"),
    [
        pytest.param(("GET", "api/x"), {}, "begins with a slash", id="no slash"),
        pytest.param(("GET", "http://gw.example/api"), {}, "without scheme and host", id="a whole url"),
        pytest.param(("GET", ""), {}, "begins with a slash", id="nothing"),
        pytest.param(("/api/x", "GET"), {}, "METHOD comes first: explain GET /api/x", id="the wrong way round"),
        pytest.param(("FETCH", "/api/x"), {}, "'FETCH' is not a method that the server knows", id="no method"),
        pytest.param(("", "/api/x"), {}, "'' is not a method that the server knows", id="an empty method"),
        pytest.param(("GET / HTTP/1.1\r\nA:", "/api/x"), {}, "that the server knows", id="a line in the method"),
        pytest.param(("PROPFIND", "/ws"), {"websocket": True}, "begins with GET", id="a handshake by PROPFIND"),
        pytest.param(("POST", "/ws"), {"websocket": True}, "begins with GET", id="a handshake by POST"),
        pytest.param(("GET", "/"), {"fields": ["Accept"]}, "'Name: value'", id="a field without a value"),
        pytest.param(("GET", "/"), {"fields": ["A: b\nX: y"]}, "on one line", id="two fields in one"),
        pytest.param(("GET", "/"), {"fields": ["A b: c"]}, "'Name: value'", id="no field name"),
        pytest.param(("GET", "/"), {"origin": "a\r\nb"}, "on one line", id="an origin on two lines"),
        pytest.param(("GET", "/"), {"token": f"{ALICE}\n"}, "", id="a token with a line end"),
    ],
)
def test_what_cannot_be_sent_is_an_error_in_one_line(typed, options, said):
    """And it says how it is meant; the token is not repeated."""
    if not said:
        question(*typed, **options)
        return
    with pytest.raises(ValueError) as error:
        question(*typed, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert ALICE not in str(error.value)


@pytest.mark.parametrize(
    ("typed", "raw"),
    [
        pytest.param("/é b", b"/%C3%A9%20b", id="typed plainly"),
        pytest.param("/%C3%A9", b"/%C3%A9", id="typed encoded"),
        pytest.param("/a%2Fb", b"/a%2Fb", id="an encoded slash stays"),
    ],
)
def test_a_typed_path_becomes_what_a_client_would_send(typed, raw):
    """Browsers encode what does not belong into a request line."""
    asked = question("get", typed)
    assert (asked.ask.method, asked.ask.raw_path) == ("GET", raw)


# The command.


CONFIGURATION = """
[[backend]]
name = "main"
url = "http://127.0.0.1:9"
[[route]]
path = "/api/"
kind = "http"
backend = "main"
"""


@pytest.fixture
def configured(settings, tmp_path, capsys, db):
    """The command over a database with a small configuration; returns what it prints."""
    settings.RELAY = relay_settings(jwt_secret=SECRET)
    file = tmp_path / "relay.toml"
    file.write_text(CONFIGURATION)
    call_command("import_config", str(file))
    capsys.readouterr()

    def run(*arguments: str) -> str:
        call_command("explain", *arguments)
        printed = capsys.readouterr()
        assert printed.err == ""
        return str(printed.out)

    return run


def test_the_command_reads_the_configuration_in_the_database(configured):
    """And the keys of the settings."""
    assert row(configured("GET", "/api/x", "--token", ALICE), "answer") == "the backend's"
    assert row(configured("GET", "/other"), "answer") == "refused: 404 no_route"


def test_the_command_knows_revocations(configured):
    """As a running gateway does."""
    call_command("revoke", "--user-id", "1")
    assert row(configured("GET", "/api/x", "--token", ALICE), "answer") == "refused: 401 revoked_token"


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/gateway/ticket", "/admin/", "/admin/login/", "/gateway/static/x.css"]
)
def test_the_command_knows_the_gateways_own_pages(configured, path):
    """By the URLconf that serves them."""
    assert "a page of the gateway itself" in configured("GET", path)


def test_the_command_knows_what_is_refused_before_any_route(configured, settings):
    """Methods that are never relayed, and hosts that are not ours; the health pages answer to any."""
    settings.ALLOWED_HOSTS = ["gw.explained.example"]
    assert row(configured("GET", "/api/x", "--token", ALICE), "answer") == "the backend's"
    assert row(configured("TRACE", "/api/x"), "answer") == "refused: 405 method_not_allowed"
    for kind in ([], ["--websocket"]):
        text = configured("GET", "/api/x", "--header", "Host: evil.explained.example:80", *kind)
        assert row(text, "answer") == "refused: 400 bad_request"
        assert row(text, "why") == "the host evil.explained.example:80 is not in ALLOWED_HOSTS"
        assert "add it to ALLOWED_HOSTS" in row(text, "mend")
    assert "a page of the gateway itself" in configured("GET", "/health", "--header", "Host: evil.explained.example")


def test_the_command_fails_in_one_line(configured):
    """Exit status 2 for what was typed wrongly."""
    with pytest.raises(CommandError) as error:
        configured("GET", "api")
    assert error.value.returncode == 2
    assert "\n" not in str(error.value)
