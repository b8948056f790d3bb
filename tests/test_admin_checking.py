"""relay.admin.checking: the backends checked from a page, with cause and advice, in bounded time."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest
from django.test import Client

from relay.admin import checking
from relay.models import Backend, Origin, Route
from tests.admin_helpers import answering, messages, staff, text
from tests.fleet_helpers import connection, process

pytestmark = pytest.mark.django_db

LIST = "/admin/relay/backend/"


def check(client: Client, *backends: Backend) -> Any:
    return client.post(LIST, {"action": "check_backends", "index": "0", "_selected_action": [b.pk for b in backends]})


def test_each_check_is_shown_with_its_cause_and_advice(client: Client) -> None:
    """One that is well beside one where nobody listens; as many findings as the command has."""
    with answering() as url, closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        taken.close()
        well = Backend.objects.create(name="well", urls=url)
        down = Backend.objects.create(name="down", urls=f"http://127.0.0.1:{port}")
        Route.objects.create(path="/ws", kind="websocket", backend=well)
        Origin.objects.create(origin="https://app.example.com")
        response = check(staff(client), well, down)
    assert [(f.backend, f.check, f.outcome) for f in response.context["findings"]] == [
        ("down", "name", "ok"),
        ("down", "tcp", "FAILS"),
        ("well", "name", "ok"),
        ("well", "tcp", "ok"),
        ("well", "health", "skipped"),
        ("well", "websocket /ws", "ok"),
    ]
    said = text(response)
    assert "1 of 6 checks failed" in said
    assert f"connection refused 127.0.0.1:{port}" in said
    assert "is it running, and listening on port" in said


def test_one_that_hangs_spoils_no_other_result(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has to come before proxies give up."""
    monkeypatch.setattr(checking, "PATIENCE", 0.5)
    with answering() as url, closing(socket.create_server(("127.0.0.1", 0))) as mute:
        well = Backend.objects.create(name="well", urls=url)
        hangs = Backend.objects.create(name="hangs", urls=f"http://127.0.0.1:{mute.getsockname()[1]}", read_timeout=60)
        Route.objects.create(path="/ws", kind="websocket", backend=hangs)
        response = check(staff(client), hangs, well)
    found = {(f.backend, f.check, f.outcome, f.detail) for f in response.context["findings"] if f.outcome == "FAILS"}
    assert found == {("hangs", "all", "FAILS", "not done within 0.5 s")}
    assert ("well", "tcp") in {(f.backend, f.check) for f in response.context["findings"]}


def test_a_disabled_backend_can_be_checked_too(client: Client) -> None:
    """Before it is switched on."""
    with answering() as url:
        response = check(staff(client), Backend.objects.create(name="well", urls=url, enabled=False))
    assert "All 3 checks passed" in text(response)


def test_its_page_has_a_button(client: Client) -> None:
    """For the one backend; it is a form, as it sends something."""
    backend = Backend.objects.create(name="main", urls="http://127.0.0.1:9")
    page = staff(client).get(f"{LIST}{backend.pk}/change/").content.decode()
    assert '<button type="submit" form="check-backend"' in page
    assert f'name="_selected_action" value="{backend.pk}"' in page


def test_there_is_a_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has none."""
    monkeypatch.setattr(checking, "MOST", 1)
    rows = [Backend.objects.create(name=name, urls="http://127.0.0.1:9") for name in ("a", "b")]
    response = check(staff(client), *rows)
    assert response.status_code == 302
    assert "check_backends to check them all" in messages(client.get(LIST))[0]


def test_a_configuration_that_cannot_be_used_is_told(client: Client) -> None:
    """There is nothing to check then."""
    backend = Backend.objects.create(name="main", urls="http://127.0.0.1:9")
    Route.objects.create(path="/ws", kind="websocket", backend=backend)
    Route.objects.update(access="everybody")
    check(staff(client), backend)
    assert "can't be used" in messages(client.get(LIST))[0]


def test_looking_is_not_checking(client: Client) -> None:
    """Checking sends something: it needs the permission to change."""
    backend = Backend.objects.create(name="main", urls="http://127.0.0.1:9")
    response = check(staff(client, "view_backend"), backend)
    assert b"checks" not in response.content


def test_a_check_holds_no_transaction(client: Client, django_assert_max_num_queries: Any) -> None:
    """Nothing is previewed either: processes write on while it takes its time."""
    backend = Backend.objects.create(name="main", urls="http://127.0.0.1:9")
    connection(process(watched=0))
    assert check(staff(client), backend).status_code == 200
