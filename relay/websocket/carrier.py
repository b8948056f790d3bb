"""What both ways of relaying a socket share: its limits, and how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from relay.live.registry import Ending
from relay.routing.snapshot import Rate
from relay.typing import ClosedBy, Traffic
from relay.websocket.close_codes import BAD_GATEWAY, GOING_AWAY, MESSAGE_TOO_BIG
from relay.websocket.lifetime import DEFAULT_LIMITS, Lifetime, Limits


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of a socket.

    Attributes:
        expires_at: Unix time of the deadline; None: no deadline (a public route without a token).
        idle_timeout: Seconds without a message; 0: no limit.
        message_rate: Limits the client's messages.
        max_message_size: Payload bytes, either way; 0: no limit.
    """

    expires_at: float | None = None
    idle_timeout: float = 0
    message_rate: Rate | None = None
    max_message_size: int = 0
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a socket ended.

    Attributes:
        code: The close code that the client sent or got; 1005: a frame without a code; 1006: the client left without a
            frame.
        by: Who ended it. If the gateway ends it because of a side's fault, that is the gateway.
        detail: What the code does not say, for the log.
    """

    code: int
    reason: str
    by: ClosedBy
    detail: str = ""


class Carrier(Protocol):
    """A socket being relayed.

    Attributes:
        ending: How it ended, as soon as that is certain.
        client_left: Done when the client is gone; then `ending` is set.
    """

    lifetime: Lifetime
    ending: Outcome | None
    client_left: asyncio.Future[None]

    @property
    def traffic(self) -> Traffic:
        """What it has relayed so far."""

    async def carry(self) -> None:
        """Relay until both sides are closed."""

    def end(self, ending: Ending) -> None:
        """Start closing both sides; only the first call counts."""


def code_for_other(side: ClosedBy, violation: int) -> int:
    """The close code for the other side when this one has broken the protocol (contract, section 6)."""
    return BAD_GATEWAY if side == "backend" and violation != MESSAGE_TOO_BIG else GOING_AWAY
