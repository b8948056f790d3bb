"""relay.admin.login: guessing is slow, and locks nobody out but the one who guesses."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from relay.admin import login
from relay.models import LoginAttempt
from tests.admin_helpers import text

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def root(settings: object) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # type: ignore[attr-defined]
    return User.objects.create_superuser("root", password="right")


def attempt(password: str, username: str = "root", address: str = "192.0.2.1") -> tuple[int, str]:
    """Status and text of a login; 302 is a success."""
    data = {"username": username, "password": password, "next": "/admin/"}
    response = Client().post("/admin/login/", data, REMOTE_ADDR=address)
    return response.status_code, text(response)


def guess(times: int, **who: str) -> None:
    for _ in range(times):
        attempt("wrong", **who)


def test_after_some_failures_an_address_has_to_wait() -> None:
    """Even with the right password; and the page says for how long."""
    guess(login.MOST_BY_NAME)
    status, said = attempt("right")
    assert status == 200
    assert "Too many failed logins from your address. Try again in 15 min." in said


def test_one_failure_less_is_no_matter() -> None:
    """Somebody who mistypes gets in, and begins anew."""
    guess(login.MOST_BY_NAME - 1)
    assert attempt("right")[0] == 302
    guess(login.MOST_BY_NAME - 1)
    assert attempt("right")[0] == 302


def test_the_admin_gets_in_from_elsewhere() -> None:
    """Who guesses at a name does not lock its owner out."""
    guess(login.MOST_BY_NAME + 3)
    assert attempt("right", address="198.51.100.9")[0] == 302


def test_another_name_from_there_is_free_for_a_while() -> None:
    """A colleague behind the same address; but not any number of names."""
    User.objects.create_superuser("other", password="right")
    guess(login.MOST_BY_NAME)
    assert attempt("right", username="other")[0] == 302
    for n in range(login.MOST_BY_ADDRESS):
        attempt("wrong", username=f"name{n}")
    assert "Too many" in attempt("right", username="other")[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("2001:db8::1", "2001:db8::ffff:2", True, id="the network of an IPv6 client"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="another network"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="an IPv4 neighbour"),
        pytest.param("", "", True, id="a Unix socket"),
    ],
)
def test_whoever_has_many_addresses_is_one(one: str, other: str, same: bool) -> None:
    """A provider gives out /64 networks (RFC 6177)."""
    guess(login.MOST_BY_NAME, address=one)
    assert (attempt("right", address=other)[0] == 200) is same


def test_the_pause_ends_by_itself() -> None:
    """Whoever went on trying meanwhile did not make it longer."""
    guess(login.MOST_BY_NAME)
    LoginAttempt.objects.update(at=timezone.now() - login.WINDOW + timedelta(seconds=30))
    guess(3)
    assert "Try again in 1 min." in attempt("right")[1]
    LoginAttempt.objects.update(at=timezone.now() - login.WINDOW)
    assert attempt("right")[0] == 302
    assert not LoginAttempt.objects.exists()


def test_many_at_once_do_not_slip_through() -> None:
    """An attempt counts from its beginning: those that are under way at the same time see each other."""
    waits = [login.begin("192.0.2.1", "root") for _ in range(login.MOST_BY_NAME + 2)]
    assert waits == [0] * login.MOST_BY_NAME + [15, 15]


def test_a_flood_from_everywhere_does_not_fill_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go."""
    monkeypatch.setattr(login, "MOST_KEPT", 10)
    for n in range(30):
        login.begin(f"192.0.2.{n}", "root")
    assert sorted(LoginAttempt.objects.values_list("address", flat=True)) == [f"192.0.2.{n}" for n in range(20, 30)]


def test_a_password_in_the_place_of_a_name_is_kept_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the address only."""
    guess(login.MOST_BY_NAME + 1, username="hunter2")
    (line,) = [record for record in caplog.records if record.name == "relay.admin"]
    assert vars(line)["client"] == "192.0.2.1"
    assert "hunter2" not in str(vars(line))


@pytest.mark.parametrize(("username", "password"), [("", "x"), ("root", "")])
def test_an_empty_form_is_no_attempt(username: str, password: str) -> None:
    """It says what is missing."""
    assert attempt(password, username=username)[0] == 200
    assert not LoginAttempt.objects.exists()


def test_a_user_who_is_no_staff_counts_as_a_failure() -> None:
    """Otherwise the form would tell right passwords from wrong ones."""
    User.objects.create_user("bo", password="right")
    for _ in range(login.MOST_BY_NAME):
        assert attempt("right", username="bo")[0] == 200
    assert "Too many" in attempt("right", username="bo")[1]
