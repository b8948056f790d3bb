"""Processes, reports and figures of a gateway that nobody started."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from django.db.models.functions import Now
from django.utils import timezone

from relay.backends.connector import BackendHealth, UrlHealth
from relay.fleet.figures import Figures, Report, Slot
from relay.fleet.models import LiveConnection, Process
from relay.live.latency import CLASSES
from relay.live.metrics import Totals
from relay.typing import Traffic

PATIENCE = 20.0
"""Seconds after which a test gives up; nothing takes so long when it works."""


def until(condition: Callable[[], Any]) -> Any:
    """Ask the database again and again until it says so; other threads and processes write to it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
    return found


def totals(**changes: Any) -> Totals:
    """A process that has done nothing, but for the changes."""
    nothing = {"requests": 0, "errors": 0, "messages": 0, "refusals": {}, "sockets": {}, "latencies": {}}
    return Totals(**{**nothing, **changes})


def latencies(**counts: int) -> dict[str, tuple[int, ...]]:
    """So many answers of each backend, all in the same class."""
    return {name: (0,) * 10 + (count,) + (0,) * (CLASSES - 11) for name, count in counts.items()}


def health(*urls: UrlHealth) -> BackendHealth:
    return BackendHealth(any(url.up for url in urls), urls)


UP = UrlHealth("http://127.0.0.1:9000", up=True, in_use=3, cause="")
OUT = UrlHealth("http://127.0.0.1:9001", up=False, in_use=0, cause="connection refused 127.0.0.1:9001")

IDLE: Figures = {"sockets": [], "requests": 0.0, "messages": 0.0, "errors": 0, "refusals": {}, "backends": {}}


def report(slot: Slot | None = None, **changes: Any) -> Report:
    facts: dict[str, Any] = {"draining": False, "revision": 1, "config_age": 0.1, "config_error": "", "figures": IDLE}
    return Report(**{**facts, **changes}, slot=slot)


def slot(begin: int, **changes: Any) -> Slot:
    counts: dict[str, Any] = {"sockets": 0, "requests": 0, "errors": 0, "messages": 0, "refusals": {}}
    return Slot(begin, **{**counts, **changes})


def process(**changes: Any) -> Process:
    """A living process' row; `seen_at` may say that it is gone."""
    facts: dict[str, Any] = {
        "id": uuid4(),
        "host": "gw1",
        "pid": 1,
        "version": "1.0",
        "seen_at": Now(),
        "figures": IDLE,
    }
    return Process.objects.create(**{**facts, **changes})


def connection(owner: Process, **changes: Any) -> LiveConnection:
    """A row of a live socket: of user 1, on /ws, from https://app.example.com."""
    facts: dict[str, Any] = {
        "id": uuid4().hex[:16],
        "user_id": "1",
        "email": "ada@example.com",
        "roles": ["user"],
        "client": "192.0.2.1",
        "origin": "https://app.example.com",
        "route": "/ws",
        "backend": "main",
        "url": "http://127.0.0.1:9000",
        "opened_at": timezone.now(),
        **Traffic()._asdict(),
    }
    return LiveConnection.objects.create(process=owner, **{**facts, **changes})
