"""relay.admin.preview: what would close live sockets is asked about first, with the number that it will be."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION
from django.db.models.functions import Now
from django.test import Client

from relay.admin import preview
from relay.fleet.connections import look
from relay.models import Backend, Origin, Process, Revision, Route
from tests import admin_helpers
from tests.admin_helpers import BACKEND, log, messages, posted_again, staff, text
from tests.fleet_helpers import connection, process

pytestmark = pytest.mark.django_db

ROUTE = admin_helpers.ROUTE | {"path": "/ws", "kind": "websocket"}


@pytest.fixture
def admin(client: Client) -> Client:
    return staff(client)


@pytest.fixture(autouse=True)
def gateway() -> Process:
    """A gateway with five live sockets on /ws (two users), one on /chat, one of nobody on /public, and one gone."""
    main = Backend.objects.create(name="main", urls="http://127.0.0.1:9000")
    Backend.objects.create(name="other", urls="http://127.0.0.1:9001")
    for path, access in (("/ws", "authenticated"), ("/chat", "authenticated"), ("/public", "public")):
        Route.objects.create(path=path, kind="websocket", backend=main, access=access)
    Route.objects.create(path="/api/", kind="http", backend=main)
    Origin.objects.create(origin="https://app.example.com")
    Origin.objects.create(origin="https://*.example.org")
    here = process(watched=10**9)
    for n in range(4):
        connection(here, user_id="1", origin="https://eu.example.org" if n == 3 else "https://app.example.com")
    connection(here, user_id="2", roles=["admin"], origin="")
    connection(here, route="/chat", user_id="1")
    connection(here, route="/public", user_id="", roles=[], origin="")
    gone = process(pid=2, seen_at=Now() - timedelta(minutes=1))
    connection(gone)
    return here


def change(model: str, pk: int, **data: str) -> tuple[str, dict[str, str]]:
    form = ({"route": ROUTE, "backend": BACKEND}.get(model, {})) | data
    return f"/admin/relay/{model}/{pk}/change/", {name: value for name, value in form.items() if value}


def route(**data: str) -> tuple[str, dict[str, str]]:
    found = Route.objects.get(path="/ws")
    return change("route", found.pk, **{"backend": str(found.backend_id), **data})


def action(model: str, name: str, *keys: int) -> tuple[str, dict[str, Any]]:
    return f"/admin/relay/{model}/", {"action": name, "index": "0", "_selected_action": [str(key) for key in keys]}


def agreed(url: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """As Django's own page asks for a deletion."""
    return url, {**data, "post": "yes"}


def key(model: Any, **which: str) -> int:
    found: int = model.objects.get(**which).pk
    return found


CLOSING = {
    "a route that is disabled": (lambda: route(enabled=""), 5),
    "a route with another path": (lambda: route(path="/ws2"), 5),
    "a route to another path there": (lambda: route(upstream_path="/v2"), 5),
    "a route to another backend": (lambda: route(backend=str(key(Backend, name="other"))), 5),
    "a route that wants a role": (lambda: route(access="roles", roles="admin"), 4),
    "a backend that is disabled": (lambda: change("backend", key(Backend, name="main"), enabled=""), 7),
    "a backend at another url": (lambda: change("backend", key(Backend, name="main"), urls="http://b"), 7),
    "an origin that is disabled": (
        lambda: change("origin", key(Origin, origin="https://app.example.com"), origin="https://app.example.com"),
        4,
    ),
    "a wildcard that becomes narrower": (
        lambda: change(
            "origin", key(Origin, origin="https://*.example.org"), origin="https://*.us.example.org", enabled="on"
        ),
        1,
    ),
    "routes disabled together": (
        lambda: action("route", "disable", key(Route, path="/ws"), key(Route, path="/public")),
        6,
    ),
    "a backend deleted": (lambda: agreed(f"/admin/relay/backend/{key(Backend, name='main')}/delete/", {}), 7),
    "routes deleted together": (lambda: agreed(*action("route", "delete_selected", key(Route, path="/chat"))), 1),
}


def state() -> list[Any]:
    """All that a change could have left behind."""
    rows = [list(model.objects.order_by("pk").values()) for model in (Backend, Route, Origin)]
    return [*rows, Revision.current().config, log()]


@pytest.mark.parametrize("case", CLOSING)
def test_what_would_close_sockets_is_asked_about(admin: Client, case: str) -> None:
    """The number is that of the live sockets without a place in the new configuration; nothing is changed yet."""
    (url, data), number = CLOSING[case][0](), CLOSING[case][1]
    before = state()
    response = admin.post(url, data)
    assert response.status_code == 200
    assert f"This closes {number} live socket{'s' if number > 1 else ''}" in text(response)
    assert state() == before


@pytest.mark.parametrize("case", CLOSING)
def test_whoever_agrees_gets_what_was_asked_for(admin: Client, case: str) -> None:
    """The page that asks posts the same once more; then it is done, and logged once."""
    url, data = CLOSING[case][0]()
    before = state()
    page = admin.post(url, data).content.decode()
    response = admin.post(url, posted_again(page))
    assert response.status_code == 302
    assert Revision.current().config > before[3]
    assert {flag for flag, _, _ in log()} <= {CHANGE, DELETION}
    assert len(log()) in (1, 2)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: route(idle_timeout="60"), id="a limit"),
        pytest.param(lambda: route(access="public"), id="a route that opens to all"),
        pytest.param(lambda: change("backend", key(Backend, name="main"), max_body_size="1"), id="a backend's limit"),
        pytest.param(
            lambda: change("backend", key(Backend, name="main"), urls="http://b\nhttp://127.0.0.1:9000"),
            id="a url more",
        ),
        pytest.param(lambda: action("route", "disable", key(Route, path="/api/")), id="an HTTP route"),
        pytest.param(lambda: action("route", "enable", key(Route, path="/ws")), id="what is so already"),
        pytest.param(
            lambda: ("/admin/relay/origin/add/", {"origin": "https://new.example", "enabled": "on"}), id="a new origin"
        ),
        pytest.param(
            lambda: agreed(f"/admin/relay/backend/{key(Backend, name='other')}/delete/", {}),
            id="a backend without sockets",
        ),
    ],
)
def test_nothing_is_asked_where_nothing_closes(admin: Client, ask: Any) -> None:
    """One step, as ever."""
    url, data = ask()
    assert admin.post(url, data).status_code == 302


def test_the_page_says_whose_they_are(admin: Client) -> None:
    """By route: sockets and users; with what a process did not tell."""
    url, data = change("backend", key(Backend, name="main"), enabled="")
    said = text(admin.post(url, data))
    assert re.search(r"/ws 5 2 /chat 1 1 /public 1 0", said)
    assert "1012" in said


def test_a_process_that_did_not_answer_is_named(
    admin: Client, gateway: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sockets may be others by now."""
    monkeypatch.setattr(preview, "look", lambda: look(0.01))
    Process.objects.filter(pk=gateway.pk).update(watched=0, unlisted=3)
    said = text(admin.post(*route(enabled="")))
    assert "Process gw1:1 has not answered in time" in said
    assert "3 more live sockets" in said


def test_a_form_with_errors_comes_back_as_ever(admin: Client) -> None:
    """There is nothing to ask about yet."""
    response = admin.post(*route(path="no-slash", enabled=""))
    assert "must begin with a slash" in text(response)


def test_what_the_change_said_is_not_said_before_it_happened(admin: Client) -> None:
    """No "was changed successfully" on the page that asks, nor on the next."""
    response = admin.post(*route(enabled=""))
    assert messages(response) == []
    assert "successfully" not in text(admin.get("/admin/relay/route/"))


def test_asking_needs_the_permission_to_change(client: Client) -> None:
    """Who may only look learns nothing of the sockets."""
    response = staff(client, "view_route").post(*route(enabled=""))
    assert response.status_code == 403


def test_deleting_asks_for_the_deletion_first(admin: Client) -> None:
    """Django's own page, which lists what goes along; ours comes when that is agreed to."""
    url, data = action("route", "delete_selected", key(Route, path="/ws"))
    response = admin.post(url, data)
    assert "Are you sure" in text(response)
    assert Route.objects.filter(path="/ws").exists()


def test_rows_that_cannot_be_used_close_nothing(admin: Client) -> None:
    """The processes stay with the last configuration that could be used, so nothing closes: no question."""
    Route.objects.filter(path="/api/").update(access="everybody")
    assert admin.post(*route(enabled="")).status_code == 302
