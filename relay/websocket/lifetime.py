"""How long a socket may live, and whether both sides are still there: deadline, idle timeout, pings.

Each socket has one `Lifetime` with one timer, for whatever is due next. Activity only updates a time in an attribute,
which is checked when the timer fires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.live.registry import EXPIRED, IDLE, Ending

_NEVER = float("inf")
_LOOK_AGAIN = 60.0
"""Seconds after which a deadline is checked again: the wall clock may be adjusted, or the machine suspended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of the contract, section 6, in seconds.

    Attributes:
        ping: Silence after which a side is pinged.
        pong: Silence after a ping, after which a side has vanished.
        frame: How long a close by the gateway waits for the end of a frame in flight.
        close: How long a close frame may go unanswered, or remaining data unsent.
        tcp: How long a backend may leave TCP open after both close frames.
    """

    ping: float = 20.0
    pong: float = 30.0
    frame: float = 1.0
    close: float = 5.0
    tcp: float = 1.0


DEFAULT_LIMITS = Limits()


class Side(Protocol):
    """One side of a socket, as `Lifetime` sees it.

    Attributes:
        heard: Loop time of its last sign of life.
        pinged: Loop time of the last ping.
    """

    heard: float
    pinged: float

    def listening(self) -> bool:
        """Whether its silence counts: while we don't read its bytes, silence means nothing."""

    def ping(self) -> None:
        """Send a ping, now or as soon as possible."""

    def vanish(self) -> None:
        """Treat it as gone."""


class Lifetime:
    """Ends a socket at its deadline or when idle, pings its sides, and detects when one has vanished.

    Args:
        sides: The sides to ping.
        end: Called once, with `EXPIRED` or `IDLE`.
        expires_at: Unix time of the deadline; None: there is none.
        idle_timeout: Seconds without a message; 0: no limit.

    Attributes:
        active: Loop time of the last message either way; kept by the owner if there is an idle timeout.
    """

    __slots__ = ("_end", "_expires_at", "_idle_timeout", "_limits", "_loop", "_sides", "_timer", "_watching", "active")

    def __init__(
        self,
        sides: Sequence[Side],
        end: Callable[[Ending], None],
        *,
        expires_at: float | None,
        idle_timeout: float = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sides = tuple(sides)
        self._end = end
        self._expires_at = expires_at
        self._idle_timeout = idle_timeout
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self.active = 0.0

    def start(self) -> None:
        """Start watching, as if both sides had just been heard."""
        now = self._loop.time()
        self.active = now
        for side in self._sides:
            side.heard, side.pinged = now, 0.0
        self._watching = True
        self._look()

    def stop(self) -> None:
        """Stop watching, as the socket is being closed."""
        self._watching = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def renew(self, expires_at: float | None) -> None:
        """Move the deadline, either way."""
        self._expires_at = expires_at
        if self._watching:
            self.stop()
            self._watching = True
            self._look()

    def _look(self) -> None:
        """Do what is due, and set the timer for what is due next."""
        now = self._loop.time()
        due = now + _LOOK_AGAIN
        for check in (self._deadline, self._idleness, self._silence):
            due = min(due, check(now))
            if not self._watching:
                return
        self._timer = self._loop.call_at(due, self._look)

    def _deadline(self, now: float) -> float:
        if self._expires_at is None:
            return _NEVER
        remaining = self._expires_at - time.time()
        if remaining <= 0:
            self._end(EXPIRED)
            return _NEVER
        return now + remaining

    def _idleness(self, now: float) -> float:
        if not self._idle_timeout:
            return _NEVER
        due = self.active + self._idle_timeout
        if due <= now:
            self._end(IDLE)
            return _NEVER
        return due

    def _silence(self, now: float) -> float:
        return min((self._look_at(side, now) for side in self._sides), default=_NEVER)

    def _look_at(self, side: Side, now: float) -> float:
        """Ping a silent side, and give up on one that stays silent; return when to check again."""
        limits = self._limits
        if not side.listening():
            side.heard = now
        if side.heard < side.pinged:
            due = side.pinged + limits.pong
            if due <= now:
                side.vanish()
            return due
        due = side.heard + limits.ping
        if due > now + limits.ping / 20:  # a bit early rather than twice: the last pong came just after its ping
            return due
        side.pinged = now
        side.ping()
        return now + min(limits.ping, limits.pong)
