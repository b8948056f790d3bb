"""``import_config`` and ``export_config``: all or nothing, the difference in words, and a way back."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.models.signals import pre_save

from relay.models import Backend, Origin, Revision, Route
from relay.routing.loader import load_snapshot
from tests.config_helpers import database_at

pytestmark = pytest.mark.django_db

FILE = """
[[backend]]
name = "main"
url = "http://127.0.0.1:9000"

[[route]]
path = "/api/"
backend = "main"

[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
message_rate = "50/s"

[[origin]]
origin = "https://app.example.com"
note = "frontend"
"""


@pytest.fixture
def apply(tmp_path: Path) -> Any:
    """Import a text as a file; give back what was printed."""

    def import_text(text: str | bytes, *options: str) -> str:
        file = tmp_path / "gateway.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        out = io.StringIO()
        call_command("import_config", str(file), *options, stdout=out)
        return out.getvalue()

    return import_text


def exported() -> str:
    out = io.StringIO()
    call_command("export_config", stdout=out)
    return out.getvalue()


def refused(apply: Any, text: str | bytes, *options: str) -> list[str]:
    """The lines of the error; nothing has been written."""
    before = load_snapshot()
    with pytest.raises(CommandError) as caught:
        apply(text, *options)
    assert load_snapshot() == before
    return str(caught.value).splitlines()


def test_a_file_is_applied_and_the_difference_shown(apply: Any) -> None:
    """What was added, changed and removed, with the fields in the file's own words."""
    assert apply(FILE) == (
        '+ backend "main"\n    name = "main"\n    url = "http://127.0.0.1:9000"\n'
        '+ route http "/api/"\n    path = "/api/"\n    kind = "http"\n    backend = "main"\n'
        '    access = "authenticated"\n'
        '+ route websocket "/ws"\n    path = "/ws"\n    kind = "websocket"\n    backend = "main"\n'
        '    access = "authenticated"\n    message_rate = "50/s"\n'
        '+ origin "https://app.example.com"\n    origin = "https://app.example.com"\n    note = "frontend"\n'
        "4 added\n"
    )
    assert apply(FILE.replace('"50/s"', '""').replace("url =", 'urls = ["http://h",').replace("9000", '9000"]#')) == (
        '~ backend "main"\n    urls: ["http://127.0.0.1:9000"] -> ["http://h", "http://127.0.0.1:9000"]\n'
        '~ route websocket "/ws"\n    message_rate: "50/s" -> ""\n'
        "2 changed\n"
    )


def test_the_same_file_again_changes_nothing(apply: Any) -> None:
    """Not even the count of changes: no process has to look."""
    apply(FILE)
    revision = Revision.current().config
    assert apply(FILE) == "nothing to change\n"
    assert Revision.current().config == revision


def test_a_row_is_set_as_a_whole(apply: Any) -> None:
    """A key that leaves the file goes back to its default, or two databases would say different things."""
    apply(FILE)
    Route.objects.filter(path="/ws").update(idle_timeout=5, enabled=False)
    assert apply(FILE).splitlines()[:3] == [
        '~ route websocket "/ws"',
        "    idle_timeout: 5 -> 0",
        "    enabled: false -> true",
    ]


def test_the_name_of_a_placeholder_makes_no_other_route(apply: Any) -> None:
    """Two routes that match the same paths would hide one another: a new name is a change, two are one too many."""
    old = FILE.replace("/api/", "/api/<int:id>/")
    new = FILE.replace("/api/", "/api/<int:pk>/")
    apply(old)
    shown = apply(new)
    assert '~ route http "/api/<int:pk>/"\n    path: "/api/<int:id>/" -> "/api/<int:pk>/"\n1 changed\n' in shown
    twice = new + '[[route]]\npath = "/api/<int:x>/"\nkind = "http"\nbackend = "main"\n'
    assert refused(apply, twice)[1] == 'route http "/api/<int:x>/": it is listed twice; keep one'


def test_a_dry_run_shows_and_changes_nothing(apply: Any) -> None:
    """The same difference, and a last line that says so."""
    shown = apply(FILE, "--dry-run")
    assert shown.startswith('+ backend "main"')
    assert shown.endswith("dry run, nothing was changed: 4 added\n")
    assert not Backend.objects.exists()
    assert Revision.current().config == 0


def test_what_the_file_lacks_stays_without_prune(apply: Any) -> None:
    """A file may hold a part of the configuration, and lead to backends that are in the database only."""
    Backend.objects.create(name="other", urls="http://h")
    text = '[[route]]\npath = "/other/"\nbackend = "other"\n'
    assert apply(text).endswith("1 added\n")
    assert Route.objects.get().backend.name == "other"


def test_prune_removes_what_the_file_lacks(apply: Any) -> None:
    """And a dry run shows what it would remove."""
    other = Backend.objects.create(name="other", urls="http://h")
    Route.objects.create(path="/other/", backend=other)
    Origin.objects.create(origin="https://old.example")
    assert apply(FILE, "--prune", "--dry-run").endswith("dry run, nothing was changed: 4 added, 3 removed\n")
    shown = apply(FILE, "--prune")
    for line in ('- backend "other"', '- route http "/other/"', '- origin "https://old.example"', "4 added, 3 removed"):
        assert line in shown.splitlines()
    assert [row.name for row in Backend.objects.all()] == ["main"]


def test_a_route_moves_away_from_a_backend_that_goes(apply: Any) -> None:
    """It keeps its row; only the backend is removed."""
    apply(FILE)
    before = Route.objects.get(path="/ws").pk
    shown = apply(FILE.replace('"main"', '"next"'), "--prune")
    assert '    backend: "main" -> "next"' in shown
    assert Route.objects.get(path="/ws").pk == before
    assert [row.name for row in Backend.objects.all()] == ["next"]


@pytest.mark.parametrize("content", ["", "# only a comment\n", "route = []\n"])
@pytest.mark.parametrize("options", [["--prune"], ["--prune", "--dry-run"]])
def test_a_file_without_rows_prunes_nothing(apply: Any, content: str, options: list[str]) -> None:
    """It is what a failed ``export_config > gateway.toml`` leaves behind."""
    apply(FILE)
    (line,) = refused(apply, content, *options)
    assert "gateway.toml: the file is empty, and --prune would remove everything" in line
    assert apply(content) == "nothing to change\n"


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_what_may_not_be_meant_is_said_at_once(
    apply: Any, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only at the next start; beside the difference, on stderr, and only of what is enabled."""
    apply(FILE, *options)
    assert capsys.readouterr().err == ""
    off = '[[origin]]\norigin = "https://*.org"\nenabled = false\n'
    apply(FILE.replace("https://app.example.com", "https://*.com").replace("/api/", "/admin/x") + off, *options)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith('warning: relay.W006: route http "/admin/x" lies under one of the gateway\'s own paths')
    assert second.startswith(
        'warning: relay.W010: origin "https://*.com" is enabled: anybody can have a site under com'
    )


@pytest.mark.parametrize(
    ("backend", "options", "said"),
    [
        pytest.param("mian", [], '"mian" is unknown; did you mean "main"?', id="a slip"),
        pytest.param("zzz", [], '"zzz" is unknown; add a [[backend]] with this name', id="no backend at all"),
        pytest.param("stored", ["--prune"], "--prune would remove it; add it to the file", id="one that prune removes"),
    ],
)
def test_an_unknown_backend_is_a_problem(apply: Any, backend: str, options: list[str], said: str) -> None:
    """Known are those of the file, and without prune those of the database."""
    Backend.objects.create(name="stored", urls="http://h")
    lines = refused(apply, FILE.replace('backend = "main"', f'backend = "{backend}"', 1), *options)
    assert lines[0].endswith("gateway.toml: 1 problem, nothing was changed")
    assert lines[1].startswith('route http "/api/": backend: ')
    assert said in lines[1]


def test_one_problem_and_nothing_is_applied(apply: Any) -> None:
    """Neither the rows that are right nor a part of them; and every problem is listed."""
    lines = refused(apply, FILE + '[[origin]]\norigin = "null"\n[[rout]]\n')
    assert lines[0].endswith("2 problems, nothing was changed")
    assert len(lines) == 3


def test_a_failure_half_way_leaves_the_database_as_it_was(apply: Any) -> None:
    """One transaction: here the disk is full when the last row is written."""

    def fail(**kwargs: Any) -> None:
        raise OperationalError("disk is full")

    pre_save.connect(fail, sender=Origin)
    try:
        (line,) = refused(apply, FILE)
    finally:
        pre_save.disconnect(fail, sender=Origin)
    assert line.startswith("the database ")
    assert line.endswith(": disk is full")
    assert not Backend.objects.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"\xff\xfe", "gateway.toml: not UTF-8 at byte 0; save it as UTF-8", id="UTF-16"),
        pytest.param(b'x = "\xe4"', "gateway.toml: not UTF-8 at byte 5", id="Latin-1"),
        pytest.param(b"\x00", "this is not TOML: ", id="a zero byte"),
        pytest.param(b"[[backend]\n", "this is not TOML: ", id="half a header"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_line(apply: Any, content: bytes, said: str) -> None:
    """No traceback: the file and what is wrong with it."""
    assert said in refused(apply, content)[-1]


def test_a_byte_order_mark_is_no_part_of_the_file(apply: Any) -> None:
    """Some editors put one in front."""
    assert apply(b"\xef\xbb\xbf" + FILE.encode()).endswith("4 added\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("missing.toml", "missing.toml: can't be read: No such file or directory", id="a missing file"),
        pytest.param(".", "can't be read: Is a directory", id="a directory"),
    ],
)
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, name: str, said: str) -> None:
    """The system's own reason."""
    with pytest.raises(CommandError, match=said):
        call_command("import_config", str(tmp_path / name))


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """For pipes: ``export_config | ssh … import_config -``."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILE.encode())))
    call_command("import_config", "-", stdout=io.StringIO())
    assert Backend.objects.get().name == "main"


def test_an_export_imported_again_changes_nothing(apply: Any) -> None:
    """Neither here nor after a detour through an empty database."""
    apply(FILE)
    Origin.objects.create(origin="https://*.example.com", note='"quoted" \\ ü', enabled=False)
    before, text = load_snapshot(), exported()
    assert apply(text, "--prune") == "nothing to change\n"
    Backend.objects.all().delete()
    Origin.objects.all().delete()
    apply(text)
    after = load_snapshot()
    assert (after.backends, after.routes, after.origins) == (before.backends, before.routes, before.origins)
    assert exported() == text


def test_an_export_does_not_depend_on_the_order_of_the_rows(apply: Any) -> None:
    """So that a file under version control changes with its content only."""
    apply(FILE)
    text = exported()
    Backend.objects.all().delete()
    Origin.objects.all().delete()
    blocks = text.split("\n\n")
    apply("\n\n".join(reversed(blocks)))
    assert exported() == text


@pytest.mark.parametrize("command", [["export_config"], ["import_config", "-"]])
def test_without_tables_the_commands_say_what_to_do(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new database: one line that names ``migrate``."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILE.encode())))
    with (
        database_at(tmp_path / "empty.sqlite3"),
        pytest.raises(CommandError, match=r"no such table.*manage\.py migrate"),
    ):
        call_command(*command)
