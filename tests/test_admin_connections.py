"""relay.admin.connections: who is connected, and to disconnect them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import DELETION
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from relay.admin import connections
from relay.fleet.connections import look
from relay.models import Kick, LiveConnection, Process, Revision
from tests.admin_helpers import log, messages, staff, text
from tests.fleet_helpers import connection, process

pytestmark = pytest.mark.django_db

LIST = "/admin/relay/liveconnection/"
DISCONNECT = f"{LIST}disconnect/"


@pytest.fixture
def admin(client: Client) -> Client:
    return staff(client)


@pytest.fixture(autouse=True)
def gateway() -> Process:
    """Two processes with three sockets of Ada (two on /ws) and one of nobody; a process that is gone had one more."""
    here, there = process(watched=10**9), process(pid=2, watched=10**9)
    opened = timezone.now() - timedelta(minutes=47, seconds=5)
    connection(here, id="a1", opened_at=opened, messages_to_backend=1234, bytes_to_client=2048)
    connection(there, id="a2", expires_at=timezone.now() + timedelta(hours=2, minutes=3, seconds=30))
    connection(here, id="a3", route="/chat", backend="chat")
    connection(there, id="n1", user_id="", email="", roles=[], route="/public", client="2001:db8::7", origin="")
    connection(process(pid=3, seen_at=Now() - timedelta(minutes=1)), id="g1", user_id="gone")
    return here


def pick(action: str, *keys: str) -> dict[str, Any]:
    return {"action": action, "index": "0", "_selected_action": list(keys)}


def listed(response: Any) -> set[str]:
    return {row.pk for row in response.context["cl"].result_list}


# The list


def test_the_list_has_the_sockets_of_all_living_processes(admin: Client) -> None:
    """Who, from where, to where, since when, how much, until when, and in which process."""
    response = admin.get(LIST)
    assert listed(response) == {"a1", "a2", "a3", "n1"}
    said = text(response)
    for fact in (
        "1 ada@example.com, user",
        "192.0.2.1 https://app.example.com",
        "/chat chat",
        "47 min ago",
        "↑ 1,234 ↓ 0",
        "↓ 2.0\xa0KB".replace("\xa0", " "),
        "in 2 h 3 min",
        "gw1:2",
        "nobody",
        "2001:db8::7",
    ):
        assert fact in said


def test_every_look_asks_the_processes_anew(admin: Client) -> None:
    """The count is what they follow."""
    before = Revision.current().watched
    admin.get(LIST)
    assert Revision.current().watched == before + 1
    admin.post(LIST, pick("disconnect_selected", "a1"))
    assert Revision.current().watched == before + 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param("q=ada@", {"a1", "a2", "a3"}, id="by email"),
        pytest.param("q=2001:db8", {"n1"}, id="by address"),
        pytest.param("q=a2", {"a2"}, id="by the socket's id"),
        pytest.param("route=/chat", {"a3"}, id="of a route"),
        pytest.param("backend=main&q=app.example", {"a1", "a2"}, id="of a backend and an origin"),
        pytest.param("user_id__exact=1&route=/ws", {"a1", "a2"}, id="of a user on a route"),
        pytest.param("q=somebody-else", set(), id="nobody"),
    ],
)
def test_it_can_be_searched_and_filtered(admin: Client, query: str, found: set[str]) -> None:
    """Search looks into what identifies a connection."""
    assert listed(admin.get(f"{LIST}?{query}")) == found


def test_the_filter_by_process_knows_those_with_connections(admin: Client, gateway: Process) -> None:
    """One of them at a time."""
    assert listed(admin.get(f"{LIST}?process__id__exact={gateway.pk}")) == {"a1", "a3"}


@pytest.mark.parametrize("column", range(1, 9))
def test_every_column_sorts(admin: Client, column: int) -> None:
    """Up and down."""
    for order in (str(column), f"-{column}"):
        assert len(listed(admin.get(f"{LIST}?o={order}"))) == 4


def test_what_is_missing_is_said(admin: Client, gateway: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that did not answer, and sockets beyond the list's bound."""
    monkeypatch.setattr(connections, "look", lambda: look(0.01))
    Process.objects.filter(pk=gateway.pk).update(watched=0, unlisted=7)
    said = text(admin.get(LIST))
    assert "Process gw1:1 has not answered in time" in said
    assert "7 more live connections" in said


def test_one_connection_has_a_page(admin: Client) -> None:
    """All that is known of it, and the ways to end it."""
    response = admin.get(f"{LIST}a1/change/")
    said = text(response)
    assert "http://127.0.0.1:9000" in said
    for button in ("Disconnect …", "Disconnect user 1 …", "Disconnect route /ws …"):
        assert button in said
    assert b'name="_save"' not in response.content


def test_one_that_has_gone_meanwhile_is_no_error(admin: Client) -> None:
    """Back to the list, with a word."""
    response = admin.get(f"{LIST}zz/change/", follow=True)
    assert response.status_code == 200
    assert "Perhaps it was deleted" in text(response)


# Disconnecting


@pytest.mark.parametrize(
    ("action", "keys", "number", "kicks"),
    [
        pytest.param("disconnect_selected", ("a1", "n1"), 2, [("socket", "a1"), ("socket", "n1")], id="picked ones"),
        pytest.param("disconnect_users", ("a1", "n1"), 3, [("user", "1")], id="their users, everywhere"),
        pytest.param("disconnect_routes", ("a1", "a3"), 3, [("route", "/chat"), ("route", "/ws")], id="their routes"),
    ],
)
def test_an_action_asks_and_then_disconnects(
    admin: Client, action: str, keys: tuple[str, ...], number: int, kicks: list[tuple[str, str]]
) -> None:
    """First the number, also of those that were not picked; then the orders that every process follows."""
    page = admin.post(LIST, pick(action, *keys))
    assert f"Disconnect {number} live connections?" in text(page)
    assert not Kick.objects.exists()
    values = [value for value, _ in page.context["concerned"]]
    before = Revision.current().kicks
    response = admin.post(DISCONNECT, {"kind": page.context["kind"], "value": values}, follow=True)
    assert messages(response) == [f"Disconnecting {number} live connections."]
    assert sorted(Kick.objects.values_list("kind", "value")) == kicks
    assert Revision.current().kicks > before
    assert sorted(repr_ for _, repr_, _ in log()) == [f"{kind} {value}" for kind, value in kicks]
    assert {flag for flag, _, _ in log()} == {DELETION}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param("kind=socket&value=a1", "Disconnect 1 live connection?", id="one"),
        pytest.param("kind=user&value=1", "Disconnect 3 live connections?", id="a user"),
        pytest.param("kind=route&value=/ws", "Disconnect 2 live connections?", id="a route"),
    ],
)
def test_a_button_asks_first(admin: Client, query: str, said: str) -> None:
    """A link changes nothing, whoever follows it."""
    assert said in text(admin.get(f"{DISCONNECT}?{query}"))
    assert not Kick.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("kind=user&value=nobody-of-that-name", id="a user who is not there"),
        pytest.param("kind=user&value=gone", id="one of a process that is gone"),
        pytest.param("kind=everybody&value=1", id="a kind that is none"),
        pytest.param("", id="nothing"),
    ],
)
def test_there_may_be_nobody_to_disconnect(admin: Client, query: str) -> None:
    """Back to the list."""
    assert admin.get(f"{DISCONNECT}?{query}").status_code == 302
    assert not Kick.objects.exists()


def test_those_who_left_meanwhile_are_not_ordered_to(admin: Client) -> None:
    """Between question and answer: nothing is left to do, nothing is logged."""
    LiveConnection.objects.filter(pk="a1").delete()
    response = admin.post(DISCONNECT, {"kind": "socket", "value": ["a1"]}, follow=True)
    assert messages(response) == ["They are already gone."]
    assert not Kick.objects.exists()
    assert log() == []


def test_nobody_is_no_user(admin: Client) -> None:
    """Connections without a user can't be disconnected by it."""
    response = admin.post(LIST, pick("disconnect_users", "n1"), follow=True)
    assert "There is nobody to disconnect" in messages(response)[0]


def test_too_many_at_once_go_by_user_or_route(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form has a size."""
    monkeypatch.setattr(connections, "MOST_AT_ONCE", 1)
    response = admin.post(LIST, pick("disconnect_selected", "a1", "a2"), follow=True)
    assert "At most 1 connections at once" in messages(response)[0]


# Who may


def test_to_look_is_not_to_disconnect(client: Client) -> None:
    """Another permission; and nobody adds, changes or deletes a row."""
    viewer = staff(client, "view_liveconnection")
    page = viewer.get(LIST)
    assert b"disconnect_" not in page.content
    assert "Disconnect" not in text(viewer.get(f"{LIST}a1/change/"))
    assert viewer.get(f"{DISCONNECT}?kind=user&value=1").status_code == 403
    assert viewer.post(DISCONNECT, {"kind": "user", "value": "1"}).status_code == 403
    assert viewer.get(f"{LIST}add/").status_code == 403
    assert viewer.post(f"{LIST}a1/delete/", {"post": "yes"}).status_code == 403
    assert not Kick.objects.exists()


def test_whoever_may_not_look_costs_the_processes_nothing(client: Client) -> None:
    """No look is counted for them."""
    assert staff(client, "view_route").get(LIST).status_code == 403
    assert Revision.current().watched == 0


def test_what_a_client_sent_stays_text(admin: Client, gateway: Process) -> None:
    """An origin or email may hold markup."""
    connection(gateway, email="<script>alert(1)</script>", origin="<img src=x>")
    page = admin.get(LIST).content
    assert b"<script>alert" not in page
    assert b"<img src=x>" not in page
