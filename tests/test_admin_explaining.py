"""relay.admin.explaining: what would become of a request, without sending it and without keeping its token."""

from __future__ import annotations

import logging

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from relay.models import Backend, Origin, RefusalRecord, Revocation, Route
from tests.admin_helpers import staff, text
from tests.identity_helpers import token

pytestmark = pytest.mark.django_db

EXPLAIN = "/admin/relay/refusalrecord/explain/"
LIST = "/admin/relay/refusalrecord/"


@pytest.fixture
def admin(client: Client) -> Client:
    return staff(client)


@pytest.fixture(autouse=True)
def rows() -> None:
    """A backend with a route of each kind."""
    main = Backend.objects.create(name="main", urls="http://127.0.0.1:9000")
    Route.objects.create(path="/api/", backend=main)
    Route.objects.create(path="/ws", kind="websocket", backend=main)
    Origin.objects.create(origin="https://app.example.com")


def refused(**changes: str) -> RefusalRecord:
    facts = {"kind": "http", "code": "no_token", "method": "POST", "path": "/api/x", "request_id": "r1"}
    return RefusalRecord.objects.create(at=timezone.now(), process="p", **{**facts, **changes})


def test_the_answer_is_that_of_the_command(admin: Client) -> None:
    """Route, user and what the backend would get, by the rows of now."""
    said = text(
        admin.post(
            EXPLAIN, {"method": "POST", "path": "/api/x?a=1", "token": token(settings.RELAY.jwt_secret, user_id="42")}
        )
    )
    for fact in ("asked POST /api/x?a=1", "route /api/ (http, authenticated) -> main", "user 42", "x-user-id: 42"):
        assert fact in said.replace("X-User-ID", "x-user-id")


def test_a_handshake_is_asked_for_as_such(admin: Client) -> None:
    """With its origin compared."""
    asked = {"method": "WebSocket", "path": "/ws", "origin": "https://evil.example"}
    said = text(admin.post(EXPLAIN, asked))
    assert "refused: 403 origin_not_allowed" in said
    assert "https://app.example.com" in said


def test_a_revoked_token_is_known(admin: Client) -> None:
    """As to every process."""
    Revocation.objects.create(kind="user", value="42")
    said = text(
        admin.post(
            EXPLAIN, {"method": "GET", "path": "/api/x", "token": token(settings.RELAY.jwt_secret, user_id="42")}
        )
    )
    assert "401 revoked_token" in said


def test_a_page_of_our_own_is_known(admin: Client) -> None:
    """No route is looked at."""
    for path in ("/admin/x", "/health"):
        assert "a page of the gateway itself" in text(admin.post(EXPLAIN, {"method": "GET", "path": path}))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"method": "GET", "path": "api"}, id="a path without a slash"),
        pytest.param({"method": "BREW", "path": "/"}, id="no method"),
        pytest.param({}, id="nothing"),
        pytest.param({"method": "GET", "path": "/", "origin": "a\nb"}, id="two lines"),
    ],
)
def test_what_cannot_be_sent_is_told(admin: Client, asked: dict[str, str]) -> None:
    """In the command's words."""
    page = admin.post(EXPLAIN, asked)
    assert page.status_code == 200
    assert page.context["problem"]
    assert "answer" not in page.context


def test_a_configuration_that_cannot_be_used_is_told(admin: Client) -> None:
    """The processes stay with the last good one."""
    Route.objects.update(access="everybody")
    assert "can't be used" in text(admin.post(EXPLAIN, {"method": "GET", "path": "/api/x"}))


@pytest.mark.parametrize("where", ["token", "path", "both"])
def test_a_token_is_never_shown_or_logged(admin: Client, caplog: pytest.LogCaptureFixture, where: str) -> None:
    """Wherever it was typed, and whatever is wrong with the rest."""
    caplog.set_level(logging.DEBUG)
    secret = token(settings.RELAY.jwt_secret, user_id="42")
    asked = {"method": "GET", "path": "/api/x", "token": "" if where == "path" else secret}
    if where != "token":
        asked["path"] += f"?token={secret}"
    pages = [admin.post(EXPLAIN, asked), admin.post(EXPLAIN, {**asked, "path": asked["path"][1:]})]
    for page in pages:
        assert page.status_code == 200
        assert secret not in page.content.decode()
        assert secret.rpartition(".")[2] not in page.content.decode()
    assert secret not in caplog.text


def test_each_refusal_leads_there_filled_in(admin: Client) -> None:
    """Method, path and origin; one that is of no request leads nowhere."""
    handshake = refused(kind="websocket", method="GET", path="/ws", origin="https://evil.example")
    request = refused()
    refused(kind="backend", method="", path="", request_id="")
    page = admin.get(LIST).content.decode()
    assert page.count(f'href="{EXPLAIN}?refusal=') == 2
    asked = admin.get(f"{EXPLAIN}?refusal={handshake.pk}").context["asked"]
    assert asked == {"method": "WebSocket", "path": "/ws", "origin": "https://evil.example"}
    asked = admin.get(f"{EXPLAIN}?refusal={request.pk}").context["asked"]
    assert asked == {"method": "POST", "path": "/api/x", "origin": ""}


def test_a_rare_method_is_explained_as_well(admin: Client) -> None:
    """It is relayed, so it is refused, and leads there like any other."""
    page = admin.get(f"{EXPLAIN}?refusal={refused(method='PROPFIND').pk}")
    assert "<option selected>PROPFIND</option>" in page.content.decode()
    answer = admin.post(EXPLAIN, {"method": "PROPFIND", "path": "/api/x"}).context["answer"]
    assert answer.startswith("asked      PROPFIND /api/x\n")


@pytest.mark.parametrize("query", ["", "?refusal=x", "?refusal=999999", "?refusal=" + "9" * 40, "?path=/x&token=t"])
def test_a_link_brings_nothing_else_along(admin: Client, query: str) -> None:
    """Least of all a token: an address is written down in too many places."""
    refused()
    page = admin.get(EXPLAIN + query)
    assert page.context["asked"] == {"method": "GET", "path": "/", "origin": ""}
    assert "answer" not in page.context


def test_it_is_for_those_who_may_see_routes_and_backends(client: Client) -> None:
    """The answer names them."""
    viewer = staff(client, "view_refusalrecord", "view_route")
    refused()
    assert EXPLAIN not in viewer.get(LIST).content.decode()
    assert viewer.get(EXPLAIN).status_code == 403
    assert viewer.post(EXPLAIN, {"method": "GET", "path": "/"}).status_code == 403


def test_it_wants_our_own_form(admin: Client) -> None:
    """Its token is the reason for which it is posted."""
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = admin.cookies
    assert strict.post(EXPLAIN, {"method": "GET", "path": "/"}).status_code == 403
