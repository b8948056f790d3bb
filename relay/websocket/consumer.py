"""The Channels consumer for relayed WebSockets: judge, dial the backend, accept, relay, and log how it ended."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from channels.generic.websocket import AsyncWebsocketConsumer

from relay import forwarding
from relay.access import Ask, Denied, Grant, decide
from relay.entry import Arrival, field
from relay.identity.model import Identification
from relay.live.registry import CONFIG_CHANGED, DRAIN, REVOKED, Ending, Handshake
from relay.refusals import BackendError, Refusal, Refused
from relay.routing.endings import ended_by
from relay.routing.snapshot import Snapshot
from relay.typing import RawHeaders, Receive, Scope, Send
from relay.websocket import close_codes, deflate
from relay.websocket.carrier import Carrier, Terms
from relay.websocket.journal import Journal
from relay.websocket.lifetime import DEFAULT_LIMITS, Limits
from relay.websocket.messages import MessageRelay
from relay.websocket.opening import Accepted, Opening
from relay.websocket.refusing import close_code_of, refuse
from relay.websocket.socket import CarriedSocket
from relay.websocket.tunnel import Tunnel
from relay.websocket.upstream import Upstream

if TYPE_CHECKING:
    from relay.runtime import Runtime


_SERVERS_OWN = frozenset({b"date", b"server"})
"""Fields that servers other than ours add themselves; uvicorn fails a handshake that has one of them twice."""


class RelayConsumer(AsyncWebsocketConsumer):
    """Relays one WebSocket.

    Channels' own ``__call__`` looks for a channel layer, creates a task for each event and closes old database
    connections in a thread. A relayed socket needs none of that: only the first event matters here.

    Args:
        limits: The socket's time limits.
    """

    def __init__(self, runtime: Runtime, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__()
        self.runtime, self.limits = runtime, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.base_receive, self.base_send = scope, receive, send
        self.arrival: Arrival = scope["relay"]
        self.who: Identification = scope["identity"]
        self.snapshot: Snapshot = self.runtime.snapshot
        self.journal = Journal(self.runtime.metrics, scope)
        if (await receive())["type"] == "websocket.connect":
            await self.connect()

    async def connect(self) -> None:
        """Relay the socket if it is allowed, or refuse it."""
        grant = decide(self._ask(), self.snapshot, self.who)
        if isinstance(grant, Denied):
            await self._refuse(grant)
            return
        route, quotas, registry = grant.route, self.runtime.quotas, self.runtime.registry
        user_id = grant.identity.user_id if grant.identity else ""
        handshake = Handshake(route, grant.identity)
        with ExitStack() as place:
            registry.begin(handshake)
            place.callback(registry.finish, handshake)
            if not await quotas.reserve(route.key, user_id, route.max_connections_per_user):
                detail = f"user {user_id} has the {route.max_connections_per_user} connections that {route.path} allows"
                await self._refuse(Denied(Refusal("too_many_connections", detail), route))
                return
            place.callback(quotas.release, route.key, user_id)
            upstream = await self._dial(grant)
            if upstream is not None:
                try:
                    await self._carry(grant, upstream, handshake, place)
                finally:
                    upstream.transport.abort()
                    self.runtime.connector.release(grant.backend, upstream.url)

    def _ask(self) -> Ask:
        scope = self.scope
        return Ask("websocket", "GET", scope["raw_path"], self._origin(), self.arrival.host)

    def _origin(self) -> str | None:
        return field(self.scope["headers"], b"origin")

    def _offered(self, extension: str) -> bool:
        """Whether the server offers an ASGI extension."""
        return extension in (self.scope.get("extensions") or {})

    # Refusing

    async def _refuse(self, denied: Denied) -> None:
        """Answer the handshake with a status, or accept and close if the route says so."""
        close_code = close_code_of(denied.refusal, denied.route)
        self.journal.refused(denied, close_code)
        with suppress(OSError):  # ASGI: the client has left
            await refuse(self.scope, self.base_send, denied.refusal, close_code, self.arrival.request_id)

    # Relaying

    async def _dial(self, grant: Grant) -> Upstream | None:
        """Make the handshake with the backend; None if it failed, or the client has left."""
        scope = self.scope
        offers: tuple[deflate.Offer, ...] = ()
        if self._offered("relay.tunnel"):
            offers = deflate.offers(value for name, value in scope["headers"] if name == b"sec-websocket-extensions")
        subprotocols = forwarding.subprotocols(scope)
        opening = Opening(scope, self.arrival, grant, self.who, self.runtime.forwarding, subprotocols, offers)
        try:
            upstream = await self._dial_while_the_client_waits(opening)
        except Refused as exc:
            await self._refuse(Denied(exc.refusal, grant.route))
        except BackendError as exc:
            if exc.refusal.status != 503:
                self.journal.backend_failed(exc, grant)
            await self._refuse(Denied(exc.refusal, grant.route))
        else:
            if upstream is None:
                self.journal.left(grant)
            return upstream
        return None

    async def _dial_while_the_client_waits(self, opening: Opening) -> Upstream | None:
        """Dial, but stop as soon as the client leaves."""
        if self._offered("relay.cancel"):
            try:
                return await self.runtime.dial(opening)
            except asyncio.CancelledError:
                self.journal.left(opening.grant)
                raise
        leaving = asyncio.ensure_future(self.base_receive())  # only its disconnect can arrive at this point
        try:
            async with asyncio.timeout(None) as patience:

                def hang_up(_: object) -> None:
                    patience.reschedule(0)

                leaving.add_done_callback(hang_up)
                try:
                    return await self.runtime.dial(opening)
                finally:
                    leaving.remove_done_callback(hang_up)
        except TimeoutError:
            return None
        finally:
            leaving.cancel()
            await asyncio.wait((leaving,))

    async def _carry(self, grant: Grant, upstream: Upstream, handshake: Handshake, place: ExitStack) -> None:
        """Accept the client, and relay until both sides are closed; `place` is freed once the client has gone."""
        carrier = self._carrier(grant, upstream)
        socket = CarriedSocket(grant, upstream.url, self.arrival, self._origin() or "", carrier)
        try:
            await self.accept(upstream.accepted.subprotocol, self._accept_headers(upstream.accepted))
        except OSError:  # ASGI: the client has left
            self.journal.left(grant)
            return
        registry = self.runtime.registry
        registry.finish(handshake)
        if handshake.identity is not grant.identity:  # the token was renewed meanwhile
            socket.identity = handshake.identity
        registry.add(socket)
        self.journal.opened(socket, upstream.accepted.subprotocol)

        def client_left(_: object) -> None:
            if carrier.ending is not None:
                registry.remove(socket)
                place.close()
                self.journal.closed(socket, carrier.ending)

        carrier.client_left.add_done_callback(client_left)
        if ending := self._overtaken_by(socket):
            carrier.end(ending)
        await carrier.carry()

    def _accept_headers(self, accepted: Accepted) -> RawHeaders:
        """The header fields for the client: the backend's and ours."""
        headers = [(b"x-request-id", self.arrival.request_id.encode())]
        if self._offered("relay.tunnel"):
            headers += accepted.headers
            if accepted.extensions:
                headers.append((b"sec-websocket-extensions", accepted.extensions))
        else:
            headers += [field for field in accepted.headers if field[0] not in _SERVERS_OWN]
        return headers

    def _carrier(self, grant: Grant, upstream: Upstream) -> Carrier:
        terms = Terms(
            grant.identity.expires_at if grant.identity is not None else None,
            grant.route.idle_timeout,
            grant.route.message_rate,
            grant.backend.max_message_size,
            self.limits,
        )
        transport, early = upstream.transport, upstream.early
        if self._offered("relay.tunnel"):
            return Tunnel(transport, early, terms, self.base_send, deflate=bool(upstream.accepted.extensions))
        stock_daphne = not self._offered("websocket.http.response")
        close_code = close_codes.for_stock_daphne if stock_daphne else close_codes.for_asgi
        return MessageRelay(transport, early, terms, self.base_receive, self.base_send, close_code)

    def _overtaken_by(self, socket: CarriedSocket) -> Ending | None:
        """The ending that the socket would have got, had it been in the registry during the handshake."""
        runtime = self.runtime
        if runtime.draining:
            return DRAIN
        if socket.identity is not None and runtime.revocations.check(socket.identity):
            return REVOKED
        if runtime.snapshot is not self.snapshot and ended_by(runtime.snapshot)(socket):
            return CONFIG_CHANGED
        return None
