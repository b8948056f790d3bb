"""``manage.py issue_token``."""

from __future__ import annotations

import time

import jwt
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from relay.identity.tokens import Verifier
from tests.identity_helpers import SECRET, private_key, public_pem, relay_settings


@pytest.fixture
def issue(settings, capsys):
    """Run the command under some settings; give back what it printed."""

    def run(*arguments, **changes):
        settings.RELAY = relay_settings(**changes)
        call_command("issue_token", *arguments)
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def claims_of(printed):
    return jwt.decode(printed.strip(), options={"verify_signature": False})


def test_it_prints_a_token_of_the_seeds_kind_and_nothing_else(issue):
    """Contract §1; so that ``TOKEN=$(manage.py issue_token …)`` works."""
    printed = issue("--user-id", "1", "--email", "a@b.c", "--role", "user")
    now = int(time.time())
    assert printed.count("\n") == 1
    found = claims_of(printed)
    assert now - 5 <= found["iat"] <= now
    assert found == {"user_id": 1, "email": "a@b.c", "role": "user", "iat": found["iat"], "exp": found["iat"] + 3600}
    assert Verifier(relay_settings()).verify(printed.strip()).user_id == "1"


@pytest.mark.parametrize(
    ("arguments", "claims"),
    [
        pytest.param([], {"user_id": 1}, id="only a user id"),
        pytest.param(["--role", "a", "--role", "b"], {"role": ["a", "b"]}, id="role repeated"),
        pytest.param(["--role", "a, b"], {"role": ["a", "b"]}, id="roles with commas"),
        pytest.param(["--email", "ü@b.c"], {"email": "ü@b.c"}, id="not ASCII"),
        pytest.param(["--user-id", "u-1"], {"user_id": "u-1"}, id="a string as user id"),
        pytest.param(["--user-id", "007"], {"user_id": "007"}, id="zeros that an integer would lose"),
        pytest.param(["--user-id", "0"], {"user_id": 0}, id="zero"),
    ],
)
def test_options_become_claims(issue, arguments, claims):
    """What is not given is not claimed."""
    found = claims_of(issue("--user-id", "1", *arguments))
    assert {name: value for name, value in found.items() if name not in ("iat", "exp")} == {"user_id": 1} | claims


def test_the_token_lives_as_long_as_it_is_told(issue):
    """Contract §1: --ttl, in seconds."""
    found = claims_of(issue("--user-id", "1", "--ttl", "5"))
    assert found["exp"] - found["iat"] == 5


def test_settings_decide_about_claims_issuer_audience_and_algorithm(issue):
    """The gateway has to accept its own."""
    changes = {
        "jwt_user_id_claim": "sub",
        "jwt_email_claim": "mail",
        "jwt_role_claim": "groups",
        "jwt_issuer": "us",
        "jwt_audience": "them",
        "jwt_algorithms": ("HS512", "HS256"),
    }
    printed = issue("--user-id", "1", "--email", "e", "--role", "r", **changes)
    found = claims_of(printed)
    assert (found["sub"], found["mail"], found["groups"], found["iss"], found["aud"]) == (1, "e", "r", "us", "them")
    assert jwt.get_unverified_header(printed.strip())["alg"] == "HS512"


@pytest.mark.parametrize(
    "changes",
    [
        {"jwt_public_key": public_pem(private_key("RSA")), "jwt_algorithms": ("RS256",)},
        {"jwt_jwks_url": "http://127.0.0.1:1/", "jwt_algorithms": ("RS256",), "jwt_secret": SECRET},
    ],
    ids=["public key", "JWKS"],
)
def test_who_only_verifies_can_not_sign(issue, changes):
    """The line says why, and what to do."""
    with pytest.raises(CommandError, match="only their issuer has the key"):
        issue("--user-id", "1", **changes)


@pytest.mark.parametrize("ttl", ["0", "-1", "1.5", "x", "", "1e3", "99999999999", "315360001"])
def test_a_ttl_is_a_sensible_number_of_seconds(issue, ttl):
    """A token for ever is a mistake."""
    with pytest.raises(CommandError, match="--ttl"):
        issue("--user-id", "1", "--ttl", ttl)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--user-id", ""], "user_id is missing", id="empty user id"),
        pytest.param(["--user-id", " "], "white space", id="blank user id"),
        pytest.param(["--user-id", "a\nb"], "control character", id="a line end in the user id"),
        pytest.param(["--user-id", "1", "--role", "a\x00"], "control character", id="NUL in a role"),
        pytest.param([], "--user-id", id="no user id"),
    ],
)
def test_a_token_that_the_gateway_would_refuse_is_not_made(issue, arguments, says):
    """Better here than in an hour of looking for it."""
    with pytest.raises(CommandError, match=says):
        issue(*arguments)
