"""relay.routing.loader: what the database says, as a snapshot; and a first configuration from the environment."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from relay.models import Backend, Origin, Revision, Route
from relay.routing import loader, snapshot
from relay.routing.loader import InvalidConfiguration, bootstrap, load_snapshot
from relay.routing.snapshot import Rate, Url
from tests.config_helpers import file_database

pytestmark = pytest.mark.django_db


def test_every_field_arrives() -> None:
    """Texts become what the relay works with: urls, rates, lists."""
    row = Backend.objects.create(
        name="b",
        urls="http://a:1\nhttps://b/p",
        health_path="/up",
        connect_timeout=1,
        read_timeout=2,
        max_body_size=3,
        max_message_size=4,
        websocket_origin="forward",
        forward_token=True,
        forward_host=True,
        tls_verify=False,
        enabled=False,
    )
    Route.objects.create(
        path="/ws",
        kind="websocket",
        backend=row,
        access="roles",
        roles="a,b",
        upstream_path="/up",
        refuse_with="close",
        idle_timeout=5,
        max_connections_per_user=6,
        message_rate="7/s;burst=8",
        enabled=False,
    )
    Route.objects.create(path="/x/", backend=row, methods="GET,POST")
    Origin.objects.create(origin="https://a.example", note="n", enabled=False)
    loaded = load_snapshot()
    urls = (Url.parse("http://a:1"), Url.parse("https://b/p"))
    assert loaded.backends == {
        "b": snapshot.Backend("b", urls, "/up", 1, 2, 3, 4, "forward", True, True, False, enabled=False)
    }
    assert loaded.routes == (
        snapshot.Route("/x/", "http", "b", methods=("GET", "POST")),
        snapshot.Route(
            "/ws", "websocket", "b", (), "roles", ("a", "b"), "/up", "close", 5, 6, Rate(7, 1.0, 8), enabled=False
        ),
    )
    assert loaded.origins == (snapshot.Origin("https://a.example", "n", enabled=False),)
    assert loaded.revision == Revision.current().config


def test_an_empty_database_is_an_empty_snapshot() -> None:
    """Nothing leads anywhere then, and that is no error."""
    assert load_snapshot() == snapshot.Snapshot.build([], [], [], 0)


def test_loading_takes_five_queries_whatever_the_size(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    """No row costs a query of its own."""
    rows = [Backend.objects.create(name=f"b{n}", urls="http://h") for n in range(10)]
    Route.objects.bulk_create(Route(path=f"/{n}", backend=rows[n % 10]) for n in range(100))
    with django_assert_num_queries(5):
        assert len(load_snapshot().routes) == 100


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        pytest.param("backend", "urls", "ftp://x", "backend \"main\": urls: 'ftp://x' must begin with", id="a url"),
        pytest.param(
            "backend", "websocket_origin", "https://h\r\nX: y", 'backend "main": websocket_origin:', id="a header"
        ),
        pytest.param("route", "path", "/a/../b", 'route http "/a/../b": path:', id="a path"),
        pytest.param("route", "access", "nobody", "access: 'nobody' is not a valid access", id="an access"),
        pytest.param("route", "access", "roles", "roles: access by roles needs at least one", id="no roles"),
        pytest.param("route", "kind", "ftp", "kind: 'ftp' is not a valid kind", id="a kind"),
        pytest.param("route", "message_rate", "fast", "message_rate:", id="a rate"),
        pytest.param("origin", "origin", "null", 'origin "null": origin:', id="an origin"),
    ],
)
def test_a_row_that_no_form_would_take_is_named(table: str, column: str, value: str, said: str) -> None:
    """Written by hand in SQL: the gateway must not run with a part of its configuration, nor with a guess."""
    Route.objects.create(path="/a", backend=Backend.objects.create(name="main", urls="http://h"))
    Origin.objects.create(origin="https://a.example")
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE relay_{table} SET {column} = %s", [value])
    with pytest.raises(InvalidConfiguration) as caught:
        load_snapshot()
    assert any(said in problem for problem in caught.value.problems)


def test_writers_who_do_not_pause_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no quiet moment in several attempts, the rows are read under the writers' own lock."""
    Backend.objects.create(name="main", urls="http://h")
    expected = load_snapshot()
    monkeypatch.setattr(loader, "_ATTEMPTS", 0)
    assert load_snapshot() == expected
    Revision.objects.all().delete()
    assert load_snapshot().revision == 0


def test_rows_of_different_moments_are_never_mixed(tmp_path: Path) -> None:
    """A writer moves all routes from one backend to another, again and again; no snapshot shows it half-way."""

    def move_about() -> None:
        try:
            for turn in range(100):
                with Revision.counting("config"):
                    Backend.objects.all().delete()
                    backend = Backend.objects.create(name=f"backend-{turn}", urls="http://h")
                    Route.objects.bulk_create(Route(path=f"/{n}", backend=backend) for n in range(5))
        finally:
            connection.close()

    with file_database(tmp_path):
        writer = threading.Thread(target=move_about)
        writer.start()
        while writer.is_alive():
            loaded = load_snapshot()
            assert {route.backend for route in loaded.routes} == set(loaded.backends)
            assert len(loaded.routes) in (0, 5)
        writer.join()
        assert list(load_snapshot().backends) == ["backend-99"]


# The first configuration


def test_the_environment_makes_a_first_configuration() -> None:
    """Contract, section 2: a backend, an HTTP and a WebSocket route, and the origins."""
    bootstrap("http://127.0.0.1:9000", ("https://App.Example.com", "https://app.example.com:443", "*"))
    loaded = load_snapshot()
    assert loaded.backends == {"main": snapshot.Backend("main", (Url.parse("http://127.0.0.1:9000"),))}
    assert loaded.routes == (snapshot.Route("/api/", "http", "main"), snapshot.Route("/ws", "websocket", "main"))
    assert [origin.origin for origin in loaded.origins] == ["*", "https://app.example.com"]


def test_what_operators_made_is_not_touched() -> None:
    """With any backend in the database, even a disabled one, the variables have done their work."""
    Backend.objects.create(name="mine", urls="http://h", enabled=False)
    before = Revision.current().config
    bootstrap("http://127.0.0.1:9000", ("https://a.example",))
    assert (Backend.objects.count(), Route.objects.count(), Origin.objects.count()) == (1, 0, 0)
    assert Revision.current().config == before


def test_nothing_is_made_of_nothing() -> None:
    """Origins alone lead nowhere: there is no backend to make."""
    bootstrap("", ())
    bootstrap("", ("https://a.example",))
    assert not Backend.objects.exists()
    assert not Origin.objects.exists()


def test_an_origin_that_is_there_stays_as_it_is() -> None:
    """Someone disabled it on purpose."""
    Origin.objects.create(origin="https://a.example", enabled=False)
    bootstrap("http://h", ("https://a.example",))
    assert not Origin.objects.get().enabled


@pytest.mark.parametrize("configured", [pytest.param(False, id="empty"), pytest.param(True, id="configured")])
def test_values_that_can_not_be_used_name_their_variable(configured: bool) -> None:
    """A line each, whether they would be used or not: a slip is found on the first start, not on the next database."""
    if configured:
        Backend.objects.create(name="mine", urls="http://h")
    with pytest.raises(ImproperlyConfigured) as caught:
        bootstrap("main:9000", ("https://a.example/", "null"))
    assert str(caught.value).splitlines() == [
        "MAIN_SERVICE_URL: 'main:9000' must begin with http:// or https://",
        "ALLOWED_ORIGINS: 'https://a.example/' is more than an origin; write 'https://a.example'",
        "ALLOWED_ORIGINS: 'null' is what a sandboxed page of any site sends; it can't be allowed",
    ]


def test_several_processes_that_start_at_once_make_one_configuration(tmp_path: Path) -> None:
    """Workers start together; one of them makes it, and the others find it made."""
    failures: list[Exception] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        try:
            barrier.wait()
            bootstrap("http://h", ("https://a.example",))
        except Exception as exc:
            failures.append(exc)
        finally:
            connection.close()

    with file_database(tmp_path):
        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert (Backend.objects.count(), Route.objects.count(), Origin.objects.count()) == (1, 2, 1)
