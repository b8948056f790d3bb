"""Which url of a backend gets the next connection. Pure: the time is an argument.

Least connections first, taking turns if equal. A url comes *last* for `LAST_FOR` seconds after `FAILURES_IN_A_ROW`
failed connections in a row, and is *out* while its health path fails (contract, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from relay.routing.snapshot import Url

FAILURES_IN_A_ROW = 3
LAST_FOR = 2.0
"""Seconds."""

PROBES_UNTIL_OUT = 2
SLOW_START = 10.0
"""Seconds until a url that recovered gets its full share again, so that waiting clients don't overwhelm it."""

_LEAST_WEIGHT = 0.1

_turns = count(1)


@dataclass(slots=True)
class UrlState:
    """What this process knows about one url of one backend.

    Attributes:
        in_use: Current requests and sockets; idle connections don't count.
        out: Whether its health path failed, so that nothing is sent there.
        cause: Why it is out, for the operator.
    """

    url: Url
    in_use: int = 0
    out: bool = False
    cause: str = ""
    _failures: int = 0
    _last_until: float = 0.0
    _failed_probes: int = 0
    _back_since: float = field(default=float("-inf"))
    _turn: int = 0

    def take(self) -> None:
        """Count one more connection; the caller has to call `release` exactly once."""
        self.in_use += 1
        self._turn = next(_turns)

    def release(self) -> None:
        self.in_use -= 1

    def connected(self) -> None:
        self._failures = 0
        self._last_until = 0.0

    def not_connected(self, now: float) -> None:
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self._last_until = now + LAST_FOR

    def probe_succeeded(self, now: float) -> bool:
        """Record a 200 on the health path; True if that brings the url back."""
        self._failed_probes = 0
        if not self.out:
            return False
        self.out, self.cause = False, ""
        self._back_since = now
        return True

    def probe_failed(self, cause: str) -> bool:
        """Record any other result; True if that takes the url out."""
        self._failed_probes += 1
        if self.out:
            self.cause = cause
        if self.out or self._failed_probes < PROBES_UNTIL_OUT:
            return False
        self.out, self.cause = True, cause
        return True

    def unprobed(self) -> None:
        """Reset: without a health path, a url counts as healthy."""
        self._failed_probes, self.out, self.cause = 0, False, ""

    def rank(self, now: float) -> tuple[bool, float, int]:
        """Sort key: smaller is better."""
        weight = min(1.0, max(_LEAST_WEIGHT, (now - self._back_since) / SLOW_START))
        return (now < self._last_until, (self.in_use + 1) / weight, self._turn)


def in_order(states: Iterable[UrlState], now: float) -> list[UrlState]:
    """The urls worth trying, best first; empty if all are out."""
    return sorted((s for s in states if not s.out), key=lambda state: state.rank(now))
