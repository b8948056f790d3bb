"""What claims become: `relay.identity.claims`."""

from __future__ import annotations

import pytest

from relay.identity.claims import Claims
from relay.identity.errors import InvalidToken

EXP = 2_000_000_000


def read(names=None, **claims):
    return (names or Claims()).identity({"user_id": 1, "exp": EXP} | claims, "f" * 64)


@pytest.mark.parametrize(
    ("claim", "user_id"),
    [
        pytest.param(1, "1", id="integer"),
        pytest.param(0, "0", id="zero"),
        pytest.param(-7, "-7", id="negative"),
        pytest.param(10**30, "1" + "0" * 30, id="larger than any database's"),
        pytest.param("u-1", "u-1", id="string"),
        pytest.param("0", "0", id="string of a zero"),
        pytest.param("Jürgen Ω", "Jürgen Ω", id="not ASCII"),
        pytest.param("a b", "a b", id="white space inside"),
        pytest.param("a\u200db", "a\u200db", id="a joiner, which is not printable and no control character"),
    ],
)
def test_a_user_id_is_a_non_empty_string_or_an_integer(claim, user_id):
    """Contract §4."""
    assert read(user_id=claim).user_id == user_id


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(None, id="null"),
        pytest.param("", id="empty"),
        pytest.param(" ", id="white space only"),
        pytest.param(True, id="true"),
        pytest.param(False, id="false"),
        pytest.param(1.0, id="float"),
        pytest.param(["1"], id="list"),
        pytest.param({"id": 1}, id="object"),
        pytest.param("1\r\nX-User-Role: admin", id="a header of its own"),
        pytest.param("1\n", id="a line end behind it"),
        pytest.param("\x00", id="NUL"),
        pytest.param("a\x7fb", id="DEL"),
        pytest.param("a\x85b", id="C1"),
        pytest.param("\ud800", id="half a surrogate pair"),
        pytest.param(" 1", id="white space before it"),
        pytest.param("1\u00a0", id="white space behind it"),
    ],
)
def test_any_other_user_id_makes_the_token_invalid(claim):
    """Contract §4, §5; a field loses surrounding white space (RFC 9110 §5.5), and ``" 1"`` would become user 1."""
    with pytest.raises(InvalidToken, match="user_id"):
        read(user_id=claim)


def test_a_missing_user_id_makes_the_token_invalid():
    """Contract §2."""
    with pytest.raises(InvalidToken, match="user_id"):
        Claims().identity({"exp": EXP}, "f")


@pytest.mark.parametrize(
    ("claim", "role", "roles"),
    [
        pytest.param("admin", "admin", ("admin",), id="string"),
        pytest.param("a,b", "a,b", ("a,b",), id="a string with a comma is one role"),
        pytest.param(["a", "b"], "a,b", ("a", "b"), id="list"),
        pytest.param(["a"], "a", ("a",), id="list of one"),
        pytest.param([], "", (), id="empty list"),
        pytest.param("", "", (), id="empty string"),
        pytest.param(None, "", (), id="null"),
        pytest.param(["Größe", "a b"], "Größe,a b", ("Größe", "a b"), id="not ASCII"),
    ],
)
def test_a_role_is_one_and_a_list_is_several(claim, role, roles):
    """Contract §4: a list is sent comma-joined, any of them satisfies a route."""
    found = read(role=claim)
    assert (found.role, found.roles) == (role, roles)


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(["user", "x,admin"], id="a comma would give a role that nobody gave"),
        pytest.param(["user", ""], id="an empty element"),
        pytest.param(["user", None], id="null in a list"),
        pytest.param(["user", 1], id="number in a list"),
        pytest.param([["admin"]], id="list in a list"),
        pytest.param(["user", "admin\n"], id="control character in a list"),
        pytest.param(["user", " admin"], id="white space around an element"),
        pytest.param("admin\x00", id="control character"),
        pytest.param(1, id="number"),
        pytest.param(True, id="boolean"),
        pytest.param({"admin": True}, id="object"),
    ],
)
def test_a_role_that_could_be_read_as_another_makes_the_token_invalid(claim):
    """The backend sees one field: what it reads there must be what was signed."""
    with pytest.raises(InvalidToken, match="role"):
        read(role=claim)


@pytest.mark.parametrize("missing", [{}, {"email": None}, {"email": ""}], ids=["missing", "null", "empty"])
def test_a_missing_email_is_empty(missing):
    """Contract §2."""
    assert read(**missing).email == ""


@pytest.mark.parametrize("claim", [1, ["a@b.c"], True, "a@b.c\r\n", "a\tb"], ids=repr)
def test_an_email_that_is_no_plain_string_makes_the_token_invalid(claim):
    """Contract §5."""
    with pytest.raises(InvalidToken, match="email"):
        read(email=claim)


def test_control_characters_in_other_claims_do_no_harm():
    """Only what becomes a header field must be able to be one."""
    assert read(name="line\nbreak").user_id == "1"


def test_settings_name_the_claims():
    """Contract §2: JWT_USER_ID_CLAIM, JWT_EMAIL_CLAIM, JWT_ROLE_CLAIM."""
    found = read(Claims("sub", "mail", "groups"), sub="u", mail="m", groups=["g"], email="x", role="y")
    assert (found.user_id, found.email, found.role) == ("u", "m", "g")


def test_the_deadline_is_exp_plus_the_leeway():
    """Contract §6; PyJWT compares whole seconds, so the deadline has them too."""
    assert read(Claims(leeway=2.5), exp=EXP + 0.9).expires_at == EXP + 2.5


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize(
    "claim",
    [
        pytest.param("2000000000", id="string"),
        pytest.param(True, id="boolean"),
        pytest.param([2_000_000_000], id="list"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(float("inf"), id="infinite"),
        pytest.param(10**400, id="larger than a float"),
    ],
)
def test_a_time_that_is_no_number_makes_the_token_invalid(name, claim):
    """NumericDate: a JSON number (RFC 7519 §2)."""
    with pytest.raises(InvalidToken, match=name):
        read(**{name: claim})


def test_when_a_token_was_issued_is_known_or_not():
    """Revoking a user depends on it (contract §6)."""
    assert read(iat=5).issued_at == 5.0
    assert read().issued_at is None


def test_a_refresh_token_is_no_access_token():
    """simplejwt signs both with one key; a refresh token is for getting new tokens only, and lives for long."""
    assert read(token_type="access").user_id == "1"
    with pytest.raises(InvalidToken, match="refresh"):
        read(token_type="refresh")
