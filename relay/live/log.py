"""The log's events: one line each, with the same field names everywhere (contract, section 9).

====================  =======  ==========================================================================
event                 level    when
====================  =======  ==========================================================================
``http.request``      INFO     a request was answered, by the backend or by one of our pages
``http.refused``      INFO     a request was refused; WARNING if the status is 5xx
``ws.open``           INFO     a WebSocket was accepted
``ws.close``          INFO     a WebSocket ended: the summary of its life
``ws.refused``        INFO     a handshake was refused; WARNING if the status is 5xx
``backend.error``     WARNING  a backend failed: the exact cause
``config.changed``    INFO     a new configuration is in force
``config.stale``      WARNING  the database can't be read: the last good configuration stays in force
``auth.revoked``      INFO     a token or a user was revoked
``server.start``      INFO     the server listens
``server.drain``      INFO     the server stops accepting work
``log``               any      any other log record
====================  =======  ==========================================================================

Durations are passed in seconds and logged in milliseconds. Fields that are None are left out. Paths are logged without
their query. None of these functions takes a token, ticket or cookie; `relay.live.masking` covers other log records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.typing import ClosedBy, Traffic

logger = logging.getLogger("relay")

listeners: list[Callable[[str, Mapping[str, Any]], object]] = []
"""Called with every refusal and backend failure (event and fields) at any log level, in the event's thread."""

Observer = Callable[[str, Mapping[str, Any]], object]

_observer: Observer | None = None

_LONGEST_PATH = 2048  # characters
_LEVEL_NAMES = {number: name for name, number in logging.getLevelNamesMapping().items()}


def observe(observer: Observer | None) -> None:
    """Call an observer with every event and its fields, at any log level, in the event's thread and context.

    There is one observer at a time, and None removes it: without one there is no cost (`relay.tracing`).
    """
    global _observer
    _observer = observer


def is_observed() -> bool:
    """Whether there is an observer, which needs every event in that event's own context."""
    return _observer is not None


def http_request(
    *,
    request_id: str,
    client: str,
    method: str,
    path: str,
    status: int,
    duration: float,
    user_id: str | None = None,
    route: str | None = None,
    backend: str | None = None,
    url: str | None = None,
    bytes_to_backend: int = 0,
    bytes_to_client: int = 0,
) -> None:
    """``http.request``: the response was sent completely, or broke off.

    Args:
        duration: Seconds from the request's head to the end of the response.
        url: The backend's url that answered, if it has several.
        bytes_to_backend: Bytes of the request's body.
        bytes_to_client: Bytes of the response's body.
    """
    _event(
        logging.INFO,
        "http.request",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "method": method,
            "path": without_query(path),
            "route": route,
            "backend": backend,
            "url": url,
            "status": status,
            "duration_ms": _milliseconds(duration),
            "bytes_to_backend": bytes_to_backend,
            "bytes_to_client": bytes_to_client,
        },
    )


def http_refused(
    *,
    request_id: str,
    client: str,
    method: str,
    path: str,
    status: int,
    code: str,
    detail: str,
    duration: float,
    user_id: str | None = None,
    route: str | None = None,
    backend: str | None = None,
) -> None:
    """``http.refused``: a request was refused; `detail` says what was compared with what."""
    _trouble(
        _level_of(status),
        "http.refused",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "method": method,
            "path": without_query(path),
            "route": route,
            "backend": backend,
            "status": status,
            "code": code,
            "detail": detail,
            "duration_ms": _milliseconds(duration),
        },
    )


def ws_open(
    *,
    request_id: str,
    client: str,
    path: str,
    route: str,
    backend: str,
    duration: float,
    user_id: str | None = None,
    origin: str | None = None,
    subprotocol: str | None = None,
    url: str | None = None,
) -> None:
    """``ws.open``: a WebSocket was accepted.

    Args:
        duration: Seconds for the handshake, including the backend's.
        url: The backend's url that accepted it, if it has several.
    """
    _event(
        logging.INFO,
        "ws.open",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "path": without_query(path),
            "route": route,
            "backend": backend,
            "url": url,
            "origin": origin,
            "subprotocol": subprotocol,
            "duration_ms": _milliseconds(duration),
        },
    )


def ws_close(
    *,
    request_id: str,
    client: str,
    route: str,
    backend: str,
    close_code: int,
    closed_by: ClosedBy,
    duration: float,
    traffic: Traffic,
    user_id: str | None = None,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """``ws.close``: a WebSocket ended.

    Args:
        close_code: As the client sent or got it; 1005: a close frame without a code, 1006: no frame (RFC 6455 §7.4.1).
        reason: The close frame's reason.
        detail: What happened, if the code alone doesn't say it.
    """
    _event(
        logging.INFO,
        "ws.close",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "route": route,
            "backend": backend,
            "close_code": close_code,
            "closed_by": closed_by,
            "reason": reason or None,
            "detail": detail or None,
            "duration_ms": _milliseconds(duration),
            **traffic._asdict(),
        },
    )


def ws_refused(
    *,
    request_id: str,
    client: str,
    path: str,
    status: int,
    code: str,
    detail: str,
    duration: float,
    close_code: int | None = None,
    user_id: str | None = None,
    route: str | None = None,
    backend: str | None = None,
) -> None:
    """``ws.refused``: a handshake was refused; with `close_code` it was accepted and then closed."""
    _trouble(
        _level_of(status),
        "ws.refused",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "path": without_query(path),
            "route": route,
            "backend": backend,
            "status": status,
            "close_code": close_code,
            "code": code,
            "detail": detail,
            "duration_ms": _milliseconds(duration),
        },
    )


def backend_error(
    *,
    backend: str,
    code: str,
    detail: str,
    phase: str = "",
    request_id: str | None = None,
    client: str | None = None,
    user_id: str | None = None,
    route: str | None = None,
    duration: float | None = None,
) -> None:
    """``backend.error``: a backend failed a request, a handshake or a health check; `detail` is the exact cause."""
    _trouble(
        logging.WARNING,
        "backend.error",
        {
            "request_id": request_id,
            "client": client,
            "user_id": user_id,
            "route": route,
            "backend": backend,
            "code": code,
            "phase": phase or None,
            "detail": detail,
            "duration_ms": None if duration is None else _milliseconds(duration),
        },
    )


def config_changed(
    *,
    revision: int,
    backends: int,
    routes: int,
    origins: int,
    changed: Sequence[str] | None = None,
    sockets_closed: int = 0,
) -> None:
    """``config.changed``: a new configuration is in force, with the numbers of its rows and of sockets it closed.

    Args:
        changed: The rows that differ from the previous configuration; None for the first.
    """
    _event(
        logging.INFO,
        "config.changed",
        {
            "revision": revision,
            "backends": backends,
            "routes": routes,
            "origins": origins,
            "changed": None if changed is None else "; ".join(changed),
            "sockets_closed": sockets_closed,
        },
    )


def config_stale(*, age: float, detail: str) -> None:
    """``config.stale``: the configuration in force was last read `age` seconds ago; `detail` says why not since."""
    _event(logging.WARNING, "config.stale", {"age_seconds": round(age, 1), "detail": detail})


def auth_revoked(
    *, entries: int = 1, sockets_closed: int = 0, kind: str | None = None, value: str | None = None
) -> None:
    """``auth.revoked``: revocations came into force, and closed `sockets_closed` sockets.

    Args:
        kind: For a single one: ``user``, ``jti`` or ``token``.
        value: For a single one: the user's id, the jti, or the token's fingerprint.
    """
    _event(
        logging.INFO,
        "auth.revoked",
        {"entries": entries, "sockets_closed": sockets_closed, "kind": kind, "value": value},
    )


def server_start(*, version: str, pid: int, listening: str, workers: int = 1, detail: str | None = None) -> None:
    """``server.start``: the server accepts connections at `listening`."""
    _event(
        logging.INFO,
        "server.start",
        {"version": version, "pid": pid, "listening": listening, "workers": workers, "detail": detail},
    )


def server_drain(*, sockets: int, seconds: float, requests: int | None = None, signal: str | None = None) -> None:
    """``server.drain``: no new work is accepted; current work has `seconds` to finish."""
    _event(
        logging.INFO,
        "server.drain",
        {"sockets": sockets, "requests": requests, "seconds": seconds, "signal": signal},
    )


def _trouble(level: int, event: str, fields: Mapping[str, object]) -> None:
    """Log an event that the admin shows as well, even if the log level hides it."""
    for listener in listeners:
        listener(event, fields)
    _event(level, event, fields)


def _event(level: int, event: str, fields: Mapping[str, object]) -> None:
    if _observer is not None:
        _observer(event, fields)
    if logger.isEnabledFor(level):
        logger.handle(Event(level, event, fields))


class Event(logging.LogRecord):
    """The log record of an event: every attribute that a formatter or handler may need, at a fifth of the usual cost.

    `LogRecord` itself determines the caller, thread and process, which our lines don't include.
    """

    _SAME = vars(
        logging.makeLogRecord(
            {"name": logger.name, "fields": None}
            | dict.fromkeys(("process", "processName", "thread", "threadName", "taskName"))
        )
    )

    def __init__(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        self.__dict__ = record = self._SAME.copy()
        record["msg"] = event
        record["levelno"] = level
        record["levelname"] = _LEVEL_NAMES[level]
        record["created"] = created = time.time()
        record["msecs"] = created % 1 * 1000
        record["fields"] = fields


def _level_of(status: int) -> int:
    """A refusal is the client's problem, unless the status says that it is ours or the backend's."""
    return logging.WARNING if status >= 500 else logging.INFO


def without_query(path: str) -> str:
    """A path as it is logged: without the query, and not too long to read."""
    return path.partition("?")[0][:_LONGEST_PATH]


def _milliseconds(seconds: float) -> float:
    return int(seconds * 10_000 + 0.5) / 10  # round() takes five times as long
