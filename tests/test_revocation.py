"""Whose tokens count no more: `relay.identity.revocation`."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from django.core.exceptions import ValidationError

from relay.identity.revocation import Revocations, of_token, record, record_in_thread, revokes
from relay.models import Revocation
from relay.revision import Revision
from relay.routing.watch import RevocationEntry
from tests.identity_helpers import identity

NOW = 1_000_000.0
TOKEN, OTHER = "a" * 64, "b" * 64


def of_kind(kind, value, revoked_at=NOW, expires_at=None):
    return RevocationEntry(kind, value, revoked_at, expires_at)


@pytest.mark.parametrize(
    ("entry", "facts", "revoked"),
    [
        pytest.param(of_kind("token", TOKEN), {"fingerprint": TOKEN}, True, id="this token"),
        pytest.param(of_kind("token", TOKEN), {"fingerprint": OTHER}, False, id="another token"),
        pytest.param(of_kind("jti", "j"), {"jti": "j"}, True, id="this jti"),
        pytest.param(of_kind("jti", "j"), {"jti": "k"}, False, id="another jti"),
        pytest.param(of_kind("jti", ""), {"jti": ""}, False, id="no jti is no jti"),
        pytest.param(of_kind("jti", "1"), {"user_id": "1"}, False, id="a jti is no user"),
        pytest.param(of_kind("user", "1"), {"user_id": "1", "issued_at": NOW - 1}, True, id="issued before"),
        pytest.param(of_kind("user", "1"), {"user_id": "1", "issued_at": NOW}, True, id="issued in that moment"),
        pytest.param(of_kind("user", "1"), {"user_id": "1", "issued_at": NOW + 1}, False, id="a later login works"),
        pytest.param(of_kind("user", "1"), {"user_id": "1", "issued_at": None}, True, id="issued nobody knows when"),
        pytest.param(of_kind("user", "1"), {"user_id": "1", "issued_at": 0.0}, True, id="issued in 1970"),
        pytest.param(of_kind("user", "1"), {"user_id": "2", "issued_at": NOW - 1}, False, id="another user"),
    ],
)
def test_whom_a_revocation_ends(entry, facts, revoked):
    """Contract §6; requests, handshakes and live sockets are judged alike."""
    who = identity(**facts)
    revocations = Revocations(lambda: NOW)
    revocations.add([entry])
    assert revokes(entry, who) is revoked
    assert (revocations.check(who) is not None) is revoked


def test_nobody_is_never_revoked():
    """A socket on a public route has no identity."""
    assert not revokes(of_kind("user", "1"), None)


def test_the_reason_says_what_was_revoked():
    """It is the detail of a refusal's log line."""
    revocations = Revocations(lambda: NOW)
    revocations.add([of_kind("token", TOKEN), of_kind("jti", "j"), of_kind("user", "9")])
    assert revocations.check(identity(fingerprint=TOKEN)) == "the token was revoked"
    assert revocations.check(identity(jti="j")) == "its jti was revoked"
    assert revocations.check(identity(user_id="9", issued_at=NOW)) == "user 9 was revoked"
    assert revocations.check(identity(user_id="9", issued_at=None)) == "user 9 was revoked, and the token has no iat"


def test_of_two_revocations_of_a_user_the_later_counts():
    """In whichever order they arrive."""
    for order in ((1, 2), (2, 1)):
        revocations = Revocations(lambda: NOW)
        revocations.add([of_kind("user", "1", NOW + hours) for hours in order])
        assert revocations.check(identity(user_id="1", issued_at=NOW + 2)) is not None


def held(revocations):
    """How many there are in memory."""
    return sum(len(part) for part in vars(revocations).values() if isinstance(part, dict))


def test_what_has_expired_is_forgotten():
    """Memory is bounded by the tokens that are alive; users are kept for good."""
    clock = [NOW]
    revocations = Revocations(lambda: clock[0])
    revocations.add(of_kind("token", f"{n:064x}", expires_at=NOW + 10) for n in range(100))
    revocations.add([of_kind("jti", "j", expires_at=NOW + 10), of_kind("user", "1", expires_at=None)])
    assert held(revocations) == 102
    clock[0] += 60
    revocations.add([of_kind("token", TOKEN, expires_at=clock[0] + 10)])
    assert held(revocations) == 2


def test_a_revocation_that_arrives_twice_is_one():
    """The page puts it in force at once, and the database brings it again."""
    revocations = Revocations(lambda: NOW)
    for _ in range(2):
        revocations.add([of_kind("token", TOKEN, expires_at=NOW + 10)])
    assert held(revocations) == 1


@pytest.mark.django_db
def test_a_recorded_revocation_is_a_row_and_counted():
    """The count is what tells every process to look (`relay.revision`)."""
    who = identity(fingerprint=TOKEN, expires_at=2_000_000_000.5)
    before = Revision.current().revocations
    record(of_token(who, NOW), note="logout")
    row = Revocation.objects.get()
    assert (row.kind, row.value, row.note) == ("token", TOKEN, "logout")
    assert row.revoked_at.timestamp() == NOW
    assert row.expires_at.timestamp() == 2_000_000_000.5
    assert Revision.current().revocations == before + 1


@pytest.mark.django_db
def test_a_user_is_kept_for_good():
    """Nobody knows how long the tokens live that were issued before."""
    record(of_kind("user", "1"))
    assert Revocation.objects.get().expires_at is None


@pytest.mark.django_db
def test_a_token_that_lives_beyond_the_year_9999_can_be_revoked():
    """The latest moment that a database takes stands for it."""
    record(of_token(identity(expires_at=1e14), NOW))
    assert Revocation.objects.get().expires_at == datetime.max.replace(tzinfo=UTC)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(of_kind("token", "eyJ.eyJ.x"), id="a token itself"),
        pytest.param(of_kind("jti", ""), id="no value"),
        pytest.param(of_kind("user", "x" * 501), id="a value longer than the column"),
        pytest.param(of_kind("cookie", "x"), id="a kind that there is not"),
    ],
)
def test_what_is_no_revocation_is_not_recorded(entry):
    """The same rules as in the admin."""
    with pytest.raises(ValidationError) as caught:
        record(entry)
    assert "eyJ.eyJ" not in str(caught.value)
    assert not Revocation.objects.exists()


@pytest.mark.django_db(transaction=True)
async def test_the_event_loop_does_not_wait_for_the_database():
    """It is written in a thread."""
    await record_in_thread(of_token(identity(fingerprint=TOKEN), time.time()))
    assert await Revocation.objects.filter(value=TOKEN).acount() == 1
