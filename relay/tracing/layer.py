"""Add tracing to a gateway: around its application, and around its calls to backends."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from django.urls import URLPattern, get_resolver
from django.urls.resolvers import RoutePattern

from relay.door import MONITORED, is_for_django
from relay.live import log
from relay.runtime import Runtime
from relay.tracing.calls import TracedClient, traced
from relay.tracing.delivery import Delivery
from relay.tracing.spans import Recorder, current, note
from relay.typing import ASGIApp, Message, Receive, Scope, Send


def trace(runtime: Runtime, application: ASGIApp) -> Tracing:
    """Trace every request and socket of a gateway; OpenTelemetry's variables must be in the environment.

    Raises:
        ValueError: A variable can't be used; the message says which and why.
    """
    settings = runtime.settings
    delivery = Delivery()
    pages = [
        f"/{found.pattern}"
        for found in get_resolver().url_patterns
        if isinstance(found, URLPattern) and isinstance(found.pattern, RoutePattern)
    ]
    recorder = Recorder(delivery.tracer, pages, settings.token_names)
    runtime.client = TracedClient(runtime.connector)
    runtime.dial = traced(runtime.dial)
    log.observe(note)
    logging.setLogRecordFactory(record)
    return Tracing(application, recorder, delivery)


class Tracing:
    """ASGI middleware around everything.

    The admin, health checks and ``/metrics`` are not traced: pages that refresh themselves and machines that poll would
    bury the real traffic.

    Args:
        delivery: Sends the spans; stopped with the application.
    """

    def __init__(self, application: ASGIApp, recorder: Recorder, delivery: Delivery) -> None:
        self._application, self._recorder, self.delivery = application, recorder, delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, partial(self._ending, send))
        if scope["type"] == "http" and is_apart(scope["path"]):
            return await self._application(scope, receive, send)
        begun = self._recorder.begin(scope)
        token = current.set(begun)
        try:
            await self._application(scope, receive, send)
        except Exception as exc:
            begun.crash(exc)
            raise
        finally:
            current.reset(token)
            begun.end()

    async def _ending(self, send: Send, message: Message) -> None:
        """Delay the end of the application's lifespan until the last spans have been sent."""
        if message["type"] == "lifespan.shutdown.complete":
            await self.delivery.stop()
        await send(message)


def is_apart(path: str) -> bool:
    """Whether an HTTP request is not traced."""
    return path in MONITORED or is_for_django(path)


def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a log record with the ``trace_id`` of the request that it is about; events have theirs already (`note`).

    Tasks that a request starts and leaves running, such as the link to Redis, also log in its context: only what is
    logged before the end of its response counts.
    """
    made = logging.LogRecord(*args, **kwargs)
    begun = current.get()
    if begun is not None and not begun.is_over:
        made.trace_id = begun.id
    return made
