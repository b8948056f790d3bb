"""relay.checkup and ``manage.py check_backends``: every backend reached as the gateway would reach it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.core.management import call_command
from django.core.management.base import CommandError

from relay.backends.dial import DialFailed
from relay.checkup import MOST_ORIGINS, SAMPLES, Finding, Visitor, advice_to_connect, check, report, sample
from relay.forwarding import Forwarding
from relay.identity.model import Identification
from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url
from tests import stack
from tests.http_helpers import Peer, raw_backend, response
from tests.identity_helpers import SECRET, identity, relay_settings, token

WS = Route("/ws", "websocket", "main")
NOBODY = Visitor(Forwarding())
ALICE = Visitor(Forwarding(), Identification(identity(user_id="1"), "header"))


@pytest.fixture
def free_port() -> Iterator[int]:
    """A loopback port that is taken and not listened on: connecting to it is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def found(
    url: str,
    *routes: Route,
    visitor: Visitor = NOBODY,
    names: tuple[str, ...] = (),
    origins: tuple[Origin, ...] = (),
    **fields: Any,
) -> list[Finding]:
    """The findings about one backend at a url."""
    main = Backend("main", tuple(map(Url.parse, url.split())), **fields)
    async with asyncio.timeout(30):
        return await check(Snapshot.build((main,), routes, origins), names, visitor)


def outcomes(findings: list[Finding]) -> list[str]:
    return [f"{f.check}: {f.outcome}" for f in findings]


def answering(status: int, body: bytes = b"", *fields: bytes) -> stack.Behaviour:
    """A backend that answers everything with one status."""

    async def behaviour(seen, reader, writer):
        head = [b"HTTP/1.1 %d Said So" % status, b"Content-Length: %d" % len(body), *fields, b"", b""]
        writer.write(b"\r\n".join(head) + body)

    return behaviour


async def test_a_well_backend_passes_every_check(backend):
    """Name, TCP, the health path and a WebSocket handshake on each of its WebSocket routes."""
    routes = (WS, Route("/chat/", "websocket", "main", access="public"), Route("/api/", "http", "main"))
    findings = await found(backend.url, *routes, health_path="/api/health")
    assert outcomes(findings) == [
        "name: ok",
        "tcp: ok",
        "health /api/health: ok",
        "websocket /ws: ok",
        "websocket /chat/: ok",
    ]
    assert all(not f.advice for f in findings)
    assert [seen.target for seen in backend.seen] == ["/api/health", "/ws", "/chat/"]


async def test_a_handshake_is_what_the_route_would_send(backend):
    """The url's prefix, the upstream path, the Origin by its rule, the backend's own Host; nobody without a token."""
    await found(f"{backend.url}/base", replace(WS, upstream_path="/live"), websocket_origin="https://a.example")
    seen = backend.last
    assert (seen.method, seen.target) == ("GET", "/base/live")
    assert seen.get("origin") == "https://a.example"
    assert seen.get("host") == backend.url.removeprefix("http://")
    assert seen.get("x-user-id") is None


async def test_with_a_token_the_handshake_has_its_user(backend):
    """As a real one would."""
    await found(backend.url, WS, visitor=ALICE)
    assert backend.last.get("x-user-id") == "1"


async def test_a_checked_socket_is_closed_in_form():
    """The backend sees 1000, and not a vanished client in its log."""
    closing = asyncio.get_running_loop().create_future()

    async def behaviour(seen, reader, writer):
        protocol = await stack.accept(seen, writer)
        protocol.receive_data(await reader.read(100))
        closing.set_result(protocol.close_rcvd.code)

    async with stack.backend(behaviour) as backend:
        assert outcomes(await found(backend.url, WS))[-1] == "websocket /ws: ok"
        assert await asyncio.wait_for(closing, 10) == 1000


async def test_each_url_is_checked_for_itself(backend, free_port):
    """One of two urls that is down is what this command is for; traffic goes to the other one."""
    findings = await found(f"{backend.url} http://127.0.0.1:{free_port}", WS)
    assert outcomes(findings) == [
        "name: ok",
        "tcp: ok",
        "health: skipped",
        "websocket /ws: ok",
        "name: ok",
        "tcp: FAILS",
    ]
    assert findings[-1].url.endswith(str(free_port))


@pytest.mark.parametrize(
    ("url", "outcome", "cause", "advice"),
    [
        pytest.param("http://no-host.invalid", ["name: FAILS"], "name", "getent hosts no-host.invalid", id="name"),
        pytest.param("http://127.0.0.1:{free}", ["name: ok", "tcp: FAILS"], "refused", "is it running", id="tcp"),
        pytest.param(
            "https://127.0.0.1:{silent}", ["name: ok", "tcp: ok", "tls: FAILS"], "timed out", "http:// in", id="tls"
        ),
    ],
)
async def test_the_first_step_that_fails_is_named(backend, free_port, url, outcome, cause, advice):
    """With its cause and what to try; later steps can't be made."""
    url = url.format(free=free_port, silent=backend.url.rpartition(":")[2])
    findings = await found(url, WS, health_path="/up", connect_timeout=5 if "tls" not in str(outcome) else 0.2)
    assert outcomes(findings) == outcome
    assert cause in findings[-1].detail
    assert advice in findings[-1].advice


async def test_plain_http_where_tls_is_configured_is_named():
    """The most frequent slip: https:// for a service that ends no TLS."""

    async def plain(peer: Peer) -> None:
        peer.send(response(status=b"400 Bad Request"))

    async with raw_backend(plain) as server:
        (*_, last) = await found(f"https://127.0.0.1:{server.port}")
    assert (last.check, last.outcome) == ("tls", "FAILS")
    assert "plain HTTP" in last.detail
    assert "write http:// in the url" in last.advice


async def test_a_server_that_resets_is_asked_whether_it_speaks_tls():
    """No certificate has been seen, so none is to be mended."""

    async def resetting(peer: Peer) -> None:
        peer.writer.transport.abort()

    async with raw_backend(resetting) as server:
        (*_, last) = await found(f"https://127.0.0.1:{server.port}")
    assert (last.check, last.outcome) == ("tls", "FAILS")
    assert "write http:// in the url" in last.advice
    assert "tls_verify" not in last.advice


@pytest.mark.parametrize(
    ("cause", "timed_out", "advice"),
    [
        pytest.param("TLS handshake timed out after 5 s", True, "http:// in the url", id="silence"),
        pytest.param("connection reset during TLS handshake", False, "http:// in the url", id="a reset"),
        pytest.param("TLS: wrong version number (does the backend speak plain HTTP", False, "http:// in", id="plain"),
        pytest.param("TLS: sslv3 alert handshake failure", False, "TLS versions and ciphers", id="an alert"),
        pytest.param("TLS: certificate verify failed: expired", False, "tls_verify = false", id="a certificate"),
    ],
)
def test_the_advice_fits_the_failure_of_tls(cause, timed_out, advice):
    """A certificate is to be mended only where one was judged."""
    failure = DialFailed("tls", cause, timed_out)
    assert advice in advice_to_connect(failure, Url.parse("https://backend.example"))


async def test_tls_where_plain_http_is_configured_is_named(tmp_path):
    """The reverse slip: found by trying."""
    async with raw_backend(Peer.ended, ssl=self_signed(tmp_path)) as server:
        findings = await found(f"http://127.0.0.1:{server.port}", WS, health_path="/up")
    assert outcomes(findings)[2:] == ["health /up: FAILS", "websocket /ws: FAILS"]
    assert {f.advice for f in findings[2:]} == {"this port speaks TLS: write https:// in the url"}


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path):
    """And with ``tls_verify = false`` it is taken."""
    async with raw_backend(Peer.ended, ssl=self_signed(tmp_path)) as server:
        url = f"https://127.0.0.1:{server.port}"
        (*_, last) = await found(url)
        assert (last.check, last.outcome) == ("tls", "FAILS")
        assert "certificate verify failed" in last.detail
        assert "tls_verify = false" in last.advice
        assert outcomes(await found(url, tls_verify=False)) == ["name: ok", "tcp: ok", "tls: ok", "health: skipped"]


def self_signed(directory: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts."""
    key, nobody, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    day = timedelta(days=1)
    certificate = x509.CertificateBuilder(nobody, nobody, key.public_key(), 1, now - day, now + day)
    pem = certificate.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (directory / "pem").write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pem")
    return context


async def test_without_a_health_path_an_alert_would_never_come(backend):
    """No failure, but an operator who waits for ``relay_backend_up 0`` has to know."""
    (*_, last) = await found(backend.url)
    assert (last.check, last.outcome) == ("health", "skipped")
    assert "relay_backend_up stays 1" in last.detail


async def test_a_health_path_that_does_not_answer_200_fails():
    """With the status, and what the gateway makes of it."""
    async with stack.backend(answering(404)) as backend:
        (*_, last) = await found(backend.url, health_path="/up")
    assert (last.check, last.outcome) == ("health /up", "FAILS")
    assert "404" in last.detail
    assert "health_path" in last.advice


@pytest.mark.parametrize(
    ("behaviour", "cause", "advice"),
    [
        pytest.param(answering(404), "404", "upstream_path", id="another path"),
        pytest.param(answering(426), "426", "upstream_path", id="upgrade required"),
        pytest.param(answering(500, b"Boom"), "Boom", "its log should say why", id="its own failure"),
        pytest.param(answering(200), "200", "its log should say why", id="no WebSocket there"),
        pytest.param(answering(301, b"", b"Location: /ws/"), "/ws/", "redirects are not followed", id="a redirect"),
    ],
)
async def test_a_refused_handshake_is_told_with_status_and_advice(behaviour, cause, advice):
    """On a route that the check should get into."""
    async with stack.backend(behaviour) as backend:
        (*_, last) = await found(backend.url, WS)
    assert (last.check, last.outcome) == ("websocket /ws", "FAILS")
    assert cause in last.detail
    assert advice in last.advice


async def garbage(seen, reader, writer):
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    writer.close()


async def silence(seen, reader, writer):
    await reader.read()


async def hanging_up(seen, reader, writer):
    writer.close()


@pytest.mark.parametrize("behaviour", [garbage, silence, hanging_up])
async def test_no_answer_to_a_handshake_is_a_failure(behaviour):
    """Something listens, but no WebSocket server."""
    async with stack.backend(behaviour) as backend:
        (*_, last) = await found(backend.url, WS, read_timeout=0.2)
    assert (last.check, last.outcome) == ("websocket /ws", "FAILS")
    assert last.detail
    assert "speak" in last.advice


@pytest.mark.parametrize(
    ("status", "access", "visitor", "outcome"),
    [
        pytest.param(401, "authenticated", NOBODY, "refuses", id="nobody, and it wants a user"),
        pytest.param(403, "authenticated", NOBODY, "refuses", id="nobody, and it says no"),
        pytest.param(403, "authenticated", ALICE, "FAILS", id="a user, and it says no"),
        pytest.param(401, "public", NOBODY, "FAILS", id="nobody, on a public route"),
    ],
)
async def test_who_refuses_a_visitor_without_a_user_answers_at_least(status, access, visitor, outcome):
    """401 and 403 are no failure of a backend that was sent nobody; --token sends somebody."""
    async with stack.backend(answering(status)) as backend:
        (*_, last) = await found(backend.url, replace(WS, access=access), visitor=visitor)
    assert last.outcome == outcome
    assert str(status) in last.detail


def checking_origin(*accepted: str | None, status: int = 403) -> stack.Behaviour:
    """A backend that takes these Origins only; None: a handshake without one, ``own``: that of its own host."""

    async def behaviour(seen, reader, writer):
        origin = seen.get("origin")
        if origin in accepted or ("own" in accepted and origin == f"http://{seen.get('host')}"):
            await stack.accept(seen, writer)
        else:
            await answering(status, b"Origin not allowed")(seen, reader, writer)

    return behaviour


APP, ADMIN = "https://app.example.com", "https://admin.example.com"
LISTED = (Origin("https://off.example.com", enabled=False), Origin("https://*.example.org"), Origin(APP), Origin(ADMIN))
BROWSER = replace(ALICE, headers=((b"host", b"gateway.test"), (b"origin", APP.encode())))


@pytest.mark.parametrize(
    ("accepted", "rule", "advice", "cure"),
    [
        pytest.param((None, "own"), "forward", 'set websocket_origin = "omit"', "omit", id="none, as gorilla does"),
        pytest.param((APP, "own"), "omit", f'"forward", or always "{APP}"', "forward", id="one of the list"),
        pytest.param((ADMIN,), "omit", f'"forward", or always "{ADMIN}"', ADMIN, id="another one of the list"),
        pytest.param(
            (ADMIN,), "forward", f"accepts {ADMIN}: allow the other origins there", ADMIN, id="not the visitor's"
        ),
        pytest.param(("own",), "forward", "it accepts its own Origin", "", id="its own only"),
        pytest.param((None,), "https://x.example", 'set websocket_origin = "omit"', "omit", id="not the fixed one"),
    ],
)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_backend_that_checks_origin_is_found_out(accepted, rule, advice, cure, status):
    """The 403 that took days: what opens it is found by trying, and is the advice; following it helps."""
    async with stack.backend(checking_origin(*accepted, status=status)) as backend:
        (*_, last) = await found(backend.url, WS, visitor=BROWSER, origins=LISTED, websocket_origin=rule)
        assert last.outcome == "FAILS"
        assert "Origin not allowed" in last.detail
        assert advice in last.advice
        cure = cure or backend.url
        assert f'"{cure}"' in last.advice
        (*_, last) = await found(backend.url, WS, visitor=BROWSER, origins=LISTED, websocket_origin=cure)
        assert last.outcome == "ok"


async def test_what_is_not_about_origin_is_said_so():
    """Every Origin once: none, those that are on the list, its own; of a long list the first ones."""
    async with stack.backend(answering(403)) as backend:
        (*_, last) = await found(backend.url, WS, visitor=BROWSER, origins=LISTED)
        assert last.outcome == "FAILS"
        assert "it refuses with no Origin" in last.advice
        assert [seen.get("origin") for seen in backend.seen] == [None, APP, ADMIN, backend.url]
        many = tuple(Origin(f"https://{n}.example.com") for n in range(100))
        await found(backend.url, WS, visitor=BROWSER, origins=many)
        assert len(backend.seen) == 4 + 1 + MOST_ORIGINS + 1


async def test_a_route_with_placeholders_is_tried_with_samples():
    """A room that isn't there is no failure of the backend."""
    async with stack.backend(answering(404)) as backend:
        (*_, last) = await found(backend.url, replace(WS, path="/rooms/<int:id>/<slug:name>"))
    assert backend.last.target == "/rooms/1/check"
    assert (last.check, last.outcome) == ("websocket /rooms/1/check", "refuses")
    assert "/rooms/<int:id>/<slug:name>" in last.advice


@pytest.mark.parametrize("converter", [*SAMPLES, "str"])
def test_every_converter_has_a_sample_that_fits(converter):
    """Django's converters."""
    route = Route(f"/x/<{converter}:a>/y", "websocket", "main")
    assert Snapshot.build((), (route,), ()).match("websocket", "GET", sample(route.path)) is not None


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(replace(WS, enabled=False), id="disabled"),
        pytest.param(replace(WS, backend="other"), id="another backend's"),
        pytest.param(replace(WS, kind="http"), id="for HTTP"),
    ],
)
async def test_routes_that_are_not_its_own_are_not_tried(backend, route):
    """Neither those of others, nor disabled ones."""
    assert outcomes(await found(backend.url, route)) == ["name: ok", "tcp: ok", "health: skipped"]


async def test_a_route_that_no_handshake_matches_is_skipped(backend):
    """A WebSocket route with methods but GET."""
    (*_, last) = await found(backend.url, replace(WS, methods=("POST",)))
    assert (last.outcome, backend.seen) == ("skipped", [])


async def test_a_disabled_backend_is_checked_only_by_name(backend):
    """It is off on purpose; before it is enabled one may want to know."""
    (only,) = await found(backend.url, enabled=False)
    assert only.outcome == "skipped"
    assert backend.connections == 0
    assert outcomes(await found(backend.url, enabled=False, names=("main",)))[:2] == ["name: ok", "tcp: ok"]


def test_the_report_is_a_table_with_causes_below():
    """Every check in a line, and what to try for each that is not ok."""
    text = report(
        [
            Finding("main", "http://a:1", "tcp", seconds=0.0012, detail="10.0.0.1:1"),
            Finding("other", "https://backend.example", "tls", "FAILS", "the cause", "the mend"),
            Finding("off", "", "all", "skipped", "it is disabled"),
        ]
    )
    assert text.splitlines() == [
        "BACKEND  URL                      CHECK  RESULT",
        "main     http://a:1               tcp    ok       10.0.0.1:1  1.2 ms",
        "other    https://backend.example  tls    FAILS",
        "off                               all    skipped  it is disabled",
        "",
        "other  https://backend.example  tls: FAILS",
        "    the cause",
        "    try: the mend",
    ]


# The command.


@pytest.fixture
def configure(settings, tmp_path, capsys, db):
    """Put a TOML configuration into the database."""
    settings.RELAY = relay_settings(jwt_secret=SECRET)

    def write(text: str) -> None:
        (tmp_path / "relay.toml").write_text(text)
        call_command("import_config", str(tmp_path / "relay.toml"))
        capsys.readouterr()

    return write


def main_at(port: int) -> str:
    return f'[[backend]]\nname = "main"\nurl = "http://127.0.0.1:{port}"\n'


def test_the_command_passes_when_all_is_well(configure, capsys):
    """A listening backend without health path and routes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configure(main_at(listening.getsockname()[1]))
        call_command("check_backends")
    assert capsys.readouterr().out.count(" ok") == 2


def test_the_command_fails_when_anything_does(configure, capsys, free_port):
    """Exit status 1; the table and the causes are on stdout."""
    configure(main_at(free_port))
    with pytest.raises(CommandError) as error:
        call_command("check_backends", "main")
    assert (error.value.returncode, str(error.value)) == (1, "1 of 2 checks failed")
    assert "connection refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["nope"], "no backend nope; there are: main", id="an unknown name"),
        pytest.param(["main", "a", "b"], "no backend a, b; there are: main", id="several"),
        pytest.param(["--token", "abc"], "--token: invalid_token", id="a bad token"),
        pytest.param(["--token", token(SECRET, exp=1)], "--token: expired_token", id="an old token"),
        pytest.param(["--token", "a\nb"], "on one line", id="a token on two lines"),
    ],
)
def test_the_command_says_what_it_cannot_use(configure, arguments, said):
    """In one line, before anything is connected; the token is not repeated."""
    configure(main_at(9))
    with pytest.raises(CommandError) as error:
        call_command("check_backends", *arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert arguments[-1] == "b" or arguments[0] != "--token" or arguments[-1] not in str(error.value)


def test_without_any_backend_the_command_says_where_they_come_from(configure):
    """A gateway that was just set up."""
    configure("")
    with pytest.raises(CommandError, match="import_config"):
        call_command("check_backends")
