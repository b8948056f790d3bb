"""One relayed socket as the registry, the admin and the metrics see it (`relay.live.registry.LiveSocket`)."""

from __future__ import annotations

import secrets
import time

from relay.access import Grant
from relay.entry import Arrival
from relay.identity.model import Identity
from relay.live.registry import Ending
from relay.routing.snapshot import Url
from relay.typing import Traffic
from relay.websocket.carrier import Carrier


class CarriedSocket:
    """An accepted WebSocket.

    Args:
        origin: The ``Origin`` field; empty if the client sent none.
    """

    __slots__ = ("_carrier", "_identity", "backend", "client", "id", "opened_at", "origin", "route", "url")

    def __init__(self, grant: Grant, url: Url, arrival: Arrival, origin: str, carrier: Carrier) -> None:
        self.id = secrets.token_hex(8)
        self.route, self.backend, self.url = grant.route, grant.backend, url
        self.client, self.origin = arrival.client, origin
        self.opened_at = time.time()
        self._identity = grant.identity
        self._carrier = carrier

    @property
    def identity(self) -> Identity | None:
        """Whose socket it is; None on a public route without a token."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        """Switch to another token, whose expiry becomes the deadline (re-authentication)."""
        self._identity = identity
        self._carrier.lifetime.renew(identity.expires_at if identity is not None else None)

    @property
    def traffic(self) -> Traffic:
        """What it has relayed so far."""
        return self._carrier.traffic

    def end(self, ending: Ending) -> None:
        """Start closing both sides. Returns at once; only the first call counts."""
        self._carrier.end(ending)
