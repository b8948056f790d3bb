"""Fetching the issuer's keys: `relay.identity.jwks`, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from relay.identity import jwks
from relay.identity.jwks import Jwks, fetch
from relay.identity.middleware import Examiner
from relay.identity.revocation import Revocations
from relay.identity.tokens import Verifier
from tests.identity_helpers import jwk, private_key, relay_settings, token

OLD, NEW = private_key("P-256", "old"), private_key("P-256", "new")


def key_set(**keys):
    return {"keys": [jwk(key, "ES256", kid=kid) for kid, key in keys.items()]}


class Issuer:
    """An HTTP server that publishes what the test says, and counts who asks.

    Attributes:
        answers: JSON document, bytes, or (status, headers, bytes), for each path.
        gate: Answers wait while it is closed.
    """

    def __init__(self, url):
        self.url, self.answers, self.requests = url, {}, []
        self.gate = threading.Event()
        self.gate.set()

    def publish(self, answer, path="/jwks"):
        self.answers[path] = answer

    @property
    def jwks_url(self):
        return f"{self.url}/jwks"


@pytest.fixture
def issuer():
    with serving() as it:
        yield it


@contextmanager
def serving():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            it.requests.append(self.path)
            it.gate.wait(10)
            answer = it.answers.get(self.path, (404, {}, b""))
            if isinstance(answer, dict | list):
                answer = json.dumps(answer).encode()
            status, headers, body = (200, {}, answer) if isinstance(answer, bytes) else answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    it = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield it
    finally:
        it.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Gateway:
    """Identifies by tokens in the header, with keys from an issuer and a clock that the test turns on."""

    def __init__(self, issuer):
        self.clock = Clock()
        config = relay_settings(jwt_jwks_url=issuer.jwks_url, jwt_algorithms=("ES256",))
        self.verifier = Verifier(config)
        self.jwks = self.verifier.jwks = Jwks(config, self.verifier._verified.clear, self.clock)
        self.examiner = Examiner(self.verifier, Revocations())

    async def identify(self, *tokens):
        return await self.examiner.identify([("header", text) for text in tokens])

    async def code(self, *tokens):
        return (await self.identify(*tokens)).code

    async def fetched(self):
        """Wait for the fetch that is in flight."""
        if self.jwks._fetching is not None:
            await asyncio.wait([self.jwks._fetching], timeout=10)


@pytest.fixture
async def gateway(issuer):
    gateway = Gateway(issuer)
    yield gateway
    await gateway.jwks.close()


def signed(key, kid):
    return token(key, "ES256", {"kid": kid} if kid else None)


async def test_the_first_token_waits_for_the_first_keys(issuer, gateway):
    """Nothing is fetched before somebody asks, and then nobody is refused for it."""
    issuer.publish(key_set(old=OLD))
    assert not issuer.requests
    assert await gateway.code(signed(OLD, "old")) == ""


async def test_known_keys_are_not_fetched_again(issuer, gateway):
    """The hot path: one fetch for any number of tokens."""
    issuer.publish(key_set(old=OLD))
    for number in range(5):
        assert await gateway.code(token(OLD, "ES256", {"kid": "old"}, user_id=number)) == ""
    assert len(issuer.requests) == 1


async def test_a_new_key_is_found_when_a_token_names_it(issuer, gateway):
    """Rotation: the token of a key that was published a moment ago is good, after at most one fetch."""
    issuer.publish(key_set(old=OLD))
    await gateway.code(signed(OLD, "old"))
    gateway.clock.now += jwks.COOLDOWN
    issuer.publish(key_set(old=OLD, new=NEW))
    assert await gateway.code(signed(NEW, "new")) == ""
    assert await gateway.code(signed(OLD, "old")) == ""
    assert len(issuer.requests) == 2


async def test_a_new_key_without_kids_is_found_as_well(issuer, gateway):
    """An issuer with one key may leave the kid out (RFC 7515 §4.1.4)."""
    issuer.publish({"keys": [jwk(OLD, "ES256")]})
    assert await gateway.code(signed(OLD, None)) == ""
    gateway.clock.now += jwks.COOLDOWN
    issuer.publish({"keys": [jwk(NEW, "ES256")]})
    assert await gateway.code(signed(NEW, None)) == ""


async def test_a_key_that_was_withdrawn_ends_its_tokens(issuer, gateway):
    """Tokens that were verified already included; within the refresh interval."""
    issuer.publish(key_set(old=OLD, new=NEW))
    text = signed(OLD, "old")
    assert await gateway.code(text) == ""
    issuer.publish(key_set(new=NEW))
    gateway.clock.now += jwks.REFRESH
    assert await gateway.code(text) == ""  # this request begins the fetch, and waits for nothing
    await gateway.fetched()
    assert await gateway.code(text) == "invalid_token"


async def test_a_refresh_that_changes_nothing_keeps_what_was_verified(issuer, gateway):
    """Every five minutes every user's token would be verified anew."""
    issuer.publish(key_set(old=OLD))
    text = signed(OLD, "old")
    first = (await gateway.identify(text)).identity
    gateway.clock.now += jwks.REFRESH
    await gateway.identify(text)
    await gateway.fetched()
    assert len(issuer.requests) == 2
    assert (await gateway.identify(text)).identity is first


async def test_made_up_key_ids_do_not_make_a_storm(issuer, gateway):
    """At most one fetch per cool-down, however many ask: else anybody could turn the gateway against its issuer."""
    issuer.publish(key_set(old=OLD))
    codes = await asyncio.gather(*(gateway.code(signed(NEW, f"made-up-{i}")) for i in range(50)))
    assert set(codes) == {"invalid_token"}
    assert len(issuer.requests) == 1
    for i in range(50):
        await gateway.code(signed(NEW, f"other-{i}"))
    assert len(issuer.requests) == 1
    gateway.clock.now += jwks.COOLDOWN
    await asyncio.gather(*(gateway.code(signed(NEW, f"third-{i}")) for i in range(50)))
    assert len(issuer.requests) == 2


async def test_a_slow_issuer_holds_nobody_up_for_long(issuer, gateway, monkeypatch):
    """A request waits for a bounded time only, then the token is invalid; the fetch goes on for the next one."""
    monkeypatch.setattr(jwks, "PATIENCE", 0.01)
    issuer.publish(key_set(old=OLD))
    issuer.gate.clear()
    assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    issuer.gate.set()
    await gateway.fetched()
    assert await gateway.code(signed(OLD, "old")) == ""
    assert len(issuer.requests) == 1


async def test_a_valid_token_waits_for_no_other(issuer, gateway):
    """A foreign token beside it with a key id that we don't know costs its user nothing."""
    issuer.publish(key_set(old=OLD))
    await gateway.code(signed(OLD, "old"))
    gateway.clock.now += jwks.COOLDOWN
    issuer.gate.clear()
    assert await gateway.code(signed(NEW, "foreign"), signed(OLD, "old")) == ""
    assert len(issuer.requests) == 1


async def test_only_an_unknown_key_makes_a_request_wait(issuer, gateway):
    """An expired or malformed token is refused at once, whatever the issuer does."""
    issuer.publish(key_set(old=OLD))
    await gateway.code(signed(OLD, "old"))
    gateway.clock.now += jwks.COOLDOWN
    issuer.gate.clear()
    assert await gateway.code(token(OLD, "ES256", {"kid": "old"}, exp=1)) == "expired_token"
    assert await gateway.code("x.y.z") == "invalid_token"
    assert len(issuer.requests) == 1


BROKEN = [
    pytest.param((500, {}, b"oops"), "the answer is 500", id="status 500"),
    pytest.param((404, {}, b""), "the answer is 404", id="status 404"),
    pytest.param(b"<html>", "Expecting value", id="no JSON"),
    pytest.param(b"\xff\xfe\x00", "codec", id="no text"),
    pytest.param(b"[" * 100_000, "nested too deeply", id="nested too deeply"),
    pytest.param([1, 2], "not a JWKS", id="no JWKS"),
    pytest.param({"keys": []}, "none of its 0 keys", id="no keys"),
    pytest.param({"keys": [{"kty": "oct", "k": "AAAA"}]}, "none of its 1 keys", id="no usable keys"),
    pytest.param((200, {"Content-Length": "100"}, b"{}"), "cut off, 98 bytes", id="cut off"),
    pytest.param(b" " * (jwks.LARGEST + 1), "larger than 1048576", id="too large"),
    pytest.param((302, {"Location": "file:///etc/passwd"}, b""), "the answer is 302", id="redirect to a file"),
    pytest.param((302, {"Location": "ftp://127.0.0.1/x"}, b""), "redirected from http to ftp", id="redirect to ftp"),
    pytest.param((302, {"Location": "/jwks"}, b""), "infinite loop|the answer is 302", id="redirect to itself"),
]


@pytest.mark.parametrize(("answer", "cause"), BROKEN)
async def test_a_failed_refresh_keeps_the_last_keys(issuer, gateway, caplog, answer, cause):
    """Contract §2; the log says why, at level warning."""
    issuer.publish(key_set(old=OLD))
    await gateway.code(signed(OLD, "old"))
    issuer.publish(answer)
    gateway.clock.now += jwks.REFRESH
    with caplog.at_level(logging.WARNING, "relay.identity"):
        assert await gateway.code(signed(OLD, "old")) == ""
        await gateway.fetched()
    assert await gateway.code(token(OLD, "ES256", {"kid": "old"}, user_id=2)) == ""
    (record,) = caplog.records
    assert record.getMessage().startswith(f"auth.jwks: {issuer.jwks_url}: ")
    assert re.search(cause, record.getMessage())
    assert record.getMessage().endswith("1 keys stay in force")


async def test_a_failed_fetch_is_tried_again_after_the_cool_down(issuer, gateway):
    """Not only after the whole interval, and not with every request."""
    assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    assert len(issuer.requests) == 1
    issuer.publish(key_set(old=OLD))
    gateway.clock.now += jwks.COOLDOWN
    assert await gateway.code(signed(OLD, "old")) == ""


async def test_an_issuer_that_is_not_there_is_a_cause_like_others(caplog):
    """Connection refused, at a port that nobody listens on."""
    with serving() as gone:
        pass
    gateway = Gateway(gone)
    assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    assert "refused" in caplog.text


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param((500, {}, b"oops"), "JWT_JWKS_URL: the answer is 500", id="status 500"),
        pytest.param(b"null", "JWT_JWKS_URL: the answer is not a JWKS", id="null"),
        pytest.param((200, {"Content-Length": "9"}, b"{}"), "JWT_JWKS_URL can't be reached", id="cut off"),
    ],
)
async def test_keys_that_could_never_be_fetched_are_warned_of(issuer, gateway, answer, error):
    """`/health` shows it to everybody: the cause, and no address."""
    assert gateway.jwks.warning == ""  # nobody has tried
    issuer.publish(answer)
    await gateway.code(signed(OLD, "old"))
    assert gateway.jwks.warning == f"no keys yet: {error}"


async def test_old_keys_are_warned_of_until_newer_ones_come(issuer, gateway, caplog):
    """With their age. The log has one line for each cause, and one for its end, however long it takes."""
    caplog.set_level(logging.INFO, "relay.identity")
    issuer.publish(key_set(old=OLD))
    await gateway.code(signed(OLD, "old"))
    assert gateway.jwks.warning == ""
    gateway.clock.now += jwks.REFRESH
    for status in (500, 500, 503):
        issuer.publish((status, {}, b""))
        gateway.jwks.refresh_if_due()
        await gateway.fetched()
        gateway.clock.now += jwks.COOLDOWN
    assert gateway.jwks.warning == "keys are 330 s old: JWT_JWKS_URL: the answer is 503"
    issuer.publish(key_set(old=OLD))
    gateway.jwks.refresh_if_due()
    await gateway.fetched()
    assert gateway.jwks.warning == ""
    assert [record.getMessage().removeprefix(f"auth.jwks: {issuer.jwks_url}: ") for record in caplog.records] == [
        "the answer is 500; 1 keys stay in force",
        "the answer is 503; 1 keys stay in force",
        "fetched again; 1 keys are in force",
    ]


async def test_what_is_not_http_is_a_cause_like_others(caplog):
    """Another service's port."""

    async def greets(_, writer):
        writer.write(b"220 mail.example.com\r\n")
        writer.close()

    async with await asyncio.start_server(greets, "127.0.0.1", 0) as server:
        gateway = Gateway(SimpleNamespace(jwks_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    assert gateway.jwks.warning == "no keys yet: JWT_JWKS_URL can't be reached"
    assert "220 mail.example.com" in caplog.text


async def test_a_key_in_the_url_is_told_nobody(issuer, caplog):
    """Some issuers want one in the query."""
    gateway = Gateway(SimpleNamespace(jwks_url=f"{issuer.jwks_url}?key=hunter2"))
    assert await gateway.code(signed(OLD, "old")) == "invalid_token"
    assert issuer.requests == ["/jwks?key=hunter2"]
    assert f"{issuer.jwks_url}: the answer is 404" in caplog.text
    assert "hunter2" not in caplog.text + gateway.jwks.warning


async def test_closing_ends_a_fetch_in_flight(issuer, gateway):
    """A process that stops does not wait for its issuer."""
    issuer.gate.clear()
    gateway.jwks.refresh_if_due()
    await gateway.jwks.close()
    assert gateway.jwks._fetching is None
    issuer.gate.set()


def test_a_redirect_within_http_is_followed(issuer):
    """Issuers move, and say so."""
    issuer.publish((301, {"Location": f"{issuer.url}/moved"}, b""))
    issuer.publish(key_set(old=OLD), "/moved")
    assert fetch(issuer.jwks_url) == key_set(old=OLD)


def test_the_environments_proxies_are_not_asked(issuer, monkeypatch):
    """A proxy in between could answer with keys of its own."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    issuer.publish(key_set(old=OLD))
    assert fetch(issuer.jwks_url) == key_set(old=OLD)


def test_an_answer_that_does_not_come_is_a_timeout(issuer):
    """The thread is given back."""
    issuer.gate.clear()
    with pytest.raises(OSError, match="timed out"):
        fetch(issuer.jwks_url, timeout=0.05)


def test_an_answer_that_trickles_is_a_timeout(monkeypatch):
    """The limit is for the whole answer, not for each byte of it."""
    with trickling() as url:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="no complete answer"):
            fetch(url, timeout=0.2)
        assert time.monotonic() - started < 5


@contextmanager
def trickling():
    """A server that sends a byte every few milliseconds for as long as somebody listens."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                while not stop.wait(0.01):
                    self.wfile.write(b" ")
            except OSError:
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_command_fetches_in_its_own_thread(issuer):
    """Commands have no event loop."""
    issuer.publish(key_set(old=OLD))
    verifier = Verifier(relay_settings(jwt_jwks_url=issuer.jwks_url, jwt_algorithms=("ES256",)))
    verifier.jwks.load()
    assert verifier.verify(signed(OLD, "old")).user_id == "1"
    issuer.publish((500, {}, b""))
    with pytest.raises(ValueError, match="500"):
        verifier.jwks.load()
