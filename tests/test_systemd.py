"""docs/deploy/gateway.service and gateway.socket, in systemd's own hands, as far as they go without it as process 1."""

from __future__ import annotations

import configparser
import http.client
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from relay.server.workers import GRACE
from relay.settings import RelaySettings
from tests import served, servers

DEPLOY = served.ROOT / "docs" / "deploy"
DRAIN = RelaySettings.__dataclass_fields__["drain_seconds"].default
INSTALLED = {"/srv/gateway/.venv/bin/python": sys.executable, "/srv/gateway": str(served.ROOT)}


def text(name: str) -> str:
    """A unit, for a gateway that is installed where this one is."""
    found = (DEPLOY / name).read_text()
    for there, here in INSTALLED.items():
        found = found.replace(there, here)
    return found


def verify(directory: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Have systemd read both units, each with a change."""
    for name in ("gateway.service", "gateway.socket"):
        unit = text(name)
        for before, after in changes.items():
            unit = unit.replace(before, after)
        (directory / name).write_text(unit)
    options = ["--man=no", "--recursive-errors=no", "verify", "gateway.service", "gateway.socket"]
    argv = [servers.program("systemd-analyze"), *options]
    return subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=30, check=False)


def test_systemd_knows_every_line(tmp_path: Path) -> None:
    """It would only warn of one that it doesn't know, and go on without it."""
    done = verify(tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "Unknown key 'KilMode'" in verify(tmp_path, KillMode="KilMode").stderr


def test_the_unit_lets_the_gateway_drain() -> None:
    """One signal, to the supervisor alone, and time enough behind it."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text("gateway.service"))
    assert parser["Service"]["KillMode"] == "mixed"
    assert float(parser["Service"]["TimeoutStopSec"]) > DRAIN + GRACE


def test_the_service_may_take_the_place_of_its_port() -> None:
    """Without the socket, it listens where the socket would."""
    (address,) = re.findall(r"^ListenStream=(.+)$", text("gateway.socket"), re.M)
    (options,) = re.findall(r"^ExecStart=.* -b (\S+) -p (\d+)", text("gateway.service"), re.M)
    assert address == ":".join(options)


@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_hands_its_socket_over(site: served.Site, workers: int) -> None:
    """By the command line that goes with gateway.socket; a client that comes before the gateway waits for it."""
    (line,) = re.findall(r"^#ExecStart=(.+) --workers 2$", text("gateway.service"), re.M)
    variables = [f"--setenv={name}={value}" for name, value in site.environment.items()]
    activate = [servers.program("systemd-socket-activate"), "--listen=127.0.0.1:{port}", *variables]
    argv = [*activate, *shlex.split(line), "--workers", str(workers)]
    argv[argv.index("manage.py")] = str(served.ROOT / "manage.py")
    with served.serving(site, argv=argv) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        client.request("GET", "/health/live")
        assert client.getresponse().status == 200
        client.close()
        start = server.wait_for("server.start")
        assert (start["listening"], start["workers"]) == (f"http://127.0.0.1:{server.port}", workers)
        assert server.stop() == 0
        server.wait_for("server.drain")
