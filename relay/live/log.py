"""Tell events: to the log, to the admin's list of troubles, and to the trace that they belong to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import Any, cast

from relay.live.events import Event, Trouble

logger = logging.getLogger("relay")

worker_pid: int | None = None
"""In every line of this process; set if it is one of several workers."""

listeners: list[Callable[[Trouble], object]] = []
"""Called with every refusal and backend failure at any log level, in the event's thread."""

Observer = Callable[[Event], object]

_observer: Observer | None = None


def observe(observer: Observer | None) -> None:
    """Call an observer with every event, at any log level, in the event's thread and context.

    There is one observer at a time, and None removes it: without one there is no cost (`relay.tracing`).
    """
    global _observer
    _observer = observer


def is_observed() -> bool:
    """Whether there is an observer, which needs every event in that event's own context."""
    return _observer is not None


def tell(*events: Event) -> None:
    """Log events that have just happened, if their level is logged; listeners and the observer hear of them anyway."""
    now = timestamp(int(time() * 1000))
    infos, warnings = logger.isEnabledFor(logging.INFO), logger.isEnabledFor(logging.WARNING)
    logged = []
    for event in events:
        is_warning = event.is_warning
        event.time = event.time or now
        event.event = event.name
        event.level = "WARNING" if is_warning else "INFO"
        if worker_pid is not None:
            event.pid = worker_pid
        if event.is_trouble:
            for listener in listeners:
                listener(cast("Trouble", event))
        if _observer is not None:
            _observer(event)
        if warnings if is_warning else infos:
            logged.append(event)
    if logged:
        _log(logged)


@lru_cache(maxsize=2)
def timestamp(milliseconds: int) -> str:
    """A time since 1970 as it is logged: RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"


class EventRecord(logging.LogRecord):
    """The log record of an event, for any handler that is no `EventHandler`."""

    def __init__(self, event: Event) -> None:
        level = logging.WARNING if event.is_warning else logging.INFO
        super().__init__(logger.name, level, "", 0, event.name, None, None)
        self.event = event

    @property
    def fields(self) -> dict[str, Any]:
        """The event's known fields by name."""
        return self.event.fields


class EventHandler(logging.Handler):
    """A handler that takes several events together, which costs far less than a record for each."""

    def write(self, events: Sequence[Event]) -> None:
        """Write the events, in order."""
        raise NotImplementedError


def _log(events: Sequence[Event]) -> None:
    """Pass events to the handlers, as `logging.Logger.handle` does for a record."""
    for handler in handlers():
        if isinstance(handler, EventHandler) and not (handler.level or handler.filters or logger.filters):
            handler.write(events)
            continue
        for record in map(EventRecord, events):
            if record.levelno >= handler.level and logger.filter(record):
                handler.handle(record)


def handlers() -> Iterator[logging.Handler]:
    """The handlers of our logger and of those above it."""
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None
