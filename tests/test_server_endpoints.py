"""Where the server listens, and what Daphne's command line becomes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from relay.server.endpoints import Endpoint, EndpointError, adopt, descriptions
from tests.server_helpers import GET, Client, connected
from tests.server_process import Process, running


@pytest.mark.parametrize(
    ("host", "port", "unix", "fd", "strings", "expected"),
    [
        pytest.param(None, None, None, None, [], ["tcp:port=8000:interface=127.0.0.1"], id="nothing"),
        pytest.param("0.0.0.0", None, None, None, [], ["tcp:port=8000:interface=0.0.0.0"], id="a host"),
        pytest.param(None, 0, None, None, [], ["tcp:port=0:interface=127.0.0.1"], id="a port"),
        pytest.param("[::1]", 1, None, None, [], [r"tcp:port=1:interface=\:\:1"], id="IPv6"),
        pytest.param(None, None, "/a:b", None, [], [r"unix:/a\:b"], id="a Unix socket"),
        pytest.param(None, None, None, 0, [], ["fd:fileno=0"], id="a file descriptor"),
        pytest.param("h", 1, "/u", 3, ["x:y"], ["x:y", "tcp:port=1:interface=h", "unix:/u", "fd:fileno=3"], id="all"),
    ],
)
def test_options_become_endpoints(
    host: str | None, port: int | None, unix: str | None, fd: int | None, strings: list[str], expected: list[str]
) -> None:
    """Daphne's own rules."""
    assert descriptions(host, port, unix, fd, strings) == expected


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("tcp:8000", "tcp", {"port": "8000"}),
        ("tcp:8000:interface=127.0.0.1", "tcp", {"port": "8000", "interface": "127.0.0.1"}),
        (r"tcp:port=80:interface=\:\:1:backlog=9", "tcp", {"port": "80", "interface": "::1", "backlog": "9"}),
        ("unix:/run/x.sock:mode=660", "unix", {"address": "/run/x.sock", "mode": "660"}),
        ("fd:fileno=3", "fd", {"fileno": "3"}),
        ("systemd:domain=INET:index=0", "systemd", {"domain": "INET", "index": "0"}),
        ("ssl:443:privateKey=k:certKey=c", "ssl", {"port": "443", "privateKey": "k", "certKey": "c"}),
    ],
)
def test_endpoints_are_written_as_twisted_writes_them(text: str, kind: str, options: dict[str, str]) -> None:
    """Positional words first, then names; a backslash before a colon inside a value."""
    assert Endpoint.parse(text) == Endpoint(kind, options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("haproxy:tcp:80", "'haproxy' is not supported; use tcp, ssl, unix, fd, systemd"),
        ("tcp", "port is missing"),
        ("tcp:http", "port is not a number"),
        ("tcp:65536", "port is not a number up to 65535"),
        ("tcp:80:nonsense=1", "'nonsense=1' is not one of port, interface, backlog"),
        ("tcp:port=80:81", "'81' is not one of"),
        ("unix:mode=660", "address is missing"),
    ],
)
def test_endpoints_that_make_no_sense(text: str, reason: str) -> None:
    """The message says what would."""
    with pytest.raises(EndpointError, match=reason):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tcp:0:interface=192.0.2.1", "no such address; choose another with -b"),
        ("tcp:0:interface=no.such.host.invalid", "choose an address of this machine with -b"),
        ("unix:/no/such/directory/x", "No such file or directory"),
        ("fd:fileno=987", "file descriptor 987 is not a socket: Bad file descriptor"),
        ("systemd:domain=INET:index=0", "systemd passed 0 sockets"),
        ("systemd:domain=INET:name=web", "systemd passed 0 sockets"),
    ],
)
def test_endpoints_that_can_not_be_opened(text: str, reason: str) -> None:
    """One line, with the mend."""
    with pytest.raises(EndpointError, match=reason):
        Endpoint.parse(text).open()


def test_a_port_in_use_is_named() -> None:
    """And how to get another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EndpointError, match=rf"127.0.0.1:{port}: another program is listening there; .* with -p"):
            Endpoint.parse(f"tcp:{port}:interface=127.0.0.1").open()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A server that was killed leaves its file behind."""
    path = tmp_path / "s"
    endpoint = Endpoint.parse(f"unix:{path}:mode=600")
    with endpoint.open():
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(EndpointError, match="another program is listening there"):
            endpoint.open()
    with endpoint.open() as again:
        assert endpoint.url(again) == f"unix:{path}"
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(EndpointError, match="Address already in use"):
        endpoint.open()


def test_an_adopted_socket_has_to_listen() -> None:
    """A client's socket accepts nobody."""
    with socket.socket() as mine, pytest.raises(EndpointError, match="not listening"):
        adopt(mine.fileno())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Key and self-signed certificate for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    key, path = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return key, path


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    try:
        client = Client(reader, writer)
        client.send(GET)
        return (await client.response()).body
    finally:
        writer.close()
        await writer.wait_closed()


async def test_tls(certificate: tuple[Path, Path]) -> None:
    """An ``ssl:`` endpoint, its chain in one file or two; the scope says https."""
    key, path = certificate
    endpoint = f"ssl:0:privateKey={key}:certKey={path}:extraCertChain={path}:interface=127.0.0.1"
    async with running("-e", endpoint) as server:
        assert await server.line() == "startup"
        port = int((await server.line()).removeprefix("ready https://127.0.0.1:"))
        context = ssl.create_default_context(cafile=path)
        assert await ask(*await asyncio.open_connection("localhost", port, ssl=context)) == b"GET / "
        assert await server.line() == "request https client /"


@pytest.mark.parametrize("option", ["privateKey", "certKey"])
def test_a_certificate_that_can_not_be_read(certificate: tuple[Path, Path], option: str) -> None:
    """The files are named."""
    files = dict(zip(("privateKey", "certKey"), map(str, certificate), strict=True)) | {option: "/no/such/file"}
    with pytest.raises(EndpointError, match="/no/such/file"):
        Endpoint("ssl", {"port": "0"} | files).tls()


async def test_a_unix_socket(tmp_path: Path) -> None:
    """Its clients have no address."""
    path = tmp_path / "s"
    async with running("-u", str(path)) as server:
        assert await server.line() == "startup"
        assert await server.line() == f"ready unix:{path}"
        assert await ask(*await asyncio.open_unix_connection(path)) == b"GET / "
        assert await server.line() == "request http None /"


async def test_a_socket_from_elsewhere() -> None:
    """``--fd``."""
    with socket.create_server(("127.0.0.1", 0)) as mine:
        async with running("--fd", str(mine.fileno()), pass_fds=(mine.fileno(),)) as server:
            await asked(server, await server.ready())


async def asked(server: Process, port: int) -> None:
    async with connected(port) as client:
        client.send(GET)
        assert (await client.response()).body == b"GET / "
    assert await server.line() == "request http client /"


async def test_several_endpoints_at_once(tmp_path: Path) -> None:
    """Each has a URL."""
    async with running("-p", "0", "-u", str(tmp_path / "s")) as server:
        assert await server.line() == "startup"
        _, http, unix = (await server.line()).split(" ")
        assert unix == f"unix:{tmp_path}/s"
        await asked(server, int(http.removeprefix("http://127.0.0.1:")))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--proxy-headers"], "UsageError: --proxy-headers believes every peer; set TRUSTED_PROXIES instead"),
        (["--access-log", "-"], "UsageError: --access-log would write tokens in queries"),
        (["--ping-interval", "soon"], "UsageError: argument --ping-interval: invalid int value: 'soon'"),
        (["--nonsense"], "UsageError: unrecognized arguments: --nonsense"),
        (["-e", "nonsense"], "EndpointError: endpoint 'nonsense': 'nonsense' is not supported"),
    ],
)
async def test_options_that_can_not_be_used(options: list[str], reason: str) -> None:
    """One line, nothing else, and no traceback."""
    async with running(*options) as server:
        (line,), status = await server.rest()
    assert line.startswith(reason)
    assert status == 1


async def test_an_application_that_fails_to_start() -> None:
    """ASGI's ``lifespan.startup.failed``: its message, and no listening."""
    async with running("-p", "0", FAIL_STARTUP="no configuration") as server:
        assert await server.rest() == (["StartupFailed: no configuration"], 1)


async def test_a_root_path_and_a_server_name() -> None:
    """Daphne's options that concern the application."""
    async with (
        running("-p", "0", "--root-path", "/gw", "-s", "name") as server,
        connected(await server.ready()) as client,
    ):
        client.send(GET)
        assert (await client.response()).get(b"server") == b"name"


def test_systemd_passes_its_sockets() -> None:
    """sd_listen_fds(3): from 3 on, by position or by name, to the process that it names."""
    script = (
        "import os, sys\nfrom relay.server.endpoints import Endpoint\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\nos.dup2(int(sys.argv[1]), 3)\n"
        "print(Endpoint.parse(sys.argv[2]).open().fileno())"
    )
    with socket.create_server(("127.0.0.1", 0)) as mine:
        for text in ("systemd:domain=INET:index=0", "systemd:domain=INET:name=web"):
            done = subprocess.run(
                [sys.executable, "-c", script, str(mine.fileno()), text],
                env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"},
                pass_fds=(mine.fileno(),),
                capture_output=True,
                text=True,
            )
            assert (done.stdout, done.stderr) == ("3\n", "")
