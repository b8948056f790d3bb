"""relay.pages health, metrics and openapi: what monitors ask, over the wire."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from types import MappingProxyType

import pytest
from django.urls import URLPattern
from prometheus_client.parser import text_string_to_metric_families

import relay
from gatewaysite.urls import urlpatterns
from relay import runtime as composition
from relay.backends.connector import Connector
from relay.entry import arrive
from relay.gateway import Gateway
from relay.identity import jwks
from relay.pages.metrics import NOT_FROM_ELSEWHERE, on_this_machine
from relay.pages.openapi import DOCUMENT
from relay.refusals import KINDS
from relay.routing.snapshot import Snapshot
from relay.runtime import Runtime
from relay.settings import RelaySettings
from tests import stack
from tests.identity_helpers import SECRET, jwk, private_key

HEALTH = ["/health", "/health/live", "/health/ready"]
METRICS_TOKEN = "metrics-token-metrics-token"


@pytest.fixture
def quick_polls(monkeypatch):
    """Health polls every 10 ms instead of every 2 s."""
    monkeypatch.setattr(composition, "Connector", partial(Connector, interval=0.01))


async def until_health_is(gateway: stack.Stack, status: int) -> stack.Answer:
    """Ask until the polls have found it out."""
    async with asyncio.timeout(20):
        while (answer := await gateway.request("/health")).status != status:
            pass
    return answer


class StaleWatcher:
    """A watcher whose database went away 12 seconds ago."""

    error = "database unreachable"
    age_seconds = 12.4

    def stop(self) -> None:
        pass


# Health.


async def test_a_well_gateway_says_so(gateway):
    """Contract, section 7: the seed's shape, which existing monitors read."""
    answer = await gateway.request("/health")
    assert answer.status == 200
    assert answer.json == {
        "success": True,
        "warnings": [],
        "status": "healthy",
        "gateway": "running",
        "version": relay.__version__,
        "services": {"main": {"healthy": True}},
    }
    assert answer.get("cache-control") == "no-store"
    assert answer.get("x-request-id")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_liveness_and_readiness(gateway, path):
    """200 while the process runs, and while it takes work."""
    answer = await gateway.request(path)
    assert (answer.status, answer.json["success"]) == (200, True)


async def test_a_draining_gateway_lives_but_is_not_ready(gateway):
    """A load balancer sends work elsewhere; an orchestrator must not kill what is just ending."""
    gateway.runtime.draining = True
    ready, live, health = [await gateway.request(path) for path in ("/health/ready", "/health/live", "/health")]
    assert (ready.status, ready.json) == (503, {"success": False, "status": "draining"})
    assert live.status == 200
    assert (health.status, health.json["gateway"]) == (200, "draining")


async def test_a_start_that_fails_by_a_bug_is_told_with_its_traceback(monkeypatch, caplog):
    """The server hears one line that is never empty; what happened is in the log."""
    runtime = Runtime(RelaySettings(), Snapshot())

    async def start():
        raise AssertionError

    monkeypatch.setattr(runtime, "start", start)
    said = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        said.append(message)

    await Gateway(runtime, None, None)({"type": "lifespan"}, receive, send)
    assert said == [{"type": "lifespan.startup.failed", "message": "AssertionError"}]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["the start failed"]


async def test_a_gateway_without_configuration_lives_but_is_not_ready(gateway, monkeypatch):
    """The database was never there: nothing can be relayed, and a restart would not help."""
    monkeypatch.setattr(gateway.runtime, "started", False)
    ready, live, health = [await gateway.request(path) for path in ("/health/ready", "/health/live", "/health")]
    assert (ready.status, ready.json["status"]) == (503, "starting")
    assert live.status == 200
    assert health.status == 503
    assert (health.json["status"], health.json["warnings"]) == ("degraded", ["there is no configuration yet"])


@pytest.mark.usefixtures("quick_polls")
async def test_a_backend_that_is_not_well_degrades_the_gateway(backend):
    """503 while one backend is out, 200 again when it is back; the others' health is told beside it."""
    sick = True

    async def behaviour(seen, reader, writer):
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % (500 if sick else 200))

    async with stack.backend(behaviour) as other:
        configuration = stack.snapshot(backend.url)
        second = replace(stack.snapshot(other.url).backends["main"], name="other", health_path="/up")
        backends = MappingProxyType({**configuration.backends, "other": second})
        async with stack.gateway(replace(configuration, backends=backends)) as gateway:
            answer = await until_health_is(gateway, 503)
            assert (answer.json["success"], answer.json["status"]) == (False, "degraded")
            assert answer.json["services"] == {"main": {"healthy": True}, "other": {"healthy": False}}
            assert (await gateway.request("/health/ready")).status == 200
            sick = False
            assert (await until_health_is(gateway, 200)).json["services"]["other"] == {"healthy": True}


async def test_a_disabled_backend_is_not_asked_about(gateway):
    """It is off on purpose."""
    main = gateway.runtime.snapshot.backends["main"]
    gateway.configure(backends={"main": replace(main, enabled=False)})
    answer = await gateway.request("/health")
    assert (answer.status, answer.json["services"]) == (200, {})


async def test_a_stale_configuration_is_a_warning(gateway):
    """The last good one stays in force, so that the gateway stays healthy."""
    gateway.runtime.watcher = StaleWatcher()
    answer = await gateway.request("/health")
    assert answer.status == 200
    assert answer.json["warnings"] == ["configuration is 12 s old: database unreachable"]


async def test_keys_that_can_not_be_fetched_are_a_warning(backend, monkeypatch):
    """Though nobody sends a token; it goes when the issuer is there, and says nothing of where it is."""
    monkeypatch.setattr(composition, "LOOK_INTERVAL", 0.01)
    monkeypatch.setattr(jwks, "COOLDOWN", 0.01)
    keys = b""

    async def issues(seen, reader, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(keys)
        writer.write(head + keys if keys else b"no")
        writer.close()

    async def until_it_warns_of(warnings: list[str]) -> stack.Answer:
        async with asyncio.timeout(20):
            while (answer := await gateway.request("/health")).json["warnings"] != warnings:
                pass
        return answer

    async with stack.backend(issues) as issuer:
        settings = {"jwt_secret": "", "jwt_algorithms": ("ES256",), "jwt_jwks_url": issuer.url}
        async with stack.gateway(stack.snapshot(backend.url), **settings) as gateway:
            answer = await until_it_warns_of(["no keys yet: JWT_JWKS_URL can't be reached"])
            assert answer.status == 200
            assert issuer.url.rpartition(":")[2].encode() not in answer.body
            keys = json.dumps({"keys": [jwk(private_key("P-256"), "ES256")]}).encode()
            await until_it_warns_of([])


@pytest.mark.usefixtures("quick_polls")
async def test_health_names_no_address(backend):
    """Anybody may ask; causes and addresses are in the log."""

    async def behaviour(seen, reader, writer):
        writer.close()

    async with (
        stack.backend(behaviour) as other,
        stack.gateway(stack.snapshot(other.url, health_path="/up")) as gateway,
    ):
        answer = await until_health_is(gateway, 503)
        assert other.url.rpartition(":")[2].encode() not in answer.body
        assert not re.search(rb"127\.0|http|/up", answer.body)


@pytest.mark.parametrize("path", HEALTH)
async def test_health_answers_any_host_without_a_token(gateway, settings, path):
    """Orchestrators ask by address and know nothing of us."""
    settings.ALLOWED_HOSTS = ["gateway.example.com"]
    assert (await gateway.request(path, headers={"Host": "10.0.0.7:8000"})).status == 200


@pytest.mark.parametrize("path", [*HEALTH, "/metrics", "/gateway/openapi.json"])
async def test_pages_to_read_answer_head_and_refuse_the_rest(gateway, path):
    """RFC 9110 §9.3.2: HEAD is GET without the body; §15.5.6: 405 names what there is."""
    got, head = await gateway.request(path), await gateway.request(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.get("content-type") == got.get("content-type")
    refused = await gateway.request(path, "POST", body=b"{}")
    assert (refused.status, refused.code, refused.get("allow")) == (405, "method_not_allowed", "GET, HEAD")


# Metrics.


async def test_the_page_counts_what_happened(gateway):
    """A relayed request, a refused one, and a WebSocket that is still open."""
    await gateway.request("/api/x", headers=stack.bearer())
    await gateway.request("/api/x")
    async with gateway.websocket() as client:
        await client.send("1234")
        await client.recv()
        page = (await gateway.request("/metrics")).body.decode()
    samples = {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["relay_http_requests_total", "main", "/api/", "200"] == 1
    assert samples["relay_http_requests_total", "main", "/api/", "401"] == 1
    assert samples["relay_refusals_total", "no_token"] == 1
    assert samples["relay_websocket_connections", "main", "/ws"] == 1
    assert samples["relay_websocket_handshakes_total", "accepted"] == 1
    assert samples["relay_websocket_messages_total", "to_backend"] == 1
    assert samples["relay_websocket_bytes_total", "to_client"] == 4
    assert samples[("relay_backend_up", "main")] == 1
    assert samples[("relay_config_age_seconds",)] == 0


async def test_a_client_makes_no_label(gateway):
    """Paths, methods, codes and origins of a client's choice are nowhere on the page."""
    await gateway.request("/api/made-up-path", "PURGE", headers=stack.bearer())
    await gateway.request("/made-up-path")
    async with gateway.websocket() as client:
        await client.close(4711, "made-up")
    async with asyncio.timeout(10):
        while b'relay_websocket_closes_total{by="client",code="4xxx"} 1' not in (
            page := (await gateway.request("/metrics")).body
        ):
            pass
    assert not re.search(rb"made-up|PURGE|4711", page)


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        pytest.param(f"Bearer {METRICS_TOKEN}", 200, None, id="the token"),
        pytest.param(f"bearer  {METRICS_TOKEN} ", 200, None, id="the scheme in small letters, more spaces"),
        pytest.param(None, 401, "no_token", id="none"),
        pytest.param("", 401, "no_token", id="an empty field"),
        pytest.param("Bearer", 401, "no_token", id="the scheme alone"),
        pytest.param(f"Basic {METRICS_TOKEN}", 401, "no_token", id="another scheme"),
        pytest.param(METRICS_TOKEN, 401, "no_token", id="no scheme"),
        pytest.param("Bearer wrong", 401, "invalid_token", id="another token"),
        pytest.param(f"Bearer {METRICS_TOKEN}x", 401, "invalid_token", id="one character more"),
        pytest.param(f"Bearer {METRICS_TOKEN[:-1]}", 401, "invalid_token", id="one character less"),
        pytest.param("Bearer mätrics", 401, "invalid_token", id="not ASCII"),
        pytest.param("user's", 401, "invalid_token", id="a user's token"),
    ],
)
async def test_with_a_metrics_token_whoever_has_it_gets_the_page(backend, events, authorization, status, code):
    """A loopback client without it does not; the answer and the log don't repeat what was sent."""
    fields = {} if authorization is None else {"Authorization": authorization}
    if authorization == "user's":
        fields = stack.bearer()
    async with stack.gateway(stack.snapshot(backend.url), metrics_token=METRICS_TOKEN) as gateway:
        answer = await gateway.request("/metrics", headers=fields)
    assert answer.status == status
    if code:
        assert answer.code == code
        assert answer.get("www-authenticate") == "Bearer"
        refused = events.one("http.refused")
        assert (refused["code"], refused["path"]) == (code, "/metrics")
        assert METRICS_TOKEN not in repr(refused)


@pytest.mark.parametrize(
    ("trusted", "headers", "status"),
    [
        pytest.param("", {}, 200, id="from this machine"),
        pytest.param("", {"X-Forwarded-For": "127.0.0.1"}, 403, id="through a proxy we don't know"),
        pytest.param("127.0.0.0/8", {"X-Forwarded-For": "203.0.113.7"}, 403, id="from afar, by a proxy we trust"),
        pytest.param("127.0.0.0/8", {"X-Forwarded-For": "203.0.113.7, 127.0.0.1"}, 403, id="by two of them"),
        pytest.param("127.0.0.0/8", {"X-Forwarded-For": "127.0.0.1"}, 200, id="from this machine, by a trusted one"),
    ],
)
async def test_without_a_metrics_token_only_loopback_clients_get_the_page(backend, events, trusted, headers, status):
    """Contract, section 7: loopback means the client after ``TRUSTED_PROXIES``; 403 for the rest, who read why."""
    proxies = (ip_network(trusted),) if trusted else ()
    async with stack.gateway(stack.snapshot(backend.url), trusted_proxies=proxies) as gateway:
        answer = await gateway.request("/metrics", headers=headers)
    assert answer.status == status
    if status == 403:
        assert (answer.code, answer.json["error"]) == ("role_required", NOT_FROM_ELSEWHERE)
        assert b"relay_" not in answer.body
        detail = events.one("http.refused")["detail"]
        assert "METRICS_TOKEN is not set" in detail
        assert detail.endswith(
            "this one is 203.0.113.7"
            if trusted
            else "this one is 127.0.0.1, through a proxy that is not in TRUSTED_PROXIES"
        )


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        pytest.param("127.0.0.1", [], True, id="IPv4"),
        pytest.param("127.8.9.10", [], True, id="another loopback address"),
        pytest.param("::1", [], True, id="IPv6"),
        pytest.param("::ffff:127.0.0.1", [], True, id="IPv4 in IPv6"),
        pytest.param("::ffff:203.0.113.7", [], False, id="far IPv4 in IPv6"),
        pytest.param("10.0.0.1", [], False, id="the same network"),
        pytest.param("", [], False, id="a Unix socket, where everybody looks alike"),
        pytest.param("127.0.0.1", [(b"forwarded", b"for=127.0.0.1")], False, id="Forwarded by a stranger"),
        pytest.param("127.0.0.1", [(b"x-real-ip", b"127.0.0.1")], False, id="X-Real-IP by a stranger"),
    ],
)
def test_who_is_on_this_machine(peer, headers, local):
    """Addresses as servers give them."""
    scope = {"client": (peer, 1) if peer else None, "headers": headers, "scheme": "http"}
    assert on_this_machine(arrive(scope, ()), headers) is local


# The description.


def test_every_own_path_is_described():
    """What is in the URLconf is in the document, and nothing else."""
    own = {f"/{p.pattern}" for p in urlpatterns if isinstance(p, URLPattern) and "<" not in str(p.pattern)}
    pages = {path for path in own if re.match(r"/(health|metrics|gateway)", path)}
    assert set(DOCUMENT["paths"]) == pages


async def test_the_description_is_served_as_it_is(gateway):
    """JSON, with this version."""
    answer = await gateway.request("/gateway/openapi.json")
    assert (answer.status, answer.get("content-type")) == (200, "application/json")
    assert answer.json == json.loads(json.dumps(DOCUMENT))
    assert answer.json["info"]["version"] == relay.__version__


def test_the_description_is_valid():
    """OpenAPI 3.1, by its own schema."""
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(DOCUMENT)


def test_every_reference_leads_somewhere():
    """And every code that can be answered is one of ours."""
    for reference in re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(DOCUMENT)):
        kind, name = reference
        assert name in DOCUMENT["components"][kind]
    assert set(DOCUMENT["components"]["schemas"]["Refusal"]["properties"]["code"]["enum"]) == set(KINDS)


@pytest.mark.parametrize("path", [path for path, item in DOCUMENT["paths"].items() if "post" in item])
async def test_an_answer_has_the_shape_that_is_described(gateway, path):
    """The keys of a real answer, of a success and of a refusal."""
    operation = DOCUMENT["paths"][path]["post"]
    body = json.dumps({"path": "/ws", "previous": stack.bearer()["Authorization"].split(" ")[1]}).encode()
    refused = await gateway.request(path, "POST", body=body)
    assert str(refused.status) in operation["responses"]
    assert refused.json.keys() == DOCUMENT["components"]["schemas"]["Refusal"]["properties"].keys()
    if path != "/gateway/session":
        return  # the others write to the database
    answer = await gateway.request(path, "POST", headers=stack.bearer(email="again@b.c"), body=body)
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert (answer.status, answer.json.keys()) == (200, schema["properties"].keys())
    assert SECRET not in repr(answer.json)
