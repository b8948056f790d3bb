"""What is logged and counted of an HTTP request: one line each, and one more for a backend that failed it."""

from __future__ import annotations

import time

from relay.http.request import RelayRequest
from relay.live import log
from relay.refusals import BackendError

CLIENT_LEFT = 499
"""Logged as the status where the client was gone before there was one (nginx's number; it is never sent)."""


def answered(request: RelayRequest, status: int) -> None:
    """Log and count a request that is over, however it ended."""
    arrival, route, refusal = request.arrival, request.route, request.refusal
    seconds = time.monotonic() - arrival.started
    metrics = request.runtime.metrics
    path = route.path if route is not None else ""
    backend = route.backend if route is not None else ""
    metrics.http(path, backend, status, seconds)
    if refusal is not None:
        metrics.refusal(refusal.code)
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
        return
    if backend:
        metrics.answered(backend, seconds)
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


def backend_failed(request: RelayRequest, error: BackendError) -> None:
    """Log the exact cause."""
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
