"""relay.models and relay.revision: validation across fields, and a count for every change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction

from relay.models import Backend, Counted, Kick, Origin, Revision, Revocation, Route, Ticket
from tests.config_helpers import file_database

pytestmark = pytest.mark.django_db

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoxfQ.c2lnbmF0dXJl"


def backend(name: str = "main", **fields: Any) -> Backend:
    return Backend.objects.create(name=name, urls="http://127.0.0.1:9000", **fields)


def errors(row: models.Model) -> dict[str, list[str]]:
    """What the row's full validation says, by field."""
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    return caught.value.message_dict


def count() -> tuple[int, int, int]:
    now = Revision.current()
    return now.config, now.revocations, now.kicks


# Validation


def test_the_defaults_are_those_of_the_contract() -> None:
    """Section 3: what a row says that says nothing."""
    row, route, origin = Backend(), Route(), Origin()
    assert (row.health_path, row.connect_timeout, row.read_timeout) == ("", 5, 60)
    assert (row.max_body_size, row.max_message_size) == (64 * 1024**2, 16 * 1024**2)
    assert (row.websocket_origin, row.forward_token, row.forward_host) == ("omit", False, False)
    assert (row.tls_verify, row.enabled, origin.enabled, origin.note) == (True, True, True, "")
    assert (route.kind, route.access, route.methods, route.roles) == ("http", "authenticated", "", "")
    assert (route.upstream_path, route.refuse_with, route.message_rate) == ("", "http", "")
    assert (route.idle_timeout, route.max_connections_per_user, route.enabled) == (0, 0, True)


@pytest.mark.parametrize("model", [Backend, Route, Origin, Revocation])
def test_every_field_says_what_it_does(model: type[models.Model]) -> None:
    """An operator changes a live system: each field explains itself."""
    assert [f.name for f in model._meta.fields if not f.primary_key and not f.help_text] == []


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        pytest.param({"access": "roles"}, "roles", "at least one role", id="roles are wanted and not named"),
        pytest.param(
            {"roles": "admin"}, "roles", "no effect with access authenticated", id="roles that nobody asks for"
        ),
        pytest.param({"access": "public", "roles": "a"}, "roles", "no effect with access public", id="roles in public"),
        pytest.param({"access": "role"}, "access", "'role' is not a valid access; use public,", id="an unknown access"),
        pytest.param({"kind": "ws"}, "kind", "'ws' is not a valid kind; use http or websocket", id="an unknown kind"),
        pytest.param({"kind": "websocket", "methods": "get"}, "methods", "always a GET", id="a handshake's method"),
        pytest.param(
            {"refuse_with": "close"},
            "refuse_with",
            "'close' only affects websocket routes; leave it at 'http'",
            id="a close on an HTTP route",
        ),
        pytest.param(
            {"idle_timeout": 5}, "idle_timeout", "only affects websocket routes", id="idleness of an HTTP route"
        ),
        pytest.param(
            {"max_connections_per_user": 1}, "max_connections_per_user", "leave it at 0", id="sockets of an HTTP route"
        ),
        pytest.param(
            {"message_rate": "5/s"}, "message_rate", "only affects websocket routes", id="messages of an HTTP route"
        ),
        pytest.param({"kind": "websocket", "idle_timeout": -1}, "idle_timeout", "is not a time", id="negative"),
        pytest.param({"path": ""}, "path", "cannot be blank", id="no path"),
        pytest.param({"path": "/" + "x" * 500}, "path", "at most 500 characters", id="a path too long"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(fields: dict[str, Any], field: str, said: str) -> None:
    """The error stands at the field that has to be mended, and only there."""
    found = errors(Route(**{"path": "/x", "backend": backend(), **fields}))
    assert list(found) == [field]
    assert said in found[field][0]


def test_a_websocket_route_takes_all_of_its_fields() -> None:
    """Nothing of what belongs to WebSockets is refused on a WebSocket route."""
    route = Route(path="/ws", kind="websocket", backend=backend(), refuse_with="close", idle_timeout=60)
    route.max_connections_per_user, route.message_rate, route.upstream_path = 5, "50/s;burst=100", "/socket"
    route.full_clean()


def test_a_second_route_with_the_same_key_is_refused_where_it_can_be_mended() -> None:
    """A route's key is kind, path and methods, in whichever way they are written."""
    Route.objects.create(path="/a", methods="GET,POST", backend=backend())
    second = Route(path=" /a", methods="post, get", backend=backend("other"))
    assert errors(second) == {
        "path": [
            "the route http /a (GET,POST) already exists; change that one, or choose another path or other methods"
        ]
    }
    Route(path="/a", methods="GET", backend=backend("third")).full_clean()
    Route(path="/a", kind="websocket", backend=backend("fourth")).full_clean()


def test_a_route_is_no_second_one_to_itself() -> None:
    """Saving an unchanged row is always possible."""
    Route.objects.create(path="/a", backend=backend()).full_clean()


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        pytest.param(Backend(name="a", urls="http://h"), Backend(name=" a", urls="http://i"), "name", id="a name"),
        pytest.param(
            Origin(origin="https://a.b"), Origin(origin="HTTPS://A.b:443"), "origin", id="an origin in other words"
        ),
    ],
)
def test_a_second_row_with_the_same_name_is_refused(first: Counted, second: Counted, field: str) -> None:
    """Uniqueness is judged in normal form."""
    first.pk, first._state.adding = None, True
    first.save()
    assert list(errors(second)) == [field]


def test_the_database_refuses_what_slips_past_validation() -> None:
    """Two processes that validate at once can't both write the same route."""
    main = backend()
    Route.objects.create(path="/a", backend=main)
    with pytest.raises(IntegrityError), transaction.atomic():
        Route.objects.create(path="/a", backend=main)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        pytest.param("token", "AB" * 32, "ab" * 32, id="a fingerprint"),
        pytest.param("jti", " 0b6f ", "0b6f", id="a jti"),
        pytest.param("user", "42", "42", id="a user's id"),
        pytest.param("token", TOKEN, None, id="a token as itself"),
        pytest.param("jti", TOKEN, None, id="a token as a jti"),
        pytest.param("user", TOKEN, None, id="a token as a user"),
        pytest.param("user", "", None, id="nothing"),
    ],
)
def test_a_revocation_never_keeps_a_token(kind: str, value: str, kept: str | None) -> None:
    """A token that is stored, even a revoked one, is one that leaks."""
    row = Revocation(kind=kind, value=value)
    if kept is None:
        assert "value" in (found := errors(row))
        assert TOKEN not in str(found)
    else:
        row.full_clean()
        assert row.value == kept


def test_a_revocation_shows_a_token_by_the_beginning_of_its_fingerprint() -> None:
    """Enough to find it, in the admin's log too."""
    assert str(Revocation(kind="token", value="ab" * 32)) == "token abababababab…"
    assert str(Revocation(kind="user", value="42")) == "user 42"


def test_a_backend_takes_its_routes_along() -> None:
    """A route without a backend has no meaning."""
    main = backend()
    Route.objects.create(path="/a", backend=main)
    main.delete()
    assert not Route.objects.exists()


# The count of changes


CHANGES: dict[str, Callable[[], object]] = {
    "a new row": lambda: Origin.objects.create(origin="https://new.example"),
    "a changed row": lambda: Backend.objects.get(name="main").save(),
    "a deleted row": lambda: Origin.objects.get(origin="https://a.example").delete(),
    "a row with its routes": lambda: Backend.objects.get(name="main").delete(),
    "update of a queryset": lambda: Route.objects.filter(path="/a").update(enabled=False),
    "delete of a queryset": lambda: Route.objects.filter(path="/a").delete(),
    "update through the backend": lambda: Backend.objects.get(name="main").routes.update(enabled=False),
    "bulk_create": lambda: Origin.objects.bulk_create([Origin(origin="https://b.example")]),
    "bulk_update": lambda: Origin.objects.bulk_update([Origin(pk=Origin.objects.get().pk, note="x")], ["note"]),
    "update_or_create": lambda: Origin.objects.update_or_create(origin="https://a.example", defaults={"note": "x"}),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES.items()])
def test_every_way_to_change_the_configuration_is_counted(change: Callable[[], object]) -> None:
    """A change that is not counted would stay unseen until the next one."""
    Route.objects.create(path="/a", backend=backend())
    Origin.objects.create(origin="https://a.example")
    config, revocations, kicks = count()
    change()
    assert count()[0] > config
    assert count()[1:] == (revocations, kicks)


def test_revocations_and_kicks_have_counts_of_their_own() -> None:
    """A logout must not make every process load the configuration."""
    before = count()
    Revocation.objects.create(kind="user", value="42")
    assert count() == (before[0], before[1] + 1, before[2])
    Kick.objects.create(kind="user", value="42")
    assert count() == (before[0], before[1] + 1, before[2] + 1)


def test_tickets_are_not_followed() -> None:
    """They are looked up when they are used, and come and go too often."""
    before = count()
    Ticket.objects.create(digest="0" * 64, identity={}, path="/ws", expires_at="2026-01-01T00:00Z")
    assert count() == before


def test_a_change_that_is_rolled_back_is_not_counted() -> None:
    """The count is in the change's own transaction."""

    def change_and_fail() -> None:
        with transaction.atomic():
            backend()
            raise RuntimeError

    before = count()
    with pytest.raises(RuntimeError):
        change_and_fail()
    assert count() == before
    assert not Backend.objects.exists()


def test_a_count_without_its_change_does_not_stay() -> None:
    """A save that fails in the database takes its count with it."""
    main = backend()
    before = count()
    with pytest.raises(IntegrityError), transaction.atomic():
        Backend(name=main.name, urls="http://h").save()
    assert count() == before


def test_the_count_begins_anew_on_an_empty_database() -> None:
    """The row may be missing: a fresh database, or one that was flushed."""
    Revision.objects.all().delete()
    assert count() == (0, 0, 0)
    backend()
    assert count() == (1, 0, 0)
    assert Revision.objects.count() == 1


def test_there_is_one_row_of_counts() -> None:
    """A second one would be a count that nobody reads."""
    with pytest.raises(IntegrityError), transaction.atomic():
        Revision.objects.create(pk=2)


def test_writers_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    """Eight threads with connections of their own: no lost update, no "database is locked"."""
    failures: list[Exception] = []

    def write(number: int) -> None:
        try:
            for turn in range(5):
                Origin.objects.create(origin=f"https://{number}-{turn}.example")
        except Exception as exc:
            failures.append(exc)
        finally:
            connection.close()

    with file_database(tmp_path):
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert (Origin.objects.count(), Revision.current().config) == (40, 40)
