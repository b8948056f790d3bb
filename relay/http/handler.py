"""A lightweight replacement for Django's request handler, for async views that don't use the database.

Django's own ASGIHandler reads the whole body first, sends two signals through a thread, and switches to a thread for
every synchronous middleware: a millisecond or more per request. This one resolves the URL, awaits the view and streams
its response. The admin stays with Django's handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIHandler
from django.http import Http404
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver
from django.utils.functional import cached_property

from relay.door import MONITORED
from relay.http import cors
from relay.http.journal import CLIENT_LEFT
from relay.http.request import ClientGone, RelayRequest
from relay.http.response import RelayedResponse, raw_headers, refused, send_body
from relay.refusals import BackendError, Refusal, Refused
from relay.typing import RawHeaders, Receive, Scope, Send

if TYPE_CHECKING:
    from relay.runtime import Runtime

logger = logging.getLogger("relay.http")

REMEMBERED = 256
"""Paths whose view is cached; few, as strangers may make them long."""


class RelayHandler(ASGIHandler):
    """Serves everything except the admin, with `RelayRequest`s; every view is a coroutine function."""

    def __init__(self, runtime: Runtime) -> None:
        # Not super().__init__: there is no middleware to load.
        self._runtime = runtime

    @cached_property
    def _resolve(self) -> Callable[[str], ResolverMatch]:
        """Resolve a path; the URLconf never changes at run time, so results are cached."""
        return lru_cache(REMEMBERED)(get_resolver().resolve)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        request = RelayRequest(scope, receive, self._runtime)
        if "relay.cancel" in scope.get("extensions", ()):
            await self._serve(request, send)
        else:
            await self._serve_while_connected(request, send)

    async def _serve_while_connected(self, request: RelayRequest, send: Send) -> None:
        """Serve under a server that does not cancel us when the client leaves: watch for that concurrently."""
        serving = asyncio.create_task(self._serve(request, send))
        leaving = asyncio.create_task(request.wait_for_disconnect())
        try:
            await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = not serving.done()
            serving.cancel()
            leaving.cancel()
            outcome, _ = await asyncio.gather(serving, leaving, return_exceptions=True)
        if isinstance(outcome, BaseException) and not left:
            raise outcome

    async def refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        """Answer a request that was refused before any view was called."""
        await self._serve(RelayRequest(scope, receive, self._runtime), send, refusal)

    async def _serve(self, request: RelayRequest, send: Send, refusal: Refusal | None = None) -> None:
        """Answer, and log the outcome in any case.

        A response that can't be finished is left unfinished: the server then cuts the connection, so that the client
        does not take a part for the whole (RFC 9112 §8).
        """
        status = CLIENT_LEFT
        try:
            response = refused(request, refusal) if refusal is not None else await self._respond(request)
            try:
                start = {"type": "http.response.start", "status": response.status_code}
                await send({**start, "headers": self._fields(request, response)})
                status = response.status_code
                await send_body(response, request, send)
            finally:
                response.close()
        except ClientGone:
            pass
        except BackendError as exc:
            self._runtime.journal.backend_failed(request, exc)
        except Refused as exc:
            request.refusal = exc.refusal
        finally:
            self._runtime.journal.answered(request, status)

    async def _respond(self, request: RelayRequest) -> HttpResponseBase:
        if self._is_allowed_preflight(request):
            return RelayedResponse(204, cors.preflight_fields(request.raw_headers))
        try:
            match = request.resolver_match = self._resolve(request.path)
            response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
            return response
        except Http404:
            return refused(request, Refusal("no_route", f"no page at {request.path}"))
        except Refused as exc:
            return refused(request, exc.refusal)
        except ClientGone:
            raise
        except Exception as exc:
            logger.exception("request %s failed", request.arrival.request_id)
            return refused(request, Refusal("internal_error", type(exc).__name__))

    def _is_allowed_preflight(self, request: RelayRequest) -> bool:
        """Whether this is a preflight to answer before authentication: browsers send no token then (Fetch, §3.2.2)."""
        return (
            cors.is_preflight(request.method, request.raw_headers)
            and request.path not in MONITORED
            and request.origin is not None
            and self._runtime.snapshot.allows(request.origin)
        )

    def _fields(self, request: RelayRequest, response: HttpResponseBase) -> RawHeaders:
        fields = raw_headers(response, request.arrival.request_id)
        if request.path in MONITORED:
            return fields
        return cors.share(fields, request.origin, self._runtime.snapshot)
