"""`relay.management.command`: a command line that can't be used, of every command of the gateway."""

from __future__ import annotations

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError

WRONG = [
    pytest.param(
        "issue_token", ["--user-id", "1", "--ttl", "x"], "argument --ttl: 'x' is not a number", id="issue_token"
    ),
    pytest.param("serve", ["--workers", "x"], "argument --workers: invalid int value: 'x'", id="serve"),
    pytest.param("revoke", [], "one of the arguments --token --jti --user-id is required", id="revoke"),
    pytest.param("import_config", [], "the following arguments are required: FILE", id="import_config"),
    pytest.param("explain", [], "the following arguments are required: METHOD, PATH", id="explain"),
    pytest.param("export_config", ["--x"], "unrecognized arguments: --x", id="export_config"),
    pytest.param("export_config", ["--x\ny"], "unrecognized arguments: --x y;", id="a line end in an argument"),
    pytest.param("check_backends", ["--x"], "unrecognized arguments: --x", id="check_backends"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), WRONG)
def test_a_bad_command_line_is_one_line(
    name: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract, section 1: what is wrong, where to read on, and exit status 2."""
    with pytest.raises(SystemExit) as end:
        load_command_class("relay", name).run_from_argv(["/srv/gateway/manage.py", name, *arguments])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"CommandError: {words}")
    assert said.err.endswith(f"; see python manage.py {name} --help\n")


def test_called_by_a_program_it_is_an_exception() -> None:
    """`call_command` ends no process."""
    with pytest.raises(CommandError, match=r"required: FILE; see python manage\.py import_config --help") as error:
        call_command("import_config")
    assert error.value.returncode == 2


def test_help_still_tells_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the line leads to."""
    with pytest.raises(SystemExit) as end:
        load_command_class("relay", "revoke").run_from_argv(["manage.py", "revoke", "--help"])
    assert end.value.code == 0
    assert "usage: manage.py revoke" in capsys.readouterr().out
