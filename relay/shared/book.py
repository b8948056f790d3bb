"""The book of what several processes have used up: tokens of clients, places of users. Pure.

A process asks in batches; each ask has a number as its answer, 0 for yes:

=====================================  ==================================================================
``("take", client)``                   a token from the client's bucket; else seconds until there is one
``("hold", place, count, limit)``      so many of a place from now on; 1: with what others hold it would
                                       pass the limit, and nothing has changed. A limit of 0 is none
``("clear",)``                         nothing at all, as at the beginning
=====================================  ==================================================================

A process says how many it holds, not one more or one less: what is lost on the way is mended by the next word.
``book.lua`` is the same book inside Redis.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from relay.rate import ClientRates
from relay.routing.snapshot import Rate

Ask = tuple[str] | tuple[str, str] | tuple[str, str, int, int]


class Book:
    """The book, kept in memory.

    Args:
        rate: Of every client; None: nobody takes.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rates = ClientRates(rate) if rate is not None else None
        self._held: dict[Hashable, dict[str, int]] = {}

    def answer(self, process: Hashable, asks: Sequence[Ask], now: float) -> list[float]:
        """Answer a batch in its order.

        Args:
            process: Who asks.
            now: A steady clock, in seconds.
        """
        return [self._answer(process, ask, now) for ask in asks]

    def forget(self, process: Hashable) -> None:
        """It is gone, and holds nothing any more."""
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
