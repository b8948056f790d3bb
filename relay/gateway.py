"""The ASGI application: the checks that every request and handshake passes, and who handles it.

In order: arrival, host, rate limit; then Django's own handler for the admin, or identity and the relay.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured, RequestAborted
from django.core.handlers.asgi import ASGIHandler

from relay import access, door
from relay.entry import Arrival, arrive, field
from relay.http import cors
from relay.http.handler import RelayHandler
from relay.http.journal import CLIENT_LEFT
from relay.http.request import ClientGone, RelayRequest, RequestBody
from relay.identity.middleware import IdentityMiddleware
from relay.identity.model import NOBODY
from relay.refusals import Refusal, Refused
from relay.routing.watch import ConfigurationUnavailable
from relay.runtime import Runtime
from relay.typing import ASGIApp, Message, RawHeaders, Receive, Scope, Send
from relay.websocket.journal import Journal
from relay.websocket.refusing import close_code_of, refuse

log = logging.getLogger("relay")

LARGEST_FORM = 2**20
"""Bytes of a request body for Django, far above any form in the admin. Django reads the body before it authenticates
the sender."""

START_INTERVAL = 1.0
"""Seconds between attempts to start without a database; each one logs a line."""


def refusal_fields(runtime: Runtime, headers: RawHeaders) -> RawHeaders:
    """Extra fields for the server's own refusal of a request with these headers: an allowed origin may read it."""
    return cors.share([], field(headers, b"origin"), runtime.snapshot)


class Gateway:
    """The ASGI application.

    Args:
        http: The lightweight handler for relayed paths and the gateway's own small pages.
        websocket: The WebSocket consumer.

    Attributes:
        server_is_known: Whether the server's limitations have been logged.
    """

    def __init__(self, runtime: Runtime, http: RelayHandler, websocket: ASGIApp) -> None:
        self.runtime = runtime
        self._http = http
        self._rooms = {
            kind: IdentityMiddleware(app, runtime.places, runtime.examiner, runtime.tickets)
            for kind, app in (("http", http), ("websocket", websocket))
        }
        self.server_is_known = False
        self._start_again = 0.0

    @cached_property
    def _django(self) -> ASGIHandler:
        """Django's handler with all of its middleware; created on the first request for the admin."""
        return _DjangoHandler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await self._lifespan(receive, send)
        if kind not in self._rooms:
            raise ValueError(f"the gateway handles HTTP and WebSocket, not {kind}")
        runtime = self.runtime
        if not runtime.started:
            await self._start()
        if not self.server_is_known:
            self._see_server(scope)
        arrival = scope["relay"] = arrive(scope, runtime.settings.trusted_proxies)
        if not scope.get("raw_path"):
            decoded = scope["path"].encode("utf-8", "surrogateescape")
            scope["raw_path"] = quote(decoded, safe="/!$&'()*+,;=:@~").encode()
        if refusal := door.judge(scope, arrival, runtime.started) or await self._over_the_limit(scope, arrival):
            return await self._refuse(scope, receive, send, refusal)
        path: str = scope["path"]
        if kind == "http" and door.is_for_django(path):
            return await self._ask_django(scope, receive, send, arrival)
        return await self._rooms[kind](scope, receive, send)

    async def _start(self) -> None:
        """Start on the first request, under a server without lifespan (Daphne).

        Without a database, only the health pages answer.
        """
        if time.monotonic() < self._start_again:
            return
        try:
            await self.runtime.start()
        except (ConfigurationUnavailable, ImproperlyConfigured) as exc:
            if time.monotonic() >= self._start_again:  # only the first of several waiting requests logs it
                log.error("no configuration: %s", exc)
            self._start_again = time.monotonic() + START_INTERVAL

    async def _over_the_limit(self, scope: Scope, arrival: Arrival) -> Refusal | None:
        """Apply the rate limit, if there is one."""
        quotas = self.runtime.quotas
        if quotas.rate is None or scope["path"] in door.MONITORED:
            return None
        wait = await quotas.take(arrival.client, arrival.started)
        if not wait:
            return None
        detail = f"client {arrival.client or '(unix socket)'} passed RATE_LIMIT"
        return Refusal("rate_limited", detail, retry_after=math.ceil(wait))

    async def _ask_django(self, scope: Scope, receive: Receive, send: Send, arrival: Arrival) -> None:
        """Serve the admin and its files; a body larger than `LARGEST_FORM` is refused."""
        request = RelayRequest(scope, receive, self.runtime)
        answer = _DjangosAnswer(request, send)
        try:
            request.limited_body(LARGEST_FORM)
            await self._django(_as_the_client_sees_it(scope, arrival), receive, answer)  # type: ignore[arg-type]
        except Refused as exc:
            request.refusal = exc.refusal
            await self._refuse(scope, receive, send, exc.refusal)
        finally:
            if request.refusal is None:
                self.runtime.journal.answered_by_django(request, answer.status)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        """Refuse a request or handshake before authentication."""
        scope["identity"] = NOBODY
        if scope["type"] == "http":
            return await self._http.refuse(scope, receive, send, refusal)
        # Scripts can't read a status, so a route may ask for a close code; only the rate limit concerns them here.
        limited = refusal.code == "rate_limited"
        match = self.runtime.snapshot.match("websocket", "GET", scope["path"]) if limited else None
        denied = access.Denied(refusal, match.route if match is not None else None)
        arrival: Arrival = scope["relay"]
        close_code = close_code_of(refusal, denied.route)
        Journal(self.runtime.metrics, scope).refused(denied, close_code)
        await receive()
        with suppress(OSError):  # ASGI: the client has left
            await refuse(scope, send, refusal, close_code, arrival.request_id)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan: load the configuration before the first request."""
        await receive()
        try:
            await self.runtime.start()
        except Exception as exc:
            if not isinstance(exc, ConfigurationUnavailable | ImproperlyConfigured):  # our bug
                log.exception("the start failed")
            await send({"type": "lifespan.startup.failed", "message": str(exc) or type(exc).__name__})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.runtime.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _see_server(self, scope: Scope) -> None:
        """Log once which parts of the contract this server can't fulfil."""
        self.server_is_known = True
        extensions = scope.get("extensions") or {}
        if "relay.cancel" in extensions or "relay.tunnel" in extensions:
            return
        lacks = ["permessage-deflate", "a byte tunnel for WebSockets", "a drain"]
        log.warning("this server does not support: %s; 'python manage.py serve' does", ", ".join(lacks))


class _DjangoHandler(ASGIHandler):
    """Django's handler, with bodies in memory: it checks its own limits only after reading all of a body.

    Django's own reader uses a temporary file, and leaves that open if the request is cancelled.
    """

    async def read_body(self, receive: Receive) -> BytesIO:  # type: ignore[override]
        """The whole body, at most `LARGEST_FORM` bytes.

        Raises:
            Refused: The body is larger.
            RequestAborted: The client left.
        """
        body = RequestBody(receive)
        body.limit = LARGEST_FORM
        try:
            return BytesIO(b"".join([piece async for piece in body]))
        except ClientGone:
            raise RequestAborted from None


class _DjangosAnswer:
    """Adds X-Request-ID to Django's response (contract, section 4), and takes notes for the log."""

    def __init__(self, request: RelayRequest, send: Send) -> None:
        self._request, self._send = request, send
        self.status = CLIENT_LEFT

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            request_id = (b"x-request-id", self._request.arrival.request_id.encode())
            message = {**message, "headers": [*message["headers"], request_id]}
            self.status = message["status"]
        else:
            self._request.bytes_to_client += len(message.get("body", b""))
        await self._send(message)


def _as_the_client_sees_it(scope: Scope, arrival: Arrival) -> Scope:
    """A scope for Django with the client's own scheme, host and address, as seen through trusted proxies."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    headers.append((b"host", arrival.host.encode("latin-1")))
    ours = "relay.cancel" in (scope.get("extensions") or {})
    client_view = {
        "scheme": arrival.scheme,
        "headers": headers,
        "client": [arrival.client, 0],
        # Under stock Daphne, any client can set it with a header.
        "root_path": scope.get("root_path", "") if ours else "",
        "identity": NOBODY,
    }
    return scope | client_view
