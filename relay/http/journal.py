"""Log and count HTTP requests: one line each, and another if a backend failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.http.request import RelayRequest
from relay.live import log, turn
from relay.refusals import BackendError

if TYPE_CHECKING:
    from relay.live.metrics import Answer, Metrics

CLIENT_LEFT = 499
"""Logged as the status if the client left before there was one (nginx's number; it is never sent)."""


class Journal:
    """One per process. Requests that end in the same turn of the event loop are logged together, which is cheaper."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._over: list[tuple[RelayRequest, int, float]] = []
        self._flush_at_end = turn.AtEnd(self.flush)

    def answered(self, request: RelayRequest, status: int) -> None:
        """Log and count a request that has ended in any way."""
        self._over.append((request, status, time.monotonic() - request.arrival.started))
        if log.is_observed():
            self.flush()
        else:
            self._flush_at_end()

    def flush(self) -> None:
        """Log and count the waiting requests."""
        over, self._over = self._over, []
        self._metrics.http([self._tell(*ended) for ended in over])

    def _tell(self, request: RelayRequest, status: int, seconds: float) -> Answer:
        arrival, route, refusal = request.arrival, request.route, request.refusal
        path = route.path if route is not None else ""
        backend = route.backend if route is not None else ""
        if refusal is not None:
            self._metrics.refusal(refusal.code)
            log.http_refused(
                request_id=arrival.request_id,
                client=arrival.client,
                method=request.method,
                path=request.path,
                status=status,
                code=refusal.code,
                detail=refusal.detail,
                duration=seconds,
                user_id=_user_id(request),
                route=path or None,
                backend=backend or None,
            )
            return path, backend, status, seconds
        if backend:
            self._metrics.answered(backend, seconds)
        log.http_request(
            request_id=arrival.request_id,
            client=arrival.client,
            method=request.method,
            path=request.path,
            status=status,
            duration=seconds,
            user_id=_user_id(request),
            route=path or None,
            backend=backend or None,
            url=request.url,
            bytes_to_backend=request.bytes_to_backend,
            bytes_to_client=request.bytes_to_client,
        )
        return path, backend, status, seconds


def backend_failed(request: RelayRequest, error: BackendError) -> None:
    """Log the exact cause of a backend's failure."""
    log.backend_error(
        backend=error.backend,
        code=error.code,
        detail=str(error),
        phase=error.phase,
        request_id=request.arrival.request_id,
        client=request.arrival.client,
        user_id=_user_id(request),
        route=request.route.path if request.route is not None else None,
        duration=time.monotonic() - request.arrival.started,
    )


def _user_id(request: RelayRequest) -> str | None:
    identity = request.identification.identity
    return identity.user_id if identity is not None else None
