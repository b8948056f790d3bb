"""What the connections of one process share: the application, the limits, the drain.

This is plain asyncio, for any loop: `relay.server.server.Server` runs it on Daphne's reactor, and
``loop.create_server(host.protocol, …)`` is all that a test needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.live import events, log
from relay.server.http_protocol import HTTPProtocol
from relay.server.limits import Limits
from relay.server.response import refusal_response
from relay.typing import ASGIApp, RawHeaders, Scope

if TYPE_CHECKING:
    from relay.refusals import Refused
    from relay.server.connection import Connection
    from relay.server.exchange import Exchange
    from relay.server.head import Head
    from relay.server.ws_protocol import WebSocketProtocol

logger = logging.getLogger("relay.server")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks from the server to its surroundings.

    Attributes:
        on_ready: Called with the URLs on which the server listens.
        on_drain: Called when it stops accepting work; open sockets should be closed within the drain.
        on_refusal: Called with the code of a request that never reached the application, for metrics.
        refusal_fields: Returns additional response fields for such a request, by its header fields.
        serves_while_draining: Whether a request, such as a health check, is still served then, by its scope.
    """

    on_ready: Callable[[list[str]], None] = lambda urls: None
    on_drain: Callable[[], None] = lambda: None
    on_refusal: Callable[[str], None] = lambda code: None
    refusal_fields: Callable[[RawHeaders], RawHeaders] = lambda headers: []
    serves_while_draining: Callable[[Scope], bool] = lambda scope: False


class Host:
    """Serves one application on one event loop.

    Args:
        root_path: ASGI's; no client can set it.
        server_name: The value of a ``server`` field for responses without one; empty: none is added.

    Attributes:
        connections: Every client, busy or idle.
        applications: Every run of the application that has not ended.
        draining: Whether new work is refused.
    """

    def __init__(
        self,
        application: ASGIApp,
        limits: Limits | None = None,
        hooks: Hooks | None = None,
        *,
        root_path: str = "",
        server_name: str = "",
    ) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.hooks = hooks or Hooks()
        self.root_path = root_path
        self.server_line = f"server: {server_name}\r\n".encode("latin-1") if server_name else b""
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.applications: set[Exchange | WebSocketProtocol] = set()
        self.draining = False
        self._quiet: asyncio.Event | None = None
        self._sweeper = self.loop.create_task(self._sweep(), name="connection timeouts")

    def protocol(self) -> HTTPProtocol:
        """The protocol for a new client."""
        return HTTPProtocol(self)

    # For the connections:

    def create_application(self, run: Exchange | WebSocketProtocol) -> None:
        """Start the application for a request or a handshake; `run` adds itself to `applications`."""
        run.task = self.loop.create_task(run.run(), name="application")

    def application_ended(self, run: Exchange | WebSocketProtocol) -> None:
        self.applications.discard(run)
        self._look_around()

    def forget(self, connection: Connection) -> None:
        """Remove a connection that is closed and has nothing left to do."""
        self.connections.discard(connection)
        self._look_around()

    def refuse(self, connection: Connection, refused: Refused, head: Head | None) -> bytes:
        """The response to a request that the application never sees, logged and counted."""
        refusal, request_id = refused.refusal, secrets.token_hex(16)
        client = connection.client[0] if connection.client else ""
        path = head.raw_path.decode("ascii") if head else ""
        if head is not None and head.websocket:
            told: events.Event = events.WsRefused(
                request_id=request_id,
                client=client,
                path=path,
                status=refused.status,
                code=refusal.code,
                detail=refusal.detail,
                duration_ms=0,
            )
        else:
            told = events.HttpRefused(
                request_id=request_id,
                client=client,
                method=head.method if head else "",
                path=path,
                status=refused.status,
                code=refusal.code,
                detail=refusal.detail,
                duration_ms=0,
            )
        log.tell(told)
        self.hooks.on_refusal(refusal.code)
        fields = self.hooks.refusal_fields(head.headers if head is not None else [])
        return refusal_response(refused, request_id, fields, with_body=head is None or head.method != "HEAD")

    async def _sweep(self) -> None:
        """Check every connection's time limits, with one timer for all."""
        while True:
            await asyncio.sleep(self.limits.sweep)
            now = self.loop.time()
            for connection in tuple(self.connections):
                try:
                    connection.check_timeouts(now)
                except Exception:
                    logger.exception("A connection could not be checked")
                    connection.transport.abort()

    # The end:

    async def drain(self, seconds: float) -> None:
        """Accept no new work, and return once nothing is left to do, or after `seconds`."""
        self.draining = True
        self._quiet = asyncio.Event()
        for connection in tuple(self.connections):
            connection.drain()
        self._look_around()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    def _look_around(self) -> None:
        if self._quiet is not None and not self.applications and not any(c.busy() for c in self.connections):
            self._quiet.set()

    async def close(self, seconds: float = 1) -> None:
        """Cut every connection and cancel what still runs; applications have `seconds` to clean up."""
        self._sweeper.cancel()
        runs = [run.task for run in self.applications if run.task is not None]
        for connection in tuple(self.connections):
            connection.transport.abort()
        for task in runs:
            task.cancel()
        await asyncio.wait([self._sweeper, *runs], timeout=seconds)
