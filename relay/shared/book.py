"""The book of what several processes have used: tokens of clients, places of users. Pure.

A process sends asks in batches; each is answered with a number, 0 meaning yes:

=====================================  ==================================================================
``("take", client)``                   take a token from the client's bucket; or seconds until one is free
``("hold", place, count, limit)``      hold `count` of a place from now on; 1: with what others hold, that
                                       would exceed the limit, and nothing has changed. 0 is no limit
``("clear",)``                         hold nothing, as at the start
=====================================  ==================================================================

A process reports how many it holds, not increments: if a message is lost, the next one corrects that. ``book.lua`` is
the same book inside Redis.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from relay.rate import ClientRates
from relay.routing.snapshot import Rate

Ask = tuple[str] | tuple[str, str] | tuple[str, str, int, int]


class Book:
    """The book, kept in memory.

    Args:
        rate: The rate limit of each client; None: there is none.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rates = ClientRates(rate) if rate is not None else None
        self._held: dict[Hashable, dict[str, int]] = {}

    def answer(self, process: Hashable, asks: Sequence[Ask], now: float) -> list[float]:
        """Answer a batch, in order.

        Args:
            process: The asking process.
            now: Monotonic seconds.
        """
        return [self._answer(process, ask, now) for ask in asks]

    def forget(self, process: Hashable) -> None:
        """Forget a process that is gone, with all it held."""
        self._held.pop(process, None)

    def _answer(self, process: Hashable, ask: Ask, now: float) -> float:
        match ask:
            case ("take", client) if self._rates is not None:
                return self._rates.take(client, now)
            case ("hold", place, count, limit):
                return self._hold(process, place, count, limit)
            case ("clear",):
                self.forget(process)
        return 0

    def _hold(self, process: Hashable, place: str, count: int, limit: int) -> float:
        if limit and count + sum(held.get(place, 0) for p, held in self._held.items() if p != process) > limit:
            return 1
        held = self._held.setdefault(process, {})
        if count:
            held[place] = count
        else:
            held.pop(place, None)
        return 0
