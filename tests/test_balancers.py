"""Real nginx, HAProxy and Caddy in front of two nodes, with the configurations of docs/deploy: what operators run."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests import served, servers, stack
from tests.http_helpers import self_signed
from tests.server_helpers import until
from tests.stack import Answer, bearer, closed, read_answer

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
CLIENT = "127.0.0.2"
"""An address of a client that is no trusted proxy."""

RUNNING = "2"
"""``srv_op_state`` of a server that gets work (HAProxy's management guide, "show servers state")."""


def example(name: str, changes: dict[str, str]) -> str:
    """A configuration of the documentation, moved to the ports of a test; each change is of one place."""
    text = (DEPLOY / name).read_text()
    for before, after in changes.items():
        assert text.count(before) == 1, f"{name}: {before!r} is there {text.count(before)} times"
        text = text.replace(before, after)
    return text


class Front(stack.Client):
    """A balancer as its clients meet it.

    Args:
        appends: To a client's own ``X-Forwarded-For``; otherwise it drops that.
    """

    def __init__(self, port: int, appends: bool = True) -> None:
        super().__init__(port)
        self.way = ["6.6.6.6", CLIENT] if appends else [CLIENT]

    async def raw(self, data: bytes, head_only: bool = False) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(CLIENT, 0), limit=2**20)
        try:
            writer.write(data)
            async with asyncio.timeout(30):
                return await read_answer(reader, head_only)
        finally:
            writer.close()

    def websocket(self, path: str = "/ws", **options: Any) -> connect:
        return super().websocket(path, local_addr=(CLIENT, 0), **options)


class Node:
    """One node of the gateway, which keeps its port when it is restarted."""

    def __init__(self, site: served.Site) -> None:
        self.site, self.port = site, served.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: served.Server | None = None

    def start(self) -> None:
        """Start it, and return once it serves."""
        argv = [sys.executable, str(served.ROOT / "manage.py"), "serve", "-p", str(self.port)]
        self.server = served.Server(argv, self.site, self.port)
        self.server.wait_for("server.start")

    def stop(self) -> int:
        """Stop it as an orchestrator does: SIGTERM, and wait."""
        assert self.server is not None
        return self.server.stop()


@dataclass
class Site:
    """Two nodes with a balancer of each kind, and one behind the other, in front of them."""

    nodes: list[Node]
    fronts: dict[str, Front]
    haproxy: Path
    """HAProxy's command socket."""

    async def command(self, text: str) -> str:
        """Tell HAProxy something (its management guide, "Unix Socket commands")."""
        reader, writer = await asyncio.open_unix_connection(self.haproxy)
        writer.write(text.encode() + b"\n")
        answer = (await reader.read()).decode()
        writer.close()
        return answer

    async def in_service(self, node: Node) -> None:
        """Wait until HAProxy sends it work again."""
        name = f"node{self.nodes.index(node) + 1}"
        while (await self._states())[name] != RUNNING:
            pass

    async def _states(self) -> dict[str, str]:
        rows = [line.split() for line in (await self.command("show servers state gateway")).splitlines()]
        return {row[3]: row[5] for row in rows if len(row) > 5 and row[1] == "gateway"}

    async def logged(self, event: str, request_id: str | None) -> served.Line:
        """The line of a request, in whichever node's log it is."""

        def found() -> list[served.Line]:
            lines = [line for node in self.nodes if node.server for line in node.server.lines]
            return [line for line in lines if (line["event"], line.get("request_id")) == (event, request_id)]

        await until(found)
        return found()[0]


@pytest.fixture(autouse=True)
async def backend(listener: socket.socket) -> AsyncIterator[stack.BackendServer]:
    async with stack.backend(listener=listener) as it:
        yield it


def nginx_at(port: int, nodes: list[str], directory: Path) -> AbstractContextManager[object]:
    """nginx by our example, without TLS."""
    changes = {
        "10.0.0.11:8000": nodes[0],
        "10.0.0.12:8000": nodes[1],
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        "ssl_certificate     /etc/ssl/gateway.pem;": "",
        "ssl_certificate_key /etc/ssl/gateway.key;": "",
    }
    return servers.running(servers.Nginx(directory, port, example("nginx.conf", changes)))


def haproxy_at(port: int, nodes: list[str], directory: Path, chain: int, nginx: int) -> AbstractContextManager[object]:
    """HAProxy by our example, set up as compose.yaml does; on the port `chain`, in front of nginx."""
    environment = {"LISTEN": f"127.0.0.1:{port}", "NODE1": nodes[0], "NODE2": nodes[1]}
    changes = {"/run/haproxy/admin.sock mode 660": f"{directory}/admin", "check inter 1s": "check inter 200ms"}
    text = example("haproxy.cfg", changes)
    text += f"listen chain\n    bind 127.0.0.1:{chain}\n    option forwardfor\n    server nginx 127.0.0.1:{nginx}\n"
    return servers.running(servers.HAProxy(directory, port, text, environment))


def caddy_at(port: int, nodes: list[str], directory: Path) -> AbstractContextManager[object]:
    """Caddy by our example, without TLS."""
    changes = {
        "gateway.example.com {": f"http://:{port} {{\n\tbind 127.0.0.1",
        "10.0.0.11:8000 10.0.0.12:8000": " ".join(nodes),
    }
    return servers.running(servers.Caddy(directory, port, example("Caddyfile", changes)))


@pytest.fixture(scope="module")
def site(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Iterator[Site]:
    with ExitStack() as ends:
        own = served.copy_of(migrated, tmp_path_factory.mktemp("nodes"), TRUSTED_PROXIES="127.0.0.1/32")
        own.configure(served.CONFIGURATION.format(port=listener.getsockname()[1]))
        nodes = [Node(own), Node(own)]
        for node in nodes:
            ends.callback(node.stop)
            node.start()
        at = [f"127.0.0.1:{node.port}" for node in nodes]
        nginx, haproxy, chain, caddy = (served.free_port() for _ in range(4))
        ends.enter_context(nginx_at(nginx, at, tmp_path_factory.mktemp("nginx")))
        directory = tmp_path_factory.mktemp("haproxy")
        ends.enter_context(haproxy_at(haproxy, at, directory, chain, nginx))
        ends.enter_context(caddy_at(caddy, at, tmp_path_factory.mktemp("caddy")))
        fronts = {
            "nginx": Front(nginx),
            "haproxy": Front(haproxy),
            "haproxy, then nginx": Front(chain),
            "caddy": Front(caddy, appends=False),
        }
        yield Site(nodes, fronts, directory / "admin")


@pytest.fixture(params=["nginx", "haproxy", "haproxy, then nginx", "caddy"])
def front(request: pytest.FixtureRequest, site: Site) -> Front:
    return site.fronts[request.param]


SPOOFED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "evil.example.com",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=6.6.6.6;host=evil.example.com",
    "X-Request-ID": "chosen-by-the-client",
}


def assert_the_way_is_known(front: Front, line: served.Line, seen: stack.Seen, host: str) -> None:
    """The client is who the first proxy saw; what it says of its way itself counts for nothing."""
    assert line["client"] == CLIENT
    way = (seen.get("x-forwarded-for") or "").split(", ")
    assert way[: len(front.way)] == front.way, "each proxy appends whom it saw"
    assert set(way[len(front.way) :]) <= {"127.0.0.1"}
    assert (seen.get("x-forwarded-proto"), seen.get("x-forwarded-host")) == ("http", host)
    assert seen.get("forwarded") is None
    assert seen.get("x-request-id") == line["request_id"] != SPOOFED["X-Request-ID"]
    assert seen.get("x-user-id") == "1"


async def test_requests(site: Site, front: Front, backend: stack.BackendServer) -> None:
    """They arrive as their clients sent them."""
    answer = await front.request("/api/x?a=%2F", headers=bearer() | SPOOFED | {"Host": "gateway.example.com"})
    assert answer.status == 200
    assert answer.json["target"] == "/api/x?a=%2F"
    line = await site.logged("http.request", answer.get("x-request-id"))
    assert_the_way_is_known(front, line, backend.last, "gateway.example.com")


async def test_a_large_body_each_way(front: Front) -> None:
    """No proxy's limit of sizes is in the way."""
    answer = await front.request("/api/x", "POST", bearer(), b"x" * 3_000_000)
    assert answer.json["length"] == 3_000_000


async def test_websockets(site: Site, front: Front, backend: stack.BackendServer) -> None:
    """Handshake, messages of every kind, pings, and how it is closed: all the way through."""
    async with front.websocket(additional_headers=bearer() | SPOOFED, subprotocols=["chat"]) as ws:
        assert ws.subprotocol == "chat"
        for message in ("text", b"binary", "", "long " * 50_000):
            await ws.send(message)
            assert await ws.recv() == message
        await (await ws.ping())
        line = await site.logged("ws.open", ws.response.headers["X-Request-ID"])  # type: ignore[union-attr]
        assert_the_way_is_known(front, line, backend.last, f"127.0.0.1:{front.port}")
        await ws.close(4321, "enough")
    assert (ws.close_code, ws.close_reason) == (4321, "enough")


async def test_a_refused_handshake(front: Front) -> None:
    """The status and the code of the gateway reach the client."""
    with pytest.raises(InvalidStatus) as refused:
        await front.websocket(additional_headers={})
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "no_token"


class Encrypted(Front):
    """A balancer that ends TLS, with a certificate of ours."""

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__(port)
        self._context = ssl.create_default_context(cafile=certificate)

    async def raw(self, data: bytes, head_only: bool = False) -> Answer:
        encrypted = {"ssl": self._context, "server_hostname": "gateway.test"}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(CLIENT, 0), **encrypted)
        try:
            writer.write(data)
            async with asyncio.timeout(30):
                return await read_answer(reader, head_only)
        finally:
            writer.close()


@pytest.fixture
def encrypted(site: Site, tmp_path: Path) -> Iterator[Encrypted]:
    """HAProxy, with its variable of several words as the guide for compose.yaml has it."""
    port, certificate = served.free_port(), self_signed(tmp_path, "gateway.test")
    environment = {"LISTEN": f"127.0.0.1:{port} ssl crt {certificate} alpn http/1.1"}
    environment |= {f"NODE{i}": f"127.0.0.1:{node.port}" for i, node in enumerate(site.nodes, 1)}
    text = example("haproxy.cfg", {"/run/haproxy/admin.sock mode 660": f"{tmp_path}/admin"})
    with servers.running(servers.HAProxy(tmp_path, port, text, environment)):
        yield Encrypted(port, certificate)


async def test_tls(encrypted: Encrypted, backend: stack.BackendServer) -> None:
    """The scheme that the backend is told is the client's, whatever the client says."""
    answer = await encrypted.request("/api/x", headers=bearer() | SPOOFED | {"X-Forwarded-Proto": "http"})
    assert answer.status == 200
    assert backend.last.get("x-forwarded-proto") == "https"


class Traffic:
    """Clients that never rest, through one balancer; every answer but the expected one is a failure.

    Attributes:
        answers: How many there were.
        endings: How sockets were closed, and how often.
    """

    def __init__(self, front: Front) -> None:
        self.front = front
        self.answers = 0
        self.failures: list[object] = []
        self.endings: Counter[tuple[int, str]] = Counter()

    async def ask(self, method: str = "GET", body: bytes = b"") -> None:
        """One request after the other."""
        while True:
            try:
                answer = await self.front.request("/api/x", method, bearer(), body)
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.failures.append((method, exc))
                continue
            self.answers += 1
            if answer.status != 200:
                self.failures.append((method, answer.status, answer.body))

    async def stay_connected(self) -> None:
        """Keep a socket; as soon as it is closed, open the next one."""
        while True:
            try:
                async with self.front.websocket() as ws:
                    self.endings[await closed(ws, within=60)] += 1
            except (OSError, InvalidHandshake) as exc:
                self.failures.append(("handshake", exc))

    async def goes_on(self) -> None:
        """Wait until some more answers have come."""
        before = self.answers
        await until(lambda: self.answers >= before + 20)


@asynccontextmanager
async def traffic(front: Front, *methods: str, sockets: int = 0) -> AsyncIterator[Traffic]:
    """Traffic until the block ends, of which no request may fail."""
    it = Traffic(front)
    running = [asyncio.create_task(it.ask(method, b"x" if method == "POST" else b"")) for method in methods]
    running += [asyncio.create_task(it.stay_connected()) for _ in range(sockets)]
    try:
        await it.goes_on()
        yield it
        await it.goes_on()
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    assert it.failures == []


async def test_a_rolling_restart(site: Site) -> None:
    """Both nodes, one after the other, by SIGTERM alone: no request fails, and every socket is told before it ends."""
    async with (
        traffic(site.fronts["nginx"], "GET", "GET", sockets=4) as through_nginx,
        traffic(site.fronts["haproxy"], "GET", "GET", sockets=4) as through_haproxy,
    ):
        for node in site.nodes:
            assert await asyncio.to_thread(node.stop) == 0
            await asyncio.to_thread(node.start)
            await site.in_service(node)
            await asyncio.gather(through_nginx.goes_on(), through_haproxy.goes_on())
    for flow in (through_nginx, through_haproxy):
        assert set(flow.endings) == {(1012, "service restart")}
        assert flow.endings.total() >= 4


async def test_a_node_that_was_taken_out_first(site: Site) -> None:
    """Nor does a POST, which no balancer may send twice, where the node gets no new work before it is stopped."""
    async with traffic(site.fronts["haproxy"], "POST", "POST") as flow:
        await site.command("set server gateway/node1 state drain")
        await flow.goes_on()
        assert await asyncio.to_thread(site.nodes[0].stop) == 0
        await flow.goes_on()
        await asyncio.to_thread(site.nodes[0].start)
        await site.command("set server gateway/node1 state ready")
        await site.in_service(site.nodes[0])
