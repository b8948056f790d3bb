"""One process's figures: recent rates, refusals and latencies, computed from counts that only grow. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap
from operator import sub
from typing import TypedDict

from relay.backends.connector import BackendHealth
from relay.live.metrics import Totals

MINUTE = 60.0
RATE_WINDOW = 10.0
"""Seconds over which a rate is averaged: long enough to be steady, short enough to show changes."""

SLOT = 10
"""Seconds of one sample."""


class UrlFigures(TypedDict):
    url: str
    up: bool
    in_use: int
    cause: str  # why it is not up


class BackendFigures(TypedDict):
    urls: list[UrlFigures]
    answers: list[tuple[int, int]]  # of the last minute: latency class, count


class Figures(TypedDict):
    """`Process.figures`. Rates are per second; counts are for the last minute unless noted."""

    sockets: list[tuple[str, str, int]]  # live ones by route and backend
    requests: float
    messages: float
    errors: int
    refusals: dict[str, int]
    backends: dict[str, BackendFigures]


@dataclass(frozen=True, slots=True)
class Slot:
    """What happened in the ten seconds from `begin` (Unix time): the values of a `Sample`."""

    begin: int
    sockets: int
    requests: int
    errors: int
    messages: int
    refusals: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """A process's report about itself at one moment.

    Attributes:
        revision: Revision of the configuration in force.
        config_age: Seconds since the configuration was last known to be current.
        slot: The slot that has just ended, if any.
    """

    figures: Figures
    draining: bool
    revision: int
    config_age: float
    config_error: str
    slot: Slot | None


class Observer:
    """Computes figures from the counts of the last minute."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, Totals]] = deque()
        self._slot_began: tuple[int, Totals] | None = None

    def look(self, totals: Totals, backends: Mapping[str, BackendHealth], now: float) -> Figures:
        """The current figures.

        Args:
            now: Monotonic seconds.
        """
        self._past.append((now, totals))
        while now - self._past[0][0] > MINUTE:
            self._past.popleft()
        minute = self._past[0][1]
        since, recent = next(past for past in self._past if now - past[0] <= RATE_WINDOW)
        seconds = now - since
        return {
            "sockets": [(route, backend, n) for (route, backend), n in sorted(totals.sockets.items())],
            "requests": _rate(totals.requests - recent.requests, seconds),
            "messages": _rate(totals.messages - recent.messages, seconds),
            "errors": totals.errors - minute.errors,
            "refusals": _risen(totals.refusals, minute.refusals),
            "backends": {
                name: {
                    "urls": [
                        {"url": url.url, "up": url.up, "in_use": url.in_use, "cause": url.cause} for url in health.urls
                    ],
                    "answers": _answers(totals.latencies.get(name, ()), minute.latencies.get(name)),
                }
                for name, health in backends.items()
            },
        }

    def slot(self, totals: Totals, wall: float) -> Slot | None:
        """The slot that ended since the last call, or None; late counts go to the next one.

        Args:
            wall: Unix time. After a small step back no slot is returned for a while; after a larger one, slots repeat.
        """
        begin = int(wall) // SLOT * SLOT
        before, self._slot_began = self._slot_began, self._slot_began or (begin, totals)
        if before is None:
            return None
        if begin < before[0] - SLOT:
            self._slot_began = (begin, before[1])
            return None
        if begin <= before[0]:
            return None
        self._slot_began = (begin, totals)
        began, then = before
        return Slot(
            began,
            sum(totals.sockets.values()),
            totals.requests - then.requests,
            totals.errors - then.errors,
            totals.messages - then.messages,
            _risen(totals.refusals, then.refusals),
        )


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0


def _risen(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    risen = {name: count - before.get(name, 0) for name, count in counts.items()}
    return {name: count for name, count in sorted(risen.items()) if count}


def _answers(counts: Iterable[int], before: Iterable[int] | None) -> list[tuple[int, int]]:
    risen = counts if before is None else starmap(sub, zip(counts, before, strict=True))
    return [(n, count) for n, count in enumerate(risen) if count]
