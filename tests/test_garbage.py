"""Requests and sockets leave nothing to the garbage collector: its pauses would be everybody's.

What is counted is of the gateway; clients and backends of the test leave what they like. Sockets that are carried by
messages, under other servers than ours, do leave circles: those of websockets' parser.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.client import ClientConnection

from relay.live import log
from relay.live.registry import KICKED, end_each
from relay.tracing import layer
from tests import stack, ws_helpers
from tests.collector import collecting
from tests.server_helpers import until
from tests.stack import bearer

ROUNDS = 5


@contextmanager
def kept_garbage() -> Iterator[Counter[str]]:
    """Gives what of ours only the collector would have found meanwhile, by type; filled in at the end."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        kinds = (type(it) for it in gc.garbage)
        found.update(
            f"{it.__module__}.{it.__qualname__}"
            for it in kinds
            if it.__module__.startswith(("relay.", "httptools", "opentelemetry."))
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@ws_helpers.on_both_loops
async def test_requests() -> None:
    async with stack.backend() as backend, stack.gateway(stack.snapshot(backend.url)) as gateway:
        await gateway.request("/api/x", headers=bearer())
        with kept_garbage() as found:
            for _ in range(ROUNDS):
                assert (await gateway.request("/api/x", headers=bearer())).status == 200
                assert (await gateway.request("/api/x", "POST", bearer(), b"body")).status == 200
                assert (await gateway.request("/api/x")).status == 401
            await until(lambda: not gateway.host.connections)
    assert not found


async def say_goodbye(gateway: stack.Stack, client: ClientConnection) -> None:
    await client.close(3000, "bye")


async def vanish(gateway: stack.Stack, client: ClientConnection) -> None:
    client.transport.abort()


async def be_sent_away(gateway: stack.Stack, client: ClientConnection) -> None:
    end_each(gateway.runtime.registry, KICKED)
    await client.wait_closed()


@pytest.mark.parametrize("end", [say_goodbye, vanish, be_sent_away])
@ws_helpers.on_both_loops
async def test_tunnels(end: Callable[[stack.Stack, ClientConnection], Awaitable[None]]) -> None:
    async with stack.backend() as backend, stack.gateway(stack.snapshot(backend.url)) as gateway:

        async def live() -> None:
            async with gateway.websocket() as client:
                await client.send("hello")
                assert await client.recv() == "hello"
                await end(gateway, client)
            await until(lambda: not gateway.host.connections)

        await live()
        with kept_garbage() as found:
            for _ in range(ROUNDS):
                await live()
    assert not found


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[stack.Stack], None]]:
    """Gives what has a gateway traced."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setattr(log, "_observer", None)

        begun: list[layer.Tracing] = []

        def begin(gateway: stack.Stack) -> None:
            begun.append(layer.trace(gateway.runtime, gateway.host.application))
            gateway.host.application = begun[-1]

        yield begin
        for tracing in begun:
            tracing.delivery.end()
        assert {span.kind for span in collector.spans} == {"SERVER", "CLIENT", "INTERNAL"}


@ws_helpers.on_both_loops
async def test_traces(traced: Callable[[stack.Stack], None]) -> None:
    async with stack.backend() as backend, stack.gateway(stack.snapshot(backend.url)) as gateway:
        traced(gateway)

        async def live() -> None:
            assert (await gateway.request("/api/x", headers=bearer())).status == 200
            assert (await gateway.request("/api/x")).status == 401
            async with gateway.websocket() as client:
                await client.send("hello")
                assert await client.recv() == "hello"
            await until(lambda: not gateway.host.connections)

        await live()
        with kept_garbage() as found:
            for _ in range(ROUNDS):
                await live()
    assert not found
