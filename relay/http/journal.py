"""Log and count HTTP requests: one line each, and another if a backend failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.http.request import RelayRequest
from relay.live import events, log, turn
from relay.refusals import BackendError

if TYPE_CHECKING:
    from relay.identity.model import Identification
    from relay.live.metrics import Answer, Metrics

CLIENT_LEFT = 499
"""Logged as the status if the client left before there was one (nginx's number; it is never sent)."""


class Journal:
    """One per process. Requests that end in the same turn of the event loop are logged together, which is cheaper."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answers: list[Answer] = []
        self._events: list[events.Event] = []
        self._flush_at_end = turn.AtEnd(self.flush)

    def answered(self, request: RelayRequest, status: int) -> None:
        """Log and count a request that has ended in any way."""
        arrival, route, refusal = request.arrival, request.route, request.refusal
        seconds = time.monotonic() - arrival.started
        path, backend = (route.path, route.backend) if route is not None else ("", "")
        self._answers.append((path, backend, status, seconds, refusal.code if refusal is not None else ""))
        event: events.Event
        if refusal is not None:
            event = events.HttpRefused(
                request_id=arrival.request_id,
                client=arrival.client,
                user_id=_user_id(request),
                method=request.method,
                path=request.path,
                route=path or None,
                backend=backend or None,
                status=status,
                code=refusal.code,
                detail=refusal.detail,
                duration_ms=events.milliseconds(seconds),
            )
        else:
            event = events.HttpRequest(
                request_id=arrival.request_id,
                client=arrival.client,
                user_id=_user_id(request),
                method=request.method,
                path=request.path,
                route=path or None,
                backend=backend or None,
                url=request.url,
                status=status,
                duration_ms=events.milliseconds(seconds),
                bytes_to_backend=request.bytes_to_backend,
                bytes_to_client=request.bytes_to_client,
            )
        self._events.append(event)
        if log.is_observed():
            self.flush()
        else:
            self._flush_at_end()

    def flush(self) -> None:
        """Log and count the waiting requests."""
        answers, self._answers = self._answers, []
        told, self._events = self._events, []
        if told:
            self._metrics.http(answers)
            log.tell(*told)


def backend_failed(request: RelayRequest, error: BackendError) -> None:
    """Log the exact cause of a backend's failure."""
    log.tell(
        events.BackendError(
            request_id=request.arrival.request_id,
            client=request.arrival.client,
            user_id=_user_id(request),
            route=request.route.path if request.route is not None else None,
            backend=error.backend,
            code=error.code,
            phase=error.phase or None,
            detail=str(error),
            duration_ms=events.milliseconds(time.monotonic() - request.arrival.started),
        )
    )


def _user_id(request: RelayRequest) -> str | None:
    who: Identification = request.scope["identity"]
    identity = who.identity
    return identity.user_id if identity is not None else None
