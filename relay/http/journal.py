"""Log and count HTTP requests: one line each, and another if a backend failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.http.request import RelayRequest
from relay.live import events, log, turn
from relay.refusals import BackendError

if TYPE_CHECKING:
    from relay.live.metrics import Answer, Metrics

CLIENT_LEFT = 499
"""Logged as the status if the client left before there was one (nginx's number; it is never sent)."""


class Journal:
    """One per process.

    Under load, the requests of `pause` seconds are logged and counted together, which costs far less than one by one
    in between other work. A warning is logged at once, after what is waiting.
    """

    def __init__(self, metrics: Metrics, pause: float = turn.PAUSE) -> None:
        self._metrics = metrics
        self._waiting: list[Answer] = []
        self._flush_soon = turn.AtEnd(self.flush, pause)

    def answered(self, request: RelayRequest, status: int) -> None:
        """Log and count a request that has ended in any way."""
        arrival, route, refusal = request.arrival, request.route, request.refusal
        identity = request.identification.identity
        user_id = identity.user_id if identity is not None else None
        ended = time.monotonic()
        seconds = ended - arrival.started
        at_once = log.is_observed()
        path, backend = (route.path, route.backend) if route is not None else (None, None)
        event: events.HttpRequest | events.HttpRefused
        if refusal is not None:
            event = events.HttpRefused(
                request_id=arrival.request_id,
                client=arrival.client,
                user_id=user_id,
                method=request.method,
                path=request.path,
                route=path,
                backend=backend,
                status=status,
                code=refusal.code,
                detail=refusal.detail,
                duration_ms=events.milliseconds(seconds),
            )
            at_once = at_once or event.is_warning
        else:
            event = events.HttpRequest(
                request_id=arrival.request_id,
                client=arrival.client,
                user_id=user_id,
                method=request.method,
                path=request.path,
                route=path,
                backend=backend,
                url=request.url,
                status=status,
                duration_ms=events.milliseconds(seconds),
                bytes_to_backend=request.bytes_to_backend,
                bytes_to_client=request.bytes_to_client,
            )
        self._waiting.append((event, seconds, ended))
        if at_once:
            self.flush()
        elif len(self._waiting) == 1:
            self._flush_soon()

    def answered_by_django(self, request: RelayRequest, status: int) -> None:
        """Log a request for the admin, after what is waiting; whoever watches the traffic there is no part of it."""
        self.flush()
        log.tell(
            events.HttpRequest(
                request_id=request.arrival.request_id,
                client=request.arrival.client,
                method=request.method,
                path=request.path,
                status=status,
                duration_ms=events.milliseconds(time.monotonic() - request.arrival.started),
                bytes_to_backend=0,
                bytes_to_client=request.bytes_to_client,
            )
        )

    def backend_failed(self, request: RelayRequest, error: BackendError) -> None:
        """Log the exact cause of a backend's failure, after what is waiting."""
        identity = request.identification.identity
        self.flush()
        log.tell(
            events.BackendError(
                request_id=request.arrival.request_id,
                client=request.arrival.client,
                user_id=identity.user_id if identity is not None else None,
                route=request.route.path if request.route is not None else None,
                backend=error.backend,
                code=error.code,
                phase=error.phase or None,
                detail=str(error),
                duration_ms=events.milliseconds(time.monotonic() - request.arrival.started),
            )
        )

    def flush(self) -> None:
        """Log and count the waiting requests."""
        answers, self._waiting = self._waiting, []
        if not answers:
            return
        clock = time.time() - time.monotonic()
        for event, _, ended in answers:
            event.time = log.timestamp(int((clock + ended) * 1000))
        self._metrics.http(answers)
        log.tell(*[event for event, _, _ in answers])
