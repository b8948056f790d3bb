"""relay.live.metrics: what Prometheus scrapes, of one process and of several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.live.events import HttpRefused, HttpRequest
from relay.live.metrics import Answer, Metrics, close_label
from relay.typing import Traffic
from tests.live_helpers import CHAT, MAIN, Socket

ROOT = Path(__file__).resolve().parent.parent

CONTRACT = {
    "relay_http_requests": ("counter", {"route", "backend", "status"}),
    "relay_http_request_seconds": ("histogram", set()),
    "relay_websocket_connections": ("gauge", {"route", "backend"}),
    "relay_websocket_handshakes": ("counter", {"outcome"}),
    "relay_websocket_messages": ("counter", {"direction"}),
    "relay_websocket_bytes": ("counter", {"direction"}),
    "relay_websocket_closes": ("counter", {"code", "by"}),
    "relay_refusals": ("counter", {"code"}),
    "relay_backend_up": ("gauge", {"backend"}),
    "relay_config_age_seconds": ("gauge", set()),
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def samples(page: bytes) -> Samples:
    """Every sample of a page, by name and labels."""
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(page.decode())
        for s in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float | None:
    return samples(page).get((name, frozenset(labels.items())))


def answer(route: str = "/api/", code: str = "") -> Answer:
    """A response of the backend after 20 ms, or a refusal (401)."""
    known: dict[str, Any] = {"request_id": "r", "client": "c", "path": "/", "route": route, "backend": "main"}
    if code:
        return HttpRefused(**known, status=401, code=code, detail="", duration_ms=20), 0.02, 0.0
    return HttpRequest(**known, status=200, duration_ms=20, bytes_to_backend=0, bytes_to_client=0), 0.02, 0.0


def one_of_each(metrics: Metrics) -> Socket:
    """Let everything happen once; the socket is still open."""
    socket, gone = Socket(traffic=Traffic(1, 2, 3, 4)), Socket()
    metrics.http([answer(), answer(code="no_token")])
    metrics.handshake("accepted")
    for opened in (socket, gone):
        metrics.ws_opened(opened)
    metrics.ws_closed(gone, 1000, "client")
    metrics.flush([socket], {"main": True}, 0.5)
    return socket


def test_the_page_has_the_contracts_names_types_and_labels(metrics):
    """Section 9: what dashboards and alerts are built on."""
    one_of_each(metrics)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    for name, (kind, labels) in CONTRACT.items():
        family = families.pop(name)
        assert family.type == kind
        assert all(set(sample.labels) - {"le"} == labels for sample in family.samples)
    assert {name for name in families if not name.startswith("process_")} == set()
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= families.keys()


def test_each_event_is_counted_once(metrics):
    """And under its own labels."""
    one_of_each(metrics)
    page = metrics.render()
    assert value(page, "relay_http_requests_total", route="/api/", backend="main", status="200") == 1
    assert value(page, "relay_http_request_seconds_count") == 2
    assert value(page, "relay_http_request_seconds_sum") == 0.04
    assert value(page, "relay_refusals_total", code="no_token") == 1
    assert value(page, "relay_websocket_handshakes_total", outcome="accepted") == 1
    assert value(page, "relay_websocket_connections", route="/ws", backend="main") == 1
    assert value(page, "relay_websocket_closes_total", code="1000", by="client") == 1
    assert value(page, "relay_config_age_seconds") == 0.5


def test_a_page_without_events_can_be_read(metrics):
    """Directions begin at 0: a rate needs a first value."""
    page = metrics.render()
    assert value(page, "relay_websocket_messages_total", direction="to_backend") == 0
    assert value(page, "relay_websocket_bytes_total", direction="to_client") == 0


def test_a_live_sockets_messages_count_while_it_lives(metrics):
    """A socket may be open for weeks; its close must not make a cliff of them, nor count them again."""
    socket = one_of_each(metrics)
    assert value(metrics.render(), "relay_websocket_messages_total", direction="to_client") == 2
    socket.traffic = Traffic(1, 10, 3, 4)
    metrics.flush([socket], {}, 0)
    assert value(metrics.render(), "relay_websocket_messages_total", direction="to_client") == 10
    socket.traffic = Traffic(1, 11, 3, 4)
    metrics.ws_closed(socket, 1001, "backend")
    metrics.flush([], {}, 0)
    page = metrics.render()
    assert value(page, "relay_websocket_messages_total", direction="to_client") == 11
    assert value(page, "relay_websocket_messages_total", direction="to_backend") == 1
    assert value(page, "relay_websocket_bytes_total", direction="to_backend") == 3
    assert value(page, "relay_websocket_bytes_total", direction="to_client") == 4


def test_a_socket_on_its_way_out_makes_no_counter_fall(metrics):
    """Between the registry and its last count, a scrape doesn't see it: the counters wait."""
    socket = one_of_each(metrics)
    metrics.flush([], {}, 0)
    assert value(metrics.render(), "relay_websocket_messages_total", direction="to_client") == 2
    metrics.ws_closed(socket, 1000, "client")
    metrics.flush([], {}, 0)
    assert value(metrics.render(), "relay_websocket_messages_total", direction="to_client") == 2


def test_a_route_that_changed_meanwhile_is_counted_down_where_it_was_counted_up(metrics):
    """The gauge returns to 0 by the socket's own route and backend."""
    socket = Socket(route=replace(CHAT, path="/old"), backend=replace(MAIN, name="former"))
    metrics.ws_opened(socket)
    metrics.ws_closed(socket, 1012, "gateway")
    assert value(metrics.render(), "relay_websocket_connections", route="/old", backend="former") == 0


def test_a_backend_that_is_no_longer_configured_is_neither_up_nor_down(metrics):
    """An alert on it would ring for ever."""
    metrics.flush([], {"main": True, "old": False}, 0)
    assert value(metrics.render(), "relay_backend_up", backend="old") == 0
    metrics.flush([], {"main": True}, 0)
    page = metrics.render()
    assert value(page, "relay_backend_up", backend="old") is None
    assert value(page, "relay_backend_up", backend="main") == 1


@pytest.mark.parametrize(
    ("code", "by", "label"),
    [
        pytest.param(1000, "client", "1000", id="registered"),
        pytest.param(1014, "backend", "1014", id="the last registered one"),
        pytest.param(4401, "gateway", "4401", id="ours"),
        pytest.param(4401, "client", "4xxx", id="the same code, but a client's"),
        pytest.param(3999, "client", "3xxx", id="a client's"),
        pytest.param(4711, "backend", "4xxx", id="a backend's"),
    ],
)
def test_close_codes_of_a_peers_choice_make_no_series(code, by, label):
    """A client can send two thousand different codes; label values are never a client's."""
    assert close_label(code, by) == label


def test_label_values_are_escaped(metrics):
    """A route may hold quotes and braces; the page stays readable."""
    metrics.http([answer('/a"b\\c/<int:id>')])
    page = metrics.render()
    assert value(page, "relay_http_requests_total", route='/a"b\\c/<int:id>', backend="main", status="200") == 1


# Several processes, real ones.

WORKER = """
import json, os, sys
from relay.live import metrics            # imported first on purpose: share() works after the import, too
if sys.argv[1] == "share":
    metrics.share(sys.argv[2])
made = metrics.Metrics()
from tests.test_metrics import one_of_each
for line in sys.stdin:
    command, _, rest = line.strip().partition(" ")
    if command == "events":
        one_of_each(made)
    elif command == "flush":
        made.flush([], json.loads(rest), 1.0)
    elif command == "forget":
        metrics.forget_process(int(rest))
    print(json.dumps({"pid": os.getpid(), "page": made.render().decode()}), flush=True)
"""


class Worker:
    """Another process with metrics of its own, told what to do line by line."""

    def __init__(self, directory: Path, how: str) -> None:
        environment = os.environ | ({"PROMETHEUS_MULTIPROC_DIR": str(directory)} if how == "inherit" else {})
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, how, str(directory)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str) -> bytes:
        """Send a command; return the page as this process renders it afterwards."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        page: str = answer["page"]
        return page.encode()

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    """Two workers: one that shares by itself, and one that inherits the directory as a supervisor's child does."""
    started = [Worker(tmp_path, "share"), Worker(tmp_path, "inherit")]
    yield started
    for worker in started:
        if worker.process.poll() is None:
            worker.end()


def test_any_worker_shows_the_sum_of_all(workers):
    """Whichever worker is scraped."""
    for worker in workers:
        worker.tell("events")
    pages = [worker.tell('flush {"main": true}') for worker in workers]
    for page in pages:
        assert value(page, "relay_http_requests_total", route="/api/", backend="main", status="200") == 2
        assert value(page, "relay_http_request_seconds_count") == 4
        assert value(page, "relay_http_request_seconds_bucket", le="0.025") == 4
        assert value(page, "relay_websocket_connections", route="/ws", backend="main") == 2
        assert value(page, "relay_websocket_messages_total", direction="to_client") == 4
        assert value(page, "relay_config_age_seconds") == 1.0
        assert value(page, "relay_backend_up", backend="main") == 1
    families = {f.name: f.type for f in text_string_to_metric_families(pages[0].decode())}
    assert {name: families[name] for name in CONTRACT} == {name: kind for name, (kind, _) in CONTRACT.items()}


def test_a_workers_death_takes_its_gauges_and_leaves_its_counts(workers):
    """A counter that fell would look like a restart; a gauge that stayed, like sockets that nobody has."""
    for worker in workers:
        worker.tell("events")
    first, second = workers
    first.end()
    page = second.tell(f"forget {first.process.pid}")
    assert value(page, "relay_websocket_connections", route="/ws", backend="main") == 1
    assert value(page, "relay_refusals_total", code="no_token") == 2


def test_a_backend_is_up_when_every_worker_says_so(workers):
    """One worker may reach what another doesn't; the doubt is shown."""
    first, second = workers
    first.tell('flush {"main": true, "old": true}')
    page = second.tell('flush {"main": false}')
    assert value(page, "relay_backend_up", backend="main") == 0
    assert value(page, "relay_backend_up", backend="old") is None


def test_the_processes_are_summed_too(workers):
    """``process_*``: CPU of all that ever worked; memory and files of those alive; the start of the oldest."""
    first, second = workers
    first.tell("flush {}")
    both = second.tell("flush {}")
    first.end()
    alone = second.tell(f"forget {first.process.pid}")

    def ratio(name: str) -> float:
        one, two = value(alone, name), value(both, name)
        assert one, name
        assert two, name
        return two / one

    assert ratio("process_resident_memory_bytes") > 1.5
    assert ratio("process_open_fds") > 1.5
    assert ratio("process_cpu_seconds_total") == 1
    assert ratio("process_max_fds") == 1
    assert ratio("process_start_time_seconds") <= 1
