"""The way of spans to the collector: what it may never do to traffic, to the log and to the end of the process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests import served
from tests.collector import Collector, collecting
from tests.front import OTHER_SERVERS, Front, fronting
from tests.served import ROOT, Line

CONFIGURATION = """
[[backend]]
name = "main"
url = "http://127.0.0.1:{port}"
[[route]]
path = "/open/"
kind = "http"
backend = "main"
access = "public"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
access = "public"
"""
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
NEVER_BY_ITSELF = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}


@contextmanager
def traced(
    site: served.Site, endpoint: str, *options: str, under: str = "serve", **environment: str
) -> Iterator[Front]:
    """A gateway of the test's own that sends its spans there."""
    site.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | environment
    with fronting(site, CONFIGURATION, *options, under=under) as front:
        yield front


def complaints(front: Front) -> list[Line]:
    """The lines about what does not get through."""
    return [line for line in front.server.lines if "relay.tracing" in str(line) or "opentelemetry" in str(line)]


# A collector that is no help


@contextmanager
def nobody() -> Iterator[str]:
    """A port at which nobody listens."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """One that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def answering(status: int, **fields: str) -> Iterator[str]:
    """One that always gives the same answer."""
    with collecting() as collector:
        collector.answer = lambda: status
        collector.fields = {name.title(): value for name, value in fields.items()}
        yield collector.url


@pytest.mark.parametrize(
    ("useless", "said"),
    [
        pytest.param(nobody, "refused", id="nobody there"),
        pytest.param(silent, "", id="silent"),
        pytest.param(lambda: answering(500), "500", id="500"),
        pytest.param(lambda: answering(503), "Service Unavailable", id="503, to be tried again"),
        pytest.param(
            lambda: answering(307, location="http://127.0.0.1:1/"), "307 to http://127.0.0.1:1/", id="a redirect"
        ),
    ],
)
async def test_a_useless_collector_hurts_nobody(
    site: served.Site, useless: Callable[[], AbstractContextManager[str]], said: str
) -> None:
    """Every request is served, far more than the queue holds; one line says why spans are lost; the end is in time."""
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    with useless() as url, traced(site, url, OTEL_EXPORTER_OTLP_TIMEOUT="600", **QUICK, **small) as front:
        async with front.backend():
            answers = [await front.request("/open/x")]
            if said:  # a silent one is noticed when the queue is full
                await front.logged(lambda line: line.get("logger") == "relay.tracing")
            answers += [await front.request("/open/x") for _ in range(50)]
        assert {answer.status for answer in answers} == {200}
        line = await front.logged(lambda line: line.get("logger") == "relay.tracing")
        assert line["message"].startswith("traces may be lost: ")
        assert said in line["message"]
        begun = time.monotonic()
        assert front.server.stop() == 0
        assert time.monotonic() - begun < 15  # 2 s of them for the last spans; 30 s if the SDK had its way
        assert len(complaints(front)) == 1


async def test_a_collector_that_comes_back_is_told(site: served.Site) -> None:
    """So that somebody who reads the log knows from when to when spans are missing."""
    broken = threading.Event()
    with collecting() as collector:
        collector.answer = lambda: 400 if not broken.is_set() else 200
        with traced(site, collector.url, **QUICK) as front:
            async with front.backend():
                await front.request("/open/x")
                await front.logged(lambda line: "traces may be lost" in line.get("message", ""))
                broken.set()
                await front.request("/open/y")
                line = await front.logged(lambda line: "reach the collector again" in line.get("message", ""))
    assert line["message"] in {f"traces reach the collector again; {lost} spans were lost" for lost in (1, 2)}


# The end of the process


async def use_and_stop(front: Front, collector: Collector) -> None:
    """Spans that nothing has sent yet are there when the process has ended."""
    async with front.backend():
        assert (await front.request("/open/x")).status == 200
        async with front.websocket(additional_headers={}) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        await front.logged("ws.close")
    assert collector.exports == []
    assert front.server.stop() in (0, -15)
    assert sorted(span.kind for span in collector.spans) == ["CLIENT", "CLIENT", "INTERNAL", "SERVER", "SERVER"]
    assert all("trace_id" in line for line in front.server.lines if "duration_ms" in line)


async def test_the_last_spans_are_sent_at_the_end(site: served.Site) -> None:
    """By a SIGTERM."""
    with collecting() as collector, traced(site, collector.url, **NEVER_BY_ITSELF) as front:
        await use_and_stop(front, collector)


@pytest.mark.parametrize("server", list(OTHER_SERVERS))
async def test_traces_under_another_server(site: served.Site, server: str) -> None:
    """With lifespan (uvicorn) and without (Daphne)."""
    site.environment["PYTHONPATH"] = str(ROOT)
    with collecting() as collector, traced(site, collector.url, under=server, **NEVER_BY_ITSELF) as front:
        await use_and_stop(front, collector)


async def test_every_worker_sends(site: served.Site) -> None:
    """Its thread begins behind the start of its own process; each is an instance of the service."""
    with (
        collecting() as collector,
        traced(site, collector.url, "--workers", "2", **QUICK) as front,
    ):
        await front.logged("server.start")
        instances: set[str] = set()
        async with front.backend():
            end = time.monotonic() + 30
            while (
                len(instances) < 2 and time.monotonic() < end
            ):  # which worker takes a connection is the kernel's choice
                await front.request("/open/x")
                instances = {span.resource["service.instance.id"] for span in collector.spans}
        assert len(instances) == 2
        assert {span.resource["service.name"] for span in collector.spans} == {"gateway"}
        assert complaints(front) == []


# On, off, and what can't be


OURS = ("relay.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "requests")
"""What only traces need. Of the rest redis-py looks at some by itself, where it is installed."""


def imported(site: served.Site, **environment: str) -> list[str]:
    """The name of the application's class, and what is imported for it of all this."""
    code = "import sys, gatewaysite.asgi as it; print(type(it.application).__name__, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=site.environment | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=site.directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    application, *modules = done.stdout.split()
    return [application, *(name for name in modules if name.startswith(OURS))]


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="no variable"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, id="an empty one"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, id="disabled"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, id="no exporter"
        ),
        pytest.param({"OTEL_TRACES_SAMPLER": "nonsense", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, id="no endpoint"),
    ],
)
def test_off_costs_no_import(site: served.Site, environment: dict[str, str]) -> None:
    """Nor does anything lie around the application."""
    assert imported(site, **environment) == ["Gateway"]


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_on(site: served.Site, name: str) -> None:
    """The same question finds something to find."""
    found = imported(site, **{name: "http://127.0.0.1:1"})
    assert found[0] == "Tracing"
    assert {"relay.tracing.layer", "opentelemetry.sdk.trace", "requests"} <= set(found)


@pytest.fixture
def shadow(tmp_path: Path) -> Path:
    """A directory in front of which the packages can't be seen: a module of their name hides them."""
    directory = tmp_path / "shadow"
    directory.mkdir()
    (directory / "opentelemetry.py").touch()
    return directory


def test_off_needs_no_package(site: served.Site, shadow: Path) -> None:
    """An extra is one."""
    assert imported(site, PYTHONPATH=f"{shadow}:{ROOT}") == ["Gateway"]


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_packages_that_are_missing(site: served.Site, shadow: Path, name: str) -> None:
    """One line with the variable and the command."""
    done = site.command("serve", "-p", "0", **{name: "http://127.0.0.1:4318", "PYTHONPATH": str(shadow)})
    assert done.stderr == f"{name}: traces need more packages: pip install -r requirements-otel.txt\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must begin with http:// or https://", id="no url"
        ),
        pytest.param("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "'grpc' is not http/protobuf", id="protocol"),
        pytest.param(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "is not http/protobuf", id="protocol of traces"
        ),
        pytest.param("OTEL_TRACES_EXPORTER", "zipkin", "'zipkin' is not one of otlp, none", id="exporter"),
        pytest.param("OTEL_TRACES_SAMPLER", "sometimes", "Couldn't recognize sampler sometimes", id="sampler"),
        pytest.param(
            "OTEL_BSP_SCHEDULE_DELAY", "soon", "Unable to parse value for OTEL_BSP_SCHEDULE_DELAY", id="delay"
        ),
        pytest.param("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size must be a positive integer", id="queue"),
        pytest.param("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be", id="limit"),
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "x", "Invalid timeout value 'x'", id="timeout"),
        pytest.param(
            "OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "OTEL_EXPORTER_OTLP_HEADERS: write name=value", id="headers"
        ),
    ],
)
def test_a_variable_that_can_not_be_used(site: served.Site, name: str, value: str, said: str) -> None:
    """Refused at the start as any other; the SDK would go on with something else. A key is not repeated."""
    done = site.command("serve", "-p", "0", **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", name: value})
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "OTEL_" in line
    assert "s3cret" not in line
    assert done.returncode == 1
