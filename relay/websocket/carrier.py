"""What both ways of carrying a socket have in common: the terms it is carried on, and how it ended."""

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
    """What a socket is held to.

    Attributes:
        expires_at: Unix time of the deadline; None: none (a public route without a token).
        idle_timeout: Seconds without a message; 0: no limit.
        message_rate: Of the client's messages.
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
        code: Of the close frame that the client sent or was sent; 1005: it had none; 1006: the client left without one.
        by: Who ended it. What the gateway does over the fault of a side is by the gateway.
        detail: What the code does not say, for the log.
    """

    code: int
    reason: str
    by: ClosedBy
    detail: str = ""


class Carrier(Protocol):
    """A socket being carried.

    Attributes:
        ending: How it ended, as soon as that is certain.
        client_left: Done when the client is gone; `ending` is there then.
    """

    lifetime: Lifetime
    ending: Outcome | None
    client_left: asyncio.Future[None]

    @property
    def traffic(self) -> Traffic:
        """What it has carried so far."""

    async def carry(self) -> None:
        """Carry it until both sides are closed."""

    def end(self, ending: Ending) -> None:
        """Begin to close both sides; the first ending counts."""


def code_for_other(side: ClosedBy, violation: int) -> int:
    """What the other side is told when this one has broken the protocol (the contract, section 6)."""
    return BAD_GATEWAY if side == "backend" and violation != MESSAGE_TOO_BIG else GOING_AWAY
