"""relay.admin.revocations: what is revoked stays revoked, so it is asked about first."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import ADDITION
from django.test import Client

from relay.identity.model import fingerprint
from relay.models import Revision, Revocation
from tests.admin_helpers import log, messages, posted_again, staff, text
from tests.fleet_helpers import connection, process

pytestmark = pytest.mark.django_db

LIST = "/admin/relay/revocation/"
ADD = f"{LIST}add/"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoxfQ.c2lnbmF0dXJl"


@pytest.fixture
def admin(client: Client) -> Client:
    return staff(client)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        pytest.param(TOKEN, fingerprint(TOKEN), id="a token"),
        pytest.param(f" Bearer {TOKEN} ", fingerprint(TOKEN), id="a token with its scheme"),
        pytest.param("AB" * 32, "ab" * 32, id="a fingerprint"),
    ],
)
def test_a_token_is_revoked_by_its_fingerprint(admin: Client, written: str, kept: str) -> None:
    """Neither the database, nor the log, nor any page holds the token."""
    before = Revision.current().revocations
    data = {"kind": "token", "value": written, "note": "stolen"}
    page = admin.post(ADD, data).content.decode()
    assert not Revocation.objects.exists()
    page += admin.post(ADD, posted_again(page), follow=True).content.decode()
    row = Revocation.objects.get()
    assert (row.value, row.note, row.expires_at) == (kept, "stolen", None)
    assert Revision.current().revocations > before
    assert log() == [(ADDITION, f"token {kept[:12]}…", "Added.")]
    page += admin.get(f"/admin/relay/revocation/{row.pk}/change/").content.decode()
    assert TOKEN not in page + str(log())


@pytest.mark.parametrize(
    ("kind", "value", "number", "said"),
    [
        pytest.param("user", "1", "3", "/chat 1 1 /ws 2 1", id="a user"),
        pytest.param("token", TOKEN, "2", "/ws 2 1", id="a token"),
        pytest.param("jti", "of-a-token", "1", "/chat 1 1", id="a jti"),
    ],
)
def test_it_is_asked_about_with_what_it_closes(admin: Client, kind: str, value: str, number: str, said: str) -> None:
    """Of the living processes, by the very rule that ends them; then it is done, and told."""
    here = process(watched=10**9)
    for _ in range(2):
        connection(here, fingerprint=fingerprint(TOKEN))
    connection(here, route="/chat", jti="of-a-token")
    connection(here, user_id="2")
    connection(here, user_id="")
    page = admin.post(ADD, {"kind": kind, "value": value, "_addanother": "1"})
    noun = "socket" if number == "1" else "sockets"
    assert f"This closes {number} live {noun}" in text(page)
    assert all(part in text(page) for part in said.split(" /"))
    assert log() == []
    done = admin.post(ADD, posted_again(page.content.decode()), follow=True)
    assert done.redirect_chain[-1][0] == ADD
    assert f"Takes effect within a second, and closes {number} live {noun}." in messages(done)
    assert Revocation.objects.get().kind == kind


def test_what_closes_nothing_is_asked_about_as_well(admin: Client) -> None:
    """A slip of the pen looks like that, and it could not be taken back."""
    connection(process(watched=10**9), user_id="41")
    said = text(admin.post(ADD, {"kind": "user", "value": "14"}))
    assert "This closes 0 live sockets" in said
    assert "No live socket is affected: is the value exactly as in the token?" in said
    assert not Revocation.objects.exists()


def test_asking_needs_the_permission_to_add(client: Client) -> None:
    """Who may only look learns nothing of the sockets."""
    assert staff(client, "view_revocation").post(ADD, {"kind": "user", "value": "1"}).status_code == 403


def test_revocations_and_processes_are_on_the_way_around(admin: Client) -> None:
    """From every page."""
    page = admin.get("/admin/relay/origin/").content.decode()
    navigation = page[page.index('<nav class="gw-nav"') : page.index("</nav>", page.index('<nav class="gw-nav"'))]
    for name in ("revocation", "process"):
        assert f'href="/admin/relay/{name}/"' in navigation


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        pytest.param("jti", TOKEN, "choose the kind token", id="a token as a jti"),
        pytest.param("user", TOKEN, "choose the kind token", id="a token as a user"),
        pytest.param("token", TOKEN + ".x", "this is neither a token", id="a token with something behind it"),
        pytest.param("token", "hello", "this is neither a token", id="something else"),
        pytest.param("user", "x" * 600, "at most 500 characters", id="too long"),
        pytest.param("user", " ", "required", id="nothing"),
    ],
)
def test_a_value_that_is_refused_is_not_shown_again(admin: Client, kind: str, value: str, said: str) -> None:
    """It may be a token: the page comes back with an empty field."""
    response = admin.post(ADD, {"kind": kind, "value": value})
    errors = response.context["adminform"].form.errors
    assert list(errors) == ["value"]
    assert said in errors["value"][0]
    assert not value.strip() or f'"{value}"' not in response.content.decode()
    assert TOKEN not in response.content.decode()
    assert not Revocation.objects.exists()


def test_revocations_are_added_and_looked_at_only(admin: Client) -> None:
    """What was revoked stays revoked: processes have acted on it."""
    row = Revocation.objects.create(kind="user", value="42")
    url = f"{LIST}{row.pk}"
    assert "42" in admin.get(f"{url}/change/").content.decode()
    assert admin.post(f"{url}/change/", {"kind": "user", "value": "43"}).status_code == 403
    assert admin.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    row.refresh_from_db()
    assert row.value == "42"
    assert b"delete_selected" not in admin.get(LIST).content
