"""demo/runner.py: `make run` starts three things and ends all of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from demo import environment
from tests import demo_helpers
from tests.demo_helpers import ROOT, Demo, free_port, running_demo

pytestmark = pytest.mark.timeout(120)


def run(data: Path, port: int | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m demo` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env=demo_helpers.environment(data, 0) | {"PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def get(demo: Demo, path: str) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{demo.port}{path}", headers={"Authorization": f"Bearer {demo.token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_of_it(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, kill, or the terminal closes: status 0, and nobody listens any more."""
    with running_demo(tmp_path) as demo:
        assert json.loads(get(demo, "/api/hello"))["saw"]["path"] == "/api/hello"
        demo.process.send_signal(number)
        assert demo.wait() == 0
        assert not is_open(demo.port)
        assert not is_open(demo.backend_port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killing_make_leaves_no_orphans(tmp_path: Path, number: signal.Signals) -> None:
    """`kill` of make alone: make passes the signal on to its child, and that to its own; SIGKILL the kernel tells."""
    binaries = str(Path(sys.executable).parent)
    port = free_port()
    demo = Demo(["make", "-o", ".venv/runtime", "run", f"BIN={binaries}", f"PORT={port}"], tmp_path, port)
    try:
        demo.wait_until_ready()
        demo.process.send_signal(number)
        assert demo.wait() != 0
        assert not is_open(demo.port)
        assert not is_open(demo.backend_port)
    finally:
        demo.end()


def test_killing_the_demo_leaves_no_orphans(tmp_path: Path) -> None:
    """`kill -9` can't be passed on."""
    with running_demo(tmp_path) as demo:
        demo.process.kill()
        assert demo.wait() == -signal.SIGKILL
        assert not is_open(demo.port)
        assert not is_open(demo.backend_port)


def test_a_second_start_keeps_secrets_and_data(tmp_path: Path) -> None:
    """What was changed in the admin, and the token in a shell, survive a restart."""
    with running_demo(tmp_path) as demo:
        token, secret = demo.token, (tmp_path / "jwt-secret").read_text()
    with running_demo(tmp_path) as demo:
        demo.token = token
        assert get(demo, "/api/hello")
    assert (tmp_path / "jwt-secret").read_text() == secret
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o077} <= {
        "gateway.sqlite3",
        "gateway.toml",
    }


@pytest.mark.parametrize(("command", "name"), [("demo.backend", "backend"), ("manage.py", "gateway")])
def test_a_child_that_dies_ends_the_other(tmp_path: Path, command: str, name: str) -> None:
    """Status 1, and a line that says which one it was."""
    with running_demo(tmp_path) as demo:
        os.kill(demo.child(command), signal.SIGKILL)
        assert demo.wait() == 1
        assert f"The {name} ended by itself with status -9: see its output above.\n" in demo.lines
        assert not is_open(demo.port)
        assert not is_open(demo.backend_port)


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    """Before anything is made or started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, port)
    assert done.returncode == 1
    assert done.stderr == (
        f"Port {port} is in use: stop what is listening there, or use another: make run PORT={port + 1}\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1"])
def test_a_port_that_is_none_is_told_in_one_line(tmp_path: Path, port: str) -> None:
    """The variable, its value and the mend."""
    done = run(tmp_path, port)
    assert (done.returncode, done.stderr) == (1, f"PORT: {port!r} is not a port; for example: make run PORT=8001\n")


def test_each_port_has_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two demos of one checkout would rewrite each other's backends."""
    monkeypatch.delenv("DEMO_DATA", raising=False)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    usual = tmp_path / "data" / "demo"
    assert [environment.folder(8000), environment.folder(8001)] == [usual, usual / "8001"]


def test_the_commands_of_the_banner_are_for_this_port(tmp_path: Path) -> None:
    """`explain` without PORT would ask another demo's database."""
    with running_demo(tmp_path) as demo:
        assert any(line.strip().startswith(f"PORT={demo.port} ") and " explain " in line for line in demo.lines)


def test_a_foreign_environment_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell made for another installation: the demo has its own settings, database and secrets."""
    for name, value in {
        "JWT_SECRET": "another",
        "SECRET_KEY_FILE": "/nowhere",
        "JWT_PUBLIC_KEY": "another",
        "DATABASE_URL": "postgres://user@127.0.0.1:9/name",
        "REDIS_URL": "redis://127.0.0.1:9",
        "DEBUG": "0",
        "JWT_COOKIE": "",
    }.items():
        monkeypatch.setenv(name, value)
    done = run(tmp_path, 8000, "migrate", "--verbosity", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "gateway.sqlite3").exists()
