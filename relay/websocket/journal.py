"""Log and count WebSockets: the result of each handshake, and a summary of each socket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.access import Denied, Grant
from relay.entry import Arrival
from relay.identity.model import Identification
from relay.live import events, log
from relay.refusals import BackendError
from relay.routing.snapshot import Route
from relay.typing import Scope, Traffic
from relay.websocket import close_codes, secrets
from relay.websocket.carrier import Outcome
from relay.websocket.socket import CarriedSocket

if TYPE_CHECKING:
    from relay.live.metrics import Metrics


class Journal:
    """Logs one handshake and the socket that results from it.

    Args:
        scope: The handshake's scope, after authentication.
    """

    def __init__(self, metrics: Metrics, scope: Scope) -> None:
        self._metrics, self._scope = metrics, scope
        self._arrival: Arrival = scope["relay"]
        self._who: Identification = scope["identity"]
        identity = self._who.identity
        self._user_id = identity.user_id if identity is not None else None

    def refused(self, denied: Denied, close_code: int | None) -> None:
        """The handshake was refused; with a close code, it was accepted and then closed."""
        refusal, route = denied.refusal, denied.route
        self._metrics.refusal(refusal.code)
        self._metrics.handshake(refusal.code)
        log.tell(
            events.WsRefused(
                request_id=self._arrival.request_id,
                client=self._arrival.client,
                user_id=self._user_id,
                path=self._scope["path"],
                route=route.path if route else None,
                backend=route.backend if route else None,
                status=refusal.status,
                close_code=close_code,
                code=refusal.code,
                detail=refusal.detail,
                duration_ms=self._passed(),
            )
        )

    def backend_failed(self, error: BackendError, grant: Grant) -> None:
        """The exact cause of a 502 or 504."""
        log.tell(
            events.BackendError(
                request_id=self._arrival.request_id,
                client=self._arrival.client,
                user_id=self._user_id,
                route=grant.route.path,
                backend=error.backend,
                code=error.code,
                phase=error.phase or None,
                detail=str(error),
                duration_ms=self._passed(),
            )
        )

    def left(self, grant: Grant) -> None:
        """The client did not wait for the answer to its handshake."""
        self._metrics.handshake("client_left")
        left = Outcome(close_codes.ABNORMAL, "", "client", "the client left during the handshake")
        self._ended(grant.route, left, Traffic())

    def opened(self, socket: CarriedSocket, subprotocol: str | None) -> None:
        """The handshake is complete."""
        self._metrics.handshake("accepted")
        self._metrics.ws_opened(socket)
        log.tell(
            events.WsOpen(
                request_id=self._arrival.request_id,
                client=self._arrival.client,
                user_id=self._user_id,
                path=self._scope["path"],
                route=socket.route.path,
                backend=socket.backend.name,
                url=socket.url.text if len(socket.backend.urls) > 1 else None,
                origin=socket.origin or None,
                subprotocol=subprotocol,
                duration_ms=self._passed(),
            )
        )

    def closed(self, socket: CarriedSocket, outcome: Outcome) -> None:
        """The socket has ended, and is no longer in the registry."""
        self._metrics.ws_closed(socket, outcome.code, outcome.by)
        self._ended(socket.route, outcome, socket.traffic)

    def _ended(self, route: Route, outcome: Outcome, traffic: Traffic) -> None:
        log.tell(
            events.WsClose(
                request_id=self._arrival.request_id,
                client=self._arrival.client,
                user_id=self._user_id,
                route=route.path,
                backend=route.backend,
                close_code=outcome.code,
                closed_by=outcome.by,
                reason=self._masked(outcome.reason) or None,
                detail=self._masked(outcome.detail) or None,
                duration_ms=self._passed(),
                **traffic._asdict(),
            )
        )

    def _masked(self, text: str) -> str:
        """A text that a peer may have influenced, without this handshake's secrets."""
        if not text:
            return text
        own = secrets.of_handshake(self._scope, self._who)
        return secrets.masked(text.encode(errors="backslashreplace"), own).decode(errors="backslashreplace")

    def _passed(self) -> float:
        return events.milliseconds(time.monotonic() - self._arrival.started)
