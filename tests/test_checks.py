"""relay.checks: what starts, but may not be meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db import connection

from relay import checks
from relay.models import Backend, Origin, Route
from relay.routing.snapshot import Rate
from tests.config_helpers import database_at

RATE = Rate(100, 1.0, 200)


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


@pytest.mark.parametrize(
    ("check", "django", "relay", "expected"),
    [
        pytest.param(checks.hmac_key, {}, {"jwt_secret": "x" * 31}, ["relay.W001"], id="a short secret"),
        pytest.param(checks.hmac_key, {}, {"jwt_secret": "x" * 32}, [], id="a secret as long as its hash"),
        pytest.param(checks.hmac_key, {}, {"jwt_secret": "ü" * 16}, [], id="bytes count, not characters"),
        pytest.param(checks.hmac_key, {}, {"jwt_secret": ""}, [], id="no secret, but a public key"),
        pytest.param(checks.hmac_key, {}, {"jwt_previous_secret": "x"}, ["relay.W001"], id="a short previous secret"),
        pytest.param(checks.every_host, {"DEBUG": False, "ALLOWED_HOSTS": ["*"]}, {}, ["relay.W002"], id="every host"),
        pytest.param(checks.every_host, {"DEBUG": True, "ALLOWED_HOSTS": ["*"]}, {}, [], id="every host, with DEBUG"),
        pytest.param(checks.every_host, {"DEBUG": False, "ALLOWED_HOSTS": [".a.b"]}, {}, [], id="named hosts"),
        pytest.param(checks.one_address_for_all, {}, {"rate_limit": RATE}, ["relay.W004"], id="a rate, no proxies"),
        pytest.param(checks.one_address_for_all, {}, {}, [], id="no rate"),
        pytest.param(
            checks.one_address_for_all,
            {},
            {"rate_limit": RATE, "trusted_proxies": (ip_network("10.0.0.0/8"),)},
            [],
            id="a rate behind proxies",
        ),
        pytest.param(
            checks.origins_without_backend,
            {},
            {"allowed_origins": ("https://a.b",)},
            ["relay.W005"],
            id="origins alone",
        ),
        pytest.param(
            checks.origins_without_backend,
            {},
            {"allowed_origins": ("https://a.b",), "main_service_url": "http://h"},
            [],
            id="origins with a backend",
        ),
    ],
)
def test_settings_that_may_not_be_meant(
    check: Callable[..., list[CheckMessage]],
    django: dict[str, Any],
    relay: dict[str, Any],
    expected: list[str],
    settings: Any,
) -> None:
    """A warning with a hint, or silence."""
    for name, value in django.items():
        setattr(settings, name, value)
    settings.RELAY = replace(settings.RELAY, **relay)
    found = check()
    assert ids(found) == expected
    assert all(message.hint for message in found)
    assert "xxx" not in str(found)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param({}, [], id="a sane configuration"),
        pytest.param({"origin": {"origin": "*"}}, ["relay.W003"], id="any origin"),
        pytest.param({"origin": {"origin": "*", "enabled": False}}, [], id="any origin, but disabled"),
        *(
            pytest.param({"origin": {"origin": f"{scheme}://*.{name}"}}, ["relay.W010"], id=f"anybody's site: {name}")
            for scheme in ("https", "http")
            for name in ("com", "co.uk", "com.br:8443", "vercel.app", "github.io")
        ),
        *(
            pytest.param({"origin": {"origin": f"https://*.{name}"}}, [], id=f"one's own sites: {name}")
            for name in ("example.com", "co.example.com", "my.vercel.app", "localhost:8080", "cluster.internal", "lan")
        ),
        pytest.param({"origin": {"origin": "https://vercel.app"}}, [], id="no wildcard"),
        pytest.param({"origin": {"origin": "https://*.com", "enabled": False}}, [], id="any .com, but disabled"),
        pytest.param({"route": {"path": "/admin/x/"}}, ["relay.W006"], id="a route under the admin"),
        pytest.param({"route": {"path": "/health"}}, ["relay.W006"], id="a route at the health page"),
        pytest.param({"route": {"path": "/healthy/"}}, [], id="a route that only begins alike"),
        pytest.param({"route": {"path": "/health", "kind": "websocket"}}, [], id="a handshake has no page in its way"),
        pytest.param(
            {"backend": {"tls_verify": False, "urls": "https://h"}}, ["relay.W007"], id="an unknown certificate"
        ),
        pytest.param({"backend": {"tls_verify": False}}, [], id="no certificate to look at"),
    ],
)
def test_a_configuration_that_may_not_be_meant(rows: dict[str, dict[str, Any]], expected: list[str]) -> None:
    """Only what is enabled counts."""
    backend = Backend.objects.create(**{"name": "main", "urls": "http://h", **rows.get("backend", {})})
    Route.objects.create(**{"path": "/api/", "backend": backend, **rows.get("route", {})})
    Origin.objects.create(**{"origin": "https://a.b", **rows.get("origin", {})})
    assert ids(checks.configuration(["default"])) == expected


@pytest.mark.django_db
def test_routes_that_match_the_same_paths_are_told() -> None:
    """Whatever their placeholders are called; another converter or method makes another route."""
    backend = Backend.objects.create(name="main", urls="http://h")
    for path in ("/a/<int:id>/", "/a/<slug:id>/", "/b"):
        Route.objects.create(path=path, backend=backend)
    Route.objects.create(path="/a/<int:pk>/", backend=backend, methods="GET")
    assert checks.configuration(["default"]) == []
    Route.objects.create(path="/a/<int:pk>/", backend=backend)
    (message,) = checks.configuration(["default"])
    assert message.id == "relay.W011"
    assert '"/a/<int:id>/" match the same paths' in message.msg


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({}, [], id="not set"),
        pytest.param({"main_service_url": "http://b:2", "allowed_origins": ("https://a.b", "*")}, [], id="as they are"),
        pytest.param(
            {"main_service_url": "http://new"},
            ["MAIN_SERVICE_URL is for the first start only: it says http://new, but backend main is at http://b:1"],
            id="another url",
        ),
        pytest.param(
            {"allowed_origins": ("https://new", "https://a.b", "https://b.new")},
            ["ALLOWED_ORIGINS is for the first start only: https://new, https://b.new is not on the list"],
            id="more origins",
        ),
    ],
)
def test_variables_of_the_first_start_that_were_changed_later(
    variables: dict[str, Any], said: list[str], settings: Any
) -> None:
    """They have no effect any more; a disabled row counts as known, someone took it back on purpose."""
    settings.RELAY = replace(settings.RELAY, **variables)
    assert checks.configuration(["default"]) == [], "the first start is still to come"
    Backend.objects.create(name="a", urls="http://a:1")
    Backend.objects.create(name="main", urls="http://b:1\nhttp://b:2", enabled=False)
    Origin.objects.create(origin="https://a.b", enabled=False)
    Origin.objects.create(origin="*", enabled=False)
    found = checks.configuration(["default"])
    assert [message.id for message in found] == ["relay.W009"] * len(said)
    for message, sentence in zip(found, said, strict=True):
        assert message.msg.startswith(sentence)
        assert "in the admin" in str(message.hint)


@pytest.mark.django_db
def test_a_row_that_can_not_be_used_is_an_error() -> None:
    """After an upgrade or a hand in SQL: named before the gateway starts."""
    Route.objects.create(path="/a", backend=Backend.objects.create(name="main", urls="http://h"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE relay_route SET path = 'a'")
    (message,) = checks.configuration(["default"])
    assert message.id == "relay.E001"
    assert message.msg == "route http \"a\": path: 'a' must begin with a slash: '/a'"


def test_no_database_is_asked_unless_wanted() -> None:
    """Checks run at the start of most commands; Django tells when the database may be used."""
    assert checks.configuration() == []


@pytest.mark.django_db
def test_a_database_without_tables_is_no_error(tmp_path: Any) -> None:
    """``migrate`` runs the checks before it makes them."""
    with database_at(tmp_path / "empty.sqlite3"):
        assert checks.configuration(["default"]) == []


@pytest.mark.django_db
def test_django_knows_the_checks() -> None:
    """They are registered, under ids of their own."""
    Origin.objects.create(origin="*")
    assert "relay.W003" in ids(run_checks(databases=["default"]))


def test_stock_daphne_is_said_on_demand_only() -> None:
    """Which server runs is nothing that a check can know."""
    assert checks.under_stock_daphne().id == "relay.W008"
    assert "relay.W008" not in ids(run_checks())


def test_the_tests_have_settings_that_pass() -> None:
    """Otherwise the tables above would prove nothing."""
    assert len(settings.RELAY.jwt_secret) >= checks.SHORTEST_SECRET
