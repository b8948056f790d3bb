"""Metrics for Prometheus (contract, section 9), summed over the worker processes.

With one process, the values are kept in memory. With several, `share` sets a directory before the workers start, and
prometheus_client keeps each process's values in files there: when a worker dies, its gauges disappear and its counts
stay. Label values are from the configuration, our own codes and statuses: a client can't create a series.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from relay.live.events import HttpRefused, HttpRequest
from relay.live.latency import Latencies
from relay.typing import Traffic

if TYPE_CHECKING:
    from relay.live.registry import LiveSocket
    from relay.typing import ClosedBy

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# The "_created" series double the page, and nobody uses them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name for it

GaugeMode = Literal["livesum", "livemin", "livemax"]
"""How the gauges of the live workers are combined."""

Answer = tuple[HttpRequest | HttpRefused, float, float]
"""A response, the seconds from the request's head to its end, and when that was, by `time.monotonic`."""

M = TypeVar("M", bound=MetricWrapperBase)


def share(directory: str) -> None:
    """Keep the metrics of this process and its children in a directory, which must be empty when the server starts.

    Called once by the supervisor, before any worker creates its `Metrics`.
    """
    os.environ[_SHARED] = directory
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # chosen at import otherwise


def forget_process(pid: int) -> None:
    """Drop the gauges of a worker that has ended; called by the supervisor."""
    if _SHARED in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


class _Series(dict[tuple[object, ...], M]):
    """The series of a metric by label values: a lookup here takes a third of the time of ``labels()``."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[object, ...]) -> M:
        self[labels] = series = self._metric.labels(*labels)
        return series


def _values(series: Mapping[tuple[object, ...], Counter | Gauge]) -> dict[tuple[Any, ...], int]:
    """This process's counts, by label values."""
    return {labels: int(metric._value.get()) for labels, metric in series.items()}


@dataclass(frozen=True, slots=True)
class Totals:
    """A process's counts since it started, and its current live sockets.

    Attributes:
        errors: Requests answered with a status of 500 or above.
        messages: Messages relayed, both ways.
        refusals: Counts by code.
        sockets: Counts by route and backend.
        latencies: Counts by backend, in the classes of `relay.live.latency`.
    """

    requests: int
    errors: int
    messages: int
    refusals: Mapping[str, int]
    sockets: Mapping[tuple[str, str], int]
    latencies: Mapping[str, tuple[int, ...]]


class Metrics(Collector):
    """The metrics of one process, and the page with those of all. Each serving process has one instance.

    Attributes:
        shared: Whether there may be other processes.
    """

    def __init__(self) -> None:
        self.shared = _SHARED in os.environ
        self._own = own = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=own)

        def gauge(name: str, text: str, mode: GaugeMode, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=own, multiprocess_mode=mode)

        self._requests = _Series(counter("relay_http_requests", "HTTP answers.", "route", "backend", "status"))
        self._seconds = Histogram(
            "relay_http_request_seconds", "From request head to end of answer.", buckets=_SECONDS, registry=own
        )
        self._handshakes = _Series(counter("relay_websocket_handshakes", "Accepted, or a code.", "outcome"))
        self._closes = _Series(counter("relay_websocket_closes", "WebSockets that ended.", "code", "by"))
        self._refusals = _Series(counter("relay_refusals", "Requests and handshakes refused.", "code"))
        messages = counter("relay_websocket_messages", "Messages relayed.", "direction")
        payload = counter("relay_websocket_bytes", "Payload bytes relayed.", "direction")
        self._traffic = [metric.labels(to) for metric in (messages, payload) for to in ("to_backend", "to_client")]

        self._connections = _Series(
            gauge("relay_websocket_connections", "Live WebSockets.", "livesum", "route", "backend")
        )
        self._up = _Series(gauge("relay_backend_up", "1 while a url of it is healthy.", "livemin", "backend"))
        self._config_age = gauge("relay_config_age_seconds", "Since the configuration was last confirmed.", "livemax")

        self._backends: frozenset[str] = frozenset()
        self._ended = Traffic()  # of closed sockets
        self._counted = list(Traffic())  # the counters' values
        self._latencies = Latencies()
        self._process = _SharedProcess(own) if self.shared else None
        if not self.shared:
            ProcessCollector(registry=own)

    # Events, as they happen.

    def http(self, answers: Iterable[Answer]) -> None:
        """Count HTTP responses: together they cost half as much as one by one.

        Refusals don't count as a backend's latencies.
        """
        counts: dict[tuple[str, str, int], int] = {}
        classes = [0] * (len(_SECONDS) + 1)
        total = 0.0
        for event, seconds, _ in answers:
            if isinstance(event, HttpRefused):
                self.refusal(event.code)
            elif event.backend:
                self._latencies.observe(event.backend, seconds)
            labels = event.route or "", event.backend or "", event.status
            counts[labels] = counts.get(labels, 0) + 1
            classes[bisect_left(_SECONDS, seconds)] += 1
            total += seconds
        for labels, count in counts.items():
            self._requests[labels].inc(count)
        # As `Histogram.observe` does for a single one.
        self._seconds._sum.inc(total)
        for bucket, count in zip(self._seconds._buckets, classes, strict=True):
            if count:
                bucket.inc(count)

    def refusal(self, code: str) -> None:
        """A request or handshake was refused with this code."""
        self._refusals[(code,)].inc()

    def handshake(self, outcome: str) -> None:
        """A handshake ended: ``accepted``, or the code of its refusal."""
        self._handshakes[(outcome,)].inc()

    def ws_opened(self, socket: LiveSocket) -> None:
        """A WebSocket was accepted; `ws_closed` follows."""
        self._connections[socket.route.path, socket.backend.name].inc()

    def ws_closed(self, socket: LiveSocket, code: int, by: ClosedBy) -> None:
        """A WebSocket ended, and is no longer in the registry.

        Args:
            code: As the client sent or got it; 1005: a close frame without a code, 1006: no frame.
        """
        self._connections[socket.route.path, socket.backend.name].dec()
        self._closes[close_label(code, by), by].inc()
        self._ended = _sum(self._ended, socket.traffic)

    # What is sampled.

    def flush(self, sockets: Iterable[LiveSocket], backends: Mapping[str, bool], config_age: float) -> None:
        """Update the sampled values: at a scrape, and every few seconds in case another process is scraped.

        Args:
            sockets: The live ones, whose messages count already.
            backends: Whether each enabled backend is up.
            config_age: Seconds since the configuration was last read or confirmed.
        """
        traffic = _sum(self._ended, *(socket.traffic for socket in sockets))
        # A socket that has just left the registry may be missing here: counters must not decrease, so they wait for it.
        for i, counter in enumerate(self._traffic):
            if traffic[i] > self._counted[i]:
                counter.inc(traffic[i] - self._counted[i])
                self._counted[i] = traffic[i]
        self._backends = frozenset(backends)
        for name, up in backends.items():
            self._up[(name,)].set(up)
        self._config_age.set(config_age)
        if self._process is not None:
            self._process.flush()

    def totals(self) -> Totals:
        """This process's totals, for the admin; call `flush` first."""
        requests = _values(self._requests)
        return Totals(
            requests=sum(requests.values()),
            errors=sum(n for (_, _, status), n in requests.items() if status >= 500),
            messages=self._counted[0] + self._counted[1],
            refusals={code: n for (code,), n in _values(self._refusals).items()},
            sockets={labels: n for labels, n in _values(self._connections).items() if n},
            latencies={backend: tuple(counts) for backend, counts in self._latencies.items()},
        )

    def render(self) -> bytes:
        """The metrics of all processes in Prometheus' text format; call `flush` first."""
        page = CollectorRegistry()
        page.register(self)
        return prometheus_client.generate_latest(page)

    def collect(self) -> Iterable[Metric]:
        """Every metric; backends that are no longer configured are left out of ``relay_backend_up``."""
        source = MultiProcessCollector(None) if self.shared else self._own  # type: ignore[no-untyped-call]
        for metric in source.collect():
            if metric.name == "relay_backend_up":
                metric.samples = [s for s in metric.samples if s.labels["backend"] in self._backends]
            yield metric


class _SharedProcess:
    """``process_*`` summed over the workers; prometheus_client omits them with several processes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cpu = Counter("process_cpu_seconds", "User and system CPU time.", registry=registry)
        self._cpu_counted = 0.0
        modes: dict[str, GaugeMode] = {
            "process_resident_memory_bytes": "livesum",
            "process_virtual_memory_bytes": "livesum",
            "process_open_fds": "livesum",
            "process_max_fds": "livemin",
            "process_start_time_seconds": "livemin",
        }
        self._gauges = {
            name: Gauge(name, f"Over the workers: {mode}.", registry=registry, multiprocess_mode=mode)
            for name, mode in modes.items()
        }
        self._collector = ProcessCollector(registry=None)
        self.flush()  # an unset gauge would count as 0 in a minimum

    def flush(self) -> None:
        cpu = time.process_time()
        self._cpu.inc(cpu - self._cpu_counted)
        self._cpu_counted = cpu
        for metric in self._collector.collect():
            if metric.name in self._gauges:
                self._gauges[metric.name].set(metric.samples[0].value)


def _sum(*traffic: Traffic) -> Traffic:
    return Traffic(*map(sum, zip(*traffic, strict=True)))


def close_label(code: int, by: ClosedBy) -> str:
    """A close code as a label; 3000-4999, which peers choose freely (RFC 6455 §7.4.2), become ``3xxx`` and ``4xxx``."""
    if code in range(1000, 1016) or by == "gateway":
        return str(code)
    return f"{code // 1000}xxx"
