"""``manage.py serve``: what an operator sees of the server."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError

from relay.management.commands.serve import Command
from tests import served
from tests.fleet_helpers import until


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_it_serves_and_stops(site: served.Site) -> None:
    """One line when it listens, with the address; exit status 0 behind a SIGTERM."""
    with served.serving(site) as server:
        start = server.wait_for("server.start")
        assert (start["listening"], start["workers"]) == (f"http://127.0.0.1:{server.port}", 1)
        assert start["version"]
        assert get(server.port, "/health/live")[0] == 200
        assert get(server.port, "/nowhere")[1]["code"] == "no_route"
        assert server.stop() == 0
        assert server.wait_for("server.drain")["seconds"] == 2


def test_what_the_server_refuses_is_logged_and_counted(site: served.Site) -> None:
    """A malformed request never reaches the application, but the log and the metrics."""
    with served.serving(site) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        assert server.wait_for("http.refused")["code"] == "bad_request"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", "/metrics")
        assert b'relay_refusals_total{code="bad_request"} 1.0' in connection.getresponse().read()
        connection.close()


def test_workers_serve_together(site: served.Site) -> None:
    """``--workers``: one line for all of them; one that dies is replaced; they end together."""
    with served.serving(site, "--workers", "2") as server:
        start = server.wait_for("server.start")
        assert (start["listening"], start["workers"]) == (f"http://127.0.0.1:{server.port}", 2)
        assert get(server.port, "/health/live")[0] == 200
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        server.wait_for(lambda line: "a new one starts" in line.get("message", ""))
        assert server.stop() == 0
    assert len([line for line in server.lines if line["event"] == "server.drain"]) <= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_it_may_open_as_many_files_as_it_is_allowed_to(site: served.Site, workers: int) -> None:
    """A shell, a container and systemd start it with a soft limit of 1024: 500 sockets."""
    serve = shlex.join([sys.executable, str(served.ROOT / "manage.py"), "serve", "--workers", str(workers)])
    with served.serving(site, argv=["sh", "-c", f"ulimit -Sn 200; exec {serve} -p {{port}}"]) as server:
        server.wait_for("server.start")
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == (workers if workers > 1 else 0)
        for process in (pid, *children):
            (soft, hard) = re.findall(r"Max open files +(\d+) +(\d+)", Path(f"/proc/{process}/limits").read_text())[0]
            assert soft == hard != "200"


def test_a_unix_socket_leaves_no_file_behind(site: served.Site) -> None:
    """It is there while the server runs."""
    path = site.directory / "s"
    with served.serving(site, "-u", str(path)) as server:
        server.wait_for("server.start")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert server.stop() == 0
    assert not path.exists()


FAILURES = [
    pytest.param(["--workers", "0"], "--workers 0: at least one is needed", 2, id="no workers"),
    pytest.param(["--nonsense"], "unrecognized arguments: --nonsense; see python manage.py serve --help", 2,
                 id="an unknown option"),
    pytest.param(["--workers", "2", "--ping-interval", "x"], "argument --ping-interval: invalid int value", 2,
                 id="a bad option, seen by a worker"),
    pytest.param(["--proxy-headers"], "set TRUSTED_PROXIES instead", 2, id="an option that would break a promise"),
    pytest.param(["-b", "192.0.2.1"], "this machine has no such address; choose another with -b", 1,
                 id="an address of another machine"),
    pytest.param(["-e", "quic:443"], "'quic' is not supported; use tcp, ssl, unix, fd, systemd", 1,
                 id="an unknown endpoint"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "reason", "status"), FAILURES)
def test_what_can_not_be_served_is_told_in_one_line(
    site: served.Site, options: list[str], reason: str, status: int
) -> None:
    """On stderr, with the mend, without a traceback; nothing listens."""
    done = site.command("serve", "-p", "0", *options)
    (line,) = done.stderr.splitlines()
    assert reason in line
    assert done.returncode == status


def test_an_option_of_daphnes_without_effect_is_told(site: served.Site) -> None:
    """An operator who sets a limit believes in it: what counts instead is named."""
    with served.serving(site, "--websocket-max-message-size", "9", "--http-timeout", "9") as server:
        server.wait_for("server.start")
        told = [line["message"] for line in server.lines if line["event"] == "log"]  # the first: ALLOWED_HOSTS
    assert told[1:] == ["--websocket-max-message-size has no effect: a backend's max_message_size is the limit"]


def test_a_port_in_use(site: served.Site) -> None:
    """Named, with the way out, before a worker is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = site.command("serve", "-p", port, "--workers", "2")
    assert done.returncode == 1
    assert done.stderr == (
        f"CommandError: can't listen on 127.0.0.1:{port}: another program is listening there; "
        "stop it, or choose another port with -p\n"
    )


def test_an_unmigrated_database(tmp_path: Path) -> None:
    """The command that mends it is named."""
    done = served.Site(tmp_path).command("serve", "-p", "0")
    assert done.returncode == 1
    database = tmp_path / "gateway.sqlite3"
    assert f"migrations are missing in the database {database}; run: python manage.py migrate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_that_can_not_be_reached(tmp_path: Path) -> None:
    """The variable is named, and the database's own words."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"postgres://user:s3cret@127.0.0.1:{nobody.getsockname()[1]}/name"
        done = served.Site(tmp_path, DATABASE_URL=url).command("serve", "-p", "0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("CommandError: DATABASE_URL: the database can't be reached: ")
    assert "refused" in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("name", "value"), [("JWT_SECRET", "short"), ("DRAIN_SECONDS", "soon"), ("TRUSTED_PROXIES", "everybody")]
)
def test_a_bad_setting(site: served.Site, name: str, value: str) -> None:
    """The variable is named."""
    done = site.command("serve", "-p", "0", **{name: value})
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert done.returncode == 1


def catches(pid: int, number: signal.Signals) -> bool:
    """A process has a handler for a signal."""
    (mask,) = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_while_it_starts(site: served.Site, number: signal.Signals, workers: str) -> None:
    """Section 8: exit status 0, from the first moment on; nothing was taken that would have to be drained."""
    command = [sys.executable, str(served.ROOT / "manage.py"), "serve", "-p", "0", "--workers", workers]
    output = subprocess.PIPE
    with subprocess.Popen(command, env=site.environment, stdout=output, stderr=subprocess.STDOUT) as process:
        until(lambda: catches(process.pid, signal.SIGTERM))
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(("handler", "status"), [("call_off", 0), ("end", 128 + signal.SIGTERM)])
def test_a_signal_inside_a_destructor(handler: str, status: int) -> None:
    """Python ignores what is raised there; imports run some thousand of them."""
    code = f"""
import manage, os, signal

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, manage.{handler})
Last()
raise SystemExit("the signal was lost")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=served.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_container_that_is_stopped_before_it_serves(site: served.Site) -> None:
    """Its first process is process 1, and the kernel gives that one no signal that it has not asked for."""
    command = [sys.executable, str(served.ROOT / "manage.py"), "import_config", "-"]  # which waits for its input
    namespace = ["unshare", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no namespaces")
    with subprocess.Popen([*namespace, *command], env=site.environment, stdin=subprocess.PIPE) as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        until(children.read_text)
        first = int(children.read_text())
        until(lambda: catches(first, signal.SIGTERM))
        os.kill(first, signal.SIGTERM)
        assert outer.wait(20) == 128 + signal.SIGTERM


def test_workers_without_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container whose root is read-only has none, unless one is mounted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match=r"--workers needs a directory .*; mount one at /tmp"):
        Command()._supervise(2, [], [])


def test_a_setting_that_fails_the_start(site: served.Site) -> None:
    """What only the application can judge comes back through its lifespan; with workers, once."""
    done = site.command("serve", "-p", "0", "--workers", "2", MAIN_SERVICE_URL="ftp://nowhere")
    (line,) = done.stderr.splitlines()
    assert "MAIN_SERVICE_URL" in line
    assert done.returncode == 1
