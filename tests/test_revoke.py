"""``manage.py revoke``."""

from __future__ import annotations

import io
import time

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from relay.identity.model import fingerprint
from relay.identity.revocation import Revocations
from relay.identity.tokens import Verifier
from relay.models import Revocation
from relay.revision import Revision
from relay.routing.watch import RevocationEntry
from tests.identity_helpers import OTHER_SECRET, private_key, relay_settings, token

pytestmark = pytest.mark.django_db


@pytest.fixture
def revoke(settings, capsys):
    """Run the command under some settings; give back what it printed on stdout and stderr."""

    def run(*arguments, **changes):
        settings.RELAY = relay_settings(**changes)
        call_command("revoke", *arguments)
        return capsys.readouterr()

    return run


def in_force():
    """The revocations as a process that starts now would know them."""
    revocations = Revocations()
    revocations.add(RevocationEntry.of(row) for row in Revocation.objects.all())
    return revocations


def test_a_token_is_revoked_until_it_would_have_ended(revoke):
    """Contract §1; only its fingerprint is kept, and no output repeats it."""
    text = token()
    before = Revision.current().revocations
    printed = revoke("--token", text, "--note", "stolen", jwt_leeway=10)
    row = Revocation.objects.get()
    assert (row.kind, row.value, row.note) == ("token", fingerprint(text), "stolen")
    assert row.expires_at.timestamp() == Verifier(relay_settings(jwt_leeway=10)).verify(text).expires_at
    assert Revision.current().revocations == before + 1
    assert printed.out.startswith("revoked a token of user 1 (")
    assert text not in printed.out + printed.err
    assert in_force().check(Verifier(relay_settings()).verify(text)) == "the token was revoked"


def test_a_token_can_come_from_standard_input(revoke, monkeypatch):
    """A shell keeps its history."""
    text = token()
    monkeypatch.setattr("sys.stdin", io.StringIO(text + "\n"))
    revoke("--token", "-")
    assert Revocation.objects.get().value == fingerprint(text)


def test_a_jti_is_revoked(revoke):
    """Its expiry is not known, so it is kept."""
    printed = revoke("--jti", "j-1")
    assert printed.out == "revoked the token with the jti j-1; open sockets end within a second\n"
    assert Revocation.objects.get().expires_at is None
    assert in_force().check(Verifier(relay_settings()).verify(token(jti="j-1"))) == "its jti was revoked"


def test_a_user_is_revoked_up_to_now(revoke):
    """Contract §6: iat up to now, or no iat; a later login works."""
    printed = revoke("--user-id", "7")
    assert "revoked every token of user 7 issued up to " in printed.out
    revocations, verifier = in_force(), Verifier(relay_settings(jwt_leeway=60))
    now = int(time.time())
    assert revocations.check(verifier.verify(token(user_id=7, iat=now)))
    assert revocations.check(verifier.verify(token(user_id=7, iat=...)))
    assert not revocations.check(verifier.verify(token(user_id=7, iat=now + 2)))
    assert not revocations.check(verifier.verify(token(user_id=8, iat=now)))


def test_an_expired_token_needs_no_revocation(revoke):
    """It opens nothing any more; what was asked for is so already."""
    text = token(exp=int(time.time()) - 5)
    printed = revoke("--token", text)
    assert printed.out.startswith("nothing to revoke: a token of user 1 (")
    assert text not in printed.out
    assert not Revocation.objects.exists()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(token(OTHER_SECRET), id="not signed by us"),
        pytest.param(token()[:60], id="cut while it was copied"),
        pytest.param("nonsense", id="no token"),
        pytest.param("", id="empty"),
    ],
)
def test_what_is_no_token_of_ours_is_an_error(revoke, text):
    """Or the operator would believe that the right one is revoked."""
    with pytest.raises(CommandError, match="not a token of this gateway") as caught:
        revoke("--token", text)
    assert not text or text not in str(caught.value)
    assert not Revocation.objects.exists()


def test_a_token_can_be_revoked_while_its_issuer_is_down(revoke):
    """Without the issuer's keys it is taken for what it says; the line on stderr says so."""
    text = token(private_key("P-256"), "ES256")
    printed = revoke("--token", text, jwt_jwks_url="http://127.0.0.1:1/", jwt_algorithms=("ES256",))
    assert printed.err.startswith("JWT_JWKS_URL: ")
    assert text not in printed.out + printed.err
    assert Revocation.objects.get().value == fingerprint(text)
    with pytest.raises(CommandError, match="not a readable token"):
        revoke("--token", "nonsense", jwt_jwks_url="http://127.0.0.1:1/", jwt_algorithms=("ES256",))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--jti", "a", "--user-id", "b"], id="two at once"),
        pytest.param(["--jti", ""], id="an empty jti"),
        pytest.param(["--user-id", ""], id="an empty user id"),
        pytest.param(["--user-id", "x" * 501], id="a user id longer than the column"),
        pytest.param(["--jti", "a", "--note", "x" * 201], id="a note longer than the column"),
    ],
)
def test_exactly_one_thing_is_revoked_or_nothing(revoke, arguments):
    """An error, and no row."""
    with pytest.raises(CommandError):
        revoke(*arguments)
    assert not Revocation.objects.exists()


@pytest.mark.parametrize("option", ["--jti", "--user-id"])
def test_what_is_empty_is_named(revoke, option):
    """Most often a variable of a script that was never set."""
    with pytest.raises(CommandError, match=f"^{option}: the value is empty; is the variable it comes from set"):
        revoke(option, " ")


@pytest.fixture
def no_table(transactional_db):
    """A database that nobody has migrated."""
    with connection.schema_editor() as editor:
        editor.delete_model(Revocation)
    yield
    with connection.schema_editor() as editor:
        editor.create_model(Revocation)


def test_a_database_without_tables_is_an_error_with_its_mend(no_table, revoke):
    """One line, no traceback (contract §1)."""
    with pytest.raises(CommandError, match=r"the database .*: no such table: .*manage.py migrate"):
        revoke("--user-id", "1")
