"""The application: what every request and handshake passes, and which room it is for.

In order: arrival, host, rate; then the admin on Django's own handler, or identity and the relay.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from functools import cached_property
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler

from relay import access, door
from relay.entry import Arrival, arrive, field
from relay.http import cors
from relay.http.handler import RelayHandler
from relay.http.request import RelayRequest, too_large
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
"""Bytes of a body for Django, far above any form of the admin. Django reads it before it asks who sends it, and keeps
what is longer than 2.5 MB in a file."""

START_INTERVAL = 1.0
"""Seconds between two attempts to start without a database; each of them is a line in the log."""


def refusal_fields(runtime: Runtime, headers: RawHeaders) -> RawHeaders:
    """What the server's own refusals say to a request with these fields: an allowed origin may read them, too."""
    return cors.share([], field(headers, b"origin"), runtime.snapshot)


class Gateway:
    """The ASGI application.

    Args:
        http: The lean handler of the relayed paths and of the gateway's own small pages.
        websocket: The consumer.

    Attributes:
        server_is_known: Whether it has been said what the server under us can't offer.
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
        """Django's handler with all of its middleware; made when the admin is first asked for."""
        return ASGIHandler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await self._lifespan(receive, send)
        if kind not in self._rooms:
            raise ValueError(f"the gateway speaks HTTP and WebSocket, not {kind}")
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
        """Start late, under a server without lifespan (Daphne); without a database only the health pages answer."""
        if time.monotonic() < self._start_again:
            return
        try:
            await self.runtime.start()
        except (ConfigurationUnavailable, ImproperlyConfigured) as exc:
            if time.monotonic() >= self._start_again:  # the first of those who waited for it
                log.error("no configuration: %s", exc)
            self._start_again = time.monotonic() + START_INTERVAL

    async def _over_the_limit(self, scope: Scope, arrival: Arrival) -> Refusal | None:
        """Count the request, where clients have a limit."""
        quotas = self.runtime.quotas
        if quotas.rate is None or scope["path"] in door.MONITORED:
            return None
        wait = await quotas.take(arrival.client, arrival.started)
        if not wait:
            return None
        detail = f"client {arrival.client or '(unix socket)'} passed RATE_LIMIT"
        return Refusal("rate_limited", detail, retry_after=math.ceil(wait))

    async def _ask_django(self, scope: Scope, receive: Receive, send: Send, arrival: Arrival) -> None:
        """The admin and its files; whoever sends more than a form is nobody's guest."""
        try:
            RelayRequest(scope, receive, self.runtime).limited_body(LARGEST_FORM)
        except Refused as exc:
            return await self._refuse(scope, receive, send, exc.refusal)
        form = _Form(receive)
        sent = _with_request_id(send, arrival)
        await self._django(_as_the_client_sees_it(scope, arrival), form, sent)  # type: ignore[arg-type]
        if form.size > LARGEST_FORM:
            found = too_large(LARGEST_FORM, f"at least {form.size} bytes long")
            await self._refuse(scope, receive, send, found.refusal)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        """Answer, before any room was asked."""
        scope["identity"] = NOBODY
        if scope["type"] == "http":
            return await self._http.refuse(scope, receive, send, refusal)
        # A script that reconnects learns from a close what it could not read from a status; of a wrong host, nothing.
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
        """ASGI's lifespan: the configuration is there before the first request is."""
        await receive()
        try:
            await self.runtime.start()
        except Exception as exc:
            if not isinstance(exc, ConfigurationUnavailable | ImproperlyConfigured):  # a bug of ours
                log.exception("the start failed")
            await send({"type": "lifespan.startup.failed", "message": str(exc) or type(exc).__name__})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.runtime.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _see_server(self, scope: Scope) -> None:
        """Say once what the server under us can't keep of the contract."""
        self.server_is_known = True
        extensions = scope.get("extensions") or {}
        if "relay.cancel" in extensions or "relay.tunnel" in extensions:
            return
        lacks = ["permessage-deflate", "a byte tunnel for WebSockets", "a drain"]
        log.warning("this server can't offer: %s; 'python manage.py serve' does", ", ".join(lacks))


class _Form:
    """A request's body for Django, whose own limits are asked when all of it is there.

    One that has grown over `LARGEST_FORM` ends as if its client had left: Django lets go of it without an answer.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self.size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.size > LARGEST_FORM else message


def _with_request_id(send: Send, arrival: Arrival) -> Send:
    """For Django, whose middleware knows no arrival: every response carries X-Request-ID (contract, section 4)."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", arrival.request_id.encode())]}
        await send(message)

    return sent


def _as_the_client_sees_it(scope: Scope, arrival: Arrival) -> Scope:
    """For Django: scheme, host and address of the client, whatever trusted proxies stand between."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    headers.append((b"host", arrival.host.encode("latin-1")))
    ours = "relay.cancel" in (scope.get("extensions") or {})
    client_view = {
        "scheme": arrival.scheme,
        "headers": headers,
        "client": [arrival.client, 0],
        # Stock Daphne lets any client set it with a header.
        "root_path": scope.get("root_path", "") if ours else "",
        "identity": NOBODY,
    }
    return scope | client_view
