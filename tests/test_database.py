"""relay.database: what is wrong with the database, in one line with the mend."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django import db
from django.db import connection

from relay import database
from relay.database import is_unmigrated, trouble
from tests import served
from tests.config_helpers import database_at

COMMANDS = [
    pytest.param(command, id=command[0])
    for command in (
        ["migrate"],
        ["check", "--database", "default"],
        ["serve", "-p", "0"],
        ["createsuperuser", "--noinput", "--username", "a", "--email", "a@b.c"],
        ["explain", "GET", "/api/x"],
        ["export_config"],
        ["check_backends"],
        ["revoke", "--user-id", "1"],
        ["import_config", "-"],
    )
]
TOML = '[[origin]]\norigin = "https://a.b"\n'


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """The url of a PostgreSQL that is not there; nobody else gets its port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"postgres://user:s3cret@127.0.0.1:{taken.getsockname()[1]}/name"


def failed(site: served.Site, command: list[str]) -> str:
    """What a command says in the end; Django's own may print warnings before it."""
    done: subprocess.CompletedProcess[str] = site.command(*command, stdin=TOML)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("CommandError: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_nobody_listens_for(tmp_path: Path, refusing: str, command: list[str]) -> None:
    """Nothing that migrate could mend; the password is not repeated."""
    line = failed(served.Site(tmp_path, DATABASE_URL=refusing), command)
    assert line.startswith("DATABASE_URL: the database can't be reached: ")
    assert "refused" in line
    assert "migrate" not in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", [["migrate"], ["check", "--database", "default"], ["serve", "-p", "0"]])
def test_a_file_that_is_no_database(tmp_path: Path, command: list[str]) -> None:
    """Its name, and the way out."""
    site = served.Site(tmp_path)
    (tmp_path / "gateway.sqlite3").write_bytes(b"something else " * 1000)
    line = failed(site, command)
    assert line.startswith(f"DATABASE_URL: {tmp_path}/gateway.sqlite3: file is not a database; name another file")
    assert "migrate" not in line


@pytest.mark.parametrize("command", COMMANDS[3:5])
def test_a_database_without_tables(tmp_path: Path, command: list[str]) -> None:
    """That is what migrate is for."""
    line = failed(served.Site(tmp_path), command)
    assert f"{tmp_path}/gateway.sqlite3: no such table" in line
    assert line.endswith("run: python manage.py migrate")


def test_whoever_wants_it_gets_the_traceback(tmp_path: Path, refusing: str) -> None:
    """Django's own option."""
    done = served.Site(tmp_path, DATABASE_URL=refusing).command("migrate", "--traceback")
    assert done.stderr.startswith("Traceback")


@pytest.mark.django_db
def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    """A directory, or a mount that nobody may write to."""
    with database_at(tmp_path / "not" / "there.sqlite3"):
        with pytest.raises(db.OperationalError) as caught:
            connection.ensure_connection()
        assert trouble(caught.value).startswith(f"DATABASE_URL: {tmp_path}/not/there.sqlite3 can't be opened; is it a ")


@pytest.mark.django_db(transaction=True)
async def test_whoever_waits_for_the_database_is_in_nobody_elses_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs in it leaves a thread for the rest: the end of the process, an issuer's keys, a first TLS dial."""
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    answered = threading.Event()
    try:
        calls = [database.in_thread(answered.wait, 20) for _ in range(64)]
        given_up = await asyncio.gather(*calls, return_exceptions=True)
        assert {str(exc) for exc in given_up} == {f"the database {database.place()} did not answer within 0.1 s"}
        async with asyncio.timeout(5):
            assert not await asyncio.to_thread(answered.is_set)
    finally:
        answered.set()


class Said(Exception):
    """A driver's exception, with what it says of itself."""

    def __init__(self, **facts: str) -> None:
        self.__dict__.update(facts)


@pytest.mark.parametrize(
    ("facts", "said", "expected"),
    [
        pytest.param(
            {"sqlite_errorname": "SQLITE_READONLY"}, "attempt to write", "this user must be able to write", id="rights"
        ),
        pytest.param(
            {"sqlite_errorname": "SQLITE_BUSY"}, "database is locked", "another process is writing", id="locked"
        ),
        pytest.param({"sqlite_errorname": "SQLITE_FULL"}, "disk is full", "disk is full", id="full"),
        pytest.param({"sqlstate": "42P01"}, 'relation "x"\ndoes not exist', "manage.py migrate", id="no table"),
        pytest.param({"sqlstate": "57014"}, "canceled\n\tby a timeout", ": canceled by a timeout", id="in one line"),
    ],
)
def test_the_mend_fits_the_cause(facts: dict[str, str], said: str, expected: str) -> None:
    """By the driver's own code, however deep it lies."""
    wrapped: Any = db.OperationalError(said)
    wrapped.__cause__ = db.ProgrammingError("between")
    wrapped.__cause__.__cause__ = Said(**facts)
    assert expected in trouble(wrapped)
    assert "\n" not in trouble(wrapped)
    assert is_unmigrated(wrapped) == ("migrate" in expected)
