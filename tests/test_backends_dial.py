"""relay.backends.dial on real sockets: every way in which a connection fails, and the words for it."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relay.backends import causes
from relay.backends.dial import Dial, DialFailed, tls_context
from relay.backends.resolver import Address, Resolver
from relay.routing.snapshot import Url
from tests.http_helpers import raw_backend, self_signed


async def dial(url: str, *, limit: float = 5, verify: bool = True, resolver: Resolver | None = None) -> str:
    """Connect and hang up; return the address of the peer."""
    attempt = Dial(Url.parse(url), resolver or Resolver(), verify)
    transport, _ = await attempt.connect(asyncio.Protocol, limit)
    try:
        return "{}:{}".format(*transport.get_extra_info("peername")[:2])
    finally:
        transport.abort()


async def failure(url: str, **options: object) -> DialFailed:
    with pytest.raises(DialFailed) as caught:
        await dial(url, **options)  # type: ignore[arg-type]
    return caught.value


@contextmanager
def unanswering() -> Iterator[int]:
    """A port whose queue is full: the kernel answers no SYN, as a host behind a dropping firewall."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for each in waiting:
                each.close()


class Names(Resolver):
    """Knows one name's addresses."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        super().__init__()
        self._found = tuple(Address(socket.AF_INET, address) for address in addresses)

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        return self._found


# TCP


async def test_a_refused_connection_names_the_address():
    """What answers is the machine: nothing listens there."""
    found = await failure("http://127.0.0.1:9")
    assert (str(found), found.phase, found.timed_out) == ("connection refused 127.0.0.1:9", "connect", False)


async def test_an_unknown_name_is_told_from_everything_else():
    """Mostly a typing error, or a network that the container is not in."""
    found = await failure("http://no-such-host.invalid")
    assert (str(found), found.phase) == ("name not found: no-such-host.invalid", "resolve")


async def test_a_silent_address_runs_into_the_limit():
    """A firewall that drops; the address says whether the name leads where it should."""
    with unanswering() as port:
        found = await failure(f"http://127.0.0.1:{port}", limit=0.05)
    assert str(found) == f"connect timed out after 0.05 s: 127.0.0.1:{port}"
    assert (found.phase, found.timed_out) == ("connect", True)


async def test_a_slow_name_server_runs_into_the_limit(monkeypatch):
    """The limit covers the name too."""

    async def never(*args, **options):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    resolver = Resolver()
    found = await failure("http://service", limit=0.02, resolver=resolver)
    assert str(found) == "name resolution timed out after 0.02 s: service"
    await resolver.close()


async def test_small_writes_are_not_held_back():
    """TCP_NODELAY: a request's head does not wait for its body (RFC 896)."""
    async with raw_backend(lambda peer: peer.ended()) as backend:
        attempt = Dial(backend.configured().urls[0], Resolver(), tls_verify=True)
        transport, _ = await attempt.connect(asyncio.Protocol, 5)
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()


# Several addresses (RFC 8305)


async def test_a_connection_that_is_lost_at_once_is_none():
    """uvloop's transports raise whatever they like when somebody writes to them then."""

    class Lost(asyncio.Protocol):
        def connection_made(self, transport):
            transport.abort()

    async with raw_backend(lambda peer: peer.ended()) as backend:
        attempt = Dial(Url.parse(f"http://127.0.0.1:{backend.port}"), Resolver(), True)
        with pytest.raises(DialFailed, match=r"connection reset: 127\.0\.0\.1:") as caught:
            await attempt.connect(Lost, 5)
    assert caught.value.phase == "connect"


async def test_an_address_that_refuses_gives_way_at_once():
    """No time is lost on it."""
    async with raw_backend(lambda peer: peer.ended()) as backend:
        names = Names(("127.0.0.1", 9), ("127.0.0.1", backend.port))
        assert await dial("http://service", resolver=names) == f"127.0.0.1:{backend.port}"


async def test_an_address_that_is_silent_gives_way_soon():
    """The next one is tried beside it, long before the limit."""
    async with raw_backend(lambda peer: peer.ended()) as backend:
        with unanswering() as port:
            names = Names(("127.0.0.1", port), ("127.0.0.1", backend.port))
            assert await dial("http://service", resolver=names, limit=30) == f"127.0.0.1:{backend.port}"


async def test_when_every_address_fails_every_cause_is_told():
    """Each of them once."""
    found = await failure("http://service", resolver=Names(("127.0.0.1", 9), ("127.0.0.1", 11), ("127.0.0.1", 9)))
    assert str(found) == "connection refused 127.0.0.1:9; connection refused 127.0.0.1:11"


async def test_a_cancelled_dial_leaves_nothing_behind():
    """Neither a task nor a socket: warnings are errors here."""
    with unanswering() as port:
        names = Names(("127.0.0.1", port), ("127.0.0.1", port))
        dialling = asyncio.create_task(dial("http://service", resolver=names))
        await asyncio.sleep(0.01)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for ``localhost`` that nobody has signed but its own key."""
    return self_signed(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture
def server_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate, monkeypatch):
    """The machine trusts that certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


async def test_an_untrusted_certificate_is_refused(server_context):
    """tls_verify: the reason is OpenSSL's own."""
    async with raw_backend(lambda peer: peer.ended(), ssl=server_context) as backend:
        found = await failure(f"https://localhost:{backend.port}")
    assert str(found) == "TLS: certificate verify failed: self-signed certificate"
    assert found.phase == "tls"


async def test_a_trusted_certificate_of_another_name_is_refused(server_context, trusted):
    """RFC 9110 §4.3.4."""
    async with raw_backend(lambda peer: peer.ended(), ssl=server_context) as backend:
        found = await failure(f"https://127.0.0.1:{backend.port}")
    assert str(found).startswith("TLS: certificate verify failed: IP address mismatch")


@pytest.mark.usefixtures("trusted")
async def test_a_trusted_certificate_is_accepted(server_context):
    """By the name in the url, which goes out as SNI (RFC 6066 §3); HTTP/1.1 is what we offer (RFC 7301)."""
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    names: list[str | None] = []
    server_context.sni_callback = lambda tls, name, context: names.append(name)
    async with raw_backend(lambda peer: peer.ended(), ssl=server_context) as backend:
        attempt = Dial(Url.parse(f"https://localhost:{backend.port}"), Resolver(), tls_verify=True)
        transport, _ = await attempt.connect(asyncio.Protocol, 5)
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        transport.abort()
    assert names == ["localhost"]


async def test_without_tls_verify_any_certificate_will_do(server_context):
    """For a backend with a certificate of its own making."""
    async with raw_backend(lambda peer: peer.ended(), ssl=server_context) as backend:
        assert await dial(f"https://127.0.0.1:{backend.port}", verify=False) == f"127.0.0.1:{backend.port}"


async def test_https_to_a_plain_port_gets_a_hint():
    """The most common mistake of all: the scheme."""

    async def talk(peer):
        await peer.reader.read(10)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_backend(talk) as backend:
        found = await failure(f"https://127.0.0.1:{backend.port}", verify=False)
    assert str(found) == "TLS: wrong version number (does the backend speak plain HTTP on this port?)"


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_connection_that_ends_inside_the_handshake_is_told(how):
    """A proxy in between that knows no such name, mostly."""

    async def talk(peer):
        await peer.reader.read(10)
        if how == "resets":
            peer.reset()

    async with raw_backend(talk) as backend:
        found = await failure(f"https://127.0.0.1:{backend.port}", verify=False)
    assert (str(found), found.phase) == ("connection reset during TLS handshake", "tls")


async def test_a_handshake_that_does_not_end_runs_into_the_limit():
    """TCP was there: the phase says so."""
    async with raw_backend(lambda peer: peer.ended()) as backend:
        found = await failure(f"https://127.0.0.1:{backend.port}", verify=False, limit=0.05)
    assert str(found) == f"TLS handshake timed out after 0.05 s: 127.0.0.1:{backend.port}"
    assert (found.phase, found.timed_out) == ("tls", True)


async def test_tls_over_a_refused_connection_is_no_matter_of_tls():
    """The phase is where it failed."""
    found = await failure("https://127.0.0.1:9")
    assert (str(found), found.phase) == ("connection refused 127.0.0.1:9", "connect")


# Words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, "x"), "name not found: db", id="unknown"),
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "x"), "name server did not answer: db", id="no name server"),
        pytest.param(
            socket.gaierror(socket.EAI_FAIL, "broken"), "name could not be resolved: db: broken", id="anything else"
        ),
    ],
)
def test_words_for_a_failed_resolution(error, words):
    """RFC 3493 §6.1."""
    assert causes.of_resolution(error, "db") == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(errno.ECONNREFUSED, "connection refused 10.0.0.1:80", id="refused"),
        pytest.param(errno.EHOSTUNREACH, "no route to host: 10.0.0.1:80", id="no route"),
        pytest.param(errno.ENETUNREACH, "network unreachable: 10.0.0.1:80", id="no network"),
        pytest.param(
            errno.ETIMEDOUT, "connect timed out (by the operating system): 10.0.0.1:80", id="the system's limit"
        ),
        pytest.param(
            errno.EMFILE, "too many open files in the gateway; raise its limit (ulimit -n): 10.0.0.1:80", id="no files"
        ),
        pytest.param(errno.EPERM, "Operation not permitted: 10.0.0.1:80", id="anything else"),
    ],
)
def test_words_for_a_failed_connection(number, words):
    """What an operator would search for."""
    assert causes.of_connection(OSError(number, "Operation not permitted"), "10.0.0.1:80") == words
