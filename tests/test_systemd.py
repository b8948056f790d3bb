"""docs/deploy/gateway.service and gateway.socket, in systemd's own hands, as far as they go without it as process 1."""

from __future__ import annotations

import configparser
import http.client
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
from contextlib import closing
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


class Manager:
    """What systemd does for ``NOTIFY_SOCKET``: it takes datagrams, with the process that sent each.

    Args:
        address: Of a Unix socket; abstract with an @ before it.
    """

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(30)

    def told(self) -> tuple[str, int]:
        """The next word, and the id of the process that sent it."""
        said, ((_, _, credentials),), _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
        pid: int = struct.unpack("3i", credentials)[0]
        return said.decode(), pid

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "abstract"])
@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_is_told_when_it_listens_and_when_it_ends(
    site: served.Site, tmp_path: Path, workers: int, abstract: bool
) -> None:
    """By the main process alone, which is the one that systemd believes (NotifyAccess=main)."""
    with closing(Manager(f"@{tmp_path}/notify" if abstract else f"{tmp_path}/notify")) as manager:
        site.environment |= manager.environment
        with served.serving(site, "--workers", str(workers)) as server:
            assert manager.told() == ("READY=1", server.process.pid)
            assert server.wait_for("server.start")["workers"] == workers
            server.process.send_signal(signal.SIGTERM)
            assert manager.told() == ("STOPPING=1", server.process.pid)
            assert server.process.wait(20) == 0


def test_whoever_can_not_be_told_stops_nobody(site: served.Site, tmp_path: Path) -> None:
    """Left over in an environment, say: a warning."""
    site.environment["NOTIFY_SOCKET"] = f"{tmp_path}/nobody"
    with served.serving(site) as server:
        server.wait_for(lambda line: "READY=1 could not be sent: No such file" in str(line.get("message")))
        assert server.stop() == 0


def test_the_unit_waits_for_the_word() -> None:
    """And has a socket to hear it by."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text("gateway.service"))
    assert parser["Service"]["Type"] == "notify"
    assert "AF_UNIX" in parser["Service"]["RestrictAddressFamilies"]


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
