"""Traces, under the real ``serve``, as a collector gets them (`relay.tracing`)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests import served, stack
from tests.collector import Collector, Span, collecting
from tests.front import Front, fronting
from tests.identity_helpers import SECRET, token
from tests.stack import ORIGIN, Seen, bearer, observed

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

CONFIGURATION = f"""
[[backend]]
name = "main"
url = "http://127.0.0.1:{{port}}"
[[backend]]
name = "prefixed"
url = "http://127.0.0.1:{{port}}/inner"
[[backend]]
name = "nowhere"
url = "http://127.0.0.1:1"
[[route]]
path = "/api/"
kind = "http"
backend = "main"
[[route]]
path = "/open/"
kind = "http"
backend = "prefixed"
access = "public"
upstream_path = "/v2/"
[[route]]
path = "/nowhere/"
kind = "http"
backend = "nowhere"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
[[route]]
path = "/telling-ws"
kind = "websocket"
backend = "main"
refuse_with = "close"
[[route]]
path = "/nowhere-ws"
kind = "websocket"
backend = "nowhere"
[[origin]]
origin = "{ORIGIN}"
"""
THEIRS, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{THEIRS}-{PARENT}-01"
NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as it:
        yield it


@pytest.fixture(scope="module")
def front(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Front]:
    """A gateway that is told of the collector by a file, ``.env`` and the environment, whose proxies lead nowhere."""
    directory = tmp_path_factory.mktemp("traced")
    (directory / "headers").write_text("X-Key=s3cret\n")
    (directory / ".env").write_text("OTEL_SERVICE_NAME=edge\nOTEL_BSP_SCHEDULE_DELAY=50\n")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), NOBODY_LISTENS)
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS_FILE": str(directory / "headers")}
    site = served.copy_of(migrated, directory, ALLOWED_HOSTS="gateway.test,127.0.0.1", **otel, **proxies)
    with fronting(site, CONFIGURATION) as it:
        yield it
        assert not [line for line in it.server.lines if line.get("logger") == "relay.tracing"]


@pytest.fixture
async def backend(front: Front) -> AsyncIterator[stack.BackendServer]:
    async with front.backend() as it:
        yield it


class Parts:
    """The spans of one trace, by their kind."""

    def __init__(self, spans: list[Span]) -> None:
        (self.server,) = [span for span in spans if span.kind == "SERVER"]
        self.client = next((span for span in spans if span.kind == "CLIENT"), None)
        self.socket = next((span for span in spans if span.kind == "INTERNAL"), None)
        assert len(spans) == 1 + (self.client is not None) + (self.socket is not None)


async def parts(collector: Collector, front: Front, request_id: str | None, count: int) -> Parts:
    """The trace of a request or socket, by the id that its lines in the log have."""
    line = await front.logged(lambda line: line.get("request_id") == request_id and "trace_id" in line)
    return Parts(await asyncio.to_thread(collector.tree, line["trace_id"], count))


def ids(traceparent: str | None) -> tuple[str, str, str]:
    """Trace, parent and flags of the field that a backend got."""
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", traceparent or "")
    assert found, traceparent
    return found[1], found[2], found[3]


# HTTP


async def test_a_request_is_a_span_with_the_backends_below(
    front: Front, backend: stack.BackendServer, collector: Collector
) -> None:
    """Conventions for HTTP spans; the one for the backend is whose child the backend's own will be."""
    answer = await front.request("/open/a%20b/x?q=1", headers={"traceparent": TRACEPARENT, "tracestate": "a=1,b=2"})
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    server, client = it.server, it.client
    assert client is not None
    assert (server.name, server.trace_id, server.parent_id, server.state) == ("GET /open/", THEIRS, PARENT, "a=1,b=2")
    assert server.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/open/",
        "url.path": "/open/a%20b/x",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "server.address": "gateway.test",
        "server.port": 80,
        "relay.backend": "prefixed",
        "relay.request_id": answer.get("x-request-id"),
    }
    port = int(backend.url.rpartition(":")[2])
    assert (client.name, client.trace_id, client.parent_id) == ("GET", THEIRS, server.span_id)
    assert client.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.full": f"{backend.url}/inner/v2/a%20b/x",
        "server.address": "127.0.0.1",
        "server.port": port,
        "relay.backend": "prefixed",
    }
    assert not server.is_error
    assert not client.is_error
    assert server.started <= client.started <= client.ended <= server.ended
    assert ids(backend.last.get("traceparent")) == (THEIRS, client.span_id, "01")
    assert backend.last.get("tracestate") == "a=1,b=2"


async def test_the_resource_and_the_key_are_the_operators(
    front: Front, backend: stack.BackendServer, collector: Collector
) -> None:
    """The SDK's own variables, also from ``.env`` and from files."""
    answer = await front.request("/open/x")
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    assert it.server.resource["service.name"] == "edge"
    assert it.server.resource["service.version"]
    assert {(path, headers["x-key"]) for path, headers, _ in collector.exports} == {("/v1/traces", "s3cret")}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="none"),
        pytest.param([("traceparent", "00-1-2-01")], id="no traceparent"),
        pytest.param([("traceparent", f"00-{'0' * 32}-{PARENT}-01"), ("tracestate", "a=1")], id="zeros"),
        pytest.param([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)], id="two"),
        pytest.param([("tracestate", "a=1")], id="a tracestate alone"),
    ],
)
async def test_without_a_valid_context_a_trace_begins(
    front: Front, backend: stack.BackendServer, collector: Collector, fields: list[tuple[str, str]]
) -> None:
    """What can't be continued is not passed on either (Trace Context, §4.3)."""
    answer = await front.request("/open/x", headers=fields)
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    assert it.client is not None
    assert (it.server.parent_id, it.server.state) == ("", "")
    assert ids(backend.last.get("traceparent"))[:2] == (it.server.trace_id, it.client.span_id)
    assert it.server.trace_id != THEIRS
    assert backend.last.get("tracestate") is None


async def test_a_trace_that_is_not_sampled_goes_on(
    front: Front, backend: stack.BackendServer, collector: Collector
) -> None:
    """``parentbased_always_on``, the SDK's default: whoever began it said no. The log has its id all the same."""
    unsampled = "5" * 32
    await front.request("/open/x", headers={"traceparent": f"00-{unsampled}-{PARENT}-00"})
    await front.logged(lambda line: line.get("trace_id") == unsampled)
    trace, parent, flags = ids(backend.last.get("traceparent"))
    assert (trace, flags) == (unsampled, "00")
    assert parent != PARENT
    async with front.websocket(additional_headers={**bearer(), "traceparent": f"00-{unsampled}-{PARENT}-00"}):
        assert ids(backend.last.get("traceparent"))[0] == unsampled
    after = await front.request("/open/x")
    await parts(collector, front, after.get("x-request-id"), 2)
    assert unsampled not in {span.trace_id for span in collector.spans}


@pytest.mark.parametrize(
    ("target", "method", "headers", "name", "status", "code"),
    [
        pytest.param("/api/x", "GET", {}, "GET /api/", 401, "no_token", id="no token"),
        pytest.param("/api/x", "POST", {}, "POST /api/", 401, "no_token", id="no token, posted"),
        pytest.param("/none", "GET", {}, "GET", 404, "no_route", id="no route"),
        pytest.param("/api/..%2fx", "GET", {}, "GET", 400, "bad_path", id="two readings"),
        pytest.param("/api/x", "GET", {"Host": "evil.test"}, "GET", 400, "bad_request", id="at the door"),
        pytest.param("/x", "PROPFIND", {}, "HTTP", 404, "no_route", id="a method few know"),
        pytest.param("/gateway/ticket", "POST", {}, "POST /gateway/ticket", 401, "no_token", id="a page of ours"),
    ],
)
async def test_a_refusal_names_its_code_and_is_no_error(
    front: Front,
    collector: Collector,
    target: str,
    method: str,
    headers: dict[str, str],
    name: str,
    status: int,
    code: str,
) -> None:
    """A 4xx is the client's matter (HTTP conventions, span status); nothing went to a backend."""
    answer = await front.request(target, method, headers)
    it = await parts(collector, front, answer.get("x-request-id"), 1)
    assert (answer.status, it.client) == (status, None)
    assert it.server.name == name
    assert (it.server.attributes["http.response.status_code"], it.server.attributes["error.type"]) == (status, code)
    assert not it.server.is_error


async def test_an_unknown_method_is_kept_beside_the_name(front: Front, collector: Collector) -> None:
    """``_OTHER``: whoever counts by method must not count what strangers make up."""
    answer = await front.request("/none", "PROPFIND")
    it = await parts(collector, front, answer.get("x-request-id"), 1)
    assert it.server.attributes["http.request.method"] == "_OTHER"
    assert it.server.attributes["http.request.method_original"] == "PROPFIND"


async def test_a_backend_that_can_not_be_reached(front: Front, collector: Collector) -> None:
    """Both spans are errors, with the code and the exact cause."""
    answer = await front.request("/nowhere/x", headers=bearer())
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    assert it.client is not None
    assert it.client.attributes == {
        "http.request.method": "GET",
        "error.type": "backend_unreachable",
        "server.address": "127.0.0.1",
        "server.port": 1,
        "relay.backend": "nowhere",
    }
    assert it.server.attributes["error.type"] == "backend_unreachable"
    assert it.server.attributes["http.response.status_code"] == 502
    assert it.client.is_error
    assert it.server.is_error
    assert it.client.description == it.server.description == "http://127.0.0.1:1: connection refused 127.0.0.1:1"


async def test_a_failing_backend_is_an_error_of_both(front: Front, collector: Collector) -> None:
    """Its 5xx passes, and a trace shows where it came from."""

    async def fail(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async with front.backend(fail):
        answer = await front.request("/open/x")
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    for span in (it.server, it.client):
        assert span is not None
        assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (503, "503")
        assert span.is_error


async def test_a_404_of_a_backend_is_no_error(front: Front, collector: Collector) -> None:
    """To pass it on is what we are for."""

    async def nothing(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with front.backend(nothing):
        answer = await front.request("/open/x")
    it = await parts(collector, front, answer.get("x-request-id"), 2)
    for span in (it.server, it.client):
        assert span is not None
        assert span.attributes["http.response.status_code"] == 404
        assert "error.type" not in span.attributes
        assert not span.is_error


async def test_a_body_that_breaks_off_is_an_error_of_the_request(front: Front, collector: Collector) -> None:
    """The backend's span ends with the head of its answer, ours with all of it."""

    async def break_off(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        writer.close()

    async with front.backend(break_off):
        with pytest.raises(asyncio.IncompleteReadError):
            await front.request("/open/breaks-off")
    line = await front.logged(lambda line: line.get("path") == "/open/breaks-off")
    it = await parts(collector, front, line["request_id"], 2)
    assert it.client is not None
    assert not it.client.is_error
    assert it.server.is_error
    assert it.server.attributes["http.response.status_code"] == 200
    assert it.server.attributes["error.type"] == "backend_protocol_error"
    assert "inside the body" in it.server.description


async def test_a_client_that_leaves_got_no_status(front: Front, collector: Collector) -> None:
    """Nothing was sent, and it is nobody's error."""
    asked = asyncio.Event()

    async def hold(seen: Seen, reader: Reader, writer: Writer) -> None:
        asked.set()
        await reader.read()

    async with front.backend(hold):
        asking = asyncio.ensure_future(front.request("/open/leaves"))
        await asked.wait()
        asking.cancel()
        line = await front.logged(lambda line: line.get("path") == "/open/leaves")
        it = await parts(collector, front, line["request_id"], 2)
    assert line["status"] == 499
    for span in (it.server, it.client):
        assert span is not None
        assert "http.response.status_code" not in span.attributes
        assert span.attributes["error.type"] == "client_left"
        assert not span.is_error


async def test_no_client_takes_the_context_out(
    front: Front, backend: stack.BackendServer, collector: Collector
) -> None:
    """A field that ``Connection`` names is the client's and goes; ours comes behind it (as the identity does)."""
    hop = {"traceparent": TRACEPARENT.replace(THEIRS, "c" * 32)}
    await front.request("/open/x", headers=hop | {"Connection": "traceparent"})
    assert ids(backend.last.get("traceparent"))[0] == "c" * 32
    async with front.websocket(additional_headers=bearer() | hop | {"Connection": "traceparent"}):
        assert ids(backend.last.get("traceparent"))[0] == "c" * 32


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param("/open/%ff%00x", "/open/%FF%00x", id="no UTF-8"),
        pytest.param("/open/%C3%A4;v=1", "/open/%C3%A4;v=1", id="UTF-8"),
        pytest.param("/open/a%3Fb=c", "/open/a", id="a query in disguise"),
        pytest.param("/open/" + "x" * 5000, "/open/" + "x" * 2042, id="long"),
    ],
)
async def test_a_path_is_always_sent(
    front: Front, backend: stack.BackendServer, collector: Collector, target: str, path: str
) -> None:
    """One string that can't be encoded would cost all the spans that travel with it."""
    answer = await front.request(target)
    it = await parts(collector, front, answer.get("x-request-id"), 1 if answer.status == 400 else 2)
    assert it.server.attributes["url.path"] == path


async def test_machines_and_the_admin_are_not_traced(front: Front, collector: Collector) -> None:
    """What asks every other second would bury the traffic."""
    for target in ("/health", "/health/live", "/health/ready", "/metrics", "/admin", "/admin/", "/gateway/static/x.js"):
        await front.request(target)
    after = await front.request("/gateway/openapi.json")
    it = await parts(collector, front, after.get("x-request-id"), 1)
    assert it.server.name == "GET /gateway/openapi.json"
    paths = {span.attributes.get("url.path", "") for span in collector.spans}
    assert not [path for path in paths if path.startswith(("/health", "/metrics", "/admin", "/gateway/static"))]


# WebSocket


async def test_a_socket_is_seen_when_it_opens_and_when_it_closes(
    front: Front, backend: stack.BackendServer, collector: Collector
) -> None:
    """The handshake is a span like a request's; the life of the socket is one below it."""
    begun = {**bearer(), "traceparent": TRACEPARENT.replace(THEIRS, "a" * 32)}
    async with front.websocket("/ws?q=1", additional_headers=begun) as client:
        backend_parent = ids(backend.last.get("traceparent"))
        opened = Parts(await asyncio.to_thread(collector.tree, "a" * 32, 2))
        for _ in range(3):
            await client.send("hello")
            await client.recv()
        await client.close(4001, "s3cret reason")
    it = Parts(await asyncio.to_thread(collector.tree, "a" * 32, 3))
    line = await front.logged(lambda line: line["event"] == "ws.close" and line.get("trace_id") == "a" * 32)
    server, client_span, socket = it.server, it.client, it.socket
    assert opened.socket is None
    assert client_span is not None
    assert socket is not None
    assert (server.name, server.parent_id) == ("GET /ws", PARENT)
    assert (server.attributes["http.response.status_code"], server.attributes["url.path"]) == (101, "/ws")
    assert (client_span.name, client_span.parent_id) == ("GET", server.span_id)
    assert client_span.attributes["http.response.status_code"] == 101
    assert client_span.attributes["url.full"] == f"{backend.url}/ws"
    assert backend_parent == ("a" * 32, client_span.span_id, "01")
    assert (socket.name, socket.parent_id) == ("WebSocket /ws", server.span_id)
    assert socket.attributes == {
        "http.route": "/ws",
        "relay.backend": "main",
        "relay.request_id": line["request_id"],
        "relay.websocket.close_code": 4001,
        "relay.websocket.closed_by": "client",
        "relay.websocket.messages_to_backend": 3,
        "relay.websocket.messages_to_client": 3,
        "relay.websocket.bytes_to_backend": 15,
        "relay.websocket.bytes_to_client": 15,
    }
    assert server.started <= client_span.started <= client_span.ended <= server.ended <= socket.started < socket.ended
    assert not any(span.is_error for span in (server, client_span, socket))


async def test_a_backend_that_vanishes_is_an_error_of_the_socket(front: Front, collector: Collector) -> None:
    """1014 says of a WebSocket what 502 says of a request."""

    async def vanish(seen: Seen, reader: Reader, writer: Writer) -> None:
        await stack.accept(seen, writer)
        await reader.read(1)
        writer.transport.abort()

    async with front.backend(vanish), front.websocket() as client:
        await client.send("go")
        await stack.closed(client)
    line = await front.logged(lambda line: line["event"] == "ws.close" and line["close_code"] == 1014)
    it = await parts(collector, front, line["request_id"], 3)
    assert it.socket is not None
    assert (it.socket.attributes["error.type"], it.socket.is_error) == ("1014", True)
    assert not it.server.is_error


async def refused(front: Front, path: str, headers: dict[str, str]) -> str:
    """The request id of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as exc:
        async with front.websocket(path, additional_headers=headers):
            pass
    found: str = exc.value.response.headers["X-Request-ID"]
    return found


async def test_a_refused_handshake(front: Front, collector: Collector) -> None:
    """By us, as a request."""
    it = await parts(collector, front, await refused(front, "/ws", {"Origin": "https://evil.example"}), 1)
    assert it.server.name == "GET /ws"
    assert it.server.attributes["http.response.status_code"] == 403
    assert it.server.attributes["error.type"] == "origin_not_allowed"
    assert not it.server.is_error


async def test_a_handshake_that_the_backend_refuses(front: Front, collector: Collector) -> None:
    """Its status is on the backend's span, ours on ours: the 403 that is so hard to find shows where it is made."""

    async def forbid(seen: Seen, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!")

    async with front.backend(forbid):
        it = await parts(collector, front, await refused(front, "/ws", bearer()), 2)
    assert it.client is not None
    assert (it.client.attributes["http.response.status_code"], it.client.attributes["error.type"]) == (
        403,
        "backend_refused",
    )
    assert (it.server.attributes["http.response.status_code"], it.server.attributes["error.type"]) == (
        502,
        "backend_refused",
    )
    assert it.client.is_error
    assert it.server.is_error
    assert "'no!'" in it.client.description


async def test_a_refusal_that_is_told_as_a_close(front: Front, collector: Collector) -> None:
    """What was sent is a 101 and a close frame."""
    async with front.websocket("/telling-ws", additional_headers={}) as client:
        assert (await stack.closed(client))[0] == 4401
    assert client.response is not None
    it = await parts(collector, front, client.response.headers["X-Request-ID"], 1)
    assert it.server.attributes["http.response.status_code"] == 101
    assert it.server.attributes["relay.websocket.close_code"] == 4401
    assert it.server.attributes["error.type"] == "no_token"
    assert it.socket is None


async def test_a_client_that_leaves_during_the_handshake(front: Front, collector: Collector) -> None:
    """It got no status; the backend's span ends with ours."""
    asked = asyncio.Event()

    async def hold(seen: Seen, reader: Reader, writer: Writer) -> None:
        asked.set()
        await reader.read()

    async with front.backend(hold):
        opening = asyncio.ensure_future(front.websocket())
        await asked.wait()
        opening.cancel()
        line = await front.logged(lambda line: "during the handshake" in line.get("detail", ""))
        it = await parts(collector, front, line["request_id"], 2)
    assert it.socket is None
    assert it.server.attributes["error.type"] == "client_left"
    assert "http.response.status_code" not in it.server.attributes


# What never leaves


async def test_no_secret_is_in_any_export(front: Front, collector: Collector) -> None:
    """Wherever a client or a backend puts one: tokens, tickets, cookies, queries; raw bytes are searched."""
    mark = "m4rked"
    jwt = token(SECRET, email=f"{mark}@example.com")
    signature = jwt.rpartition(".")[2]
    issued = await front.request("/gateway/ticket", "POST", bearer() | {"Origin": ORIGIN}, b'{"path": "/ws"}')
    ticket = issued.json["ticket"]
    as_subprotocol = {"additional_headers": {}, "subprotocols": ["chat", f"bearer.{jwt}"]}

    async def blab(seen: Seen, reader: Reader, writer: Writer) -> None:
        if not seen.get("upgrade"):
            return await stack.echo(seen, reader, writer)
        said = f'{{"ticket": "{mark}"}} token={mark} {jwt} Cookie: {mark}'.encode()
        writer.write(b"HTTP/1.1 403 Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (mark.encode(), len(said), said))

    async with front.backend(blab):
        for headers in ({"Authorization": f"Bearer {jwt}"}, {"Cookie": f"auth_token={jwt}; other={mark}"}):
            await front.request(f"/api/x?token={jwt}&q={mark}", headers=headers)
        for target in (f"/open/token={mark}", f"/open/{jwt}", f"/open/x%3Ftoken%3D{mark}", f"/none?ticket={mark}"):
            await front.request(target)
        await front.request("/api/x", headers={"Authorization": f"Bearer {mark}.{mark}.{mark}"})
        await refused(front, f"/ws?ticket={ticket}&q={mark}", {"Origin": ORIGIN})
        await refused(front, f"/ws?token={jwt}", {"Cookie": f"c={mark}"})
        await refused(front, "/ws", {"Authorization": f"Bearer {jwt}", "User-Agent": mark})
    async with front.backend(observed(stack.Ends())), front.websocket(**as_subprotocol) as client:
        await client.send(mark)
        await client.recv()
        await client.close(4001, mark)
    after = await front.request("/none")
    await parts(collector, front, after.get("x-request-id"), 1)
    await asyncio.to_thread(
        collector.wait_for,
        lambda spans: any(span.attributes.get("relay.websocket.close_code") == 4001 for span in spans[-5:]),
    )
    sent = b"".join(body for _, _, body in collector.exports)
    assert not [secret for secret in (mark, jwt, signature, ticket, SECRET) if secret.encode() in sent]
    assert not [line for line in front.server.lines if mark in json.dumps(line) and line["event"] != "ws.close"]
