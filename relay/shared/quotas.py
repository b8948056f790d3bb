"""Limits for clients and users: requests (``RATE_LIMIT``) and sockets (``max_connections_per_user``).

`Quotas` counts only in this process. `SharedQuotas` counts here first, and asks the shared book only if the local count
would let somebody in: the local count never exceeds the shared one. So a flood costs other processes nothing, and if
the book can't be reached, the local answer is already there.
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
    """Limits within one process.

    Args:
        rate: The rate limit of each client; None: there is none.
        registry: Counts the places.

    Attributes:
        rate: As above; `take` is only needed if there is one.
    """

    def __init__(self, rate: Rate | None, registry: Registry) -> None:
        self.rate, self._registry = rate, registry
        self._rates = ClientRates(rate) if rate is not None else None

    @property
    def warning(self) -> str:
        """Why limits are not applied as they should be, for ``/health``; empty if they are."""
        return ""

    async def take(self, client: str, now: float) -> float:
        """Count a request from an address.

        Args:
            now: Monotonic seconds.

        Returns:
            0 if it may pass; otherwise the seconds until one may.
        """
        return self._rates.take(counted(client), now) if self._rates is not None else 0.0

    async def reserve(self, route: RouteKey, user_id: str, limit: int) -> bool:
        """Like `Registry.reserve`: each True needs one `release`. A cancelled call has taken nothing."""
        return self._registry.reserve(route, user_id, limit)

    def release(self, route: RouteKey, user_id: str) -> None:
        """Return a place."""
        self._registry.release(route, user_id)

    def follow(self, snapshot: Snapshot) -> None:
        """Apply the limits of a new configuration's routes."""

    async def close(self) -> None:
        """Disconnect from the shared book, if there is one."""


class SharedQuotas(Quotas):
    """Limits shared by several processes.

    The book is asked only on routes with a limit, and not even connected to while there is neither such a route nor a
    rate limit.

    Args:
        name: The name of the book's keeper.
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
    """A short key for a user on a route: a user id may be long, and should not be exposed."""
    return hashlib.blake2b("\0".join((*route[:2], user_id)).encode(), digest_size=16).hexdigest()
