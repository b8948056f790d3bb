"""relay.admin.security: headers on every page of the admin, cookies that go back by TLS only, no secret shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client

from relay.admin import security
from tests.admin_helpers import staff, text

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "/admin/",
    "/admin/login/",
    "/admin/relay/backend/",
    "/admin/relay/backend/add/",
    "/admin/relay/route/add/",
    "/admin/relay/liveconnection/",
    "/admin/relay/refusalrecord/",
    "/admin/relay/process/figures.json",
    "/admin/jsi18n/",
    "/admin/nowhere/",
    "/gateway/static/relay/dashboard.js",
)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("known", [True, False], ids=["logged in", "a stranger"])
def test_every_page_is_guarded(client: Client, page: str, known: bool) -> None:
    """Also redirects and what is not there."""
    response = (staff(client) if known else client).get(page)
    response.close()
    headers = response.headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize(
    "page", [*(page for page in PAGES if "." not in page), "/admin/relay/revocation/add/", "/admin/relay/process/"]
)
def test_nothing_on_a_page_is_inline(client: Client, page: str) -> None:
    """The policy would stop it; nothing should have to be stopped."""
    html = staff(client).get(page).content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert "<style" not in html
    assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", html)
    assert not re.search(r"(src|href)=\"(https?:)?//", html)


def test_our_scripts_bring_nothing_from_elsewhere() -> None:
    """No other host, no text that becomes code or markup."""
    for path in sorted((ROOT / "relay/static/relay").glob("*.js")):
        script = path.read_text()
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|outerHTML|eval\(|new Function", script), path.name


def test_what_is_vendored_brings_its_licence() -> None:
    """One directory for a version: an update is a new name."""
    for directory in (ROOT / "relay/static/relay/vendor").iterdir():
        assert re.fullmatch(r"[a-z]+-[\d.]+", directory.name)
        assert "MIT" in (directory / "LICENSE").read_text()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_cookies_of_a_client_with_tls_stay_on_tls(client: Client, secure: bool) -> None:
    """By the client's own scheme; on plain HTTP a secure cookie would lock everybody out."""
    User.objects.create_superuser("root", password="hunter2")
    client.get("/admin/login/", secure=secure)
    response = client.post("/admin/login/", {"username": "root", "password": "hunter2"}, secure=secure)
    assert response.status_code == 302
    assert set(response.cookies) == {"gateway_session", "gateway_csrf"}
    assert [bool(cookie["secure"]) for cookie in response.cookies.values()] == [secure, secure]
    assert response.cookies["gateway_session"]["httponly"]
    assert {cookie["samesite"] for cookie in response.cookies.values()} == {"Lax"}


async def test_it_guards_asynchronous_answers_as_well(async_client: AsyncClient) -> None:
    """Under the gateway, middleware runs in the loop."""
    response = await async_client.get("/admin/login/")
    assert response.headers["Content-Security-Policy"] == security.CONTENT_SECURITY_POLICY


def test_what_a_view_said_otherwise_does_not_count() -> None:
    """No page of the admin has a reason to be framed."""
    response = HttpResponse(headers={"X-Frame-Options": "SAMEORIGIN"})
    assert security.guarded(HttpRequest(), response).headers["X-Frame-Options"] == "DENY"


def test_a_form_from_elsewhere_is_refused_with_the_reason() -> None:
    """Most often it is a proxy that nobody trusts: the page says which variable mends that."""
    strict = Client(enforce_csrf_checks=True)
    User.objects.create_superuser("root", password="hunter2")
    response = strict.post(
        "/admin/login/", {"username": "root", "password": "hunter2"}, headers={"origin": "https://evil.example"}
    )
    assert response.status_code == 403
    assert "Origin checking failed" in text(response)
    assert "TRUSTED_PROXIES" in text(response)
    assert "hunter2" not in text(response)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("/admin/")])
def test_no_page_shows_a_secret(client: Client, page: str, settings: object) -> None:
    """Neither Django's key nor that of the tokens."""
    said = staff(client).get(page).content.decode()
    assert "test-secret" not in said
    assert "tests-only" not in said
