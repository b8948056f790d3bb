"""What a client and a user may use up: requests (``RATE_LIMIT``), and sockets (``max_connections_per_user``).

`Quotas` counts in this process alone. `SharedQuotas` counts here as well, and asks a book that others share only where
that would let somebody in: what this process knows of is never more than all know of. So a flood costs the others
nothing, and where they can't be asked the answer is there already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator

from relay.live.registry import Registry, RouteKey
from relay.rate import ClientRates, counted
from relay.routing.snapshot import Rate, Snapshot
from relay.shared.book import Ask
from relay.shared.link import Line, Link


class Quotas:
    """Of one process.

    Args:
        rate: Of every client; None: there is no limit.
        registry: Counts the places.

    Attributes:
        rate: As above; `take` is worth its cost only where there is one.
    """

    def __init__(self, rate: Rate | None, registry: Registry) -> None:
        self.rate, self._registry = rate, registry
        self._rates = ClientRates(rate) if rate is not None else None

    @property
    def warning(self) -> str:
        """Why limits are not held as they should be, for ``/health``; empty while they are."""
        return ""

    async def take(self, client: str, now: float) -> float:
        """Count a request from an address.

        Args:
            now: A steady clock, in seconds.

        Returns:
            0: it may pass. Otherwise seconds until one may.
        """
        return self._rates.take(counted(client), now) if self._rates is not None else 0.0

    async def reserve(self, route: RouteKey, user_id: str, limit: int) -> bool:
        """As `Registry.reserve`: each True wants one `release`. A cancelled one has taken nothing."""
        return self._registry.reserve(route, user_id, limit)

    def release(self, route: RouteKey, user_id: str) -> None:
        """Give a place back."""
        self._registry.release(route, user_id)

    def follow(self, snapshot: Snapshot) -> None:
        """These routes and their limits are in force from now on."""

    async def close(self) -> None:
        """Ask nobody any more."""


class SharedQuotas(Quotas):
    """Of several processes.

    The book is asked on routes with a limit only, and not even reached while there is neither those nor a rate.

    Args:
        name: Of who keeps the book.
        dial: Makes a connection to it.
    """

    def __init__(self, rate: Rate | None, registry: Registry, name: str, dial: Callable[[], Awaitable[Line]]) -> None:
        super().__init__(rate, registry)
        self._limited: frozenset[RouteKey] = frozenset()
        self._link = Link(name, dial, self._all_held)

    @property
    def warning(self) -> str:
        return self._link.warning

    async def take(self, client: str, now: float) -> float:
        if self._rates is None:
            return 0.0
        name = counted(client)
        if (wait := self._rates.take(name, now)) or not self._link.up:
            return wait
        if wait := await self._link.ask(("take", name)) or 0.0:
            self._rates.put_back(name)
        return wait

    async def reserve(self, route: RouteKey, user_id: str, limit: int) -> bool:
        if not self._registry.reserve(route, user_id, limit):
            return False
        if not limit or not user_id:
            return True
        if not self._link.up:
            self._tell(route, user_id)
            return True
        try:
            refused = await self._link.ask(self._held(route, user_id, limit))
        except BaseException:
            self.release(route, user_id)
            raise
        if refused:
            self.release(route, user_id)
        return not refused

    def release(self, route: RouteKey, user_id: str) -> None:
        super().release(route, user_id)
        if user_id and route in self._limited:
            self._tell(route, user_id)

    def follow(self, snapshot: Snapshot) -> None:
        before, self._limited = self._limited, frozenset(r.key for r in snapshot.routes if r.max_connections_per_user)
        if not self._link.started:
            if self.rate is not None or self._limited:
                self._link.start()
        elif self._limited != before:
            self._link.tell(*self._all_held())

    async def close(self) -> None:
        await self._link.close()

    def _tell(self, route: RouteKey, user_id: str) -> None:
        self._link.tell(self._held(route, user_id, limit=0))

    def _held(self, route: RouteKey, user_id: str, limit: int) -> Ask:
        return "hold", _place(route, user_id), self._registry.count(route, user_id), limit

    def _all_held(self) -> Iterator[Ask]:
        yield ("clear",)
        for route, user_id in self._registry.places():
            if route in self._limited:
                yield self._held(route, user_id, limit=0)


def _place(route: RouteKey, user_id: str) -> str:
    """A short name for a user on a route: a token's user id may be long, and is nobody else's business."""
    return hashlib.blake2b("\0".join((*route[:2], user_id)).encode(), digest_size=16).hexdigest()
